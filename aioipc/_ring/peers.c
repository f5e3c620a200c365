/* Peers: who uses a ring, who is dead, and the locks that death must not keep.  See ring.h. */
#include "inside.h"

#include <errno.h>
#include <unistd.h>

/* How often a taken lock is looked at before that counts as waiting.  Whoever is in it and runs needs less. */
#define SPINS 500

/* How often it turns out that one need not wait for it after all. */
#define ATTEMPTS 32

/* Of how many records, about, it is looked at one time whether they are those of a dead peer: some milliseconds. */
#define REAP_AT 200000

static inline void
pause_a_little(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool
set_lock(int file, uint32_t slot, short type)
{
    struct flock lock = ring_peer_lock(slot, type);
    int result;
    do
        result = fcntl(file, F_OFD_SETLK, &lock);
    while (result != 0 && errno == EINTR);
    return result == 0;
}

/* Locks ------------------------------------------------------------------ */

/* What to do about a lock that is taken: RING_OK to try again, RING_BUSY to wait. */
static enum ring_result
wait_for(struct ring *ring, _Atomic uint32_t *lock)
{
    uint32_t holder = atomic_load_explicit(lock, memory_order_relaxed);
    if (holder == 0)
        return RING_OK;
    uint32_t slot = (holder & ~RING_CONTENDED) - 1;
    if (slot >= RING_PEERS || slot == ring->slot)
        return ring_fault(ring, "the holder of a lock");
    enum ring_result result = ring_bury(ring, slot);
    if (result == RING_CORRUPT || result == RING_OK)
        return result;
    bool is_told = (holder & RING_CONTENDED) != 0
                   || atomic_compare_exchange_strong_explicit(lock, &holder, holder | RING_CONTENDED,
                                                              memory_order_relaxed, memory_order_relaxed);
    return is_told ? RING_BUSY : RING_OK;
}

enum ring_result
ring_lock(struct ring *ring, _Atomic uint32_t *lock)
{
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        for (int i = 0; i < SPINS; i++) {
            uint32_t holder = 0;
            if (atomic_load_explicit(lock, memory_order_relaxed) == 0
                && atomic_compare_exchange_strong_explicit(lock, &holder, ring->slot + 1, memory_order_acquire,
                                                           memory_order_relaxed))
                return RING_OK;
            pause_a_little();
        }
        if (!ring->waits)
            return RING_BUSY;
        enum ring_result result = wait_for(ring, lock);
        if (result != RING_OK)
            return result;
    }
    /* Somebody may write other holders again and again.  The loop comes first; then the bell, which this peer hears
     * as well, has it try once more. */
    ring_both(ring);
    return RING_BUSY;
}

void
ring_unlock(struct ring *ring, _Atomic uint32_t *lock)
{
    if ((atomic_exchange_explicit(lock, 0, memory_order_release) & RING_CONTENDED) != 0)
        ring_both(ring);
}

/* Life and death --------------------------------------------------------- */

/* Undo what a peer that is no more was at.  It is this one, or its byte is locked by this one. */
static enum ring_result
undo(struct ring *ring, uint32_t slot)
{
    struct ring_header *header = ring->memory.header;
    struct ring_peer *peer = &header->peer[slot];
    uint64_t position, tail, state, size;
    if (atomic_load_explicit(&peer->holds, memory_order_acquire) == 0)
        return RING_OK;
    enum ring_result result = ring_lock(ring, &header->receive_lock);
    if (result != RING_OK)
        return result;
    result = ring_bounds(ring, &position, &tail);
    while (result == RING_OK && position != tail) {
        result = ring_read(ring, position, tail, &state, &size);
        if (result != RING_OK)
            break;
        struct ring_record *record = ring_record(ring, position);
        if (ring_owner(state) == slot && ring_kind(state) == RING_BORROWED) {
            atomic_store_explicit(&record->state, ring_state(ring, position, RING_READY), memory_order_release);
            ring_rewind(ring, position);
        } else if (ring_owner(state) == slot && ring_kind(state) == RING_RESERVED)
            atomic_store_explicit(&record->state, ring_state(ring, position, RING_GONE), memory_order_release);
        position += ring_length(size);
        ring->looked++;
    }
    /* It may have died between READY and the rewind. */
    if (result == RING_OK)
        ring_rewind(ring, atomic_load_explicit(&header->head, memory_order_relaxed));
    ring_unlock(ring, &header->receive_lock);
    if (result == RING_OK)
        atomic_store_explicit(&peer->holds, 0, memory_order_relaxed);
    return result;
}

