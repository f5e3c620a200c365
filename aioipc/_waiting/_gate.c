/* Whether an operation may try at once: nobody is in line, and the loop's other work is not due. */
#define AIOIPC_IMMEDIATE_MODULE
#include "immediate.h"

#include <pthread.h>
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

/* Incremented in every child of a fork, so that a gate can tell a handle that it
 * was inherited: the child would share the parent's epoll object and its place
 * among the waiters. */
static unsigned generation;

static void
count_fork(void)
{
    generation++;
}

int
gate_count_forks(void)
{
    return pthread_atfork(NULL, NULL, count_fork);
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

struct Gate {
    PyObject_HEAD
    bool held;              /* someone waits in line, or the handle is closed */
    unsigned operations;    /* since the last look at the clock */
    unsigned generation;
};

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

bool
gate_is_free(const Gate *self)
{
    return !self->held && self->generation == generation;
}

bool
gate_enter(Gate *self)
{
    if (!gate_is_free(self))
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

bool
gate_is_inherited(const Gate *self)
{
    return self->generation != generation;
}

static PyObject *
Gate_inherited(Gate *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(gate_is_inherited(self));
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

PyTypeObject Gate_type = {
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
