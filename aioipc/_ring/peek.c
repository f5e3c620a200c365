/* Looking at a ring without becoming a peer of it.  See ring.h.
 *
 * The file is read, not mapped: whoever may write to it may cut it short, which would end a process that has it in
 * its address space (SIGBUS).  Nothing is written, and the right to read is enough.
 */
#include "inside.h"

#include <string.h>

/* So many bytes of data are read at once.  Short messages have many records there. */
#define PIECE 4096

/* How often it begins anew because receivers have overtaken it. */
#define ATTEMPTS 100

static enum ring_result
read_at(int file, uint64_t place, void *to, size_t size)
{
    ssize_t got = ring_pread(file, to, size, place);
    if (got < 0)
        return RING_SYSTEM;
    return (size_t)got < size ? RING_SHORT : RING_OK;
}

static enum ring_result
read_position(int file, size_t place, uint64_t *position)
{
    return read_at(file, place, position, sizeof *position);
}

/* RING_BUSY: what lies from this position on may have been overwritten before it was read.  The senders come there again
 * when head has left behind what room there is beside the capacity: RING_UNIT or more. */
static enum ring_result
check_intact(int file, const struct ring_header *header, uint64_t position)
{
    uint64_t head;
    enum ring_result result = read_position(file, offsetof(struct ring_header, head), &head);
    bool is_intact = head < position || head - position < header->room - header->capacity;
    return result == RING_OK && !is_intact ? RING_BUSY : result;
}

/* Some bytes of data, from a position on. */
struct piece {
    uint64_t begin;
    uint64_t size;
    char bytes[PIECE];
};

static enum ring_result
read_record(int file, const struct ring_header *header, uint64_t position, struct piece *piece,
            struct ring_record *record)
{
    if (position - piece->begin >= piece->size) {
        uint64_t place = position % header->room, left = header->room - place;
        ssize_t got = ring_pread(file, piece->bytes, left < PIECE ? left : PIECE, header->data + place);
        if (got < 0)
            return RING_SYSTEM;
        if ((size_t)got < sizeof *record)
            return RING_SHORT;
        piece->begin = position;
        piece->size = (uint64_t)got / RING_UNIT * RING_UNIT;
        enum ring_result result = check_intact(file, header, position);
        if (result != RING_OK)
            return result;
    }
    memcpy(record, piece->bytes + (position - piece->begin), sizeof *record);
    return RING_OK;
}

static enum ring_result
read_bounds(int file, const struct ring_header *header, uint64_t *head, uint64_t *tail)
{
    /* Head after tail: it can only be nearer by then. */
    enum ring_result result = read_position(file, offsetof(struct ring_header, tail), tail);
    if (result == RING_OK)
        result = read_position(file, offsetof(struct ring_header, head), head);
    if (result != RING_OK || (*head <= *tail && ring_are_bounds(*head, *tail, header->capacity)))
        return result;
    /* Or has passed it, and then there is another tail. */
    uint64_t now;
    result = read_position(file, offsetof(struct ring_header, tail), &now);
    return result != RING_OK ? result : *head > *tail && now >= *head ? RING_BUSY : RING_CORRUPT;
}

/* The rest by their numbers. */
static enum ring_result
count_rest(const struct ring_record *first, const struct ring_record *blank, uint64_t length, struct ring_glance *seen)
{
    uint64_t messages = blank->number - first->number, bytes = blank->bytes - first->bytes;
    if (messages > length / RING_UNIT || bytes > length)
        return RING_CORRUPT;
    seen->messages += messages;
    seen->bytes += bytes;
    return RING_OK;
}

static enum ring_result
count_messages(int file, const struct ring_header *header, struct ring_glance *seen)
{
    struct ring_record record, blank;
    struct piece piece = {0};
    uint64_t position, tail, next, now;
    unsigned waiting = 0;       /* how many records were looked at from next on */
    seen->messages = seen->bytes = 0;
    /* Before tail: it is not beyond that. */
    enum ring_result result = read_position(file, offsetof(struct ring_header, next), &next);
    if (result == RING_OK)
        result = read_bounds(file, header, &position, &tail);
    if (result == RING_OK)
        result = read_record(file, header, tail, &piece, &blank);
    if (result != RING_OK)
        return result;
    seen->sent = blank.number;
    for (unsigned i = 0; position != tail; i++) {
        if (position < next && i == RING_COUNTS) {
            if (next % RING_UNIT != 0 || next > tail)
                return RING_CORRUPT;
            position = next;
            continue;
        }
        result = read_record(file, header, position, &piece, &record);
        if (result == RING_OK
            && !(ring_is_state(record.state, position) && ring_is_size(record.size, tail - position, header->capacity))) {
            /* What is gone may have been joined with what was behind that tail. */
            result = read_position(file, offsetof(struct ring_header, tail), &now);
            if (result == RING_OK)
                result = now != tail ? RING_BUSY : RING_CORRUPT;
        }
        if (result != RING_OK)
            return result;
        if (position >= next && waiting++ == RING_COUNTS)
            return count_rest(&record, &blank, tail - position, seen);
        if (ring_kind(record.state) == RING_READY || ring_kind(record.state) == RING_BORROWED) {
            seen->messages++;
            seen->bytes += record.size;
        }
        position += ring_length(record.size);
    }
    return RING_OK;
}

static enum ring_result
count_peers(int file, const struct ring_header *header, struct ring_glance *seen)
{
    for (uint32_t slot = 0; slot < RING_PEERS; slot++) {
        const struct ring_peer *peer = &header->peer[slot];
        struct flock lock = ring_peer_lock(slot, F_WRLCK);
        /* The lock tells who lives; the state, that it is not just somebody who cleans up. */
        if (peer->state == RING_FREE)
            continue;
        if (fcntl(file, F_OFD_GETLK, &lock) != 0)
            return RING_SYSTEM;
        if (lock.l_type == F_UNLCK)
            continue;
        seen->pids[seen->peers++] = peer->pid;
        seen->senders += (peer->does & RING_SENDS) != 0;
        seen->receivers += (peer->does & RING_RECEIVES) != 0;
    }
    return RING_OK;
}

enum ring_result
ring_peek(int file, struct ring_glance *seen)
{
    /* What was checked is not read again: it could be another number by then. */
    struct ring_header header, now;
    uint64_t magic;
    *seen = (struct ring_glance){0};
    enum ring_result result = read_at(file, 0, &magic, sizeof magic);
    if (result == RING_SHORT || (result == RING_OK && magic != RING_MAGIC && magic != __builtin_bswap64(RING_MAGIC)))
        return RING_FOREIGN;
    if (result == RING_OK)
        result = ring_identify(file, &header);
    if (result == RING_OK)
        result = read_at(file, 0, &now, sizeof now);
    if (result != RING_OK)
        return result;
    seen->capacity = header.capacity;
    seen->id = header.id;
    seen->dead = now.dead;
    seen->ended = now.ended != 0;
    result = count_peers(file, &now, seen);
    if (result != RING_OK)
        return result;
    result = RING_BUSY;
    for (int attempt = 0; result == RING_BUSY && attempt < ATTEMPTS; attempt++)
        result = count_messages(file, &header, seen);
    return result;
}
