/* Getting a thread out of a call that blocks in the kernel.
 *
 * A call such as sem_wait(3) or semop(2) ends early with EINTR when its thread handles
 * a signal whose handler was installed without SA_RESTART.  A signal sent once is not
 * enough: it can arrive just before the thread enters the call, which then blocks as if
 * nothing had happened.  So each thread owns a POSIX timer that signals this thread
 * alone (SIGEV_THREAD_ID): armed, it does so again and again until the thread has come
 * out and disarms it.  The kernel does the repeating; nobody has to stay awake for it.
 *
 * A timer owns its place in the signal queue from the start: once a thread has
 * one, interrupting it cannot fail for want of anything.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* A thread that has just missed a signal on its way into the call gets the next after this. */
#define REPEAT_NANOSECONDS 200000

static void
do_nothing(int signal_number)
{
    (void)signal_number;
}

static PyObject *
install(PyObject *Py_UNUSED(module), PyObject *argument)
{
    int number = PyLong_AsLong(argument);
    struct sigaction action = {.sa_handler = do_nothing}, old;
    if (number == -1 && PyErr_Occurred())
        return NULL;
    sigemptyset(&action.sa_mask);
    if (sigaction(number, NULL, &old) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    bool taken = (old.sa_flags & SA_SIGINFO) || (old.sa_handler != SIG_DFL && old.sa_handler != do_nothing);
    if (!taken && sigaction(number, &action, NULL) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyBool_FromLong(!taken);
}

static PyObject *
open_interruptibly(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *path;
    int flags, descriptor;
    if (!PyArg_ParseTuple(args, "O&i:open", PyUnicode_FSConverter, &path, &flags))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    descriptor = open(PyBytes_AS_STRING(path), flags | O_CLOEXEC);
    Py_END_ALLOW_THREADS
    int error = errno;
    Py_DECREF(path);
    errno = error;
    return descriptor < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(descriptor);
}

/* Interrupter ---------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    timer_t timer;
    pid_t process;      /* a fork's child has no such timer, but maybe another of the same number */
} Interrupter;

static PyObject *
Interrupter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"signal", NULL};
    int number;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:Interrupter", keywords, &number))
        return NULL;

    /* All other signals are for the threads that expect them; those a fault raises stay. */
    sigset_t blocked;
    static const int kept[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        sigdelset(&blocked, kept[i]);
    sigdelset(&blocked, number);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    pthread_setname_np(pthread_self(), "aioipc");   /* as ps -L shows it */

    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = number};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Interrupter *self = (Interrupter *)type->tp_alloc(type, 0);
    if (self == NULL) {
        timer_delete(timer);
        return NULL;
    }
    self->timer = timer;
    self->process = getpid();
    return (PyObject *)self;
}

static PyObject *
Interrupter_delete(Interrupter *self, PyObject *Py_UNUSED(ignored))
{
    if (self->process == getpid())
        timer_delete(self->timer);
    self->process = 0;
    Py_RETURN_NONE;
}

static void
Interrupter_dealloc(Interrupter *self)
{
    Py_DECREF(Interrupter_delete(self, NULL));
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
set_timer(Interrupter *self, long first, long repeat)
{
    struct itimerspec when = {.it_value.tv_nsec = first, .it_interval.tv_nsec = repeat};
    if (timer_settime(self->timer, 0, &when, NULL) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *
Interrupter_arm(Interrupter *self, PyObject *Py_UNUSED(ignored))
{
    return set_timer(self, 1, REPEAT_NANOSECONDS);
}

static PyObject *
Interrupter_disarm(Interrupter *self, PyObject *Py_UNUSED(ignored))
{
    return set_timer(self, 0, 0);
}

static PyMethodDef Interrupter_methods[] = {
    {"arm", (PyCFunction)Interrupter_arm, METH_NOARGS,
     PyDoc_STR("arm() -> None\n\nSignal the thread now, and again and again until disarm().  From any thread.")},
    {"disarm", (PyCFunction)Interrupter_disarm, METH_NOARGS,
     PyDoc_STR("disarm() -> None\n\nStop it.")},
    {"delete", (PyCFunction)Interrupter_delete, METH_NOARGS,
     PyDoc_STR("delete() -> None\n\nGive the timer back.  Neither arm() nor disarm() may follow.")},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject Interrupter_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aioipc._waiting._interrupt.Interrupter",
    .tp_doc = PyDoc_STR("Interrupter(signal)\n\n"
                        "Interrupts the calling thread's blocking calls by this signal, and leaves all\n"
                        "other signals to the other threads.  Raises OSError (EAGAIN) at RLIMIT_SIGPENDING."),
    .tp_basicsize = sizeof(Interrupter),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = Interrupter_new,
    .tp_dealloc = (destructor)Interrupter_dealloc,
    .tp_methods = Interrupter_methods,
};

static PyMethodDef module_methods[] = {
    {"install", install, METH_O,
     PyDoc_STR("install(signal) -> bool\n\nHandle the signal by doing nothing, without SA_RESTART.\n"
               "False if something else handles it already.")},
    {"open", open_interruptibly, METH_VARARGS,
     PyDoc_STR("open(path, flags) -> descriptor\n\nopen(2), close-on-exec, which a signal ends.  os.open() goes on (PEP 475).")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aioipc._waiting._interrupt",
    .m_doc = PyDoc_STR("Getting a thread out of a call that blocks in the kernel."),
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC
PyInit__interrupt(void)
{
    PyObject *self = PyModule_Create(&module);
    if (self != NULL && PyModule_AddType(self, &Interrupter_type) < 0)
        Py_CLEAR(self);
    return self;
}
