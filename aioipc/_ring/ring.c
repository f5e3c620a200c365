/* Records: how they are sent and received.  See ring.h for the invariants. */
#include "inside.h"

/* Looking ---------------------------------------------------------------- */

static enum ring_result
check_bounds(struct ring *ring, uint64_t head, uint64_t tail)
{
    if (!ring_are_bounds(head, tail, ring->memory.capacity))
        return ring_fault(ring, "the positions of its records");
    return RING_OK;
}

enum ring_result
ring_bounds(struct ring *ring, uint64_t *head, uint64_t *tail)
{
    struct ring_header *header = ring->memory.header;
    /* Head, tail, and head again: a tail is of the time of a head that has not moved since. */
    uint64_t again = atomic_load_explicit(&header->head, memory_order_acquire);
    for (int i = 0; i < TRIES; i++) {
        *head = again;
        *tail = atomic_load_explicit(&header->tail, memory_order_acquire);
        again = atomic_load_explicit(&header->head, memory_order_acquire);
        if (*head == again)
            return check_bounds(ring, *head, *tail);
    }
    return ring_fault(ring, "the positions of its records");
}

enum ring_result
ring_read(struct ring *ring, uint64_t position, uint64_t end, uint64_t *state, uint64_t *size)
{
    struct ring_record *record = ring_record(ring, position);
    *state = atomic_load_explicit(&record->state, memory_order_acquire);
    *size = atomic_load_explicit(&record->size, memory_order_relaxed);
    if (!ring_is_state(*state, position))
        return ring_fault(ring, "the state of a record");
    if (!ring_is_size(*size, end - position, ring->memory.capacity))
        return ring_fault(ring, "the size of a record");
    return RING_OK;
}

static struct ring_peer *
self(struct ring *ring)
{
    return &ring->memory.header->peer[ring->slot];
}

static void
does(struct ring *ring, uint32_t what)
{
    uint32_t done = atomic_load_explicit(&self(ring)->does, memory_order_relaxed);
    if ((done & what) == 0)
        atomic_store_explicit(&self(ring)->does, done | what, memory_order_relaxed);
}

/* A record more, or one less, that is lost to the others if this process dies.  The number may
 * be too high for a moment, never too low: those who clean up trust a zero. */
