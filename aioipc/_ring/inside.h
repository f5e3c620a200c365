/* What the files of the ring share, and nobody else needs. */
#ifndef AIOIPC_RING_INSIDE_H
#define AIOIPC_RING_INSIDE_H

#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* How often what others may change meanwhile is tried: more often than peers can be in the way of each other.  Who
 * overwrites the ring all the time could be in it for ever. */
#define TRIES 10000

/* How many records are passed over with one lock, about: less than half a millisecond.  It is not known how many there
 * are, and the loop comes first: who has passed that many goes on with the next lock. */
#define RING_PASSES 10000

/* How many records are counted one by one, of those before next and of those from there on: about a millisecond.
 * Beyond that, those before next are taken to be gone, as nearly all are, and the others to be messages. */
#define RING_COUNTS 25000

/* Upper bits of a record's state: other ones for each position, so that neither another lap's
 * record nor a number from nowhere is taken for one. */
static inline uint64_t
ring_mark(uint64_t position)
{
    return (position / RING_UNIT + 1) * UINT64_C(0x9e3779b97f4a7c15) & ~UINT64_C(0xffffff);
}

static inline uint64_t
ring_state(const struct ring *ring, uint64_t position, enum ring_kind kind)
{
    return ring_mark(position) | (uint64_t)ring->slot << 8 | (uint64_t)kind;
}

static inline enum ring_kind
ring_kind(uint64_t state)
{
    return (enum ring_kind)(state & 0xff);
}

static inline uint32_t
ring_owner(uint64_t state)
{
    return (uint32_t)(state >> 8) & 0xffff;
}

/* Whether head and tail can be what they say. */
static inline bool
ring_are_bounds(uint64_t head, uint64_t tail, uint64_t capacity)
{
    return head % RING_UNIT == 0 && tail % RING_UNIT == 0 && tail - head <= capacity;
}

/* Whether this can be the state of the record at a position. */
static inline bool
ring_is_state(uint64_t state, uint64_t position)
{
    return ((state ^ ring_mark(position)) & ~UINT64_C(0xffffff)) == 0 && ring_kind(state) >= RING_RESERVED
           && ring_kind(state) <= RING_GONE && ring_owner(state) < RING_PEERS;
}

/* Whether this can be the size of a message before whose end there are so many bytes of records. */
static inline bool
ring_is_size(uint64_t size, uint64_t left, uint64_t capacity)
{
    return size <= ring_longest(capacity) && ring_length(size) <= left;
}

/* pread(2), once more if a signal has interrupted it. */
static inline ssize_t
ring_pread(int file, void *to, size_t size, uint64_t place)
{
    ssize_t got;
    do
        got = pread(file, to, size, (off_t)place);
    while (got < 0 && errno == EINTR);
    return got;
}

/* By the lock on this byte of the file, far behind its data, others know that the peer lives. */
static inline struct flock
ring_peer_lock(uint32_t slot, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (INT64_C(1) << 62) + slot, .l_len = 1};
}

static inline struct ring_record *
ring_record(const struct ring *ring, uint64_t position)
{
    return (struct ring_record *)(void *)(ring->memory.data + position % ring->memory.room);
}

static inline enum ring_result
ring_fault(struct ring *ring, const char *fault)
{
    ring->fault = fault;
    return RING_CORRUPT;
}

/* Read the record at a position before end: its state and its size. */
enum ring_result ring_read(struct ring *ring, uint64_t position, uint64_t end, uint64_t *state, uint64_t *size);

/* Read where the records begin and end. */
enum ring_result ring_bounds(struct ring *ring, uint64_t *head, uint64_t *tail);

/* Let the receivers look at a position that they may have passed. */
void ring_rewind(struct ring *ring, uint64_t position);

/* Ring both bells: something has changed, it may be for anybody. */
void ring_both(struct ring *ring);

enum ring_result ring_lock(struct ring *ring, _Atomic uint32_t *lock);
void ring_unlock(struct ring *ring, _Atomic uint32_t *lock);

/* If the peer is dead, clean up after it: RING_OK if it is there no more, RING_FULL if it lives, RING_BUSY if a
 * lock that this takes is taken, RING_CORRUPT. */
enum ring_result ring_bury(struct ring *ring, uint32_t slot);

#endif
