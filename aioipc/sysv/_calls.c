/* System V calls that sysv_ipc does not make.
 *
 * sysv_ipc finds an object by its key, makes queues and removes objects, and is used for that.  It
 * ends before what this library needs:
 *
 *   - sets of more than one semaphore, several operations at once, SETALL and GETALL,
 *   - msgrcv(2) with MSG_EXCEPT or MSG_NOERROR, with no room for data at all, and types beyond an int,
 *   - an object known by its id only,
 *   - shared memory that is not attached as soon as it is found,
 *   - the whole of msqid_ds, semid_ds or shmid_ds as it was at one moment,
 *   - ftok(3) of a path that is not UTF-8.
 *
 * Each function here is one call of the C library, without policy: errors are plain OSErrors
 * with their errno, and aioipc/sysv/_msg.py, _sem.py and shared_memory.py say what they mean.  A call that may block
 * releases the GIL; one that was told not to (IPC_NOWAIT) does so for large messages only.
 */
#include "../_message.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>

#ifndef MSG_EXCEPT
#define MSG_EXCEPT 020000
#endif

/* The caller must define it: semctl(2). */
union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

typedef struct {
    long type;
    char data[SMALL_MESSAGE];
} SmallMessage;

static PyObject *
failed(void)
{
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* Where a message of this size fits: on the stack, or in memory that release() frees. */
static struct msgbuf *
room_for(size_t size, SmallMessage *small)
{
    if (size <= sizeof small->data)
        return (struct msgbuf *)small;
    struct msgbuf *room = NULL;
    if (size <= (size_t)PY_SSIZE_T_MAX - sizeof *room)
        room = PyMem_RawMalloc(sizeof *room + size);
    if (room == NULL)
        PyErr_NoMemory();
    return room;
}

static void
release(struct msgbuf *room, SmallMessage *small)
{
    if (room != (struct msgbuf *)small)
        PyMem_RawFree(room);
}

/* Make a call: without the GIL if it may take long, and again if a signal has ended it though it was not to wait, which
 * POSIX allows. */
#define PERFORM(result, call, is_short, is_now)                             \
    do {                                                                    \
        PyThreadState *thread = (is_short) ? NULL : PyEval_SaveThread();    \
        do                                                                  \
            result = call;                                                  \
        while (result < 0 && errno == EINTR && (is_now));                   \
        if (thread != NULL)                                                 \
            PyEval_RestoreThread(thread);                                   \
    } while (0)

/* Keys ------------------------------------------------------------------------- */

static PyObject *
calls_ftok(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *path;
    int project;
    if (!PyArg_ParseTuple(args, "O&i:ftok", PyUnicode_FSConverter, &path, &project))
        return NULL;
    /* What ftok(3) does.  Its -1 may be an error or a key. */
    struct stat status;
    int result = stat(PyBytes_AS_STRING(path), &status);
    int error = errno;
    Py_DECREF(path);
    errno = error;
    if (result != 0)
        return failed();
    uint32_t key = (uint32_t)project << 24 | (uint32_t)(status.st_dev & 0xff) << 16 | (uint32_t)(status.st_ino & 0xffff);
    return PyLong_FromLong((int32_t)key);
}

/* Message queues --------------------------------------------------------------- */

static PyObject *
calls_msgsnd(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id, flags;
    long type;
    Py_buffer data;
    SmallMessage small;
    if (!PyArg_ParseTuple(args, "ily*i:msgsnd", &id, &type, &data, &flags))
        return NULL;
    struct msgbuf *message = room_for((size_t)data.len, &small);
    if (message == NULL) {
        PyBuffer_Release(&data);
        return NULL;
    }
    message->mtype = type;
    memcpy(message->mtext, data.buf, (size_t)data.len);
    size_t size = (size_t)data.len;
    PyBuffer_Release(&data);

    int result;
    bool is_now = (flags & IPC_NOWAIT) != 0;
    PERFORM(result, msgsnd(id, message, size, flags), is_now && size <= SMALL_MESSAGE, is_now);
    int error = errno;
    release(message, &small);
    errno = error;
    if (result != 0)
        return failed();
    Py_RETURN_NONE;
}

static PyObject *
calls_msgrcv(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_Format(PyExc_TypeError, "msgrcv() takes 4 arguments, not %zd", count);
        return NULL;
    }
    long id = PyLong_AsLong(args[0]);
    Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    long type = PyLong_AsLong(args[2]);
    long flags = PyLong_AsLong(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (size < 0) {
        errno = EINVAL;
        return failed();
    }
    bool is_now = (flags & IPC_NOWAIT) != 0;
    /* Most messages are small, however long one may be: room for that is made when one has turned out to be too long. */
    Py_ssize_t room = is_now && !(flags & MSG_NOERROR) && size > SMALL_MESSAGE ? SMALL_MESSAGE : size;
    SmallMessage small;
    struct msgbuf *message;
    ssize_t received;
    for (;; room = size) {
        message = room_for((size_t)room, &small);
        if (message == NULL)
            return NULL;
        bool is_short = is_now && room <= SMALL_MESSAGE;
        PERFORM(received, msgrcv((int)id, message, (size_t)room, type, (int)flags), is_short, is_now);
        if (received >= 0 || errno != E2BIG || room == size)
            break;
    }
    PyObject *result = NULL;
    if (received < 0)
        failed();
    else
        result = message_fields(PyBytes_FromStringAndSize(message->mtext, received), message->mtype);
    release(message, &small);
    return result;
}

static PyObject *
calls_msg_stat(PyObject *Py_UNUSED(module), PyObject *argument)
{
    struct msqid_ds status;
    int id = PyLong_AsLong(argument);
    if (id == -1 && PyErr_Occurred())
        return NULL;
    if (msgctl(id, IPC_STAT, &status) != 0)
        return failed();
    const struct ipc_perm *perm = &status.msg_perm;
    return Py_BuildValue("(iIIIIIkkkiiLLL)", (int)perm->__key, perm->uid, perm->gid, perm->cuid, perm->cgid,
                         (unsigned)perm->mode & 0777, (unsigned long)status.msg_qnum,
                         (unsigned long)status.__msg_cbytes, (unsigned long)status.msg_qbytes,
                         (int)status.msg_lspid, (int)status.msg_lrpid, (long long)status.msg_stime,
                         (long long)status.msg_rtime, (long long)status.msg_ctime);
}

static PyObject *
calls_msg_set(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id;
    unsigned uid, gid, mode;
    unsigned long max_bytes;
    if (!PyArg_ParseTuple(args, "iIIIk:msg_set", &id, &uid, &gid, &mode, &max_bytes))
        return NULL;
    struct msqid_ds status = {.msg_perm = {.uid = uid, .gid = gid, .mode = mode}, .msg_qbytes = max_bytes};
    if (msgctl(id, IPC_SET, &status) != 0)
        return failed();
    Py_RETURN_NONE;
}

/* Semaphore sets --------------------------------------------------------------- */

static PyObject *
calls_semget(PyObject *Py_UNUSED(module), PyObject *args)
{
    int key, count, flags;
    if (!PyArg_ParseTuple(args, "iii:semget", &key, &count, &flags))
        return NULL;
    int id = semget(key, count, flags);
    return id < 0 ? failed() : PyLong_FromLong(id);
}

static PyObject *
calls_semop(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id, result;
    Py_buffer packed;
    if (!PyArg_ParseTuple(args, "iy*:semop", &id, &packed))
        return NULL;
    size_t count = (size_t)packed.len / sizeof(struct sembuf);
    struct sembuf *operations = packed.buf;
    bool is_now = count > 0 && (operations[0].sem_flg & IPC_NOWAIT);
    PERFORM(result, semop(id, operations, count), is_now, is_now);
    int error = errno;
    PyBuffer_Release(&packed);
    errno = error;
    if (result != 0)
        return failed();
    Py_RETURN_NONE;
}

static PyObject *
calls_semctl(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id, number, command, value = 0;
    if (!PyArg_ParseTuple(args, "iii|i:semctl", &id, &number, &command, &value))
        return NULL;
    if (command != GETVAL && command != SETVAL && command != GETPID && command != GETNCNT && command != GETZCNT) {
        errno = EINVAL;     /* it would take a pointer */
        return failed();
    }
    int result = semctl(id, number, command, (union semun){.val = value});
    return result < 0 ? failed() : PyLong_FromLong(result);
}

/* The size of a set, which GETALL and SETALL take for granted; -1 and an exception if it is not known. */
static Py_ssize_t
set_size(int id)
{
    struct semid_ds status;
    if (semctl(id, 0, IPC_STAT, (union semun){.buf = &status}) == 0)
        return (Py_ssize_t)status.sem_nsems;
    failed();
    return -1;
}

static PyObject *
calls_semgetall(PyObject *Py_UNUSED(module), PyObject *argument)
{
    int id = PyLong_AsLong(argument);
    if (id == -1 && PyErr_Occurred())
        return NULL;
    Py_ssize_t count = set_size(id);
    if (count < 0)
        return NULL;
    unsigned short *values = PyMem_New(unsigned short, count);
    if (values == NULL)
        return PyErr_NoMemory();
    PyObject *result = NULL;
    if (semctl(id, 0, GETALL, (union semun){.array = values}) != 0)
        failed();
    else
        result = PyTuple_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *value = PyLong_FromLong(values[i]);
        if (value == NULL)
            Py_CLEAR(result);
        else
            PyTuple_SET_ITEM(result, i, value);
    }
    PyMem_Free(values);
    return result;
}

