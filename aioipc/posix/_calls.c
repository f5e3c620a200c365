/* Queue: sending to a POSIX message queue and receiving from it, for Python.
 *
 * posix_ipc opens, makes and removes queues, and is used for that.  But for each message it gives up the GIL,
 * and makes room for the longest; where there is no message it raises an exception.  For a small message all
 * that takes half as long as the kernel does.
 *
 * The operations that need not wait are done here, whole: send, receive and __anext__ make an Immediate
 * (aioipc/_waiting/immediate.h).  Everything else, waiting above all, is done by the class derived from Queue, in
 * Python; it calls the _try_... methods, whose errors are plain OSErrors with their errno.  What it shows of send and the
 * like are its own functions, decorated with these (aioipc/_waiting/_method.c).
 *
 * No call blocks.  So it keeps the GIL, unless it may copy a LONG_COPY.
 */
#include "../_message.h"
#include "../_waiting/immediate.h"

#include <errno.h>
#include <limits.h>
#include <mqueue.h>
#include <structmember.h>

typedef struct {
    PyObject_HEAD
    mqd_t descriptor;       /* -1 once it is closed: the kernel refuses that */
    Py_ssize_t max_message_size;
    PyTypeObject *message;  /* the record that is received */
    PyObject *room;         /* bytes for the longest message, or NULL: see receive_long */
    struct immediate_line sending;
    struct immediate_line receiving;
} Queue;

static const struct immediate_api *immediate;
/* The methods of the slow path. */
static PyObject *str_send, *str_send_nowait, *str_receive, *str_receive_nowait, *str_next;

/* Lifetime ------------------------------------------------------------------ */

static PyObject *
Queue_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    Queue *self = (Queue *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->descriptor = -1;
    return (PyObject *)self;
}

static int
Queue_init(Queue *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"descriptor", "max_message_size", "message", "sending", "receiving", NULL};
    int descriptor;
    Py_ssize_t size;
    PyObject *message, *sending, *receiving;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "inOO!O!:Queue", keywords, &descriptor, &size, &message,
                                     immediate->gate_type, &sending, immediate->gate_type, &receiving)
        || !immediate->is_record(message))
        return -1;
    if (self->message != NULL || size < 1) {
        PyErr_SetString(PyExc_RuntimeError, "a Queue is made once, for messages of a size");
        return -1;
    }
    self->descriptor = descriptor;
    self->max_message_size = size;
    self->message = (PyTypeObject *)Py_NewRef(message);
    self->sending.gate = (Gate *)Py_NewRef(sending);
    self->receiving.gate = (Gate *)Py_NewRef(receiving);
    return 0;
}

static int
Queue_traverse(Queue *self, visitproc visit, void *arg)
{
    Py_VISIT(self->message);
    int result = immediate->traverse_line(&self->sending, visit, arg);
    return result != 0 ? result : immediate->traverse_line(&self->receiving, visit, arg);
}

static int
Queue_clear(Queue *self)
{
    immediate->empty_line(&self->sending);
    immediate->empty_line(&self->receiving);
    return 0;
}

static void
Queue_dealloc(Queue *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->message);
    Py_CLEAR(self->room);
    immediate->clear_line(&self->sending);
    immediate->clear_line(&self->receiving);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* The calls ----------------------------------------------------------------- */

/* Which no call waits for: whoever shares the description of the queue, a child say, can take O_NONBLOCK away. */
static const struct timespec long_ago;

/* mq_send(3) or mq_receive(3); negative, with errno, if that failed. */
static ssize_t
transfer(const Queue *self, bool is_sent, char *data, Py_ssize_t size, unsigned *priority)
{
    mqd_t descriptor = self->descriptor;
    ssize_t result;
    PyThreadState *thread = size < LONG_COPY ? NULL : PyEval_SaveThread();
    do
        result = is_sent ? mq_timedsend(descriptor, data, (size_t)size, *priority, &long_ago)
                         : mq_timedreceive(descriptor, data, (size_t)size, priority, &long_ago);
    while (result < 0 && errno == EINTR);
    if (result < 0 && errno == ETIMEDOUT)
        errno = EAGAIN;
    if (thread != NULL)
        PyEval_RestoreThread(thread);
    return result;
}

/* Send a message.  NULL, with errno, if the kernel refused. */
static PyObject *
send(const Queue *self, PyObject *data, unsigned priority)
{
    bool is_sent = transfer(self, true, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &priority) == 0;
    return is_sent ? Py_NewRef(Py_None) : NULL;
}

/* Receive the data where the longest message is too long for the stack.  It becomes what the caller gets, cut to size,
 * unless the message is small: that is copied, and the room for the longest kept for the next.  NULL as from receive. */
