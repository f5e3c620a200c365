/* Immediate: an awaitable that finishes without suspending when its operation need not wait.
 *
 * Invariants
 *   1. It tries only when it is driven, never when it is made: one that is dropped or
 *      cancelled before it starts has taken nothing.
 *   2. Between the successful try and the return of its result nothing can fail
 *      but memory allocation, and nothing suspends: what was taken is delivered.
 *   3. Where the try fails, having taken nothing, the whole operation is handed to
 *      the coroutine "perform", written in Python, which tries again, waits, and
 *      explains errors.  There is one slow path.
 */
#define AIOIPC_IMMEDIATE_MODULE
#include "immediate.h"

enum state { FRESH, WAITING, DONE };

typedef struct {
    PyObject_HEAD
    const struct immediate_kind *kind;
    struct immediate_line *line;    /* a part of the owner */
    PyObject *owner;        /* NULL once it is not needed any more */
    PyObject *argument;     /* or NULL */
    PyObject *coroutine;    /* perform(), while WAITING */
    enum state state;
} Immediate;

static bool
is_made(const struct immediate_line *line)
{
    if (line->gate == NULL)
        PyErr_SetString(PyExc_RuntimeError, "this was not made by create or open");
    return line->gate != NULL;
}

PyObject *
immediate_make(const struct immediate_kind *kind, PyObject *owner, struct immediate_line *line, PyObject *argument)
{
    if (!is_made(line))
        return NULL;
    /* The previous result must not live on in the exception that brought it. */
    if (line->stop != NULL && Py_REFCNT(line->stop) == 1)
        Py_CLEAR(((PyStopIterationObject *)line->stop)->value);
    Immediate *self = (Immediate *)line->spare;
    line->spare = NULL;
    if (self == NULL || Py_REFCNT(self) != 1) {
        Py_XDECREF(self);
        self = PyObject_GC_New(Immediate, &Immediate_type);
        if (self == NULL)
            return NULL;
        self->coroutine = NULL;
        PyObject_GC_Track(self);
    }
    self->kind = kind;
    self->line = line;
    self->owner = Py_NewRef(owner);
    self->argument = Py_XNewRef(argument);
    self->state = FRESH;
    return (PyObject *)self;
}

PyObject *
immediate_now(const struct immediate_kind *kind, PyObject *owner, struct immediate_line *line, PyObject *argument)
{
    if (!is_made(line))
        return NULL;
    if (gate_is_free(line->gate)) {
        PyObject *result = kind->attempt(owner, argument);
        if (result != NULL || PyErr_Occurred())
            return result;
    }
    return kind->perform(owner, argument);
}

int
immediate_traverse_line(struct immediate_line *line, visitproc visit, void *arg)
{
    Py_VISIT(line->gate);
    Py_VISIT(line->spare);
    Py_VISIT(line->stop);
    return 0;
}

void
immediate_empty_line(struct immediate_line *line)
{
    Py_CLEAR(line->spare);
    Py_CLEAR(line->stop);
}

void
immediate_clear_line(struct immediate_line *line)
{
    Py_CLEAR(line->gate);
    immediate_empty_line(line);
}

static int
Immediate_traverse(Immediate *self, visitproc visit, void *arg)
{
    Py_VISIT(self->owner);
    Py_VISIT(self->argument);
    Py_VISIT(self->coroutine);
    return 0;
}

static int
Immediate_clear(Immediate *self)
{
    self->state = DONE;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->argument);
    Py_CLEAR(self->coroutine);
    return 0;
}

/* Say of a forgotten await what Python says of a coroutine's. */
static void
Immediate_finalize(Immediate *self)
{
    if (self->state != FRESH)
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "%s() was never awaited", self->kind->name) < 0)
        PyErr_WriteUnraisable((PyObject *)self);
    PyErr_Restore(type, value, traceback);
}

static void
Immediate_dealloc(Immediate *self)
{
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    Immediate_clear(self);
    PyObject_GC_Del(self);
}