static bool
free_lock(_Atomic uint32_t *lock, uint32_t slot)
{
    uint32_t holder = atomic_load_explicit(lock, memory_order_relaxed);
    for (int i = 0; i < ATTEMPTS && (holder & ~RING_CONTENDED) == slot + 1; i++)
        if (atomic_compare_exchange_weak_explicit(lock, &holder, 0, memory_order_acq_rel, memory_order_relaxed))
            return true;
    return false;
}

/* Clean up after a dead peer whose byte is locked by this one. */
static enum ring_result
clean(struct ring *ring, uint32_t slot)
{
    struct ring_header *header = ring->memory.header;
    bool freed = free_lock(&header->send_lock, slot);
    freed |= free_lock(&header->receive_lock, slot);
    enum ring_result result = undo(ring, slot);
    /* Also if that is not all: those who wait for the lock are to look for themselves.  But not if nothing was done:
     * who tries once more whenever a bell rings would never sleep. */
    if (freed || result != RING_BUSY)
        ring_both(ring);
    if (result == RING_OK) {
        atomic_fetch_add_explicit(&header->dead, 1, memory_order_relaxed);
        atomic_store_explicit(&header->peer[slot].does, 0, memory_order_relaxed);
        atomic_store_explicit(&header->peer[slot].state, RING_FREE, memory_order_release);
    }
    return result;
}

enum ring_result
ring_bury(struct ring *ring, uint32_t slot)
{
    if (!set_lock(ring->lock_file, slot, F_WRLCK))
        return RING_FULL;
    enum ring_result result = RING_OK;
    struct ring_header *header = ring->memory.header;
    if (atomic_load_explicit(&header->peer[slot].state, memory_order_acquire) != RING_FREE)
        result = clean(ring, slot);
    else {
        /* Nobody is there, so nobody holds a lock: what says otherwise was written by mistake. */
        free_lock(&header->send_lock, slot);
        free_lock(&header->receive_lock, slot);
    }
    set_lock(ring->lock_file, slot, F_UNLCK);
    /* Others may have looked meanwhile, woken by the very bell that this one is to try again for, and have taken the
     * dead one for alive.  As long as the lock is contended that bell is still to come. */
    if (result == RING_BUSY
        && (atomic_load_explicit(&header->receive_lock, memory_order_relaxed) & RING_CONTENDED) == 0)
        ring_both(ring);
    return result;
}

enum ring_result
ring_reap(struct ring *ring)
{
    enum ring_result result = RING_OK;
    struct ring_header *header = ring->memory.header;
    ring->looked = 0;
    /* Twice: what keeps the cleaning up after one may be a lock that another dead one holds. */
    for (int pass = 0; pass < 2; pass++) {
        result = RING_OK;
        for (uint32_t slot = 0; slot < RING_PEERS; slot++) {
            if (slot == ring->slot || atomic_load_explicit(&header->peer[slot].state, memory_order_acquire) == RING_FREE)
                continue;
            enum ring_result buried = ring_bury(ring, slot);
            if (buried == RING_CORRUPT)
                return buried;
            if (buried == RING_BUSY)
                result = buried;
            /* The loop comes first.  Whoever waits goes on with it: the bells have been rung. */
            if (ring->looked >= REAP_AT)
                return RING_BUSY;
        }
        if (result == RING_OK)
            break;
    }
    return result;
}

enum ring_result
ring_join(struct ring *ring, const struct ring_memory *memory, int lock_file, const int bells[2])
{
    struct ring_header *header = memory->header;
    enum ring_result result = RING_OK;
    *ring = (struct ring){.memory = *memory, .lock_file = lock_file, .bells = {bells[0], bells[1]}, .ears = {-1, -1}};
    for (uint32_t slot = 0; slot < RING_PEERS; slot++) {
        struct ring_peer *peer = &header->peer[slot];
        if (!set_lock(lock_file, slot, F_WRLCK)) {
            if (errno != EAGAIN && errno != EACCES)
                return RING_SYSTEM;
            continue;
        }
        ring->slot = slot;
        if (atomic_load_explicit(&peer->state, memory_order_acquire) != RING_FREE) {
            /* What is CORRUPT is looked through once, and not for each that is dead. */
            if (result != RING_CORRUPT)
                result = clean(ring, slot);
            if (result != RING_OK) {
                set_lock(lock_file, slot, F_UNLCK);
                continue;
            }
        }
        atomic_store_explicit(&peer->pid, (uint32_t)getpid(), memory_order_relaxed);
        atomic_store_explicit(&peer->holds, 0, memory_order_relaxed);
        atomic_store_explicit(&peer->does, 0, memory_order_relaxed);
        atomic_store_explicit(&peer->state, RING_USED, memory_order_release);
        return RING_OK;
    }
    return result == RING_CORRUPT ? result : RING_NO_SLOT;
}