static PyObject *
receive_long(Queue *self, unsigned *priority)
{
    PyObject *room = self->room, *data = NULL;
    self->room = NULL;      /* it is this call's while others have the GIL */
    if (room == NULL && (room = PyBytes_FromStringAndSize(NULL, self->max_message_size)) == NULL)
        return NULL;
    ssize_t size = transfer(self, false, PyBytes_AS_STRING(room), self->max_message_size, priority);
    if (size > SMALL_MESSAGE) {
        _PyBytes_Resize(&room, size);   /* NULL without memory */
        return room;
    }
    int error = errno;
    if (size >= 0)
        data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(room), size);
    Py_XSETREF(self->room, room);
    errno = error;
    return data;
}

/* Receive a message.  NULL, with errno, if the kernel refused; with an exception for want of memory. */
static PyObject *
receive(Queue *self)
{
    char small[SMALL_MESSAGE];
    unsigned priority = 0;
    PyObject *data = NULL;
    if (self->max_message_size > SMALL_MESSAGE)
        data = receive_long(self, &priority);
    else {
        ssize_t size = transfer(self, false, small, self->max_message_size, &priority);
        if (size >= 0)
            data = PyBytes_FromStringAndSize(small, size);
    }
    PyObject *fields = message_fields(data, (long)priority);
    return fields == NULL ? NULL : immediate->make_record(self->message, fields);
}

/* Sending ------------------------------------------------------------------- */

static PyObject *
attempt_send(PyObject *owner, PyObject *arguments)
{
    Queue *self = (Queue *)owner;
    PyObject *item = PyTuple_GET_ITEM(arguments, 0);
    PyObject *given = PyTuple_GET_ITEM(arguments, 1);
    if (Py_IS_TYPE(item, self->message) && PyTuple_GET_SIZE(item) == 2) {
        if (given == Py_None)
            given = PyTuple_GET_ITEM(item, 1);
        item = PyTuple_GET_ITEM(item, 0);
    }
    long priority = 0;
    int overflow = 0;
    if (PyLong_CheckExact(given))
        priority = PyLong_AsLongAndOverflow(given, &overflow);
    else if (given != Py_None)
        return NULL;
    /* The slow path makes bytes of other things, and says what is wrong with the rest. */
    if (overflow != 0 || priority < 0 || priority >= MQ_PRIO_MAX || !PyBytes_CheckExact(item)
        || PyBytes_GET_SIZE(item) > self->max_message_size)
        return NULL;
    return send(self, item, (unsigned)priority);
}

static PyObject *
call(PyObject *owner, PyObject *name, PyObject *arguments)
{
    PyObject *method = PyObject_GetAttr(owner, name);
    if (method == NULL)
        return NULL;
    PyObject *result = PyObject_Call(method, arguments, NULL);
    Py_DECREF(method);
    return result;
}

static PyObject *
perform_send(PyObject *owner, PyObject *arguments)
{
    return call(owner, str_send, arguments);
}

static PyObject *
perform_send_nowait(PyObject *owner, PyObject *arguments)
{
    return call(owner, str_send_nowait, arguments);
}

static const struct immediate_kind send_kind = {"MessageQueue.send", attempt_send, perform_send};
static const struct immediate_kind send_nowait_kind = {"MessageQueue.send_nowait", attempt_send, perform_send_nowait};

/* What send() and send_nowait() are called with, or NotImplemented if that can't be right.  By hand:
 * PyArg_ParseTupleAndKeywords and what it needs take a quarter of the time of the whole operation. */
static PyObject *
parse_send(PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *given[] = {NULL, Py_None};    /* item, priority */
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    bool is_right = count <= 2;
    for (Py_ssize_t i = 0; is_right && i < count; i++)
        given[i] = args[i];
    for (Py_ssize_t i = 0; is_right && i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int place = PyUnicode_CompareWithASCIIString(name, "item") == 0 ? 0
                    : PyUnicode_CompareWithASCIIString(name, "priority") == 0 ? 1 : -1;
        is_right = place >= count;      /* a parameter, and not given by its place already */
        if (is_right)
            given[place] = args[count + i];
    }
    if (!is_right || given[0] == NULL)
        return Py_NewRef(Py_NotImplemented);
    return PyTuple_Pack(2, given[0], given[1]);
}

static PyObject *
Queue_send(Queue *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *arguments = parse_send(args, count, names);
    if (arguments == NULL || arguments == Py_NotImplemented)
        return arguments;
    PyObject *made = immediate->make(&send_kind, (PyObject *)self, &self->sending, arguments);
    Py_DECREF(arguments);
    return made;
}

static PyObject *
Queue_send_nowait(Queue *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *arguments = parse_send(args, count, names);
    if (arguments == NULL || arguments == Py_NotImplemented)
        return arguments;
    PyObject *result = immediate->now(&send_nowait_kind, (PyObject *)self, &self->sending, arguments);
    Py_DECREF(arguments);
    return result;
}

static PyObject *
Queue_try_send(Queue *self, PyObject *args)
{
    PyObject *data;
    unsigned priority;
    if (!PyArg_ParseTuple(args, "SI:try_send", &data, &priority))
        return NULL;
    PyObject *result = send(self, data, priority);
    return result == NULL ? PyErr_SetFromErrno(PyExc_OSError) : result;
}

