/* Ring: a peer of a ring of messages, for Python.
 *
 * The operations that need not wait are done here, whole: send, receive, __anext__ and __aenter__ of a block make an
 * Immediate (aioipc/_waiting/immediate.h).  Everything else, waiting above all, is done by the class derived from Ring,
 * in Python; it calls the try_... methods, which return what ring.h returns, and tells the gates when to keep still.
 * What it shows of send and the like are its own functions, decorated with these (aioipc/_waiting/_method.c).
 *
 * try_... with waiting=True that returns FULL, EMPTY or BUSY has armed the doorbell: the caller
 * may sleep until that is heard.
 */
#include "binding.h"

#include <errno.h>
#include <structmember.h>
#include <unistd.h>

static Ring *rings;     /* all that have joined */

bool
is_own(const Ring *self)
{
    return !immediate->is_inherited(self->sending.gate);
}

bool
is_open(const Ring *self)
{
    return self->is_joined && !self->is_closed;
}

static void
close_descriptors(Ring *self)
{
    close(self->ring.lock_file);
    close(self->ring.bells[0]);
    close(self->ring.bells[1]);
}

static void
forget(Ring *self)
{
    self->is_joined = false;
    if (self->previous != NULL)
        self->previous->next = self->next;
    else
        rings = self->next;
    if (self->next != NULL)
        self->next->previous = self->previous;
}

void
close_in_child(void)
{
    for (; rings != NULL; rings = rings->next) {
        close_descriptors(rings);
        rings->is_joined = false;
    }
}

static void
leave_if_done(Ring *self)
{
    if (!self->is_closed || self->lent > 0)
        return;
    if (self->is_joined) {
        ring_leave(&self->ring);
        close_descriptors(self);
        forget(self);
    }
    if (self->views == 0 && self->ring.memory.header != NULL) {
        ring_unmap(&self->ring.memory);
        self->ring.memory.header = NULL;
    }
}

void
take_back(Ring *self)
{
    self->lent--;
    leave_if_done(self);
}

void
take_view_back(Ring *self)
{
    self->views--;
    leave_if_done(self);
}

/* Lifetime ------------------------------------------------------------------ */

PyObject *
make_immediate(const struct immediate_kind *kind, Ring *self, struct immediate_line *line, PyObject *argument)
{
    return immediate->make(kind, (PyObject *)self, line, argument);
}

PyObject *
result_of(enum ring_result result)
{
    if (result == RING_SYSTEM)
        return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(result);
}

static int
Ring_init(Ring *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"sending", "receiving", NULL};
    PyObject *sending, *receiving;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!:Ring", keywords, immediate->gate_type, &sending,
                                     immediate->gate_type, &receiving))
        return -1;
    if (self->sending.gate != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Ring is made once");
        return -1;
    }
    self->sending.gate = (Gate *)Py_NewRef(sending);
    self->receiving.gate = (Gate *)Py_NewRef(receiving);
    return 0;
}

static PyObject *
Ring_join(Ring *self, PyObject *args)
{
    int file, locks, bells[2];
    struct ring_memory memory;
    if (!PyArg_ParseTuple(args, "iiii:join", &file, &bells[RING_MESSAGES], &locks, &bells[RING_ROOM]))
        return NULL;
    if (self->ring.memory.header != NULL || self->is_closed || self->sending.gate == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Ring joins once");
        return NULL;
    }
    enum ring_result result = ring_map(&memory, file);
    if (result != RING_OK)
        return result_of(result);
    result = ring_join(&self->ring, &memory, locks, bells);
    if (result != RING_OK) {
        int error = errno;
        ring_unmap(&memory);
        self->ring.memory.header = NULL;
        errno = error;
        return result_of(result);
    }
    self->is_joined = true;
    self->previous = NULL;
    self->next = rings;
    if (rings != NULL)
        rings->previous = self;
    rings = self;
    return result_of(RING_OK);
}

static PyObject *
Ring_leave(Ring *self, PyObject *Py_UNUSED(ignored))
{
    self->is_closed = true;
    recall_loans(self);
    leave_if_done(self);
    Py_RETURN_NONE;
}

