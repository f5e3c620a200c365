/* The way past the event loop for an operation that need not wait.
 *
 * A kernel call that succeeds at once takes about a microsecond; a coroutine
 * around it, written in Python, takes half of that again.  This module holds the
 * things that every such operation needs and that are too small to be paid for
 * in Python:
 *
 *   Gate        says whether an operation may try at once,
 *   record      makes a named tuple of the tuple that a kernel call came back with,
 *   Iterator    is the object behind "async for"; its __anext__ is an awaitable
 *               that finishes without suspending when the try succeeds.
 *
 * Invariants
 *   1. An awaitable tries only when it is driven, never when it is made: one that
 *      is dropped or cancelled before it starts has taken nothing.
 *   2. Between the successful try and the return of its result nothing can fail
 *      but memory allocation, and nothing suspends: what was taken is delivered.
 *   3. Whatever the try raises, it took nothing.  The error is dropped and the
 *      whole operation is handed to the coroutine "perform", written in Python,
 *      which tries again, waits, and explains errors.  There is one slow path.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>
#include <time.h>

/* How long the tasks of a loop may go on together without letting it run, and how many
 * operations, of one gate and of all, go by between two looks at the clock (a look costs
 * as much as everything else here together).  The lower number keeps the look away from
 * a handle's first operations, the higher one bounds who uses many handles in turn. */
#define PASS_NANOSECONDS INT64_C(1000000)
#define LOOK_EVERY 8
#define LOOK_EVERY_OF_ALL 256

static PyObject *no_arguments; /* () */

/* Incremented in every child of a fork, so that a gate can tell a handle that it
 * was inherited: the child would share the parent's epoll object and its place
 * among the waiters. */
static unsigned generation;

static void
count_fork(void)
{
    generation++;
}

/* The tasks of a thread's loop take turns, and share what a pass of the loop may take. */
static _Thread_local struct {
    int64_t began;          /* when a task last came back from the loop */
    int64_t length;         /* of its turn */
    unsigned operations;    /* of all gates, since the last look at the clock */
    unsigned pass;          /* a number for what the tasks do between two runs of the loop */
    unsigned gave_way;      /* how many tasks have given way in this pass */
} turn __attribute__((tls_model("initial-exec"))) = {.length = PASS_NANOSECONDS};

static int64_t
monotonic_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Gate ------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    bool held;              /* someone waits in line, or the handle is closed */
    unsigned operations;    /* since the last look at the clock */
    unsigned generation;
} Gate;

static PyObject *
Gate_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Gate", keywords))
        return NULL;
    Gate *self = (Gate *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->generation = generation;
    return (PyObject *)self;
}

static bool
gate_enter(Gate *self)
{
    if (self->held || self->generation != generation)
        return false;
    self->operations++;
    turn.operations++;
    if (self->operations < LOOK_EVERY && turn.operations < LOOK_EVERY_OF_ALL)
        return true;
    turn.operations = 0;
    if (monotonic_nanoseconds() - turn.began >= turn.length) {
        self->operations = LOOK_EVERY;  /* look again before the next one, too */
        return false;
    }
    self->operations = 0;
    return true;
}

static void
begin_turn(Gate *self)
{
    self->operations = turn.operations = 0;
    turn.began = monotonic_nanoseconds();
}

static PyObject *
Gate_enter(Gate *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(gate_enter(self));
}

static PyObject *
Gate_give_way(Gate *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    turn.gave_way++;
    return PyLong_FromUnsignedLong(turn.pass);
}

static PyObject *
Gate_come_back(Gate *self, PyObject *pass)
{
    unsigned long gave_way_in = PyLong_AsUnsignedLong(pass);
    if (gave_way_in == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (gave_way_in == turn.pass) {
        /* The first that comes back begins a pass: as many will want a turn as in the last. */
        turn.length = PASS_NANOSECONDS / (turn.gave_way > 0 ? turn.gave_way : 1);
        turn.gave_way = 0;
        turn.pass++;
    }
    begin_turn(self);
    Py_RETURN_NONE;
}

static PyObject *
Gate_renew(Gate *self, PyObject *Py_UNUSED(ignored))
{
    begin_turn(self);
    Py_RETURN_NONE;
}

static PyObject *
Gate_inherited(Gate *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->generation != generation);
}

