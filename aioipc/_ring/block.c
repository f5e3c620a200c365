/* Blocks in which a message is written or read in place: AsyncBlock, for "async with", and Block, for "with".
 *
 * Invariants
 *   1. A block has a loan and its view from when it has been entered until it is left, and neither otherwise.
 *   2. It is entered by one task at a time: is_entered is true from the beginning, also while that waits.
 *   3. What was lent has its place in the block before anything else can fail: whatever happens then, it ends or
 *      is undone with the block.
 *
 * Entering asks Python, where it has to wait or to explain an error; leaving never waits.
 */
#include "binding.h"

typedef struct {
    PyObject_HEAD
    Ring *ring;
    Py_ssize_t nbytes;      /* of the message to write, or READS */
    Loan *loan;
    PyObject *view;
    bool is_entered;
} AnyBlock;

#define READS (-1)

static bool
writes(const AnyBlock *self)
{
    return self->nbytes != READS;
}

static struct immediate_line *
line_of(const AnyBlock *self)
{
    return writes(self) ? &self->ring->sending : &self->ring->receiving;
}

/* Lifetime ------------------------------------------------------------------ */

static PyObject *
AnyBlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", NULL};
    PyObject *ring;
    Py_ssize_t nbytes = READS;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|n:block", keywords, &Ring_type, &ring, &nbytes))
        return NULL;
    AnyBlock *self = (AnyBlock *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->ring = (Ring *)Py_NewRef(ring);
    self->nbytes = nbytes;
    return (PyObject *)self;
}

/* No tp_clear: all of these lead to the ring, and from there back here through what can be cleared only. */
static int
AnyBlock_traverse(AnyBlock *self, visitproc visit, void *arg)
{
    Py_VISIT(self->ring);
    Py_VISIT(self->loan);
    Py_VISIT(self->view);
    return 0;
}

static void
AnyBlock_dealloc(AnyBlock *self)
{
    PyObject_GC_UnTrack(self);
    /* If it was never left: who has the view may go on to use it, and without it the loan is undone. */
    Py_XDECREF(self->view);
    Py_XDECREF(self->loan);
    Py_DECREF(self->ring);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Entering ------------------------------------------------------------------ */

static bool
begin(AnyBlock *self)
{
    if (self->is_entered) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this block has been entered already, and not left: each `with` needs one of its own");
        return false;
    }
    self->is_entered = true;
    return true;
}

/* Reserve or borrow a message, and put it into the block. */
static enum ring_result
lend(Ring *ring, void *block)
{
    AnyBlock *self = block;
    struct ring_loan message = {.size = (uint64_t)self->nbytes};
    enum ring_result result = writes(self) ? reserve(ring, &message) : borrow(ring, &message);
    if (result != RING_OK)
        return result;
    Loan *loan = new_loan(ring, &message, writes(self));
    PyObject *view = loan == NULL ? NULL : PyMemoryView_FromObject((PyObject *)loan);
    if (view == NULL) {
        Py_XDECREF(loan);
        return RING_SYSTEM;
    }
    self->loan = loan;
    self->view = view;
    return RING_OK;
}

static enum ring_result
try_to_enter(AnyBlock *self, bool waiting)
{
    return attempt(self->ring, lend, self, waiting, writes(self) ? RING_ROOM : RING_MESSAGES);
}

static PyObject *
attempt_enter(PyObject *Py_UNUSED(ring), PyObject *block)
{
    AnyBlock *self = (AnyBlock *)block;
    if (!begin(self))
        return NULL;
    if (try_to_enter(self, false) == RING_OK)
        return Py_NewRef(self->view);
    self->is_entered = false;
    return NULL;
}

/* Let the ring's derived class do it, in Python. */
static PyObject *
enter_in_python(AnyBlock *self, PyObject *method)
{
    return PyObject_CallMethodObjArgs((PyObject *)self->ring, method, self, writes(self) ? Py_True : Py_False, NULL);
}

static PyObject *
perform_enter(PyObject *Py_UNUSED(ring), PyObject *block)
{
    return enter_in_python((AnyBlock *)block, str_enter);
}

/* Leaving ------------------------------------------------------------------- */

/* For the exceptions it raises. */
static void
call(PyObject *object, PyObject *method)
{
    PyObject *nothing = PyObject_CallMethodNoArgs(object, method);
    Py_XDECREF(nothing);
}

