/* Loan: a record of a ring that Python writes or reads in place.
 *
 * Invariants
 *   1. The memory can be reached through a buffer only, and a buffer keeps the Loan, and so the Ring, alive.
 *   2. The block ends well only when no buffer is out: nobody can write to a message that was published, or look at one that
 *      was consumed and find another.  (The ring could leave such a message where it is, but goes no further then: a
 *      process that still looks at one while it waits for the next would stop them all.)
 *   3. What was written and given up makes room for others only when no buffer is out.  What was read and given back is
 *      there for others at once; who still has a buffer sees whatever comes there.
 */
#include "binding.h"

enum loan_state {
    OPEN,       /* in its block */
    LEAVING,    /* the block has ended; DONE when the last buffer is back */
    DONE,       /* not ours any more */
};

struct Loan {
    PyObject_HEAD
    Ring *ring;
    Loan *next, *previous;      /* while OPEN */
    struct ring_loan loan;
    Py_ssize_t views;
    enum loan_state state;
    bool is_written;
};

/* The ring's part of undoing a loan. */
static void
undo_message(Ring *ring, const struct ring_loan *message, bool is_written)
{
    if (is_written)
        ring_abort(&ring->ring, message);
    else
        ring_return(&ring->ring, message);
}

Loan *
new_loan(Ring *ring, const struct ring_loan *message, bool is_written)
{
    Loan *self = PyObject_GC_New(Loan, &Loan_type);
    if (self == NULL) {
        undo_message(ring, message, is_written);
        return NULL;
    }
    self->ring = (Ring *)Py_NewRef((PyObject *)ring);
    self->loan = *message;
    self->views = 0;
    self->state = OPEN;
    self->is_written = is_written;
    self->previous = NULL;
    self->next = ring->loans;
    if (self->next != NULL)
        self->next->previous = self;
    ring->loans = self;
    ring->lent++;
    PyObject_GC_Track(self);
    return self;
}

static void
unlink_loan(Loan *self)
{
    if (self->previous != NULL)
        self->previous->next = self->next;
    else
        self->ring->loans = self->next;
    if (self->next != NULL)
        self->next->previous = self->previous;
}

static void
give_back(Loan *self)
{
    self->state = DONE;
    if (is_own(self->ring))
        undo_message(self->ring, &self->loan, self->is_written);
    take_back(self->ring);
}

/* The block has not ended well: as if it had never begun, but while somebody could still write to it, later. */
static void
undo(Loan *self)
{
    unlink_loan(self);
    if (self->is_written && self->views > 0)
        self->state = LEAVING;
    else
        give_back(self);
}

void
recall_loans(Ring *ring)
{
    while (ring->loans != NULL)
        undo(ring->loans);
}

/* No tp_clear: whoever has the buffer needs the ring; what is lent and forgotten is cleared at the buffer's owner. */
static int
Loan_traverse(Loan *self, visitproc visit, void *arg)
{
    Py_VISIT(self->ring);
    return 0;
}

static void
Loan_dealloc(Loan *self)
{
    PyObject_GC_UnTrack(self);
    undo_loan(self);
    Py_DECREF(self->ring);
    PyObject_GC_Del(self);
}

static int
Loan_getbuffer(Loan *self, Py_buffer *view, int flags)
{
    if (self->state != OPEN) {
        PyErr_SetString(PyExc_BufferError, "the block in which this could be used has ended");
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)self, self->loan.data, (Py_ssize_t)self->loan.size, !self->is_written,
                          flags) < 0)
        return -1;
    self->views++;
    self->ring->views++;
    return 0;
}

static void
Loan_releasebuffer(Loan *self, Py_buffer *Py_UNUSED(view))
{
    self->views--;
    if (self->views == 0 && self->state == LEAVING)
        give_back(self);
    take_view_back(self->ring);
}

bool
end_loan(Loan *self)
{
    if (self->state != OPEN || !is_open(self->ring))
        return false;
    if (self->views > 0) {
        PyErr_Format(PyExc_BufferError,
                     "something that was made of the view, such as an array, is still there: delete it before the block "
                     "ends; the message %s", self->is_written ? "was not sent" : "goes back, and is delivered again");
        return false;
    }
    unlink_loan(self);
    self->state = DONE;
    if (self->is_written)
        ring_commit(&self->ring->ring, &self->loan);
    else
        ring_finish(&self->ring->ring, &self->loan);
    take_back(self->ring);
    return true;
}

void
undo_loan(Loan *self)
{
    if (self->state == OPEN)
        undo(self);
}

static PyBufferProcs Loan_buffer = {
    .bf_getbuffer = (getbufferproc)Loan_getbuffer,
    .bf_releasebuffer = (releasebufferproc)Loan_releasebuffer,
};

PyTypeObject Loan_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._ring._binding.Loan",
    .tp_doc = PyDoc_STR("A message in shared memory, while it is written or read there."),
    .tp_basicsize = sizeof(Loan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Loan_dealloc,
    .tp_traverse = (traverseproc)Loan_traverse,
    .tp_as_buffer = &Loan_buffer,
};