/* The values come as an array of unsigned short, one for each semaphore of the set. */
static PyObject *
calls_semsetall(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id;
    Py_buffer values;
    if (!PyArg_ParseTuple(args, "iy*:semsetall", &id, &values))
        return NULL;
    Py_ssize_t size = set_size(id);
    int result = -1, error = EINVAL;
    if (size >= 0 && values.len == size * (Py_ssize_t)sizeof(unsigned short)) {
        result = semctl(id, 0, SETALL, (union semun){.array = values.buf});
        error = errno;
    }
    PyBuffer_Release(&values);
    if (size < 0)
        return NULL;
    errno = error;
    if (result != 0)
        return failed();
    Py_RETURN_NONE;
}

static PyObject *
calls_sem_stat(PyObject *Py_UNUSED(module), PyObject *argument)
{
    struct semid_ds status;
    int id = PyLong_AsLong(argument);
    if (id == -1 && PyErr_Occurred())
        return NULL;
    if (semctl(id, 0, IPC_STAT, (union semun){.buf = &status}) != 0)
        return failed();
    const struct ipc_perm *perm = &status.sem_perm;
    return Py_BuildValue("(iIIIIIkLL)", (int)perm->__key, perm->uid, perm->gid, perm->cuid, perm->cgid,
                         (unsigned)perm->mode & 0777, (unsigned long)status.sem_nsems,
                         (long long)status.sem_otime, (long long)status.sem_ctime);
}