static int
Ring_traverse(Ring *self, visitproc visit, void *arg)
{
    int result = immediate->traverse_line(&self->sending, visit, arg);
    return result != 0 ? result : immediate->traverse_line(&self->receiving, visit, arg);
}

static int
Ring_clear(Ring *self)
{
    immediate->empty_line(&self->sending);
    immediate->empty_line(&self->receiving);
    return 0;
}

static void
Ring_dealloc(Ring *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    self->is_closed = true;
    leave_if_done(self);    /* nothing is lent: a loan has a reference */
    immediate->clear_line(&self->sending);
    immediate->clear_line(&self->receiving);
    type->tp_free((PyObject *)self);
}

/* Doing ---------------------------------------------------------------------- */

/* Copy a message for which nobody holds a lock.  Others may run meanwhile, and close this. */
void
copy_message(Ring *self, char *to, const char *from, size_t size)
{
    if (size < LONG_COPY) {
        memcpy(to, from, size);
        return;
    }
    self->lent++;
    Py_BEGIN_ALLOW_THREADS
    memcpy(to, from, size);
    Py_END_ALLOW_THREADS
    self->lent--;
}

static void
reap(Ring *self)
{
    bool waits = self->ring.waits;
    self->ring.waits = true;
    ring_reap(&self->ring);     /* what it can't do now it does when a bell has rung */
    self->ring.waits = waits;
}

static bool
must_wait(enum ring_result result)
{
    return result == RING_FULL || result == RING_EMPTY || result == RING_BUSY;
}

/* Try, and if the caller is to wait after that, once more with the doorbell armed.  RING_BUSY also if it is not open. */
enum ring_result
attempt(Ring *self, operation operation, void *request, bool waiting, enum ring_bell bell)
{
    if (!is_open(self))
        return RING_BUSY;
    self->lent++;       /* an operation may copy without the GIL, and be closed then */
    enum ring_result result = operation(self, request);
    if (waiting && must_wait(result)) {
        self->ring.waits = true;
        ring_arm(&self->ring, bell);
        /* Not only when a death was reported: another peer may have been about to clean up just then, so that the
         * dead one seemed to live, and have found a lock taken.  After arming: the bells that ring when that is
         * free are heard now. */
        reap(self);
        result = operation(self, request);
        self->ring.waits = false;
        /* The next in line here is to hear it, too. */
        if (!must_wait(result))
            ring_ring(&self->ring, bell);
    }
    take_back(self);
    return result;
}

/* Looking ------------------------------------------------------------------- */

static PyObject *
Ring_reap(Ring *self, PyObject *Py_UNUSED(ignored))
{
    /* Another thread may have news for it, while this one opens it or has just closed it. */
    if (is_open(self))
        reap(self);
    Py_RETURN_NONE;
}

static PyObject *
Ring_listen(Ring *self, PyObject *args)
{
    int bell;
    if (!PyArg_ParseTuple(args, "i:listen", &bell))
        return NULL;
    if (!is_open(self)) {
        PyErr_SetString(PyExc_RuntimeError, "the ring is not open");
        return NULL;
    }
    int ear = ring_listen(&self->ring, bell == 0 ? RING_MESSAGES : RING_ROOM);
    return ear < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(ear);
}

static PyObject *
Ring_deafen(Ring *self, PyObject *Py_UNUSED(ignored))
{
    self->ring.ears[RING_MESSAGES] = self->ring.ears[RING_ROOM] = -1;
    Py_RETURN_NONE;
}

static PyObject *
Ring_look(Ring *self, PyObject *Py_UNUSED(ignored))
{
    struct ring_statistics found;
    enum ring_result result = is_open(self) ? ring_look(&self->ring, &found) : RING_BUSY;
    if (result != RING_OK)
        return result_of(result);
    return Py_BuildValue("(KKIIIN)", (unsigned long long)found.messages, (unsigned long long)found.bytes,
                         found.senders, found.receivers, found.dead, PyBool_FromLong(found.ended));
}

static PyObject *
Ring_fault(Ring *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(self->ring.fault == NULL ? "" : self->ring.fault);
}

static PyObject *
Ring_capacity(Ring *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(self->ring.memory.capacity);
}