static PySendResult
reused(Immediate *self, PyObject **result)
{
    PyErr_Format(PyExc_RuntimeError, "cannot reuse an awaited %s()", self->kind->name);
    *result = NULL;
    return PYGEN_ERROR;
}

/* Drive the coroutine one step, and forget it when it has ended. */
static PySendResult
step(Immediate *self, PyObject *value, PyObject **result)
{
    PyObject *coroutine = Py_NewRef(self->coroutine);
    PySendResult outcome = PyIter_Send(coroutine, value, result);
    if (outcome != PYGEN_NEXT)
        Immediate_clear(self);
    Py_DECREF(coroutine);
    return outcome;
}

static PySendResult
Immediate_am_send(Immediate *self, PyObject *value, PyObject **result)
{
    if (self->state == DONE)
        return reused(self, result);
    if (self->state == WAITING)
        return step(self, value, result);

    PyObject *owner = Py_NewRef(self->owner), *argument = Py_XNewRef(self->argument);
    PySendResult outcome = PYGEN_ERROR;
    *result = NULL;
    /* Not FRESH while foreign code runs: it could drive this object again. */
    self->state = DONE;
    if (self->kind->perform == NULL || gate_enter(self->line->gate)) {
        *result = self->kind->attempt(owner, argument);
        if (*result != NULL) {
            outcome = PYGEN_RETURN;
            Py_XSETREF(self->line->spare, Py_NewRef((PyObject *)self));
            goto ended;
        }
        if (PyErr_Occurred())
            goto ended;
    }
    PyObject *coroutine = self->kind->perform(owner, argument);
    if (coroutine == NULL)
        goto ended;
    if (self->owner == NULL) {  /* closed meanwhile, from inside */
        Py_DECREF(coroutine);
        reused(self, result);
        goto ended;
    }
    self->coroutine = coroutine;
    self->state = WAITING;
    Py_XDECREF(argument);
    Py_DECREF(owner);
    return step(self, value, result);

ended:
    Immediate_clear(self);
    Py_XDECREF(argument);
    Py_DECREF(owner);
    return outcome;
}

/* From 3.12 on the interpreter awaits foreign objects through tp_iternext, where a
 * result travels in a StopIteration.  Making one for each message would take longer
 * than all the rest, so the last one is used again if nobody has kept it.  It keeps its
 * result until then, which one that is lent does not allow. */
static PyObject *
take_stop(Immediate *self)
{
    PyObject *stop = self->kind->lends ? NULL : self->line->stop;
    if (stop != NULL && Py_REFCNT(stop) == 1) {
        PyBaseExceptionObject *fields = (PyBaseExceptionObject *)stop;
        if (fields->traceback == NULL && fields->context == NULL)
            return Py_NewRef(stop);
    }
    PyTypeObject *type = (PyTypeObject *)PyExc_StopIteration;
    stop = type->tp_new(type, immediate_no_arguments, NULL);
    if (stop != NULL && !self->kind->lends)
        Py_XSETREF(self->line->stop, Py_NewRef(stop));
    return stop;
}

/* Do what raising StopIteration(result) does.  Steals result. */
static void
stop_with(Immediate *self, PyObject *result)
{
    PyObject *stop = take_stop(self);
    if (stop == NULL) {
        Py_DECREF(result);
        return;
    }
    Py_XSETREF(((PyStopIterationObject *)stop)->value, result);
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(stop);
#else
    PyErr_SetObject(PyExc_StopIteration, stop);
    Py_DECREF(stop);
#endif
}

/* The iterator protocol's form of a step: a return value travels in StopIteration. */
static PyObject *
Immediate_send(Immediate *self, PyObject *value)
{
    PyObject *owner = Py_XNewRef(self->owner);  /* and so the line */
    PyObject *result = NULL;
    if (Immediate_am_send(self, value, &result) == PYGEN_RETURN) {
        stop_with(self, result);
        result = NULL;
    }
    Py_XDECREF(owner);
    return result;
}