static PyObject *
calls_sem_set(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id;
    unsigned uid, gid, mode;
    if (!PyArg_ParseTuple(args, "iIII:sem_set", &id, &uid, &gid, &mode))
        return NULL;
    struct semid_ds status = {.sem_perm = {.uid = uid, .gid = gid, .mode = mode}};
    if (semctl(id, 0, IPC_SET, (union semun){.buf = &status}) != 0)
        return failed();
    Py_RETURN_NONE;
}

/* Shared memory ---------------------------------------------------------------- */

static PyObject *
calls_shmget(PyObject *Py_UNUSED(module), PyObject *args)
{
    int key, flags;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "ini:shmget", &key, &size, &flags))
        return NULL;
    int id = shmget(key, (size_t)size, flags);
    return id < 0 ? failed() : PyLong_FromLong(id);
}

static PyObject *
calls_shm_stat(PyObject *Py_UNUSED(module), PyObject *argument)
{
    struct shmid_ds status;
    int id = PyLong_AsLong(argument);
    if (id == -1 && PyErr_Occurred())
        return NULL;
    if (shmctl(id, IPC_STAT, &status) != 0)
        return failed();
    const struct ipc_perm *perm = &status.shm_perm;
    return Py_BuildValue("(iIIIIINnkiiLLL)", (int)perm->__key, perm->uid, perm->gid, perm->cuid, perm->cgid,
                         (unsigned)perm->mode & 0777, PyBool_FromLong(perm->mode & SHM_DEST),
                         (Py_ssize_t)status.shm_segsz, (unsigned long)status.shm_nattch, (int)status.shm_cpid,
                         (int)status.shm_lpid, (long long)status.shm_atime, (long long)status.shm_dtime,
                         (long long)status.shm_ctime);
}