static PyMethodDef Gate_methods[] = {
    {"enter", (PyCFunction)Gate_enter, METH_NOARGS,
     PyDoc_STR("enter() -> bool\n\nWhether an operation may try at once: nobody waits in line, the handle\n"
               "is open and was not inherited by a fork, and the turn is not spent.")},
    {"give_way", (PyCFunction)Gate_give_way, METH_NOARGS,
     PyDoc_STR("give_way() -> int\n\nThe turn is spent: what to tell come_back after the loop has run.")},
    {"come_back", (PyCFunction)Gate_come_back, METH_O,
     PyDoc_STR("come_back(pass) -> None\n\nBegin a new turn; pass is what give_way returned.")},
    {"renew", (PyCFunction)Gate_renew, METH_NOARGS,
     PyDoc_STR("renew() -> None\n\nBegin a new turn: the task has waited, so the loop has run.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Gate_members[] = {
    {"held", T_BOOL, offsetof(Gate, held), 0,
     PyDoc_STR("True while operations must not try at once.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef Gate_getset[] = {
    {"inherited", (getter)Gate_inherited, NULL,
     PyDoc_STR("True in a process that got the handle by fork."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject Gate_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._waiting._immediate.Gate",
    .tp_doc = PyDoc_STR("Gate()\n\nSays whether an operation may try at once."),
    .tp_basicsize = sizeof(Gate),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = Gate_new,
    .tp_methods = Gate_methods,
    .tp_members = Gate_members,
    .tp_getset = Gate_getset,
};

/* Records ------------------------------------------------------------------ */

/* A record is a tuple by another name: it has the same layout. */
static bool
is_record(PyObject *type)
{
    PyTypeObject *t = (PyTypeObject *)type;
    if (PyType_Check(type) && PyType_IsSubtype(t, &PyTuple_Type)
        && PyType_HasFeature(t, Py_TPFLAGS_HEAPTYPE)
        && t->tp_basicsize == PyTuple_Type.tp_basicsize && t->tp_itemsize == PyTuple_Type.tp_itemsize
        && t->tp_dictoffset == 0 && t->tp_weaklistoffset == 0)
        return true;
    PyErr_SetString(PyExc_TypeError, "record must be a subclass of tuple without further fields");
    return false;
}

/* Put a copy in the place of the first field, if that is bytes shorter than this. */
static int
compact(PyObject *fields, Py_ssize_t shorter_than)
{
    PyObject *data = PyTuple_GET_SIZE(fields) > 0 ? PyTuple_GET_ITEM(fields, 0) : NULL;
    if (data == NULL || !PyBytes_CheckExact(data) || PyBytes_GET_SIZE(data) >= shorter_than)
        return 0;
    PyObject *copy = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data));
    if (copy == NULL)
        return -1;
    PyTuple_SET_ITEM(fields, 0, copy);
    Py_DECREF(data);
    return 0;
}

/* Do what tuple.__new__(record, fields) does.  Steals fields.
 *
 * As a rule nobody else knows the tuple yet, so it can become the record itself. */
static PyObject *
make_record(PyTypeObject *record, PyObject *fields, Py_ssize_t compact_below)
{
    if (!PyTuple_CheckExact(fields)) {
        PyErr_SetString(PyExc_TypeError, "a record is made of a tuple");
        Py_DECREF(fields);
        return NULL;
    }
    PyObject *made = fields;
    if (Py_REFCNT(fields) == 1) {
        Py_INCREF(record);
        Py_SET_TYPE(made, record);
    } else {
        Py_ssize_t size = PyTuple_GET_SIZE(fields);
        made = record->tp_alloc(record, size);
        if (made != NULL)
            for (Py_ssize_t i = 0; i < size; i++)
                PyTuple_SET_ITEM(made, i, Py_NewRef(PyTuple_GET_ITEM(fields, i)));
        Py_DECREF(fields);
    }
    if (made != NULL && compact(made, compact_below) < 0)
        Py_CLEAR(made);
    return made;
}

/* Iterator ----------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Gate *gate;
    PyObject *attempt;      /* () -> tuple, or raises */
    PyTypeObject *record;   /* what its result becomes */
    Py_ssize_t compact_below;
    PyObject *perform;      /* () -> coroutine: the same operation, with waiting */
    PyObject *spare;        /* a Next that has ended, or NULL: "async for" needs one at a time */
    PyObject *stop;         /* the StopIteration that brought the last result, or NULL */
} Iterator;

static PyObject *
Iterator_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"gate", "attempt", "record", "perform", "compact_below", NULL};
    PyObject *gate, *attempt, *record, *perform;
    Py_ssize_t compact_below = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOO|n:Iterator", keywords, &Gate_type, &gate,
                                     &attempt, &record, &perform, &compact_below)
        || !is_record(record))
        return NULL;
    Iterator *self = (Iterator *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->gate = (Gate *)Py_NewRef(gate);
    self->attempt = Py_NewRef(attempt);
    self->record = (PyTypeObject *)Py_NewRef(record);
    self->perform = Py_NewRef(perform);
    self->compact_below = compact_below;
    return (PyObject *)self;
}

