/* A message as queues of both kinds deliver it to Python. */
#ifndef AIOIPC_MESSAGE_H
#define AIOIPC_MESSAGE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Messages up to so many bytes, the default limit of both kinds, pass through the stack. */
#define SMALL_MESSAGE 8192

/* The tuple of its bytes and its number, a type or priority.  Steals data, which is NULL where there was no memory. */
static inline PyObject *
message_fields(PyObject *data, long number)
{
    PyObject *second = data == NULL ? NULL : PyLong_FromLong(number);
    PyObject *fields = second == NULL ? NULL : PyTuple_New(2);
    if (fields == NULL) {
        Py_XDECREF(data);
        Py_XDECREF(second);
        return NULL;
    }
    PyTuple_SET_ITEM(fields, 0, data);
    PyTuple_SET_ITEM(fields, 1, second);
    return fields;
}

#endif
