/* Sending: what the binding does with the sending half of a ring. */
#include "binding.h"

struct sending {
    const Py_buffer *items;
    Py_ssize_t count;
};

/* Send messages, all or none. */
static enum ring_result
send_all(Ring *self, void *request)
{
    struct ring *ring = &self->ring;
    const Py_buffer *items = ((struct sending *)request)->items;
    Py_ssize_t count = ((struct sending *)request)->count;
    struct ring_loan few[1], *loans = few;
    uint64_t length = 0;
    /* No further than to what is too long, as ring_make_room will say: all could be more than a number holds. */
    for (Py_ssize_t i = 0; i < count && length <= ring->memory.capacity; i++)
        length += ring_length((uint64_t)items[i].len);
    bool is_short = length <= (count == 1 ? RING_SMALL : BATCH);
    if (!is_short && count > 1 && (loans = PyMem_New(struct ring_loan, count)) == NULL) {
        PyErr_NoMemory();
        return RING_SYSTEM;
    }
    enum ring_result result = ring_lock_send(ring);
    if (result != RING_OK)
        goto done;
    result = ring_make_room(ring, length);
    if (result == RING_OK) {
        for (Py_ssize_t i = 0; i < count; i++) {
            struct ring_loan *loan = is_short ? few : &loans[i];
            ring_allocate(ring, (uint64_t)items[i].len, is_short ? RING_READY : RING_RESERVED, loan);
            if (is_short)
                memcpy(loan->data, items[i].buf, (size_t)items[i].len);
        }
        ring_publish(ring);
    }
    ring_unlock_send(ring);
    if (result != RING_OK)
        goto done;
    if (is_short)
        ring_wake_receivers(ring);
    else {
        self->lent++;
        for (Py_ssize_t i = 0; i < count; i++) {
            copy_message(self, loans[i].data, items[i].buf, (size_t)items[i].len);
            ring_commit(ring, &loans[i]);
        }
        take_back(self);
    }
done:
    if (loans != few)
        PyMem_Free(loans);
    return result;
}

static PyObject *
attempt_send(PyObject *owner, PyObject *item)
{
    Py_buffer view;
    struct sending request = {&view, 1};
    enum ring_result result;
    if (PyBytes_CheckExact(item)) {
        view.buf = PyBytes_AS_STRING(item);
        view.len = PyBytes_GET_SIZE(item);
        result = send_all((Ring *)owner, &request);
    } else {
        if (PyObject_GetBuffer(item, &view, PyBUF_SIMPLE) < 0) {
            if (PyErr_ExceptionMatches(PyExc_Exception))    /* not KeyboardInterrupt and the like */
                PyErr_Clear();  /* the slow path says it better, or takes what is in pieces */
            return NULL;
        }
        /* Python code may have given the buffer, and closed the handle meanwhile. */
        result = is_open((Ring *)owner) ? send_all((Ring *)owner, &request) : RING_BUSY;
        PyBuffer_Release(&view);
    }
    return result == RING_OK ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
perform_send(PyObject *owner, PyObject *item)
{
    return PyObject_CallMethodOneArg(owner, str_send, item);
}

static PyObject *
perform_send_nowait(PyObject *owner, PyObject *item)
{
    return PyObject_CallMethodOneArg(owner, str_send_nowait, item);
}

static const struct immediate_kind send_kind = {"Channel.send", attempt_send, perform_send};
static const struct immediate_kind send_nowait_kind = {"Channel.send_nowait", attempt_send, perform_send_nowait};

PyObject *
Ring_send(Ring *self, PyObject *item)
{
    return make_immediate(&send_kind, self, &self->sending, item);
}

PyObject *
Ring_send_nowait(Ring *self, PyObject *item)
{
    return immediate->now(&send_nowait_kind, (PyObject *)self, &self->sending, item);
}

PyObject *
Ring_try_send(Ring *self, PyObject *args)
{
    Py_buffer view;
    int waiting;
    if (!PyArg_ParseTuple(args, "y*p:try_send", &view, &waiting))
        return NULL;
    struct sending request = {&view, 1};
    enum ring_result result = attempt(self, send_all, &request, waiting, RING_ROOM);
    PyBuffer_Release(&view);
    return result_of(result);
}

PyObject *
Ring_try_send_many(Ring *self, PyObject *args)
{
    PyObject *items;
    int waiting;
    if (!PyArg_ParseTuple(args, "O!p:try_send_many", &PyList_Type, &items, &waiting))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(items), got = 0;
    Py_buffer *views = PyMem_New(Py_buffer, count);
    if (views == NULL)
        return PyErr_NoMemory();
    PyObject *result = NULL;
    for (; got < count && got < PyList_GET_SIZE(items); got++)
        if (PyObject_GetBuffer(PyList_GET_ITEM(items, got), &views[got], PyBUF_SIMPLE) < 0)
            goto done;
    struct sending request = {views, got};
    result = result_of(attempt(self, send_all, &request, waiting, RING_ROOM));
done:
    while (got > 0)
        PyBuffer_Release(&views[--got]);
    PyMem_Free(views);
    return result;
}

/* The loan says how large. */
enum ring_result
reserve(Ring *self, void *request)
{
    struct ring *ring = &self->ring;
    struct ring_loan *loan = request;
    enum ring_result result = ring_lock_send(ring);
    if (result != RING_OK)
        return result;
    result = ring_make_room(ring, ring_length(loan->size));
    if (result == RING_OK) {
        ring_allocate(ring, loan->size, RING_RESERVED, loan);
        ring_publish(ring);
    }
    ring_unlock_send(ring);
    return result;
}

static enum ring_result
end(Ring *self, void *Py_UNUSED(request))
{
    return ring_end(&self->ring);
}

PyObject *
Ring_try_end(Ring *self, PyObject *args)
{
    int waiting;
    if (!PyArg_ParseTuple(args, "p:try_end", &waiting))
        return NULL;
    return result_of(attempt(self, end, NULL, waiting, RING_ROOM));
}
