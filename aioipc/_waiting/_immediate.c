/* The module: records, the iterator behind "async for", and what other modules get.  See immediate.h. */
#define AIOIPC_IMMEDIATE_MODULE
#include "immediate.h"

#include <errno.h>

PyObject *immediate_no_arguments;

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

/* Do what tuple.__new__(record, fields) does.  Steals fields.
 *
 * As a rule nobody else knows the tuple yet, so it can become the record itself. */
static PyObject *
make_record(PyTypeObject *record, PyObject *fields)
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
    return made;
}

/* Iterator ----------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct immediate_line line;
    PyObject *attempt;      /* () -> tuple, or raises */
    PyTypeObject *record;   /* what its result becomes */
    PyObject *perform;      /* () -> coroutine: the same operation, with waiting */
} Iterator;

static PyObject *
Iterator_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"gate", "attempt", "record", "perform", NULL};
    PyObject *gate, *attempt, *record, *perform;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOO:Iterator", keywords, &Gate_type, &gate,
                                     &attempt, &record, &perform)
        || !is_record(record))
        return NULL;
    Iterator *self = (Iterator *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->line.gate = (Gate *)Py_NewRef(gate);
    self->attempt = Py_NewRef(attempt);
    self->record = (PyTypeObject *)Py_NewRef(record);
    self->perform = Py_NewRef(perform);
    return (PyObject *)self;
}

static int
Iterator_traverse(Iterator *self, visitproc visit, void *arg)
{
    Py_VISIT(self->attempt);
    Py_VISIT(self->record);
    Py_VISIT(self->perform);
    return immediate_traverse_line(&self->line, visit, arg);
}

static int
Iterator_clear(Iterator *self)
{
    Py_CLEAR(self->attempt);
    Py_CLEAR(self->record);
    Py_CLEAR(self->perform);
    immediate_clear_line(&self->line);
    return 0;
}

static void
Iterator_dealloc(Iterator *self)
{
    PyObject_GC_UnTrack(self);
    Iterator_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
attempt(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    Iterator *self = (Iterator *)owner;
    PyObject *fields = PyObject_CallNoArgs(self->attempt);
    if (fields != NULL)
        return make_record(self->record, fields);
    if (PyErr_ExceptionMatches(PyExc_Exception))    /* not KeyboardInterrupt and the like */
        PyErr_Clear();
    return NULL;
}

static PyObject *
perform(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return PyObject_CallNoArgs(((Iterator *)owner)->perform);
}

static const struct immediate_kind next_kind = {"Iterator.__anext__", attempt, perform};

static PyObject *
Iterator_anext(Iterator *self)
{
    return immediate_make(&next_kind, (PyObject *)self, &self->line, NULL);
}

static PyAsyncMethods Iterator_async = {
    .am_aiter = PyObject_SelfIter,
    .am_anext = (unaryfunc)Iterator_anext,
};

static PyTypeObject Iterator_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._waiting._immediate.Iterator",
    .tp_doc = PyDoc_STR(
        "Iterator(gate, attempt, record, perform)\n\n"
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
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "record() takes 2 arguments, not %zd", count);
        return NULL;
    }
    return is_record(args[0]) ? make_record((PyTypeObject *)args[0], Py_NewRef(args[1])) : NULL;
}

static PyMethodDef module_methods[] = {
    {"immediately", module_immediately, METH_O,
     PyDoc_STR("immediately(fast) -> decorator\n\n"
               "A method that is called as fast is, which is one in C of a base of the class, and known as the function\n"
               "that is decorated.  Calls that fast can't take go to the function, which does the same.")},
    {"record", (PyCFunction)(void (*)(void))module_record, METH_FASTCALL,
     PyDoc_STR("record(kind, fields) -> kind\n\nA record with the fields of a tuple.")},
    {NULL, NULL, 0, NULL},
};

static const struct immediate_api api = {
    &Gate_type, gate_is_inherited, immediate_make, immediate_now, immediate_traverse_line, immediate_empty_line,
    immediate_clear_line, is_record, make_record,
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
    if (PyType_Ready(&Immediate_type) < 0 || PyType_Ready(&Method_type) < 0)
        return NULL;
    if (immediate_no_arguments == NULL && (immediate_no_arguments = PyTuple_New(0)) == NULL)
        return NULL;
    PyObject *self = PyModule_Create(&module);
    if (self == NULL)
        return NULL;
    if (PyModule_AddType(self, &Gate_type) < 0 || PyModule_AddType(self, &Iterator_type) < 0)
        goto failed;
    PyObject *capsule = PyCapsule_New((void *)&api, IMMEDIATE_CAPSULE, NULL);
    int added = capsule == NULL ? -1 : PyModule_AddObjectRef(self, "_API", capsule);
    Py_XDECREF(capsule);
    if (added < 0)
        goto failed;
    int error = gate_count_forks();
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
