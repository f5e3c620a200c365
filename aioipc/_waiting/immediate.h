/* The way past the event loop for an operation that need not wait.
 *
 * A kernel call or a look into shared memory that succeeds at once takes about a microsecond, or a
 * tenth of that; a coroutine around it, written in Python, takes half a microsecond.  These files hold the things that
 * every such operation needs and that are too small to be paid for in Python:
 *
 *   _gate.c       Gate says whether an operation may try at once;
 *   _awaitable.c  Immediate is an awaitable that finishes without suspending when the try succeeds;
 *   _method.c     immediately makes of a function in Python a method that such an operation does in C;
 *   _immediate.c  the module; Iterator, the object behind "async for" over a kernel object; record.
 *
 * Other extension modules of this package get at Immediate through a capsule.
 */
#ifndef AIOIPC_IMMEDIATE_H
#define AIOIPC_IMMEDIATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

/* Such an operation keeps the GIL.  But from so many bytes on a copy takes longer than to get that back. */
#define LONG_COPY (256 * 1024)

typedef struct Gate Gate;

/* What an owner has for its operations in one direction. */
struct immediate_line {
    Gate *gate;
    PyObject *spare;        /* an Immediate that has ended, or NULL: as a rule one at a time is needed */
    PyObject *stop;         /* the StopIteration that brought the last result, or NULL */
};

/* A kind of operation. */
struct immediate_kind {
    const char *name;       /* its __qualname__: Class.method */
    /* Try.  NULL without an exception: it would have to wait, or failed, and took nothing.  NULL with one, as for want
     * of memory: that is raised. */
    PyObject *(*attempt)(PyObject *owner, PyObject *argument);
    /* The coroutine that does the whole operation, with waiting, explaining errors; or what does so without waiting, for
     * immediate_now.  NULL for an operation that never waits, and tries whatever the gate says: it succeeds or raises. */
    PyObject *(*perform)(PyObject *owner, PyObject *argument);
    bool lends;             /* its result must go with the last who uses it: nothing here may keep it */
};

#define IMMEDIATE_MODULE "aioipc._waiting._immediate"
#define IMMEDIATE_CAPSULE IMMEDIATE_MODULE "._API"

struct immediate_api {
    PyTypeObject *gate_type;
    bool (*is_inherited)(const Gate *gate);
    /* line is part of owner; argument may be NULL. */
    PyObject *(*make)(const struct immediate_kind *kind, PyObject *owner, struct immediate_line *line,
                      PyObject *argument);
    /* Do an operation that is not awaited, at once. */
    PyObject *(*now)(const struct immediate_kind *kind, PyObject *owner, struct immediate_line *line,
                     PyObject *argument);
    int (*traverse_line)(struct immediate_line *line, visitproc visit, void *arg);
    /* All but the gate, for tp_clear: whoever comes now must find out whose it is. */
    void (*empty_line)(struct immediate_line *line);
    void (*clear_line)(struct immediate_line *line);
    /* Whether a type can be that of records; false comes with an exception. */
    bool (*is_record)(PyObject *type);
    /* Do what record() does.  Steals fields. */
    PyObject *(*make_record)(PyTypeObject *record, PyObject *fields);
};

#ifndef AIOIPC_IMMEDIATE_MODULE
/* For the init function of a module. */
static inline const struct immediate_api *
import_immediate(void)
{
    /* PyCapsule_Import alone imports the package only. */
    PyObject *module = PyImport_ImportModule(IMMEDIATE_MODULE);
    if (module == NULL)
        return NULL;
    const struct immediate_api *api = PyCapsule_Import(IMMEDIATE_CAPSULE, 0);
    Py_DECREF(module);
    return api;
}

/* Within the module. */
#else
extern PyTypeObject Gate_type, Immediate_type, Method_type;
extern PyObject *immediate_no_arguments;    /* () */
PyObject *module_immediately(PyObject *module, PyObject *fast);
int gate_count_forks(void);
bool gate_enter(Gate *self);
bool gate_is_free(const Gate *self);
bool gate_is_inherited(const Gate *self);
PyObject *immediate_make(const struct immediate_kind *kind, PyObject *owner, struct immediate_line *line,
                         PyObject *argument);
PyObject *immediate_now(const struct immediate_kind *kind, PyObject *owner, struct immediate_line *line,
                        PyObject *argument);
int immediate_traverse_line(struct immediate_line *line, visitproc visit, void *arg);
void immediate_empty_line(struct immediate_line *line);
void immediate_clear_line(struct immediate_line *line);
#endif

#endif