static int
Iterator_traverse(Iterator *self, visitproc visit, void *arg)
{
    Py_VISIT(self->gate);
    Py_VISIT(self->attempt);
    Py_VISIT(self->record);
    Py_VISIT(self->perform);
    Py_VISIT(self->spare);
    Py_VISIT(self->stop);
    return 0;
}

static int
Iterator_clear(Iterator *self)
{
    Py_CLEAR(self->gate);
    Py_CLEAR(self->attempt);
    Py_CLEAR(self->record);
    Py_CLEAR(self->perform);
    Py_CLEAR(self->spare);
    Py_CLEAR(self->stop);
    return 0;
}

static void
Iterator_dealloc(Iterator *self)
{
    PyObject_GC_UnTrack(self);
    Iterator_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Next: what __anext__ returns ----------------------------------------------- */

enum next_state { FRESH, WAITING, DONE };

typedef struct {
    PyObject_HEAD
    Iterator *iterator;     /* NULL once it is not needed any more */
    PyObject *coroutine;    /* perform(), while WAITING */
    enum next_state state;
} Next;

static PyTypeObject Next_type;

static PyObject *
Iterator_anext(Iterator *self)
{
    /* The previous message must not live on in the exception that brought it. */
    if (self->stop != NULL && Py_REFCNT(self->stop) == 1)
        Py_CLEAR(((PyStopIterationObject *)self->stop)->value);
    Next *next = (Next *)self->spare;
    self->spare = NULL;
    if (next != NULL && Py_REFCNT(next) == 1) {
        next->iterator = (Iterator *)Py_NewRef((PyObject *)self);
        next->state = FRESH;
        return (PyObject *)next;
    }
    Py_XDECREF(next);
    next = PyObject_GC_New(Next, &Next_type);
    if (next == NULL)
        return NULL;
    next->iterator = (Iterator *)Py_NewRef((PyObject *)self);
    next->coroutine = NULL;
    next->state = FRESH;
    PyObject_GC_Track(next);
    return (PyObject *)next;
}

static int
Next_traverse(Next *self, visitproc visit, void *arg)
{
    Py_VISIT(self->iterator);
    Py_VISIT(self->coroutine);
    return 0;
}

static int
Next_clear(Next *self)
{
    self->state = DONE;
    Py_CLEAR(self->iterator);
    Py_CLEAR(self->coroutine);
    return 0;
}

static void
Next_dealloc(Next *self)
{
    PyObject_GC_UnTrack(self);
    Next_clear(self);
    PyObject_GC_Del(self);
}

static PySendResult
reused(PyObject **result)
{
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse an awaited __anext__()");
    *result = NULL;
    return PYGEN_ERROR;
}

/* Drive the coroutine one step, and forget it when it has ended. */
static PySendResult
Next_step(Next *self, PyObject *value, PyObject **result)
{
    PyObject *coroutine = Py_NewRef(self->coroutine);
    PySendResult outcome = PyIter_Send(coroutine, value, result);
    if (outcome != PYGEN_NEXT)
        Next_clear(self);
    Py_DECREF(coroutine);
    return outcome;
}

static PySendResult
Next_am_send(Next *self, PyObject *value, PyObject **result)
{
    if (self->state == DONE)
        return reused(result);
    if (self->state == WAITING)
        return Next_step(self, value, result);

    Iterator *iterator = (Iterator *)Py_NewRef((PyObject *)self->iterator);
    PySendResult outcome = PYGEN_ERROR;
    *result = NULL;
    /* Not FRESH while foreign code runs: it could drive this object again. */
    self->state = DONE;
    if (gate_enter(iterator->gate)) {
        PyObject *fields = PyObject_CallNoArgs(iterator->attempt);
        if (fields != NULL) {
            *result = make_record(iterator->record, fields, iterator->compact_below);
            if (*result != NULL)
                outcome = PYGEN_RETURN;
            Py_XSETREF(iterator->spare, Py_NewRef((PyObject *)self));
            goto ended;
        }
        if (!PyErr_ExceptionMatches(PyExc_Exception))   /* KeyboardInterrupt and the like */
            goto ended;
        PyErr_Clear();
    }
    PyObject *coroutine = PyObject_CallNoArgs(iterator->perform);
    if (coroutine == NULL)
        goto ended;
    if (self->iterator == NULL) {   /* closed meanwhile, from inside */
        Py_DECREF(coroutine);
        reused(result);
        goto ended;
    }
    self->coroutine = coroutine;
    self->state = WAITING;
    Py_DECREF(iterator);
    return Next_step(self, value, result);

ended:
    Next_clear(self);
    Py_DECREF(iterator);
    return outcome;
}

/* From 3.12 on the interpreter awaits foreign objects through tp_iternext, where a
 * result travels in a StopIteration.  Making one for each message would take longer
 * than all the rest, so the last one is used again if nobody has kept it. */
static PyObject *
take_stop(Iterator *iterator)
{
    PyObject *stop = iterator->stop;
    if (stop != NULL && Py_REFCNT(stop) == 1) {
        PyBaseExceptionObject *fields = (PyBaseExceptionObject *)stop;
        if (fields->traceback == NULL && fields->context == NULL)
            return Py_NewRef(stop);
    }
    PyTypeObject *type = (PyTypeObject *)PyExc_StopIteration;
    stop = type->tp_new(type, no_arguments, NULL);
    if (stop != NULL)
        Py_XSETREF(iterator->stop, Py_NewRef(stop));
    return stop;
}

/* The iterator protocol's form of a step: a return value travels in StopIteration. */
static PyObject *
Next_send(Next *self, PyObject *value)
{
    Iterator *iterator = (Iterator *)Py_XNewRef((PyObject *)self->iterator);
    PyObject *result = NULL;
    if (Next_am_send(self, value, &result) == PYGEN_RETURN) {
        PyObject *stop = take_stop(iterator);
        if (stop == NULL)
            Py_DECREF(result);
        else {
            Py_XSETREF(((PyStopIterationObject *)stop)->value, result);
#if PY_VERSION_HEX >= 0x030C0000
            PyErr_SetRaisedException(stop);
#else
            PyErr_SetObject(PyExc_StopIteration, stop);
            Py_DECREF(stop);
#endif
        }
        result = NULL;
    }
    Py_XDECREF(iterator);
    return result;
}

static PyObject *
Next_iternext(Next *self)
{
    return Next_send(self, Py_None);
}

/* Let the coroutine's own method answer; forget it unless it goes on waiting. */
static PyObject *
Next_forward(Next *self, const char *method, PyObject *args)
{
    PyObject *coroutine = Py_NewRef(self->coroutine);
    PyObject *result = NULL;
    PyObject *bound = PyObject_GetAttrString(coroutine, method);
    if (bound != NULL) {
        result = PyObject_Call(bound, args, NULL);
        Py_DECREF(bound);
    }
    if (result == NULL)
        Next_clear(self);
    Py_DECREF(coroutine);
    return result;
}

static PyObject *
Next_throw(Next *self, PyObject *args)
{
    PyObject *type, *value = NULL, *traceback = NULL;
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback))
        return NULL;
    if (self->state == WAITING)
        return Next_forward(self, "throw", args);
    if (self->state == DONE) {
        PyObject *result;
        reused(&result);
        return NULL;
    }
    Next_clear(self);   /* never started: it has taken nothing */
    if (PyExceptionInstance_Check(type)) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
        return NULL;
    }
    if (PyExceptionClass_Check(type)) {
        if (value == Py_None)
            value = NULL;
        PyErr_SetObject(type, value);
        return NULL;
    }
    PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
    return NULL;
}

