/* Shared memory in the address space of this process, for as long as anybody looks at it.
 *
 * What the standard library and sysv_ipc have for this does not do: sysv_ipc detaches memory under the
 * memoryviews that are out, so that the next access ends the process (SIGSEGV), and mmap refuses to
 * be closed while there are any, and keeps a descriptor of its own.
 *
 * Invariants
 *   1. Memory is in the address space from the creation of a Memory to its deallocation; nothing
 *      takes it out before.
 *   2. A buffer that was handed out holds a reference to the Memory, as the buffer protocol has it.  So whoever
 *      is done with the memory drops the reference, and it goes with the last view.
 *   3. "views" is the number of buffers that are out.
 *
 * Errors are plain OSErrors with their errno; the modules that call say what they mean.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <structmember.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

typedef struct {
    PyObject_HEAD
    void *address;          /* NULL if there is none yet */
    Py_ssize_t size;
    Py_ssize_t views;
    bool read_only;
    bool is_attached;       /* by shmat(2), not mmap(2) */
    PyObject *weak_references;
} Memory;

static void
Memory_dealloc(Memory *self)
{
    PyObject_ClearWeakRefs((PyObject *)self);
    if (self->address != NULL) {
        if (self->is_attached)
            shmdt(self->address);
        else
            munmap(self->address, (size_t)self->size);
    }
    Py_TYPE(self)->tp_free(self);
}

static int
Memory_getbuffer(Memory *self, Py_buffer *view, int flags)
{
    if (PyBuffer_FillInfo(view, (PyObject *)self, self->address, self->size, self->read_only, flags) < 0)
        return -1;
    self->views++;
    return 0;
}

static void
Memory_releasebuffer(Memory *self, Py_buffer *Py_UNUSED(view))
{
    self->views--;
}

static PyBufferProcs Memory_buffer = {
    .bf_getbuffer = (getbufferproc)Memory_getbuffer,
    .bf_releasebuffer = (releasebufferproc)Memory_releasebuffer,
};

static PyMemberDef Memory_members[] = {
    {"size", T_PYSSIZET, offsetof(Memory, size), READONLY, PyDoc_STR("In bytes.")},
    {"views", T_PYSSIZET, offsetof(Memory, views), READONLY, PyDoc_STR("How many buffers are out.")},
    {NULL},
};

static PyTypeObject Memory_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._memory.Memory",
    .tp_doc = PyDoc_STR("Shared memory in the address space of this process.  Made by map and attach."),
    .tp_basicsize = sizeof(Memory),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Memory_dealloc,
    .tp_weaklistoffset = offsetof(Memory, weak_references),
    .tp_as_buffer = &Memory_buffer,
    .tp_members = Memory_members,
};

/* The new reference takes its memory out of the address space when it goes. */
static Memory *
new_memory(int read_only)
{
    Memory *self = (Memory *)Memory_type.tp_alloc(&Memory_type, 0);     /* zeroed */
    if (self != NULL)
        self->read_only = read_only;
    return self;
}

static PyObject *
failed(Memory *self)
{
    int error = errno;
    Py_DECREF(self);
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
memory_map(PyObject *Py_UNUSED(module), PyObject *args)
{
    int descriptor, read_only;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "inp:map", &descriptor, &size, &read_only))
        return NULL;
    Memory *self = new_memory(read_only);
    if (self == NULL)
        return NULL;
    /* A negative size is a huge one, which mmap(2) refuses. */
    void *address = mmap(NULL, (size_t)size, PROT_READ | (read_only ? 0 : PROT_WRITE), MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED)
        return failed(self);
    self->address = address;
    self->size = size;
    return (PyObject *)self;
}

/* The size is asked for when the segment is attached: then the id can't come to mean another. */
static PyObject *
memory_attach(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id, read_only;
    struct shmid_ds status;
    if (!PyArg_ParseTuple(args, "ip:attach", &id, &read_only))
        return NULL;
    Memory *self = new_memory(read_only);
    if (self == NULL)
        return NULL;
    void *address = shmat(id, NULL, read_only ? SHM_RDONLY : 0);
    if (address == (void *)-1)
        return failed(self);
    self->address = address;
    self->is_attached = true;
    if (shmctl(id, IPC_STAT, &status) != 0)
        return failed(self);
    self->size = (Py_ssize_t)status.shm_segsz;
    return (PyObject *)self;
}

static PyMethodDef module_methods[] = {
    {"map", memory_map, METH_VARARGS,
     PyDoc_STR("map(descriptor, size, read_only) -> Memory\n\nmmap(2) of a file from its beginning, shared.")},
    {"attach", memory_attach, METH_VARARGS,
     PyDoc_STR("attach(id, read_only) -> Memory\n\nshmat(2) of the whole segment.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aioipc._memory",
    .m_doc = PyDoc_STR("Shared memory that stays in the address space until its last view is gone."),
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC
PyInit__memory(void)
{
    PyObject *self = PyModule_Create(&module);
    if (self != NULL && PyModule_AddType(self, &Memory_type) < 0)
        Py_CLEAR(self);
    return self;
}