static void
hold(struct ring *ring)
{
    atomic_fetch_add_explicit(&self(ring)->holds, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static void
let_go(struct ring *ring)
{
    atomic_fetch_sub_explicit(&self(ring)->holds, 1, memory_order_release);
}

static void
set_state(struct ring *ring, uint64_t position, enum ring_kind kind)
{
    atomic_store_explicit(&ring_record(ring, position)->state, ring_state(ring, position, kind), memory_order_release);
}

/* Sending ---------------------------------------------------------------- */

/* How many records, about, are swept with one lock though there is room enough already. */
#define SURPLUS 1000

enum ring_result
ring_lock_send(struct ring *ring)
{
    struct ring_header *header = ring->memory.header;
    enum ring_result result = ring_lock(ring, &header->send_lock);
    if (result != RING_OK)
        return result;
    if (atomic_load_explicit(&header->ended, memory_order_relaxed) != 0) {
        ring_unlock_send(ring);
        return RING_ENDED;
    }
    does(ring, RING_SENDS);
    ring->end = atomic_load_explicit(&header->tail, memory_order_relaxed);
    if (ring->end % RING_UNIT != 0 || ring->end < ring->head) {
        ring_unlock_send(ring);
        return ring_fault(ring, "the positions of its records");
    }
    return RING_OK;
}

/* Move head past what is gone, until it is far enough, and a little further: so that the next ones need not do so.  With
 * receive_lock. */
static enum ring_result
sweep(struct ring *ring, uint64_t tail, uint64_t enough)
{
    uint64_t state, size, from = ring->head;
    enum ring_result result = RING_OK;
    for (int i = 0; ring->head != tail && ring->passed < RING_PASSES && (ring->head < enough || i < SURPLUS); i++) {
        result = ring_read(ring, ring->head, tail, &state, &size);
        if (result != RING_OK || ring_kind(state) != RING_GONE)
            break;
        ring->head += ring_length(size);
        ring->passed++;
    }
    if (ring->head != from)
        atomic_store_explicit(&ring->memory.header->head, ring->head, memory_order_release);
    return result;
}

/* There is more to pass over.  Who waits hears its own ring, when the lock is free, and goes on. */
static enum ring_result
go_on_later(struct ring *ring)
{
    ring->again = ring->waits;
    return RING_BUSY;
}

static void
ring_if_again(struct ring *ring, enum ring_bell bell)
{
    if (ring->again) {
        ring->again = false;
        ring_ring(ring, bell);
    }
}

enum ring_result
ring_make_room(struct ring *ring, uint64_t length)
{
    struct ring_header *header = ring->memory.header;
    uint64_t capacity = ring->memory.capacity;
    if (length > capacity)
        return RING_TOO_LONG;
    /* head may have moved on since it was seen, and could move on if somebody swept. */
    uint64_t tail, most = capacity - length;
    if (ring->end - ring->head <= most)
        return RING_OK;
    enum ring_result result = ring_bounds(ring, &ring->head, &tail);
    if (result != RING_OK)
        return result;
    /* From here on end: it is the tail, and what was allocated and not published yet. */
    if (ring->end - ring->head > capacity)
        return ring_fault(ring, "the positions of its records");
    if (ring->end - ring->head <= most)
        return RING_OK;
    result = ring_lock(ring, &header->receive_lock);
    if (result != RING_OK)
        return result;
    ring->passed = 0;
    result = ring_bounds(ring, &ring->head, &tail);
    if (result == RING_OK)
        result = sweep(ring, tail, ring->end - most);
    ring_unlock(ring, &header->receive_lock);
    if (result == RING_OK && ring->end - ring->head > most)
        result = ring->passed < RING_PASSES ? RING_FULL : go_on_later(ring);
    return result;
}

void
ring_allocate(struct ring *ring, uint64_t size, enum ring_kind kind, struct ring_loan *loan)
{
    uint64_t position = ring->end;
    if (kind == RING_RESERVED)
        hold(ring);
    ring->end += ring_length(size);
    struct ring_record *record = ring_record(ring, position);
    struct ring_record *blank = ring_record(ring, ring->end);
    uint64_t number = atomic_load_explicit(&record->number, memory_order_relaxed);
    uint64_t bytes = atomic_load_explicit(&record->bytes, memory_order_relaxed);
    atomic_store_explicit(&record->state, ring_state(ring, position, kind), memory_order_relaxed);
    atomic_store_explicit(&record->size, size, memory_order_relaxed);
    atomic_store_explicit(&blank->number, number + 1, memory_order_relaxed);
    atomic_store_explicit(&blank->bytes, bytes + size, memory_order_relaxed);
    *loan = (struct ring_loan){position, size, (char *)(record + 1)};
}

void
ring_publish(struct ring *ring)
{
    atomic_store_explicit(&ring->memory.header->tail, ring->end, memory_order_release);
}

void
ring_unlock_send(struct ring *ring)
{
    ring_unlock(ring, &ring->memory.header->send_lock);
    ring_if_again(ring, RING_ROOM);
}

void
ring_rewind(struct ring *ring, uint64_t position)
{
    _Atomic uint64_t *rewind = &ring->memory.header->rewind;
    uint64_t seen = atomic_load_explicit(rewind, memory_order_relaxed);
    /* Written also where it stays what it is: so that who takes it away sees what came before. */
    for (int i = 0; i < TRIES; i++)
        if (atomic_compare_exchange_weak_explicit(rewind, &seen, position < seen ? position : seen,
                                                  memory_order_acq_rel, memory_order_relaxed))
            return;
    atomic_store_explicit(rewind, position, memory_order_release);
}

/* The record is a message from now on, or once more. */
static void
ready(struct ring *ring, const struct ring_loan *loan)
{
    set_state(ring, loan->position, RING_READY);
    ring_rewind(ring, loan->position);
    let_go(ring);
    ring_wake_receivers(ring);
}

void
ring_commit(struct ring *ring, const struct ring_loan *loan)
{
    ready(ring, loan);
}

/* The record makes room now, and receivers wait for it no more: perhaps it was the last one. */
static void
gone(struct ring *ring, const struct ring_loan *loan)
{
    set_state(ring, loan->position, RING_GONE);
    let_go(ring);
    ring_wake_senders(ring);
    /* Who ends looks at the records after that, and this at the end after the record (Dekker again). */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&ring->memory.header->ended, memory_order_relaxed) != 0)
        ring_wake_receivers(ring);
}