static PyObject *
Next_close(Next *self, PyObject *Py_UNUSED(ignored))
{
    if (self->state == WAITING) {
        PyObject *result = Next_forward(self, "close", no_arguments);
        if (result == NULL)
            return NULL;
        Py_DECREF(result);
    }
    Next_clear(self);
    Py_RETURN_NONE;
}

static PyMethodDef Next_methods[] = {
    {"send", (PyCFunction)Next_send, METH_O, PyDoc_STR("As of a coroutine.")},
    {"throw", (PyCFunction)Next_throw, METH_VARARGS, PyDoc_STR("As of a coroutine.")},
    {"close", (PyCFunction)Next_close, METH_NOARGS, PyDoc_STR("As of a coroutine.")},
    {NULL, NULL, 0, NULL},
};

static PyAsyncMethods Next_async = {
    .am_await = PyObject_SelfIter,
    .am_send = (sendfunc)Next_am_send,
};

static PyTypeObject Next_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._waiting._immediate.Next",
    .tp_doc = PyDoc_STR("The awaitable result of Iterator.__anext__(); asyncio, anyio and trio take it as a coroutine."),
    .tp_basicsize = sizeof(Next),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Next_dealloc,
    .tp_traverse = (traverseproc)Next_traverse,
    .tp_clear = (inquiry)Next_clear,
    .tp_as_async = &Next_async,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)Next_iternext,
    .tp_methods = Next_methods,
};