static PyObject *
calls_shm_set(PyObject *Py_UNUSED(module), PyObject *args)
{
    int id;
    unsigned uid, gid, mode;
    if (!PyArg_ParseTuple(args, "iIII:shm_set", &id, &uid, &gid, &mode))
        return NULL;
    struct shmid_ds status = {.shm_perm = {.uid = uid, .gid = gid, .mode = mode}};
    if (shmctl(id, IPC_SET, &status) != 0)
        return failed();
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"ftok", calls_ftok, METH_VARARGS, PyDoc_STR("ftok(path, project) -> key")},
    {"msgsnd", calls_msgsnd, METH_VARARGS, PyDoc_STR("msgsnd(id, type, data, flags) -> None")},
    {"msgrcv", (PyCFunction)(void (*)(void))calls_msgrcv, METH_FASTCALL,
     PyDoc_STR("msgrcv(id, size, type, flags) -> (data, type)")},
    {"msg_stat", calls_msg_stat, METH_O,
     PyDoc_STR("msg_stat(id) -> (key, uid, gid, cuid, cgid, mode, qnum, cbytes, qbytes, lspid, lrpid, stime,\n"
               "rtime, ctime)\n\nmsgctl(2) with IPC_STAT.")},
    {"msg_set", calls_msg_set, METH_VARARGS,
     PyDoc_STR("msg_set(id, uid, gid, mode, qbytes) -> None\n\nmsgctl(2) with IPC_SET.")},
    {"semget", calls_semget, METH_VARARGS, PyDoc_STR("semget(key, count, flags) -> id")},
    {"semop", calls_semop, METH_VARARGS,
     PyDoc_STR("semop(id, operations) -> None\n\nThe operations are an array of struct sembuf, as bytes; all have\n"
               "IPC_NOWAIT, or none.")},
    {"semctl", calls_semctl, METH_VARARGS,
     PyDoc_STR("semctl(id, number, command, value=0) -> int\n\nWith GETVAL, SETVAL, GETPID, GETNCNT or GETZCNT.")},
    {"semgetall", calls_semgetall, METH_O, PyDoc_STR("semgetall(id) -> tuple")},
    {"semsetall", calls_semsetall, METH_VARARGS,
     PyDoc_STR("semsetall(id, values) -> None\n\nThe values are an array of unsigned short, as many as the set has.")},
    {"sem_stat", calls_sem_stat, METH_O,
     PyDoc_STR("sem_stat(id) -> (key, uid, gid, cuid, cgid, mode, nsems, otime, ctime)\n\nsemctl(2) with IPC_STAT.")},
    {"sem_set", calls_sem_set, METH_VARARGS,
     PyDoc_STR("sem_set(id, uid, gid, mode) -> None\n\nsemctl(2) with IPC_SET.")},
    {"shmget", calls_shmget, METH_VARARGS, PyDoc_STR("shmget(key, size, flags) -> id")},
    {"shm_stat", calls_shm_stat, METH_O,
     PyDoc_STR("shm_stat(id) -> (key, uid, gid, cuid, cgid, mode, removed, segsz, nattch, cpid, lpid, atime,\n"
               "dtime, ctime)\n\nshmctl(2) with IPC_STAT; removed is SHM_DEST.")},
    {"shm_set", calls_shm_set, METH_VARARGS,
     PyDoc_STR("shm_set(id, uid, gid, mode) -> None\n\nshmctl(2) with IPC_SET.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aioipc.sysv._calls",
    .m_doc = PyDoc_STR("System V calls that sysv_ipc does not make."),
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC
PyInit__calls(void)
{
    PyObject *self = PyModule_Create(&module);
    static const struct {
        const char *name;
        long value;
    } constants[] = {
        {"IPC_NOWAIT", IPC_NOWAIT}, {"MSG_EXCEPT", MSG_EXCEPT}, {"MSG_NOERROR", MSG_NOERROR},
        {"SEM_UNDO", SEM_UNDO},     {"GETVAL", GETVAL},         {"SETVAL", SETVAL},
        {"GETPID", GETPID},         {"GETNCNT", GETNCNT},       {"GETZCNT", GETZCNT},
        {"LONG_MAX", LONG_MAX},
    };
    for (size_t i = 0; self != NULL && i < sizeof constants / sizeof constants[0]; i++)
        if (PyModule_AddIntConstant(self, constants[i].name, constants[i].value) < 0)
            Py_CLEAR(self);
    return self;
}
