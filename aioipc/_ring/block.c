/* Blocks in which a message is written or read in place: AsyncBlock, for "async with", and Block, for "with".
 *
 * Invariants
 *   1. From when it has been entered until it is left, a block has a loan and the view of it; otherwise neither.
 *   2. is_entered is true from the beginning of entering, which may have to wait, until the block is left or
 *      entering has failed: one task at a time does it.
 *   3. Nobody gets a view that the block does not have: what was lent ends, or is undone, with the block.
 *
 * Where entering has to wait, or to explain an error, the class derived from Ring does it, in Python.  Leaving never
 * waits.
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
make_block(PyTypeObject *type, Ring *ring, Py_ssize_t nbytes)
{
    AnyBlock *self = PyObject_GC_New(AnyBlock, type);
    if (self == NULL)
        return NULL;
    self->ring = (Ring *)Py_NewRef(ring);
    self->nbytes = nbytes;
    self->loan = NULL;
    self->view = NULL;
    self->is_entered = false;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* No tp_clear: these lead to the ring, and all ways back from there go through something that can be cleared. */
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
    PyObject_GC_Del(self);
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

/* Let the class derived from Ring do it. */
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

/* Publish or consume the message if the block ends well, undo that if not.  False with an exception if it can't end
 * well. */
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
    Py_XDECREF(PyObject_CallOneArg(memoryview_release, view));
    PyErr_Clear();      /* it raises BufferError if there are arrays made of it: the loan knows */
    Py_DECREF(view);
    if (ends_well && !end_loan(loan) && !PyErr_Occurred())
        /* The handle was closed within the block, or this is a child of a fork: let it say so. */
        Py_XDECREF(PyObject_CallMethodNoArgs((PyObject *)self->ring, str_check));
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

/* The types ------------------------------------------------------------------ */

static const struct immediate_kind enter_kind = {"AsyncBlock.__aenter__", attempt_enter, perform_enter, .lends = true};
static const struct immediate_kind leave_well_kind = {"AsyncBlock.__aexit__", leave_well, NULL};
static const struct immediate_kind leave_badly_kind = {"AsyncBlock.__aexit__", leave_badly, NULL};

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
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_methods = AsyncBlock_methods,
};

PyTypeObject Block_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._ring._binding.Block",
    .tp_doc = PyDoc_STR("A block in which a message is written or read in place, for `with`."),
    .tp_base = &AnyBlock_type,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_methods = Block_methods,
};

/* Methods of the ring -------------------------------------------------------- */

/* The size of a message to write, from the arguments of reserve.  -1 with an exception if it can't be one. */
static Py_ssize_t
parse_size(Ring *ring, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (count == 1 && names == NULL && PyLong_CheckExact(args[0])) {
        Py_ssize_t size = PyLong_AsSsize_t(args[0]);
        if (size >= 0)
            return size;
        PyErr_Clear();
    }
    /* The class derived from Ring takes it in other forms, and says what is wrong with it. */
    PyObject *check = PyObject_GetAttr((PyObject *)ring, str_check_size);
    if (check == NULL)
        return -1;
    PyObject *checked = PyObject_Vectorcall(check, args, (size_t)count, names);
    Py_DECREF(check);
    if (checked == NULL)
        return -1;
    Py_ssize_t size = PyLong_AsSsize_t(checked);
    Py_DECREF(checked);
    return size;
}

const char Ring_reserve_doc[] = PyDoc_STR(
    "reserve($self, /, nbytes)\n"
    "--\n\n"
    "A block, for `async with`, in which a message of this size is written in place.\n\n"
    "Entering it waits for room, and gives a memoryview of unsigned bytes, of whatever value.  The message is\n"
    "published when the block ends well; if it raises, or the process dies, nobody ever sees it.  Until then it takes\n"
    "up room, but messages that were sent later arrive.\n\n"
    "Nothing that was made of the view, such as an array, may be left at the end of the block.\n\n"
    ":param nbytes: how many bytes the message will have\n"
    ":raises BufferError: at the end, if something else could still write to the message; it is not sent then\n"
    ":raises MessageTooLongError: if it is more than `max_message_size`; this and the others on entering\n"
    ":raises BrokenError: if the channel has been ended\n"
    ":raises ClosedError: if the handle is closed, then or before the block has ended\n"
    ":raises CorruptError: if what is in the shared memory can't be right\n"
    ":raises RuntimeError: if it belongs to another event loop, or was inherited by a fork");

PyObject *
Ring_reserve(Ring *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t size = parse_size(self, args, count, names);
    return size < 0 ? NULL : make_block(&AsyncBlock_type, self, size);
}

const char Ring_reserve_nowait_doc[] = PyDoc_STR(
    "reserve_nowait($self, /, nbytes)\n"
    "--\n\n"
    "A block, for `with`, as that of `reserve`.  Parameters and exceptions are the same, and on entering\n\n"
    ":raises WouldBlock: if there is no room, tasks wait for it already, or another process is using the channel just\n"
    "    now");

PyObject *
Ring_reserve_nowait(Ring *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t size = parse_size(self, args, count, names);
    return size < 0 ? NULL : make_block(&Block_type, self, size);
}

const char Ring_borrow_doc[] = PyDoc_STR(
    "borrow($self, /)\n"
    "--\n\n"
    "A block, for `async with`, in which the next message is read in place.\n\n"
    "Entering it waits for a message, and gives a read-only memoryview.  The message is consumed when the block ends\n"
    "well; if it raises, or the process dies, it is delivered again, to whoever comes next.  Others receive the\n"
    "messages after it meanwhile; but once as much as the channel holds has been sent, senders wait for the end of\n"
    "the block.\n\n"
    "Nothing that was made of the view, such as an array, may be left at the end of the block.\n\n"
    ":raises BufferError: at the end, if something of that kind is left; the message goes back, and what is left\n"
    "    may come to show others\n"
    ":raises EndOfStream: if the channel has been ended, and all has been consumed; this and the rest on entering\n"
    ":raises ClosedError: if the handle is closed, then or before the block has ended\n"
    ":raises CorruptError: if what is in the shared memory can't be right\n"
    ":raises RuntimeError: if it belongs to another event loop, or was inherited by a fork");

PyObject *
Ring_borrow(Ring *self, PyObject *Py_UNUSED(ignored))
{
    return make_block(&AsyncBlock_type, self, READS);
}

const char Ring_borrow_nowait_doc[] = PyDoc_STR(
    "borrow_nowait($self, /)\n"
    "--\n\n"
    "A block, for `with`, as that of `borrow`.  Exceptions are the same, and on entering\n\n"
    ":raises WouldBlock: if there is no message, tasks wait for one already, or another process is using the channel\n"
    "    just now");

PyObject *
Ring_borrow_nowait(Ring *self, PyObject *Py_UNUSED(ignored))
{
    return make_block(&Block_type, self, READS);
}

/* With these the class derived from Ring enters a block. */

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
