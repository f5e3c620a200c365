/* Method: a method in C that looks like a function in Python, and gives way to it.
 *
 * Many programs ask whether a function is a coroutine function, what it takes, or what it is called: frameworks that
 * otherwise call it in a thread, mocks, debuggers, documentation.  Of a method in C the answers are wrong.  So the class
 * defines a Python function, which does the whole operation, and decorates it with the method of its base that does so
 * where it need not wait.  A call goes there as it does to a method in C; everything else is asked of the function.
 *
 * Invariants
 *   1. The method in C gets an instance of its class and as many arguments as it takes; one that takes keywords
 *      may answer NotImplemented, before it has done anything.
 *   2. All other calls are the function's: what is wrong with them Python says.
 *   3. The function is never called by the method in C through this: there is no recursion.
 */
#define AIOIPC_IMMEDIATE_MODULE
#include "immediate.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *fast;         /* the method in C, which keeps the next two */
    PyTypeObject *type;     /* its class */
    PyCFunction call;
    PyObject *function;
} Method;

/* Calling ------------------------------------------------------------------- */

static PyObject *
call_function(const Method *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) > 0 && !PyObject_TypeCheck(args[0], self->type)) {
        PyErr_Format(PyExc_TypeError, "%U() is no method of %.100s",
                     ((PyFunctionObject *)self->function)->func_qualname, Py_TYPE(args[0])->tp_name);
        return NULL;
    }
    return PyObject_Vectorcall(self->function, args, flags, names);
}

static PyObject *
call_without_arguments(Method *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) == 1 && names == NULL && PyObject_TypeCheck(args[0], self->type))
        return self->call(args[0], NULL);
    return call_function(self, args, flags, names);
}

static PyObject *
call_with_one(Method *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) == 2 && names == NULL && PyObject_TypeCheck(args[0], self->type))
        return self->call(args[0], args[1]);
    return call_function(self, args, flags, names);
}

static PyObject *
call_with_any(Method *self, PyObject *const *args, size_t flags, PyObject *names)
{
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count > 0 && PyObject_TypeCheck(args[0], self->type)) {
        _PyCFunctionFastWithKeywords fast = (_PyCFunctionFastWithKeywords)(void (*)(void))self->call;
        PyObject *result = fast(args[0], args + 1, count - 1, names);
        if (result != Py_NotImplemented)
            return result;
        Py_DECREF(result);
    }
    return call_function(self, args, flags, names);
}

static vectorcallfunc
way_to_call(const PyMethodDescrObject *fast)
{
    switch (fast->d_method->ml_flags) {
    case METH_NOARGS:
        return (vectorcallfunc)call_without_arguments;
    case METH_O:
        return (vectorcallfunc)call_with_one;
    case METH_FASTCALL | METH_KEYWORDS:
        return (vectorcallfunc)call_with_any;
    default:
        return NULL;
    }
}

/* As an object --------------------------------------------------------------- */

static PyObject *
Method_get(PyObject *self, PyObject *owner, PyObject *Py_UNUSED(type))
{
    return owner == NULL || owner == Py_None ? Py_NewRef(self) : PyMethod_New(self, owner);
}

static PyObject *
Method_getattro(Method *self, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr((PyObject *)self, name);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        found = PyObject_GetAttr(self->function, name);
    }
    return found;
}

static PyObject *
Method_doc(Method *self, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(self->function, "__doc__");
}

static PyObject *
Method_repr(Method *self)
{
    return PyObject_Repr(self->function);
}

/* Copied it is the same, pickled it goes by its name: as a function. */
static PyObject *
Method_reduce(Method *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((PyFunctionObject *)self->function)->func_qualname);
}

/* No tp_clear: every cycle that this is in leads through the function, which has one. */
static int
Method_traverse(Method *self, visitproc visit, void *arg)
{
    Py_VISIT(self->fast);
    Py_VISIT(self->function);
    return 0;
}

static void
Method_dealloc(Method *self)
{
    PyObject_GC_UnTrack(self);
    Py_DECREF(self->fast);
    Py_DECREF(self->function);
    PyObject_GC_Del(self);
}

static PyMemberDef Method_members[] = {
    {"__wrapped__", T_OBJECT, offsetof(Method, function), READONLY, NULL},
    {NULL},
};

static PyGetSetDef Method_getset[] = {
    {"__doc__", (getter)Method_doc, NULL, NULL, NULL},
    {NULL},
};

static PyMethodDef Method_methods[] = {
    {"__reduce__", (PyCFunction)Method_reduce, METH_NOARGS, NULL},
    {NULL},
};

PyTypeObject Method_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._waiting._immediate.Method",
    .tp_basicsize = sizeof(Method),
    /* As for a function, no bound method is made where one is called at once. */
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION
                | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_vectorcall_offset = offsetof(Method, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_descr_get = Method_get,
    .tp_getattro = (getattrofunc)Method_getattro,
    .tp_repr = (reprfunc)Method_repr,
    .tp_dealloc = (destructor)Method_dealloc,
    .tp_traverse = (traverseproc)Method_traverse,
    .tp_members = Method_members,
    .tp_getset = Method_getset,
    .tp_methods = Method_methods,
};

/* The decorator --------------------------------------------------------------- */

static PyObject *
decorate(PyObject *fast, PyObject *function)
{
    if (!PyFunction_Check(function)) {
        PyErr_Format(PyExc_TypeError, "a function is decorated, not %.100s", Py_TYPE(function)->tp_name);
        return NULL;
    }
    Method *self = PyObject_GC_New(Method, &Method_type);
    if (self == NULL)
        return NULL;
    PyMethodDescrObject *descriptor = (PyMethodDescrObject *)fast;
    self->vectorcall = way_to_call(descriptor);
    self->fast = Py_NewRef(fast);
    self->type = descriptor->d_common.d_type;
    self->call = descriptor->d_method->ml_meth;
    self->function = Py_NewRef(function);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyMethodDef decorate_def = {"decorate", decorate, METH_O, NULL};

PyObject *
module_immediately(PyObject *Py_UNUSED(module), PyObject *fast)
{
    if (!Py_IS_TYPE(fast, &PyMethodDescr_Type) || way_to_call((PyMethodDescrObject *)fast) == NULL) {
        PyErr_SetString(PyExc_TypeError, "immediately() takes a method in C, and not one of every kind");
        return NULL;
    }
    return PyCFunction_New(&decorate_def, fast);
}