void
ring_abort(struct ring *ring, const struct ring_loan *loan)
{
    gone(ring, loan);
}

enum ring_result
ring_end(struct ring *ring)
{
    struct ring_header *header = ring->memory.header;
    enum ring_result result = ring_lock(ring, &header->send_lock);
    if (result != RING_OK)
        return result;
    atomic_store_explicit(&header->ended, 1, memory_order_release);
    ring_unlock_send(ring);
    ring_both(ring);
    return RING_OK;
}

/* Receiving -------------------------------------------------------------- */

enum ring_result
ring_lock_receive(struct ring *ring)
{
    struct ring_header *header = ring->memory.header;
    enum ring_result result = ring_lock(ring, &header->receive_lock);
    if (result != RING_OK)
        return result;
    does(ring, RING_RECEIVES);
    ring->passed = 0;
    ring->head = atomic_load_explicit(&header->head, memory_order_relaxed);
    ring->next = atomic_load_explicit(&header->next, memory_order_relaxed);
    if (ring->next < ring->head)    /* another has died, or swept, between the two stores */
        ring->next = ring->head;
    if (ring->tail < ring->next)
        ring->tail = atomic_load_explicit(&header->tail, memory_order_acquire);
    enum ring_result bounds = check_bounds(ring, ring->head, ring->tail);
    if (bounds != RING_OK || ring->next % RING_UNIT != 0 || ring->next > ring->tail) {
        ring_unlock_receive(ring);
        return ring_fault(ring, "the positions of its records");
    }
    return RING_OK;
}

/* Go back to what has become READY late. */
static enum ring_result
heed_rewind(struct ring *ring)
{
    struct ring_header *header = ring->memory.header;
    uint64_t rewind = atomic_load_explicit(&header->rewind, memory_order_acquire);
    if (rewind == RING_NOWHERE)
        return RING_OK;
    if (rewind % RING_UNIT != 0 || rewind > atomic_load_explicit(&header->tail, memory_order_acquire))
        return ring_fault(ring, "the position to go back to");
    /* It is the lowest of several, and may be of a message that was taken before it was written. */
    if (rewind < ring->next)
        ring->next = rewind < ring->head ? ring->head : rewind;
    /* next first: who dies in between leaves both. */
    atomic_store_explicit(&header->next, ring->next, memory_order_release);
    atomic_compare_exchange_strong_explicit(&header->rewind, &rewind, RING_NOWHERE, memory_order_acq_rel,
                                            memory_order_relaxed);
    return RING_OK;
}

/* Read the record at next.  What is gone may reach beyond the tail that was seen: another receiver has joined it. */
static enum ring_result
read_next(struct ring *ring, uint64_t *state, uint64_t *size)
{
    enum ring_result result = ring_read(ring, ring->next, ring->tail, state, size);
    if (result == RING_OK)
        return result;
    uint64_t tail = atomic_load_explicit(&ring->memory.header->tail, memory_order_acquire);
    if (tail <= ring->tail || check_bounds(ring, ring->head, tail) != RING_OK)
        return result;
    ring->tail = tail;
    return ring_read(ring, ring->next, tail, state, size);
}

/* Make one record of those that are gone, from a position to next: who goes back passes over them in one step.  If each
 * one had to be passed again, and others went back all the time, nobody would ever come to the end. */