static PyAsyncMethods Iterator_async = {
    .am_aiter = PyObject_SelfIter,
    .am_anext = (unaryfunc)Iterator_anext,
};

static PyTypeObject Iterator_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._waiting._immediate.Iterator",
    .tp_doc = PyDoc_STR(
        "Iterator(gate, attempt, record, perform, compact_below=0)\n\n"
        "An endless asynchronous iterator.  Each step calls attempt(), if the gate lets it\n"
        "enter, and makes a record of the tuple that comes back, as `record` does; when the\n"
        "gate refuses or attempt() raises, the step becomes the coroutine perform()."),
    .tp_basicsize = sizeof(Iterator),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = Iterator_new,
    .tp_dealloc = (destructor)Iterator_dealloc,
    .tp_traverse = (traverseproc)Iterator_traverse,
    .tp_clear = (inquiry)Iterator_clear,
    .tp_as_async = &Iterator_async,
};

static PyObject *
module_record(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "record() takes 3 arguments, not %zd", count);
        return NULL;
    }
    Py_ssize_t compact_below = PyNumber_AsSsize_t(args[2], PyExc_OverflowError);
    if ((compact_below == -1 && PyErr_Occurred()) || !is_record(args[0]))
        return NULL;
    return make_record((PyTypeObject *)args[0], Py_NewRef(args[1]), compact_below);
}

static PyMethodDef module_methods[] = {
    {"record", (PyCFunction)(void (*)(void))module_record, METH_FASTCALL,
     PyDoc_STR("record(kind, fields, compact_below) -> kind\n\n"
               "A record with the fields of a tuple.  If the first is bytes shorter than compact_below,\n"
               "it is copied: posix_ipc returns a short message in a buffer for the longest.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aioipc._waiting._immediate",
    .m_doc = PyDoc_STR("The way past the event loop for an operation that need not wait."),
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC
PyInit__immediate(void)
{
    if (PyType_Ready(&Next_type) < 0)
        return NULL;
    if (no_arguments == NULL && (no_arguments = PyTuple_New(0)) == NULL)
        return NULL;
    PyObject *self = PyModule_Create(&module);
    if (self == NULL)
        return NULL;
    if (PyModule_AddType(self, &Gate_type) < 0 || PyModule_AddType(self, &Iterator_type) < 0)
        goto failed;
    int error = pthread_atfork(NULL, NULL, count_fork);
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        goto failed;
    }
    return self;

failed:
    Py_DECREF(self);
    return NULL;
}