static PyMemberDef Ring_members[] = {
    {"_joined", T_BOOL, offsetof(Ring, is_joined), READONLY, PyDoc_STR("Whether it keeps the descriptors it was given.")},
    {NULL},
};

static PyGetSetDef Ring_getset[] = {
    {"_fault", (getter)Ring_fault, NULL, PyDoc_STR("What was found to be wrong last."), NULL},
    {"_capacity", (getter)Ring_capacity, NULL, PyDoc_STR("Bytes of records there may be."), NULL},
    {NULL},
};

static PyMethodDef Ring_methods[] = {
    {"send", (PyCFunction)Ring_send, METH_O, NULL},
    {"receive", (PyCFunction)Ring_receive, METH_NOARGS, NULL},
    {"send_nowait", (PyCFunction)Ring_send_nowait, METH_O, NULL},
    {"receive_nowait", (PyCFunction)Ring_receive_nowait, METH_NOARGS, NULL},
    {"reserve", (PyCFunction)(void (*)(void))Ring_reserve, METH_FASTCALL | METH_KEYWORDS, Ring_reserve_doc},
    {"reserve_nowait", (PyCFunction)(void (*)(void))Ring_reserve_nowait, METH_FASTCALL | METH_KEYWORDS,
     Ring_reserve_nowait_doc},
    {"borrow", (PyCFunction)Ring_borrow, METH_NOARGS, Ring_borrow_doc},
    {"borrow_nowait", (PyCFunction)Ring_borrow_nowait, METH_NOARGS, Ring_borrow_nowait_doc},
    {"_join", (PyCFunction)Ring_join, METH_VARARGS,
     PyDoc_STR("_join(file, messages, locks, room) -> int\n\nBecome a peer; if that succeeds, this keeps the last three.")},
    {"_leave", (PyCFunction)Ring_leave, METH_NOARGS, PyDoc_STR("_leave() -> None\n\nCease to be one.")},
    {"_try_send", (PyCFunction)Ring_try_send, METH_VARARGS, NULL},
    {"_try_send_many", (PyCFunction)Ring_try_send_many, METH_VARARGS, NULL},
    {"_try_end", (PyCFunction)Ring_try_end, METH_VARARGS, NULL},
    {"_try_receive", (PyCFunction)Ring_try_receive, METH_VARARGS, NULL},
    {"_try_receive_many", (PyCFunction)Ring_try_receive_many, METH_VARARGS, NULL},
    {"_begin", (PyCFunction)Ring_begin, METH_VARARGS, PyDoc_STR("_begin(block) -> None\n\nA task is about to enter it.")},
    {"_try_enter", (PyCFunction)Ring_try_enter, METH_VARARGS, NULL},
    {"_give_up", (PyCFunction)Ring_give_up, METH_VARARGS, PyDoc_STR("_give_up(block) -> None\n\nIt does not enter it.")},
    {"_reap", (PyCFunction)Ring_reap, METH_NOARGS, PyDoc_STR("_reap() -> None\n\nClean up after dead peers.")},
    {"_listen", (PyCFunction)Ring_listen, METH_VARARGS,
     PyDoc_STR("_listen(bell) -> int\n\nAn epoll descriptor that can be read when the bell, MESSAGES or ROOM, has rung.")},
    {"_deafen", (PyCFunction)Ring_deafen, METH_NOARGS,
     PyDoc_STR("_deafen() -> None\n\nListen no more: these descriptors are about to be closed.")},
    {"_look", (PyCFunction)Ring_look, METH_NOARGS, NULL},
    {NULL},
};

static PyAsyncMethods Ring_async = {
    .am_aiter = PyObject_SelfIter,
    .am_anext = (unaryfunc)Ring_anext,
};

PyTypeObject Ring_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._ring._binding.Ring",
    .tp_doc = PyDoc_STR("Ring(sending, receiving)\n\nA peer of a ring of messages; the base of Channel."),
    .tp_basicsize = sizeof(Ring),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)Ring_init,
    .tp_dealloc = (destructor)Ring_dealloc,
    .tp_traverse = (traverseproc)Ring_traverse,
    .tp_clear = (inquiry)Ring_clear,
    .tp_as_async = &Ring_async,
    .tp_methods = Ring_methods,
    .tp_getset = Ring_getset,
    .tp_members = Ring_members,
};
