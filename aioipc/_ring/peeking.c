/* peek: what can be seen of a ring without becoming a peer of it. */
#include "binding.h"

PyObject *
module_peek(PyObject *Py_UNUSED(module), PyObject *args)
{
    int file;
    struct ring_glance seen;
    enum ring_result result;
    if (!PyArg_ParseTuple(args, "i:peek", &file))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = ring_peek(file, &seen);
    Py_END_ALLOW_THREADS
    if (result == RING_SYSTEM)
        return result_of(result);
    PyObject *pids = PyTuple_New(seen.peers);
    for (uint32_t i = 0; pids != NULL && i < seen.peers; i++) {
        PyObject *pid = PyLong_FromUnsignedLong(seen.pids[i]);
        if (pid == NULL)
            Py_CLEAR(pids);
        else
            PyTuple_SET_ITEM(pids, i, pid);
    }
    if (pids == NULL)
        return NULL;
    return Py_BuildValue("(iKKKKKIININ)", result, (unsigned long long)seen.id, (unsigned long long)seen.capacity,
                         (unsigned long long)seen.messages, (unsigned long long)seen.bytes,
                         (unsigned long long)seen.sent, seen.senders, seen.receivers, pids, seen.dead,
                         PyBool_FromLong(seen.ended));
}