static PyObject *
Immediate_iternext(Immediate *self)
{
    PyObject *owner = Py_XNewRef(self->owner);
    PyObject *result = NULL;
    if (Immediate_am_send(self, Py_None, &result) == PYGEN_RETURN) {
        if (result == Py_None)  /* the end without an exception means that */
            Py_DECREF(result);
        else
            stop_with(self, result);
        result = NULL;
    }
    Py_XDECREF(owner);
    return result;
}

/* Let the coroutine's own method answer; forget it unless it goes on waiting. */
static PyObject *
Immediate_forward(Immediate *self, const char *method, PyObject *args)
{
    PyObject *coroutine = Py_NewRef(self->coroutine);
    PyObject *result = NULL;
    PyObject *bound = PyObject_GetAttrString(coroutine, method);
    if (bound != NULL) {
        result = PyObject_Call(bound, args, NULL);
        Py_DECREF(bound);
    }
    if (result == NULL)
        Immediate_clear(self);
    Py_DECREF(coroutine);
    return result;
}

static PyObject *
Immediate_throw(Immediate *self, PyObject *args)
{
    PyObject *type, *value = NULL, *traceback = NULL;
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback))
        return NULL;
    if (self->state == WAITING)
        return Immediate_forward(self, "throw", args);
    if (self->state == DONE) {
        PyObject *result;
        reused(self, &result);
        return NULL;
    }
    Immediate_clear(self);   /* never started: it has taken nothing */
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
Immediate_close(Immediate *self, PyObject *Py_UNUSED(ignored))
{
    if (self->state == WAITING) {
        PyObject *result = Immediate_forward(self, "close", immediate_no_arguments);
        if (result == NULL)
            return NULL;
        Py_DECREF(result);
    }
    Immediate_clear(self);
    Py_RETURN_NONE;
}

static PyObject *
Immediate_name(Immediate *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(strrchr(self->kind->name, '.') + 1);
}

static PyObject *
Immediate_qualname(Immediate *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(self->kind->name);
}

static PyObject *
Immediate_repr(Immediate *self)
{
    return PyUnicode_FromFormat("<Immediate object %s at %p>", self->kind->name, self);
}

static PyGetSetDef Immediate_getset[] = {
    {"__name__", (getter)Immediate_name, NULL, PyDoc_STR("As of a coroutine: that of the method."), NULL},
    {"__qualname__", (getter)Immediate_qualname, NULL, PyDoc_STR("As of a coroutine: that of the method."), NULL},
    {NULL},
};

static PyMethodDef Immediate_methods[] = {
    {"send", (PyCFunction)Immediate_send, METH_O, PyDoc_STR("As of a coroutine.")},
    {"throw", (PyCFunction)Immediate_throw, METH_VARARGS, PyDoc_STR("As of a coroutine.")},
    {"close", (PyCFunction)Immediate_close, METH_NOARGS, PyDoc_STR("As of a coroutine.")},
    {NULL, NULL, 0, NULL},
};

static PyAsyncMethods Immediate_async = {
    .am_await = PyObject_SelfIter,
    .am_send = (sendfunc)Immediate_am_send,
};

PyTypeObject Immediate_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._waiting._immediate.Immediate",
    .tp_doc = PyDoc_STR("An awaitable; asyncio, anyio and trio take it as a coroutine."),
    .tp_basicsize = sizeof(Immediate),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Immediate_dealloc,
    .tp_finalize = (destructor)Immediate_finalize,
    .tp_traverse = (traverseproc)Immediate_traverse,
    .tp_clear = (inquiry)Immediate_clear,
    .tp_as_async = &Immediate_async,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)Immediate_iternext,
    .tp_repr = (reprfunc)Immediate_repr,
    .tp_getset = Immediate_getset,
    .tp_methods = Immediate_methods,
};