/* Publish or consume the message if the block ends well, undo it if not.  False with an exception if it can't end well. */
static bool
leave(AnyBlock *self, bool ends_well)
{
    Loan *loan = self->loan;
    PyObject *view = self->view;
    if (loan == NULL)
        return true;
    self->loan = NULL;
    self->view = NULL;
    self->is_entered = false;
    call(view, str_release);
    PyErr_Clear();  /* it raises BufferError if there are arrays made of it: the loan knows */
    Py_DECREF(view);
    if (ends_well && !end_loan(loan) && !PyErr_Occurred())
        call((PyObject *)self->ring, str_check);    /* it was closed within the block, or this is a child of a fork */
    undo_loan(loan);
    Py_DECREF(loan);
    return !PyErr_Occurred();
}

static PyObject *
leave_well(PyObject *Py_UNUSED(ring), PyObject *block)
{
    return leave((AnyBlock *)block, true) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
leave_badly(PyObject *Py_UNUSED(ring), PyObject *block)
{
    return leave((AnyBlock *)block, false) ? Py_NewRef(Py_None) : NULL;
}

/* Whether the block ends well, from the arguments of __exit__; -1 with an exception if they are none. */
static int
ends_well(PyObject *const *args, Py_ssize_t count)
{
    if (count == 3)
        return args[0] == Py_None;
    PyErr_Format(PyExc_TypeError, "leaving a block takes 3 arguments, not %zd", count);
    return -1;
}

/* For Python ----------------------------------------------------------------- */

static const struct immediate_kind enter_kind = {"__aenter__()", attempt_enter, perform_enter, .lends = true};
static const struct immediate_kind leave_well_kind = {"__aexit__()", leave_well, NULL};
static const struct immediate_kind leave_badly_kind = {"__aexit__()", leave_badly, NULL};

static PyObject *
AsyncBlock_aenter(AnyBlock *self, PyObject *Py_UNUSED(ignored))
{
    return make_immediate(&enter_kind, self->ring, line_of(self), (PyObject *)self);
}

static PyObject *
AsyncBlock_aexit(AnyBlock *self, PyObject *const *args, Py_ssize_t count)
{
    int well = ends_well(args, count);
    if (well < 0)
        return NULL;
    return make_immediate(well ? &leave_well_kind : &leave_badly_kind, self->ring, line_of(self), (PyObject *)self);
}

static PyObject *
Block_enter(AnyBlock *self, PyObject *Py_UNUSED(ignored))
{
    return enter_in_python(self, str_enter_nowait);
}

static PyObject *
Block_exit(AnyBlock *self, PyObject *const *args, Py_ssize_t count)
{
    int well = ends_well(args, count);
    return well >= 0 && leave(self, well) ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef AsyncBlock_methods[] = {
    {"__aenter__", (PyCFunction)AsyncBlock_aenter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))AsyncBlock_aexit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef Block_methods[] = {
    {"__enter__", (PyCFunction)Block_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))Block_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject AnyBlock_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._ring._binding.AnyBlock",
    .tp_basicsize = sizeof(AnyBlock),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)AnyBlock_dealloc,
    .tp_traverse = (traverseproc)AnyBlock_traverse,
};

PyTypeObject AsyncBlock_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._ring._binding.AsyncBlock",
    .tp_doc = PyDoc_STR("A block in which a message is written or read in place, for `async with`."),
    .tp_base = &AnyBlock_type,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = AnyBlock_new,
    .tp_methods = AsyncBlock_methods,
};

PyTypeObject Block_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._ring._binding.Block",
    .tp_doc = PyDoc_STR("A block in which a message is written or read in place, for `with`."),
    .tp_base = &AnyBlock_type,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = AnyBlock_new,
    .tp_methods = Block_methods,
};

/* What the ring's derived class needs for entering a block in Python. */

PyObject *
Ring_begin(Ring *Py_UNUSED(ring), PyObject *args)
{
    AnyBlock *self;
    if (!PyArg_ParseTuple(args, "O!:begin", &AnyBlock_type, &self) || !begin(self))
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
Ring_try_enter(Ring *Py_UNUSED(ring), PyObject *args)
{
    AnyBlock *self;
    int waiting;
    if (!PyArg_ParseTuple(args, "O!p:try_enter", &AnyBlock_type, &self, &waiting))
        return NULL;
    enum ring_result result = try_to_enter(self, waiting);
    return result == RING_OK ? Py_NewRef(self->view) : result_of(result);
}

PyObject *
Ring_give_up(Ring *Py_UNUSED(ring), PyObject *args)
{
    AnyBlock *self;
    if (!PyArg_ParseTuple(args, "O!:give_up", &AnyBlock_type, &self))
        return NULL;
    leave(self, false);
    self->is_entered = false;
    Py_RETURN_NONE;
}