void
ring_leave(struct ring *ring)
{
    ring->waits = false;
    bool is_clean = undo(ring, ring->slot) == RING_OK;
    ring_both(ring);
    /* After that: otherwise whoever comes to it cleans up, and rings, as after a dead one. */
    if (is_clean)
        atomic_store_explicit(&ring->memory.header->peer[ring->slot].state, RING_FREE, memory_order_release);
    set_lock(ring->lock_file, ring->slot, F_UNLCK);
}

/* Looking ---------------------------------------------------------------- */

static enum ring_result
count_messages(struct ring *ring, struct ring_statistics *found)
{
    struct ring_header *header = ring->memory.header;
    uint64_t position, tail, state, size;
    unsigned waiting = 0;       /* how many records were looked at from next on */
    /* Before tail: it is not beyond that. */
    uint64_t next = atomic_load_explicit(&header->next, memory_order_acquire);
    enum ring_result result = ring_bounds(ring, &position, &tail);
    for (unsigned i = 0; result == RING_OK && position != tail; i++) {
        if (i == 4 * RING_COUNTS)
            return ring_fault(ring, "the positions of its records");
        if (position < next && i >= RING_COUNTS) {
            if (next % RING_UNIT != 0 || next > tail)
                return ring_fault(ring, "the positions of its records");
            position = next;
            continue;
        }
        if (position >= next && waiting++ >= RING_COUNTS) {
            /* The rest by their numbers. */
            struct ring_record *first = ring_record(ring, position), *blank = ring_record(ring, tail);
            uint64_t messages = atomic_load_explicit(&blank->number, memory_order_relaxed)
                                - atomic_load_explicit(&first->number, memory_order_relaxed);
            uint64_t bytes = atomic_load_explicit(&blank->bytes, memory_order_relaxed)
                             - atomic_load_explicit(&first->bytes, memory_order_relaxed);
            atomic_thread_fence(memory_order_acquire);
            if (atomic_load_explicit(&header->head, memory_order_acquire) <= position) {
                if (messages > (tail - position) / RING_UNIT || bytes > tail - position)
                    return ring_fault(ring, "the number of a record");
                found->messages += messages;
                found->bytes += bytes;
                break;
            }
            /* Overtaken: see below. */
        }
        result = ring_read(ring, position, tail, &state, &size);
        atomic_thread_fence(memory_order_acquire);
        bool is_same = atomic_load_explicit(&ring_record(ring, position)->state, memory_order_relaxed) == state;
        uint64_t now = result == RING_OK ? tail : atomic_load_explicit(&header->tail, memory_order_acquire);
        /* The size before head: another one stands there once head has passed, and the position is used again. */
        if (atomic_load_explicit(&header->head, memory_order_acquire) > position) {
            /* It was overtaken: what was read may have been something else.  Once more from the beginning; but who does
             * that to it again and again is no receiver. */
            result = ring_bounds(ring, &position, &tail);
            found->messages = found->bytes = 0;
            continue;
        }
        /* The size is not that of the message any more if it is gone by now, and joined with what is behind it; and that may
         * reach beyond the tail that was seen.  Once more. */
        if (!is_same || (now > tail && now - position <= ring->memory.capacity)) {
            result = RING_OK;
            tail = now;
            continue;
        }
        if (result == RING_OK && (ring_kind(state) == RING_READY || ring_kind(state) == RING_BORROWED)) {
            found->messages++;
            found->bytes += size;
        }
        position += ring_length(size);
    }
    return result;
}

enum ring_result
ring_look(struct ring *ring, struct ring_statistics *statistics)
{
    struct ring_header *header = ring->memory.header;
    *statistics = (struct ring_statistics){
        .dead = atomic_load_explicit(&header->dead, memory_order_relaxed),
        .ended = atomic_load_explicit(&header->ended, memory_order_relaxed) != 0,
    };
    for (uint32_t slot = 0; slot < RING_PEERS; slot++) {
        struct ring_peer *peer = &header->peer[slot];
        if (atomic_load_explicit(&peer->state, memory_order_relaxed) != RING_FREE) {
            uint32_t done = atomic_load_explicit(&peer->does, memory_order_relaxed);
            statistics->senders += (done & RING_SENDS) != 0;
            statistics->receivers += (done & RING_RECEIVES) != 0;
        }
    }
    return count_messages(ring, statistics);
}