/* Receiving ----------------------------------------------------------------- */

static PyObject *
attempt_receive(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return receive((Queue *)owner);
}

static PyObject *
perform_receive(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return PyObject_CallMethodNoArgs(owner, str_receive);
}

static PyObject *
perform_receive_nowait(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return PyObject_CallMethodNoArgs(owner, str_receive_nowait);
}

static PyObject *
perform_next(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return PyObject_CallMethodNoArgs(owner, str_next);
}

static const struct immediate_kind receive_kind = {"MessageQueue.receive", attempt_receive, perform_receive};
static const struct immediate_kind receive_nowait_kind = {
    "MessageQueue.receive_nowait", attempt_receive, perform_receive_nowait,
};
static const struct immediate_kind next_kind = {"MessageQueue.__anext__", attempt_receive, perform_next};

static PyObject *
Queue_receive(Queue *self, PyObject *Py_UNUSED(ignored))
{
    return immediate->make(&receive_kind, (PyObject *)self, &self->receiving, NULL);
}

static PyObject *
Queue_receive_nowait(Queue *self, PyObject *Py_UNUSED(ignored))
{
    return immediate->now(&receive_nowait_kind, (PyObject *)self, &self->receiving, NULL);
}

static PyObject *
Queue_anext(Queue *self)
{
    return immediate->make(&next_kind, (PyObject *)self, &self->receiving, NULL);
}

static PyObject *
Queue_try_receive(Queue *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *message = receive(self);
    return message == NULL && !PyErr_Occurred() ? PyErr_SetFromErrno(PyExc_OSError) : message;
}

/* The module ---------------------------------------------------------------- */

static PyMemberDef Queue_members[] = {
    {"_mqd", T_INT, offsetof(Queue, descriptor), 0, PyDoc_STR("The descriptor; to be -1 before that is closed.")},
    {NULL},
};

static PyMethodDef Queue_methods[] = {
    {"send", (PyCFunction)(void (*)(void))Queue_send, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"receive", (PyCFunction)Queue_receive, METH_NOARGS, NULL},
    {"send_nowait", (PyCFunction)(void (*)(void))Queue_send_nowait, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"receive_nowait", (PyCFunction)Queue_receive_nowait, METH_NOARGS, NULL},
    {"_try_send", (PyCFunction)Queue_try_send, METH_VARARGS, PyDoc_STR("_try_send(data, priority) -> None")},
    {"_try_receive", (PyCFunction)Queue_try_receive, METH_NOARGS, PyDoc_STR("_try_receive() -> message")},
    {NULL},
};

static PyAsyncMethods Queue_async = {
    .am_aiter = PyObject_SelfIter,
    .am_anext = (unaryfunc)Queue_anext,
};

static PyTypeObject Queue_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc.posix._calls.Queue",
    .tp_doc = PyDoc_STR(
        "Queue(descriptor, max_message_size, message, sending, receiving)\n\n"
        "Sends to a message queue and receives from it; the base of MessageQueue.  The last two are gates."),
    .tp_basicsize = sizeof(Queue),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = Queue_new,
    .tp_init = (initproc)Queue_init,
    .tp_dealloc = (destructor)Queue_dealloc,
    .tp_traverse = (traverseproc)Queue_traverse,
    .tp_clear = (inquiry)Queue_clear,
    .tp_as_async = &Queue_async,
    .tp_methods = Queue_methods,
    .tp_members = Queue_members,
};

static PyObject *
module_unlink(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *name;
    if (!PyArg_ParseTuple(args, "O&:unlink", PyUnicode_FSConverter, &name))
        return NULL;
    bool is_done = mq_unlink(PyBytes_AS_STRING(name)) == 0;
    Py_DECREF(name);
    return is_done ? Py_NewRef(Py_None) : PyErr_SetFromErrno(PyExc_OSError);
}

static PyMethodDef module_methods[] = {
    {"unlink", module_unlink, METH_VARARGS,
     PyDoc_STR("unlink(name) -> None\n\nmq_unlink(3).  That of posix_ipc takes no name that is not UTF-8.")},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aioipc.posix._calls",
    .m_doc = PyDoc_STR("mq_send(3) and mq_receive(3), at once where that is possible."),
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC
PyInit__calls(void)
{
    immediate = import_immediate();
    if (immediate == NULL || PyType_Ready(&Queue_type) < 0)
        return NULL;
    if ((str_send = PyUnicode_InternFromString("_send")) == NULL
        || (str_receive = PyUnicode_InternFromString("_receive")) == NULL
        || (str_send_nowait = PyUnicode_InternFromString("_send_nowait")) == NULL
        || (str_receive_nowait = PyUnicode_InternFromString("_receive_nowait")) == NULL
        || (str_next = PyUnicode_InternFromString("_next")) == NULL)
        return NULL;
    PyObject *self = PyModule_Create(&module);
    if (self != NULL && PyModule_AddType(self, &Queue_type) < 0)
        Py_CLEAR(self);
    return self;
}
