/* The module: what is done with the file of a ring before anybody is its peer, and how deaths are heard of. */
#include "binding.h"

#include <errno.h>
#include <pthread.h>
#include <sys/inotify.h>

const struct immediate_api *immediate;
PyObject *str_send, *str_send_nowait, *str_receive, *str_receive_nowait, *str_next, *str_enter, *str_enter_nowait,
    *str_check, *str_check_size;
PyObject *memoryview_release;

static PyObject *
module_file_size(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long capacity;
    if (!PyArg_ParseTuple(args, "K:file_size", &capacity))
        return NULL;
    return PyLong_FromUnsignedLongLong(ring_file_size(capacity));
}

static PyObject *
module_longest(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long capacity;
    if (!PyArg_ParseTuple(args, "K:longest", &capacity))
        return NULL;
    return PyLong_FromUnsignedLongLong(ring_longest(capacity));
}

static PyObject *
module_make_ring(PyObject *Py_UNUSED(module), PyObject *args)
{
    int file;
    unsigned long long capacity, id;
    if (!PyArg_ParseTuple(args, "iKK:make_ring", &file, &capacity, &id))
        return NULL;
    return result_of(ring_format(file, capacity, id));
}

static PyObject *
module_identify(PyObject *Py_UNUSED(module), PyObject *args)
{
    int file;
    struct ring_header header;
    if (!PyArg_ParseTuple(args, "i:identify", &file))
        return NULL;
    enum ring_result result = ring_identify(file, &header);
    if (result == RING_SYSTEM)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("(iKI)", result, (unsigned long long)header.id, header.version);
}

/* Linux tells who watches a file that somebody closed it: also the kernel, for the dead. */
static PyObject *
module_watch_closes(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    int descriptor = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return descriptor < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(descriptor);
}

static PyObject *
module_add_watch(PyObject *Py_UNUSED(module), PyObject *args)
{
    int watch, descriptor;
    char path[64];
    if (!PyArg_ParseTuple(args, "ii:add_watch", &watch, &descriptor))
        return NULL;
    PyOS_snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    int number = inotify_add_watch(watch, path, IN_CLOSE_WRITE);
    return number < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(number);
}

static PyObject *
module_remove_watch(PyObject *Py_UNUSED(module), PyObject *args)
{
    int watch, number;
    if (!PyArg_ParseTuple(args, "ii:remove_watch", &watch, &number))
        return NULL;
    inotify_rm_watch(watch, number);    /* fails if the file is gone, and its watch with it */
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"file_size", module_file_size, METH_VARARGS, PyDoc_STR("file_size(capacity) -> int")},
    {"longest", module_longest, METH_VARARGS, PyDoc_STR("longest(capacity) -> int")},
    {"make_ring", module_make_ring, METH_VARARGS, PyDoc_STR("make_ring(file, capacity, bell_id) -> int")},
    {"identify", module_identify, METH_VARARGS,
     PyDoc_STR("identify(file) -> (int, int, int)\n\nWhether it is a ring's, its id and its version.")},
    {"peek", module_peek, METH_VARARGS,
     PyDoc_STR("peek(file) -> (result, id, capacity, messages, bytes, sent, senders, receivers, pids, dead, ended)\n\n"
               "What can be seen of a ring without becoming a peer of it.")},
    {"watch_closes", module_watch_closes, METH_NOARGS, PyDoc_STR("watch_closes() -> int\n\ninotify_init1(2).")},
    {"add_watch", module_add_watch, METH_VARARGS,
     PyDoc_STR("add_watch(watch, descriptor) -> int\n\ninotify_add_watch(2) for closing a file open for writing.")},
    {"remove_watch", module_remove_watch, METH_VARARGS,
     PyDoc_STR("remove_watch(watch, number) -> None\n\ninotify_rm_watch(2).")},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aioipc._ring._binding",
    .m_doc = PyDoc_STR("Peers of a ring of messages in shared memory."),
    .m_size = -1,
    .m_methods = module_methods,
};

static const struct {
    const char *name;
    int value;
} numbers[] = {
    {"OK", RING_OK}, {"FULL", RING_FULL}, {"EMPTY", RING_EMPTY}, {"BUSY", RING_BUSY}, {"ENDED", RING_ENDED},
    {"TOO_LONG", RING_TOO_LONG}, {"CORRUPT", RING_CORRUPT}, {"NO_SLOT", RING_NO_SLOT}, {"SHORT", RING_SHORT},
    {"FOREIGN", RING_FOREIGN}, {"OTHER_VERSION", RING_OTHER_VERSION}, {"OTHER_ABI", RING_OTHER_ABI},
    {"MESSAGES", RING_MESSAGES}, {"ROOM", RING_ROOM},
};

static const struct {
    PyObject **string;
    const char *text;
} strings[] = {
    {&str_send, "_send"}, {&str_send_nowait, "_send_nowait"}, {&str_receive, "_receive"},
    {&str_receive_nowait, "_receive_nowait"}, {&str_next, "_next"}, {&str_enter, "_enter"},
    {&str_enter_nowait, "_enter_nowait"}, {&str_check, "_check"}, {&str_check_size, "_check_size"},
};

PyMODINIT_FUNC
PyInit__binding(void)
{
    immediate = import_immediate();
    if (immediate == NULL || PyType_Ready(&Loan_type) < 0)
        return NULL;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if ((*strings[i].string = PyUnicode_InternFromString(strings[i].text)) == NULL)
            return NULL;
    memoryview_release = PyObject_GetAttrString((PyObject *)&PyMemoryView_Type, "release");
    if (memoryview_release == NULL)
        return NULL;
    PyObject *self = PyModule_Create(&module);
    if (self == NULL)
        return NULL;
    if (PyModule_AddType(self, &Ring_type) < 0 || PyModule_AddType(self, &AsyncBlock_type) < 0
        || PyModule_AddType(self, &Block_type) < 0
        || PyModule_AddIntConstant(self, "PEERS", RING_PEERS) < 0
        || PyModule_AddIntConstant(self, "CAPACITY_MAX", (long)RING_CAPACITY_MAX) < 0
        || PyModule_AddIntConstant(self, "CAPACITY_MIN", RING_CAPACITY_MIN) < 0)
        goto failed;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (PyModule_AddIntConstant(self, numbers[i].name, numbers[i].value) < 0)
            goto failed;
    int error = pthread_atfork(NULL, NULL, close_in_child);
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