static void
join_gone(struct ring *ring, uint64_t from)
{
    _Atomic uint64_t *size = &ring_record(ring, from)->size;
    uint64_t length = ring->next - from;
    if (ring_length(atomic_load_explicit(size, memory_order_relaxed)) != length)
        /* Who sees that without the lock is to see GONE, too. */
        atomic_store_explicit(size, length - sizeof(struct ring_record), memory_order_release);
}

/* How often one search goes back: others may do that to it for ever. */
#define REWINDS 64

enum ring_result
ring_find(struct ring *ring, struct ring_loan *loan)
{
    struct ring_header *header = ring->memory.header;
    uint64_t state, size, gone = RING_NOWHERE;      /* where that begins which ends at next */
    int rewinds = 0;
    enum ring_result result = heed_rewind(ring);
    if (result != RING_OK)
        return result;
    for (;;) {
        bool ended = false;
        if (ring->next == ring->tail) {
            /* ended before tail: after it nothing is added. */
            ended = atomic_load_explicit(&header->ended, memory_order_acquire) != 0;
            uint64_t tail = atomic_load_explicit(&header->tail, memory_order_acquire);
            if (tail < ring->tail)
                return ring_fault(ring, "the positions of its records");
            ring->tail = tail;
            result = check_bounds(ring, ring->head, tail);
            if (result != RING_OK)
                return result;
        }
        if (ring->next == ring->tail) {
            if (gone != RING_NOWHERE)
                join_gone(ring, gone);
            atomic_store_explicit(&header->next, ring->next, memory_order_relaxed);
            result = sweep(ring, ring->tail, ring->tail);
            if (result != RING_OK || !ended)
                return result != RING_OK ? result : RING_EMPTY;
            if (ring->head == ring->tail)
                return RING_ENDED;
            /* A record that is left can still become a message. */
            return ring->passed < RING_PASSES ? RING_EMPTY : go_on_later(ring);
        }
        result = read_next(ring, &state, &size);
        if (result != RING_OK)
            return result;
        if (gone != RING_NOWHERE && (ring_kind(state) != RING_GONE || ring->passed >= RING_PASSES)) {
            join_gone(ring, gone);
            gone = RING_NOWHERE;
        }
        if (ring_kind(state) == RING_READY) {
            /* What its sender has committed before comes first, though this may have passed it a moment ago. */
            if (atomic_load_explicit(&header->rewind, memory_order_relaxed) < ring->next && rewinds++ < REWINDS) {
                result = heed_rewind(ring);
                if (result != RING_OK)
                    return result;
                continue;
            }
            *loan = (struct ring_loan){ring->next, size, (char *)(ring_record(ring, ring->next) + 1)};
            return RING_OK;
        }
        if (ring->passed >= RING_PASSES) {
            atomic_store_explicit(&header->next, ring->next, memory_order_relaxed);
            return go_on_later(ring);
        }
        if (ring_kind(state) == RING_GONE && gone == RING_NOWHERE)
            gone = ring->next;
        ring->next += ring_length(size);
        ring->passed++;
    }
}

void
ring_consume(struct ring *ring, const struct ring_loan *loan)
{
    struct ring_header *header = ring->memory.header;
    uint64_t end = loan->position + ring_length(loan->size);
    if (loan->position == ring->head) {
        ring->head = end;
        atomic_store_explicit(&header->head, end, memory_order_release);
    } else
        set_state(ring, loan->position, RING_GONE);
    ring->next = end;
    atomic_store_explicit(&header->next, end, memory_order_relaxed);
}

void
ring_borrow(struct ring *ring, const struct ring_loan *loan)
{
    hold(ring);
    set_state(ring, loan->position, RING_BORROWED);
    ring->next = loan->position + ring_length(loan->size);
    atomic_store_explicit(&ring->memory.header->next, ring->next, memory_order_relaxed);
}

void
ring_unlock_receive(struct ring *ring)
{
    ring_unlock(ring, &ring->memory.header->receive_lock);
    ring_if_again(ring, RING_MESSAGES);
}

void
ring_finish(struct ring *ring, const struct ring_loan *loan)
{
    gone(ring, loan);
}

void
ring_return(struct ring *ring, const struct ring_loan *loan)
{
    ready(ring, loan);
}
