/* Receiving: what the binding does with the receiving half of a ring. */
#include "binding.h"

static bool
loan_is_short(enum ring_result result, const struct ring_loan *loan)
{
    return result == RING_OK && loan->size <= RING_SMALL;
}

/* Put a message, if there is one, at the end of a list.  Steals it. */
static bool
append(PyObject *messages, PyObject *message)
{
    bool is_done = message != NULL && PyList_Append(messages, message) == 0;
    Py_XDECREF(message);
    return is_done;
}

/* Receive a long message that was borrowed: into this, or if there is no memory for it, give it back. */
static bool
take_borrowed(Ring *self, const struct ring_loan *loan, PyObject *message)
{
    if (message == NULL) {
        ring_return(&self->ring, loan);
        return false;
    }
    self->lent++;
    copy_message(self, PyBytes_AS_STRING(message), loan->data, (size_t)loan->size);
    ring_finish(&self->ring, loan);
    take_back(self);
    return true;
}

/* Receive the next message. */
static enum ring_result
receive_one(Ring *self, void *request)
{
    struct ring *ring = &self->ring;
    struct ring_loan loan;
    PyObject *message = NULL;
    enum ring_result result = ring_lock_receive(ring);
    if (result != RING_OK)
        return result;
    result = ring_find(ring, &loan);
    bool is_short = loan_is_short(result, &loan);
    if (is_short) {
        message = PyBytes_FromStringAndSize(loan.data, (Py_ssize_t)loan.size);
        if (message != NULL)
            ring_consume(ring, &loan);
    } else if (result == RING_OK)
        ring_borrow(ring, &loan);
    ring_unlock_receive(ring);
    if (message != NULL)
        ring_wake_senders(ring);
    else if (result == RING_OK && !is_short) {
        message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)loan.size);
        take_borrowed(self, &loan, message);
    }
    *(PyObject **)request = message;
    return result == RING_OK && message == NULL ? RING_SYSTEM : result;
}

struct receiving {
    PyObject *messages;     /* a list */
    Py_ssize_t count;       /* how many there may be */
    uint64_t bytes;         /* that they took up in the ring */
};

/* Receive messages, as many as one lock gives. */
static enum ring_result
receive_some(Ring *self, struct receiving *request)
{
    struct ring *ring = &self->ring;
    struct ring_loan loan;
    uint64_t bytes = 0;
    bool is_borrowed = false;
    enum ring_result result = ring_lock_receive(ring);
    if (result != RING_OK)
        return result;
    while (PyList_GET_SIZE(request->messages) < request->count && bytes < BATCH) {
        result = ring_find(ring, &loan);
        if (result != RING_OK)
            break;
        if (!loan_is_short(result, &loan)) {
            ring_borrow(ring, &loan);
            is_borrowed = true;
            break;
        }
        if (!append(request->messages, PyBytes_FromStringAndSize(loan.data, (Py_ssize_t)loan.size))) {
            result = RING_SYSTEM;
            break;
        }
        ring_consume(ring, &loan);
        bytes += ring_length(loan.size);
    }
    ring_unlock_receive(ring);
    if (bytes > 0)
        ring_wake_senders(ring);
    if (is_borrowed) {
        bytes += ring_length(loan.size);
        /* First its place in the list: once it is consumed nothing may fail. */
        PyObject *message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)loan.size);
        bool has_place = append(request->messages, Py_XNewRef(message));
        if (!take_borrowed(self, &loan, has_place ? message : NULL))
            result = RING_SYSTEM;
        Py_XDECREF(message);
    }
    request->bytes += bytes;
    return result;
}

/* Receive messages until there are no more, or as many as may be; while others send, not more than fit into the ring
 * at once. */
static enum ring_result
receive_many(Ring *self, void *argument)
{
    struct receiving *request = argument;
    enum ring_result result = RING_OK;
    while (result == RING_OK && PyList_GET_SIZE(request->messages) < request->count && !self->is_closed
           && request->bytes < self->ring.memory.capacity)
        result = receive_some(self, request);
    if (PyList_GET_SIZE(request->messages) == 0)
        return result;
    PyErr_Clear();  /* what was received is delivered */
    return RING_OK;
}

static PyObject *
attempt_receive(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    PyObject *message = NULL;
    receive_one((Ring *)owner, &message);
    return message;
}

static PyObject *
perform_receive(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return PyObject_CallMethodNoArgs(owner, str_receive);
}

static PyObject *
perform_receive_nowait(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return PyObject_CallMethodNoArgs(owner, str_receive_nowait);
}

static PyObject *
perform_next(PyObject *owner, PyObject *Py_UNUSED(argument))
{
    return PyObject_CallMethodNoArgs(owner, str_next);
}

static const struct immediate_kind receive_kind = {"Channel.receive", attempt_receive, perform_receive};
static const struct immediate_kind receive_nowait_kind = {
    "Channel.receive_nowait", attempt_receive, perform_receive_nowait,
};
static const struct immediate_kind next_kind = {"Channel.__anext__", attempt_receive, perform_next};

PyObject *
Ring_receive(Ring *self, PyObject *Py_UNUSED(ignored))
{
    return make_immediate(&receive_kind, self, &self->receiving, NULL);
}

PyObject *
Ring_receive_nowait(Ring *self, PyObject *Py_UNUSED(ignored))
{
    return immediate->now(&receive_nowait_kind, (PyObject *)self, &self->receiving, NULL);
}

PyObject *
Ring_anext(Ring *self)
{
    return make_immediate(&next_kind, self, &self->receiving, NULL);
}

PyObject *
Ring_try_receive(Ring *self, PyObject *args)
{
    int waiting;
    PyObject *message = NULL;
    if (!PyArg_ParseTuple(args, "p:try_receive", &waiting))
        return NULL;
    enum ring_result result = attempt(self, receive_one, &message, waiting, RING_MESSAGES);
    return result == RING_OK ? message : result_of(result);
}

PyObject *
Ring_try_receive_many(Ring *self, PyObject *args)
{
    struct receiving request = {.bytes = 0};
    int waiting;
    if (!PyArg_ParseTuple(args, "np:try_receive_many", &request.count, &waiting))
        return NULL;
    request.messages = PyList_New(0);
    if (request.messages == NULL)
        return NULL;
    enum ring_result result = attempt(self, receive_many, &request, waiting, RING_MESSAGES);
    if (result == RING_OK)
        return request.messages;
    Py_DECREF(request.messages);
    return result_of(result);
}

enum ring_result
borrow(Ring *self, void *loan)
{
    struct ring *ring = &self->ring;
    enum ring_result result = ring_lock_receive(ring);
    if (result != RING_OK)
        return result;
    result = ring_find(ring, loan);
    if (result == RING_OK)
        ring_borrow(ring, loan);
    ring_unlock_receive(ring);
    return result;
}
