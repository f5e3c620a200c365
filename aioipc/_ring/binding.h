/* What the files of the binding share: the peer (binding.c), what it does (sending.c, receiving.c), what it
 * lends (loan.c) and for how long (block.c), a look from outside (peeking.c), and the module (module.c). */
#ifndef AIOIPC_RING_BINDING_H
#define AIOIPC_RING_BINDING_H

#include "../_waiting/immediate.h"
#include "ring.h"

/* Messages are copied under one lock up to so many bytes together. */
#define BATCH (64 * 1024)

typedef struct Loan Loan;

/* A peer of a ring.
 *
 * Invariants
 *   1. The ring is in the address space, and this process a peer, from the creation until it is closed and
 *      nothing is lent any more: not before, for a copy may be under way and arrays may lie there.  Where arrays
 *      of messages that were given back lie, the memory stays until they are gone.
 *   2. No operation touches the ring once it is closed, or in a child of a fork.  The gates see to that on the fast
 *      path, Python on the slow one.  But foreign code may run in between, in __buffer__ or in another thread: who
 *      is about to touch it asks is_open.
 */
typedef struct Ring {
    PyObject_HEAD
    struct ring ring;
    struct immediate_line sending;
    struct immediate_line receiving;
    Loan *loans;            /* those whose block has not ended */
    Py_ssize_t lent;        /* reasons not to leave: loans, and copies under way */
    Py_ssize_t views;       /* buffers that are out, of any loan */
    bool is_joined;
    bool is_closed;
    struct Ring *next, *previous;   /* all that have joined */
} Ring;

extern PyTypeObject Ring_type, Loan_type, AsyncBlock_type, Block_type;
extern const struct immediate_api *immediate;
extern PyObject *str_send, *str_send_nowait, *str_receive, *str_receive_nowait, *str_next, *str_enter,
    *str_enter_nowait;      /* the methods of the slow path */
extern PyObject *str_check, *str_check_size;        /* those that say what is wrong */
extern PyObject *memoryview_release;

/* Whether it has joined, is not closed and not inherited: its slot and descriptors are its own. */
bool is_open(const Ring *self);

/* Whether the ring is this process's, and not that of the parent from which it was forked. */
bool is_own(const Ring *self);

/* In a child of a fork: the locks by which others know that the parent lives must not live on there. */
void close_in_child(void);

/* Something that was lent is back. */
void take_back(Ring *self);
void take_view_back(Ring *self);

/* A loan of a message that was just reserved or borrowed; for want of memory, that is undone. */
Loan *new_loan(Ring *ring, const struct ring_loan *message, bool is_written);

/* Publish what was written, or consume what was read.  False if the ring has been closed, or with an exception. */
bool end_loan(Loan *self);

/* Give up what was written, or give back what was read, unless it has ended. */
void undo_loan(Loan *self);

/* The ring is closed: end those blocks. */
void recall_loans(Ring *ring);

/* Something to do with the ring, now or not at all.  RING_SYSTEM may come with a Python exception. */
typedef enum ring_result (*operation)(Ring *self, void *request);

/* Try, and if the caller is to wait after that, once more with the doorbell armed.  RING_BUSY also if it is not open. */
enum ring_result attempt(Ring *self, operation operation, void *request, bool waiting, enum ring_bell bell);

/* Operations with a struct ring_loan: make room for a message of its size, and find the next message. */
enum ring_result reserve(Ring *self, void *message);
enum ring_result borrow(Ring *self, void *message);

/* An operation of this kind, for Python to await. */
PyObject *make_immediate(const struct immediate_kind *kind, Ring *self, struct immediate_line *line,
                         PyObject *argument);

/* The result as a number, or an exception. */
PyObject *result_of(enum ring_result result);

/* Copy a message for which nobody holds a lock.  Others may run meanwhile, and close the ring. */
void copy_message(Ring *self, char *to, const char *from, size_t size);

/* The methods of Ring. */
PyObject *Ring_send(Ring *self, PyObject *item);
PyObject *Ring_send_nowait(Ring *self, PyObject *item);
PyObject *Ring_try_send(Ring *self, PyObject *args);
PyObject *Ring_try_send_many(Ring *self, PyObject *args);
PyObject *Ring_try_end(Ring *self, PyObject *args);
PyObject *Ring_receive(Ring *self, PyObject *ignored);
PyObject *Ring_receive_nowait(Ring *self, PyObject *ignored);
PyObject *Ring_anext(Ring *self);
PyObject *Ring_try_receive(Ring *self, PyObject *args);
PyObject *Ring_try_receive_many(Ring *self, PyObject *args);
extern const char Ring_reserve_doc[], Ring_reserve_nowait_doc[], Ring_borrow_doc[], Ring_borrow_nowait_doc[];
PyObject *Ring_reserve(Ring *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *Ring_reserve_nowait(Ring *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *Ring_borrow(Ring *self, PyObject *ignored);
PyObject *Ring_borrow_nowait(Ring *self, PyObject *ignored);
PyObject *Ring_begin(Ring *self, PyObject *args);
PyObject *Ring_try_enter(Ring *self, PyObject *args);
PyObject *Ring_give_up(Ring *self, PyObject *args);

/* A function of the module. */
PyObject *module_peek(PyObject *module, PyObject *args);

#endif
