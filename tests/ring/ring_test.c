/* Every function of the ring, by one thread.  Usage: ring_test [NAME] */
#include "harness.h"

#include <sys/time.h>

/* One step each, with the checks that must hold every time ----------------- */

static enum ring_result
allocate_one(struct peer *peer, uint64_t size, enum ring_kind kind, struct ring_loan *loan)
{
    struct ring *ring = &peer->ring;
    enum ring_result result = ring_lock_send(ring);
    if (result != RING_OK)
        return result;
    result = ring_make_room(ring, ring_length(size));
    if (result == RING_OK) {
        ring_allocate(ring, size, kind, loan);
        if (kind == RING_READY)
            memset(loan->data, (int)(size & 0xff), size);
        ring_publish(ring);
    }
    ring_unlock_send(ring);
    if (result == RING_OK && kind == RING_READY)
        ring_wake_receivers(ring);
    return result;
}

static enum ring_result
send_one(struct peer *peer, uint64_t size)
{
    struct ring_loan loan;
    return allocate_one(peer, size, RING_READY, &loan);
}

static struct ring_loan
reserve(struct peer *peer, uint64_t size)
{
    struct ring_loan loan;
    CHECK(allocate_one(peer, size, RING_RESERVED, &loan) == RING_OK);
    memset(loan.data, (int)(size & 0xff), size);
    return loan;
}

static void
check_bytes(const struct ring_loan *loan)
{
    for (uint64_t i = 0; i < loan->size; i++)
        CHECK((unsigned char)loan->data[i] == (loan->size & 0xff));
}

static enum ring_result
find_and(struct peer *peer, void (*take)(struct ring *, const struct ring_loan *), struct ring_loan *loan)
{
    enum ring_result result = ring_lock_receive(&peer->ring);
    if (result != RING_OK)
        return result;
    result = ring_find(&peer->ring, loan);
    if (result == RING_OK) {
        check_bytes(loan);
        take(&peer->ring, loan);
    }
    ring_unlock_receive(&peer->ring);
    if (result == RING_OK)
        ring_wake_senders(&peer->ring);
    return result;
}

/* The size of the next message, which is consumed; or -1 - the result. */
static int64_t
receive(struct peer *peer)
{
    struct ring_loan loan;
    enum ring_result result = find_and(peer, ring_consume, &loan);
    return result == RING_OK ? (int64_t)loan.size : -1 - (int64_t)result;
}

#define NOTHING (-1 - (int64_t)RING_EMPTY)
#define THE_END (-1 - (int64_t)RING_ENDED)

static struct ring_loan
borrow(struct peer *peer)
{
    struct ring_loan loan;
    CHECK(find_and(peer, ring_borrow, &loan) == RING_OK);
    return loan;
}

static struct ring_statistics
look(struct peer *peer)
{
    struct ring_statistics statistics;
    struct ring_glance seen;
    CHECK(ring_look(&peer->ring, &statistics) == RING_OK);
    /* Who looks from outside sees the same. */
    CHECK(ring_peek(peer->ring.lock_file, &seen) == RING_OK);
    CHECK(seen.messages == statistics.messages && seen.bytes == statistics.bytes && seen.dead == statistics.dead);
    CHECK(seen.ended == statistics.ended && seen.capacity == peer->ring.memory.capacity && seen.id == 42);
    return statistics;
}

static uint32_t
holds(struct bed *bed, uint32_t slot)
{
    return bed->memory.header->peer[slot].holds;
}

/* The file ----------------------------------------------------------------- */

static const uint64_t CAPACITIES[] = {64, 65, 127, 128, 1000, 4096, 65536 - 64, 65536 - 63, 65536, 1 << 20};
#define EACH_CAPACITY(i) (size_t i = 0; i < sizeof CAPACITIES / sizeof *CAPACITIES; i++)

static void
test_format_and_map(void)
{
    for EACH_CAPACITY (i) {
        struct bed bed;
        bed_make(&bed, CAPACITIES[i], i % 2 == 0);
        struct ring_header *header = bed.memory.header;
        CHECK(bed.memory.capacity == CAPACITIES[i]);
        CHECK(bed.memory.room % RING_PAGE == 0 && bed.memory.room >= CAPACITIES[i] + RING_UNIT);
        CHECK(bed.memory.room < CAPACITIES[i] + RING_UNIT + RING_PAGE);
        CHECK(header->file_size == RING_PAGE + bed.memory.room && header->file_size == ring_file_size(CAPACITIES[i]));
        CHECK(memcmp(header, "AIPCRING", 8) == 0 || RING_ABI != 0x01020408);
        CHECK(header->rewind == RING_NOWHERE && header->head == 0 && header->tail == 0 && header->next == 0);
        /* The data twice, one after the other. */
        bed.memory.data[5] = 'x';
        CHECK(bed.memory.data[bed.memory.room + 5] == 'x');
        bed.memory.data[2 * bed.memory.room - 1] = 'y';
        CHECK(bed.memory.data[bed.memory.room - 1] == 'y');
        bed_remove(&bed);
    }
}

/* Places that other programs rely on: see docs/ring.md. */
static void
test_layout(void)
{
    CHECK(offsetof(struct ring_header, magic) == 0 && offsetof(struct ring_header, version) == 8);
    CHECK(offsetof(struct ring_header, abi) == 12 && offsetof(struct ring_header, file_size) == 16);
    CHECK(offsetof(struct ring_header, data) == 24 && offsetof(struct ring_header, room) == 32);
    CHECK(offsetof(struct ring_header, capacity) == 40 && offsetof(struct ring_header, peers) == 48);
    CHECK(offsetof(struct ring_header, unit) == 52 && offsetof(struct ring_header, id) == 56);
    CHECK(offsetof(struct ring_header, check) == 64 && offsetof(struct ring_header, send_lock) == 128);
    CHECK(offsetof(struct ring_header, tail) == 192 && offsetof(struct ring_header, receive_lock) == 256);
    CHECK(offsetof(struct ring_header, next) == 264 && offsetof(struct ring_header, head) == 320);
    CHECK(offsetof(struct ring_header, rewind) == 384 && offsetof(struct ring_header, receivers_sleep) == 448);
    CHECK(offsetof(struct ring_header, senders_sleep) == 512 && offsetof(struct ring_header, ended) == 576);
    CHECK(offsetof(struct ring_header, dead) == 580 && offsetof(struct ring_header, peer) == 640);
    CHECK(sizeof(struct ring_header) == 640 + 256 * 64 && sizeof(struct ring_peer) == 64);
    CHECK(offsetof(struct ring_peer, state) == 0 && offsetof(struct ring_peer, does) == 4);
    CHECK(offsetof(struct ring_peer, holds) == 8 && offsetof(struct ring_peer, pid) == 12);
    CHECK(offsetof(struct ring_record, state) == 0 && offsetof(struct ring_record, size) == 8);
    CHECK(offsetof(struct ring_record, number) == 16 && offsetof(struct ring_record, bytes) == 24);
    CHECK(RING_RESERVED == 1 && RING_READY == 2 && RING_BORROWED == 3 && RING_GONE == 4);
    CHECK(ring_mark(0) == UINT64_C(0x9e3779b97f000000) && ring_mark(64) == UINT64_C(0x3c6ef372fe000000));
}

static void
test_not_a_ring(void)
{
    struct ring_memory memory;
    struct bed bed;
    bed_make(&bed, 1000, false);
    struct ring_header *header = bed.memory.header;
    header->magic = __builtin_bswap64(RING_MAGIC);
    CHECK(ring_map(&memory, bed.file) == RING_OTHER_ABI);
    header->magic = 0;
    CHECK(ring_map(&memory, bed.file) == RING_FOREIGN);
    header->magic = RING_MAGIC;
    header->abi = __builtin_bswap32(RING_ABI);
    CHECK(ring_map(&memory, bed.file) == RING_OTHER_ABI);
    header->abi = RING_ABI;
    header->version = RING_VERSION + 1;
    CHECK(ring_map(&memory, bed.file) == RING_OTHER_VERSION);
    header->version = RING_VERSION;
    header->id ^= 1;
    CHECK(ring_map(&memory, bed.file) == RING_CORRUPT);
    header->id ^= 1;
    CHECK(ring_map(&memory, bed.file) == RING_OK);
    ring_unmap(&memory);
    CHECK(ftruncate(bed.file, (off_t)ring_file_size(1000) - 1) == 0);
    CHECK(ring_map(&memory, bed.file) == RING_SHORT);
    CHECK(ftruncate(bed.file, 100) == 0);
    CHECK(ring_map(&memory, bed.file) == RING_SHORT);
    CHECK(ring_map(&memory, -1) == RING_SYSTEM && errno == EBADF);
    CHECK(ring_format(-1, 1000, 1) == RING_SYSTEM && errno == EBADF);
    bed_remove(&bed);

    /* A check that is right does not make up for what can't be. */
    uint64_t bad[] = {0, RING_CAPACITY_MIN - 1, RING_CAPACITY_MAX + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int file = memfd_create("ring", MFD_CLOEXEC);
        CHECK(ftruncate(file, 2 * RING_PAGE) == 0 && ring_format(file, bad[i], 1) == RING_OK);
        CHECK(ring_map(&memory, file) == RING_CORRUPT);
        close(file);
    }
}

/* Sending and receiving ------------------------------------------------------ */

static void
test_sizes(void)
{
    for EACH_CAPACITY (i) {
        uint64_t longest = ring_longest(CAPACITIES[i]);
        uint64_t sizes[] = {0, 1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, longest - 1, longest, longest + 1};
        struct bed bed;
        struct peer sender, receiver;
        bed_make(&bed, CAPACITIES[i], true);
        peer_join(&sender, &bed);
        peer_join(&receiver, &bed);
        CHECK(ring_length(longest) <= CAPACITIES[i] && ring_length(longest + 1) > CAPACITIES[i]);
        for (int round = 0; round < 50; round++) {
            for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
                if (sizes[j] > longest) {
                    CHECK(send_one(&sender, sizes[j]) == RING_TOO_LONG);
                    continue;
                }
                CHECK(send_one(&sender, sizes[j]) == RING_OK);
                CHECK(receive(&receiver) == (int64_t)sizes[j]);
                CHECK(receive(&receiver) == NOTHING);
            }
        }
        peer_leave(&sender);
        peer_leave(&receiver);
        bed_remove(&bed);
    }
}

/* Fill it, empty half of it, and so on: all the ways of meeting the end of the room. */
static void
test_wrap(void)
{
    for EACH_CAPACITY (i) {
        struct bed bed;
        struct peer sender, receiver;
        uint64_t seed = i, sent = 0, received = 0, length = 0;
        static uint64_t sizes[65536];
        bed_make(&bed, CAPACITIES[i], false);
        peer_join(&sender, &bed);
        peer_join(&receiver, &bed);
        uint64_t bound = ring_longest(CAPACITIES[i]) + 1;
        uint64_t laps = CAPACITIES[i] < 65536 ? 5 : 3;
        while (bed.memory.header->head < laps * bed.memory.room) {
            for (;;) {
                uint64_t size = draw_below(&seed, draw_below(&seed, 4) == 0 ? bound : bound / 8 + 1);
                enum ring_result result = send_one(&sender, size);
                if (result == RING_FULL) {
                    CHECK(length + ring_length(size) > CAPACITIES[i]);
                    break;
                }
                CHECK(result == RING_OK);
                length += ring_length(size);
                CHECK(length <= CAPACITIES[i]);
                sizes[sent++ % 65536] = size;
            }
            CHECK(look(&sender).messages == sent - received);
            for (uint64_t n = 1 + draw_below(&seed, sent - received); n > 0; n--) {
                CHECK(receive(&receiver) == (int64_t)sizes[received % 65536]);
                length -= ring_length(sizes[received++ % 65536]);
            }
        }
        while (received < sent)
            CHECK(receive(&receiver) == (int64_t)sizes[received++ % 65536]);
        CHECK(receive(&receiver) == NOTHING);
        CHECK(look(&sender).messages == 0 && look(&sender).bytes == 0);
        peer_leave(&sender);
        peer_leave(&receiver);
        bed_remove(&bed);
    }
}

static void
test_exactly_full(void)
{
    struct bed bed;
    struct peer peer;
    bed_make(&bed, 1000, true);     /* 15 units */
    peer_join(&peer, &bed);
    for (int i = 0; i < 15; i++)
        CHECK(send_one(&peer, 32) == RING_OK);
    CHECK(send_one(&peer, 0) == RING_FULL);
    CHECK(send_one(&peer, ring_longest(1000)) == RING_FULL);
    CHECK(send_one(&peer, ring_longest(1000) + 1) == RING_TOO_LONG);
    CHECK(receive(&peer) == 32);
    CHECK(send_one(&peer, 33) == RING_FULL && send_one(&peer, 32) == RING_OK && send_one(&peer, 0) == RING_FULL);
    for (int i = 0; i < 15; i++)
        CHECK(receive(&peer) == 32);
    CHECK(send_one(&peer, ring_longest(1000)) == RING_OK && receive(&peer) == (int64_t)ring_longest(1000));
    peer_leave(&peer);
    bed_remove(&bed);
}

/* Several in one lock are seen by one store. */
static void
test_many_at_once(void)
{
    struct bed bed;
    struct peer peer, other;
    struct ring_loan loan;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    for (int round = 0; round < 1000; round++) {
        CHECK(ring_lock_send(&peer.ring) == RING_OK);
        CHECK(ring_make_room(&peer.ring, 3 * ring_length(40)) == RING_OK);
        for (int i = 0; i < 3; i++) {
            ring_allocate(&peer.ring, 40, RING_READY, &loan);
            memset(loan.data, 40, 40);
        }
        CHECK(receive(&other) == NOTHING);
        ring_publish(&peer.ring);
        ring_unlock_send(&peer.ring);
        for (int i = 0; i < 3; i++)
            CHECK(receive(&other) == 40);
        CHECK(receive(&other) == NOTHING);
    }
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

/* Room is made for each of several, and what was allocated before counts. */
static void
test_many_at_once_one_by_one(void)
{
    struct bed bed;
    struct peer peer;
    struct ring_loan loan;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    for (int i = 0; i < 4; i++)
        CHECK(send_one(&peer, 32) == RING_OK);
    CHECK(ring_lock_send(&peer.ring) == RING_OK);
    for (int i = 0; i < 12; i++) {
        CHECK(ring_make_room(&peer.ring, ring_length(32)) == RING_OK);
        ring_allocate(&peer.ring, 32, RING_READY, &loan);
        memset(loan.data, 32, 32);
    }
    CHECK(ring_make_room(&peer.ring, ring_length(32)) == RING_FULL);
    ring_publish(&peer.ring);
    ring_unlock_send(&peer.ring);
    for (int i = 0; i < 16; i++)
        CHECK(receive(&peer) == 32);
    CHECK(receive(&peer) == NOTHING);
    peer_leave(&peer);
    bed_remove(&bed);
}

/* What is not published is not there, and the next sender begins anew. */
static void
test_unpublished(void)
{
    struct bed bed;
    struct peer peer, other;
    struct ring_loan loan;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    CHECK(send_one(&other, 7) == RING_OK);
    CHECK(ring_lock_send(&peer.ring) == RING_OK);
    CHECK(ring_make_room(&peer.ring, ring_length(500)) == RING_OK);
    ring_allocate(&peer.ring, 500, RING_READY, &loan);
    ring_unlock_send(&peer.ring);
    CHECK(send_one(&other, 9) == RING_OK);
    CHECK(receive(&other) == 7 && receive(&other) == 9 && receive(&other) == NOTHING);
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

static void
test_reserve(void)
{
    struct bed bed;
    struct peer peer, other;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    struct ring_loan a = reserve(&peer, 10), b = reserve(&peer, 20), c = reserve(&peer, 30);
    CHECK(holds(&bed, peer.ring.slot) == 3);
    CHECK(send_one(&peer, 40) == RING_OK);
    CHECK(look(&peer).messages == 1 && look(&peer).bytes == 40);
    CHECK(receive(&other) == 40 && receive(&other) == NOTHING);
    ring_commit(&peer.ring, &c);
    CHECK(receive(&other) == 30 && receive(&other) == NOTHING);
    ring_abort(&peer.ring, &a);
    CHECK(receive(&other) == NOTHING && bed.memory.header->head == b.position);
    ring_commit(&peer.ring, &b);
    CHECK(receive(&other) == 20 && receive(&other) == NOTHING);
    CHECK(bed.memory.header->head == bed.memory.header->tail && holds(&bed, peer.ring.slot) == 0);
    /* Committed before anybody looks: in order. */
    a = reserve(&peer, 10);
    CHECK(send_one(&peer, 11) == RING_OK);
    ring_commit(&peer.ring, &a);
    CHECK(receive(&other) == 10 && receive(&other) == 11);
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

static void
test_borrow(void)
{
    struct bed bed;
    struct peer peer, other;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    for (uint64_t size = 1; size <= 5; size++)
        CHECK(send_one(&peer, size) == RING_OK);
    struct ring_loan first = borrow(&other), second = borrow(&other), third = borrow(&other);
    CHECK(first.size == 1 && second.size == 2 && third.size == 3 && holds(&bed, other.ring.slot) == 3);
    CHECK(look(&peer).messages == 5 && look(&peer).bytes == 15);
    CHECK(receive(&other) == 4);
    ring_return(&other.ring, &second);
    CHECK(receive(&peer) == 2 && receive(&peer) == 5 && receive(&peer) == NOTHING);
    CHECK(look(&peer).messages == 2);
    ring_return(&other.ring, &first);
    CHECK(receive(&peer) == 1 && receive(&peer) == NOTHING);
    CHECK(bed.memory.header->head == third.position);
    check_bytes(&third);
    ring_finish(&other.ring, &third);
    CHECK(receive(&peer) == NOTHING && bed.memory.header->head == bed.memory.header->tail);
    CHECK(holds(&bed, other.ring.slot) == 0);
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

/* Senders sweep for themselves. */
static void
test_what_is_gone_makes_room(void)
{
    struct bed bed;
    struct peer peer, other;
    bed_make(&bed, 256, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < 4; i++)
            CHECK(send_one(&peer, 20) == RING_OK);
        struct ring_loan loan = borrow(&other);
        for (int i = 0; i < 3; i++)
            CHECK(receive(&other) == 20);
        CHECK(send_one(&peer, 0) == RING_FULL);
        ring_finish(&other.ring, &loan);
        CHECK(send_one(&peer, ring_longest(256)) == RING_OK);
        CHECK(receive(&other) == (int64_t)ring_longest(256));
    }
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

/* More of it than is passed over with one lock. */
#define MANY (2 * RING_PASSES + RING_PASSES / 2)

static void
make_gone(struct peer *peer, int count)
{
    for (int i = 0; i < count; i++)
        CHECK(send_one(peer, 20) == RING_OK && receive(peer) == 20);
}

/* How often it must be tried until it is not BUSY; each time not more is passed over than may be, and who waits hears
 * that there is more. */
static int
tries(struct bed *bed, struct peer *peer, enum ring_bell bell, int64_t (*try)(struct peer *), int64_t expected)
{
    struct ring_header *header = bed->memory.header;
    for (int count = 1;; count++) {
        uint64_t head = header->head, next = header->next < head ? head : header->next;
        ring_arm(&peer->ring, bell);
        int64_t result = try(peer);
        CHECK(has_rung(peer, bell) == (peer->ring.waits && result == -1 - (int64_t)RING_BUSY));
        CHECK(peer->ring.passed <= RING_PASSES && !peer->ring.again);
        CHECK(header->send_lock == 0 && header->receive_lock == 0);
        if (result != -1 - (int64_t)RING_BUSY) {
            CHECK(result == expected);
            return count;
        }
        CHECK(peer->ring.passed == RING_PASSES);
        /* It goes on from there. */
        CHECK(header->head > head || header->next > next);
    }
}

static int64_t
send_long(struct peer *peer)
{
    return -1 - (int64_t)send_one(peer, (uint64_t)MANY * 64 - 32);
}

static void
test_the_loop_comes_before_what_is_gone(void)
{
    for (int waits = 0; waits < 2; waits++) {
        struct bed bed;
        struct peer peer, other;
        bed_make(&bed, (uint64_t)(MANY + 2) * 64, true);
        peer_join(&peer, &bed);
        peer_join(&other, &bed);
        peer.ring.waits = other.ring.waits = waits != 0;
        struct ring_header *header = bed.memory.header;

        /* A sender sweeps. */
        CHECK(send_one(&peer, 1) == RING_OK);
        struct ring_loan loan = borrow(&other);
        make_gone(&peer, MANY + 1);
        CHECK(send_one(&peer, 1) == RING_FULL);
        ring_finish(&other.ring, &loan);
        CHECK(tries(&bed, &peer, RING_ROOM, send_long, -1) == 3);
        CHECK(receive(&other) == MANY * 64 - 32);

        /* It sweeps less if less is enough. */
        CHECK(receive(&other) == NOTHING && send_one(&peer, 1) == RING_OK);
        loan = borrow(&other);
        make_gone(&peer, MANY + 1);
        ring_finish(&other.ring, &loan);
        uint64_t head = header->head;
        CHECK(send_one(&peer, 1) == RING_OK && header->head > head && header->head - head < RING_PASSES * 64);

        /* A receiver passes over what is behind a message that came back, and sweeps before it says that all is over. */
        CHECK(receive(&other) == 1);
        for (int i = 0; i < 3; i++)
            CHECK(receive(&other) == NOTHING);
        CHECK(header->head == header->tail);
        CHECK(send_one(&peer, 3) == RING_OK);
        loan = borrow(&other);
        make_gone(&peer, MANY);
        CHECK(send_one(&peer, 4) == RING_OK);
        ring_return(&other.ring, &loan);
        CHECK(tries(&bed, &other, RING_MESSAGES, receive, 3) == 1);
        CHECK(tries(&bed, &other, RING_MESSAGES, receive, 4) == 3);
        CHECK(ring_end(&peer.ring) == RING_OK);
        tries(&bed, &peer, RING_MESSAGES, receive, THE_END);
        peer_leave(&peer);
        peer_leave(&other);
        bed_remove(&bed);
    }

    /* One record after the other is gone, and nobody has passed over them yet. */
    struct bed bed;
    struct peer peer;
    bed_make(&bed, (uint64_t)(MANY + 1) * 64, true);
    peer_join(&peer, &bed);
    CHECK(send_one(&peer, 1) == RING_OK);
    struct ring_loan loan = borrow(&peer);
    make_gone(&peer, MANY);
    ring_finish(&peer.ring, &loan);
    CHECK(ring_end(&peer.ring) == RING_OK);
    CHECK(tries(&bed, &peer, RING_MESSAGES, receive, THE_END) == 3);
    peer_leave(&peer);
    bed_remove(&bed);
}

/* Who gives back again and again does not keep the others from what is behind. */
static void
test_a_message_that_comes_back_all_the_time(void)
{
    struct bed bed;
    struct peer peer, other;
    bed_make(&bed, (uint64_t)(MANY + 4) * 64, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    CHECK(send_one(&peer, 1) == RING_OK);
    struct ring_loan loan = borrow(&peer);
    make_gone(&peer, MANY);
    CHECK(send_one(&peer, 2) == RING_OK);
    int64_t result = NOTHING;
    int count = 0;
    for (; result != 2; count++) {
        CHECK(count < 10);
        ring_return(&peer.ring, &loan);
        loan = borrow(&peer);
        CHECK(loan.size == 1);
        result = receive(&other);
    }
    CHECK(count == 3);
    ring_return(&peer.ring, &loan);
    CHECK(receive(&other) == 1);
    CHECK(receive(&other) == NOTHING && bed.memory.header->head == bed.memory.header->tail);
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

/* What was joined reaches beyond the tail that another receiver has seen; and what is within stays a way to go. */
static void
test_what_is_gone_is_joined(void)
{
    struct bed bed;
    struct peer peer, other, third;
    bed_make(&bed, 4096, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    peer_join(&third, &bed);
    for (int round = 0; round < 1000; round++) {
        uint64_t at = bed.memory.header->tail;
        for (uint64_t size = 1; size <= 5; size++)
            CHECK(send_one(&peer, size) == RING_OK);
        struct ring_loan first = borrow(&other);
        CHECK(receive(&third) == 2);
        uint64_t seen = third.ring.tail;
        struct ring_loan last = borrow(&peer);
        CHECK(receive(&peer) == 4 && receive(&peer) == 5);
        make_gone(&peer, 5);
        ring_finish(&peer.ring, &last);
        ring_return(&other.ring, &first);
        first = borrow(&other);
        CHECK(first.size == 1 && receive(&other) == NOTHING);
        CHECK(ring_length(ring_record(&peer.ring, at + 64)->size) == 9 * 64 && seen < bed.memory.header->tail);
        CHECK(look(&peer).messages == 1 && look(&peer).bytes == 1);
        ring_return(&other.ring, &first);
        CHECK(third.ring.tail == seen && receive(&third) == 1 && receive(&third) == NOTHING);
        /* Somebody has committed late what is within. */
        CHECK(send_one(&peer, 1) == RING_OK);
        first = borrow(&other);
        make_gone(&peer, 6);
        ring_rewind(&peer.ring, first.position + 64);
        CHECK(receive(&third) == NOTHING);
        ring_rewind(&peer.ring, first.position + 3 * 64);
        CHECK(receive(&third) == NOTHING);
        ring_rewind(&peer.ring, first.position);
        CHECK(receive(&third) == NOTHING && look(&peer).messages == 1);
        ring_finish(&other.ring, &first);
        CHECK(receive(&third) == NOTHING && bed.memory.header->head == bed.memory.header->tail);
    }
    peer_leave(&peer);
    peer_leave(&other);
    peer_leave(&third);
    bed_remove(&bed);
}

static void
test_end(void)
{
    struct bed bed;
    struct peer peer, other;
    struct ring_loan loan;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    CHECK(send_one(&peer, 1) == RING_OK);
    struct ring_loan late = reserve(&peer, 2), never = reserve(&peer, 3);
    CHECK(send_one(&peer, 4) == RING_OK);
    struct ring_loan borrowed = borrow(&other);
    ring_arm(&peer.ring, RING_ROOM);
    ring_arm(&peer.ring, RING_MESSAGES);
    CHECK(ring_end(&peer.ring) == RING_OK && ring_end(&other.ring) == RING_OK);
    CHECK(has_rung(&other, RING_MESSAGES) && has_rung(&other, RING_ROOM));
    CHECK(look(&peer).ended);
    CHECK(send_one(&peer, 1) == RING_ENDED && allocate_one(&peer, 1, RING_RESERVED, &loan) == RING_ENDED);
    CHECK(receive(&other) == 4 && receive(&other) == NOTHING);
    ring_arm(&other.ring, RING_MESSAGES);
    ring_commit(&peer.ring, &late);
    CHECK(has_rung(&other, RING_MESSAGES));
    CHECK(receive(&other) == 2 && receive(&other) == NOTHING);
    ring_arm(&other.ring, RING_MESSAGES);
    ring_abort(&peer.ring, &never);
    CHECK(has_rung(&other, RING_MESSAGES));
    CHECK(receive(&other) == NOTHING);
    ring_return(&other.ring, &borrowed);
    CHECK(receive(&other) == 1 && receive(&other) == THE_END && receive(&peer) == THE_END);
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

/* The end comes with the last of what could have come back. */
static void
test_end_while_borrowed(void)
{
    struct bed bed;
    struct peer peer, other;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    CHECK(send_one(&peer, 1) == RING_OK && send_one(&peer, 2) == RING_OK);
    struct ring_loan first = borrow(&other), second = borrow(&other);
    CHECK(ring_end(&peer.ring) == RING_OK);
    ring_finish(&other.ring, &second);
    CHECK(receive(&other) == NOTHING);
    ring_arm(&peer.ring, RING_MESSAGES);
    ring_finish(&other.ring, &first);
    CHECK(has_rung(&peer, RING_MESSAGES));
    CHECK(receive(&other) == THE_END && receive(&peer) == THE_END);
    CHECK(bed.memory.header->head == bed.memory.header->tail);
    peer_leave(&peer);
    peer_leave(&other);
    bed_remove(&bed);
}

/* A rewind comes after its message was taken, and holds down that of another message. */
static void
test_rewind_that_comes_late(void)
{
    struct bed bed;
    struct peer peer, slow, receiver;
    bed_make(&bed, 1024, true);
    peer_join(&peer, &bed);
    peer_join(&slow, &bed);
    peer_join(&receiver, &bed);
    struct ring_loan a = reserve(&slow, 1), b = reserve(&peer, 2);
    /* The first half of ring_commit(&slow.ring, &a). */
    atomic_store(&ring_record(&slow.ring, a.position)->state, ring_state(&slow.ring, a.position, RING_READY));
    CHECK(receive(&receiver) == 1 && receive(&receiver) == NOTHING);
    CHECK(bed.memory.header->head == b.position && bed.memory.header->next > b.position);
    /* The second half. */
    ring_rewind(&slow.ring, a.position);
    atomic_fetch_sub(&bed.memory.header->peer[slow.ring.slot].holds, 1);
    ring_commit(&peer.ring, &b);
    CHECK(receive(&receiver) == 2 && receive(&receiver) == NOTHING);
    peer_leave(&peer);
    peer_leave(&slow);
    peer_leave(&receiver);
    bed_remove(&bed);
}

/* Another process goes on while a receiver looks: it publishes what the receiver has passed already, and then
 * something more.  A signal is that other process. */
static struct {
    struct peer peer;
    struct ring_loan loan;
    volatile sig_atomic_t done;
} interrupting;

static void
commit_and_send(int signal)
{
    (void)signal;
    ring_commit(&interrupting.peer.ring, &interrupting.loan);
    CHECK(send_one(&interrupting.peer, 2) == RING_OK);
    interrupting.done = 1;
}

static void
test_order_of_one_sender(void)
{
    enum { OTHERS = 5000, ROUNDS = 500 };
    static struct ring_loan others[OTHERS];
    struct bed bed;
    struct peer receiver;
    uint64_t seed = 1;
    bed_make(&bed, 1 << 20, true);
    peer_join(&interrupting.peer, &bed);
    peer_join(&receiver, &bed);
    signal(SIGALRM, commit_and_send);
    for (int round = 0; round < ROUNDS; round++) {
        interrupting.loan = reserve(&interrupting.peer, 1);
        for (int i = 0; i < OTHERS; i++)
            others[i] = reserve(&receiver, 0);
        interrupting.done = 0;
        struct itimerval soon = {.it_value.tv_usec = 1 + (long)draw_below(&seed, 60)};
        CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
        int64_t first = NOTHING;
        while (!interrupting.done)
            if (first == NOTHING)
                first = receive(&receiver);
        if (first == NOTHING)
            first = receive(&receiver);
        CHECK(first == 1 && receive(&receiver) == 2 && receive(&receiver) == NOTHING);
        for (int i = 0; i < OTHERS; i++)
            ring_abort(&receiver.ring, &others[i]);
    }
    signal(SIGALRM, SIG_DFL);
    peer_leave(&interrupting.peer);
    peer_leave(&receiver);
    bed_remove(&bed);
}

/* Bells ---------------------------------------------------------------------- */

static void
test_bells(void)
{
    struct bed bed;
    struct peer peer, other;
    bed_make(&bed, 256, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    ring_arm(&peer.ring, RING_MESSAGES);
    ring_arm(&peer.ring, RING_ROOM);
    CHECK(!has_rung(&peer, RING_MESSAGES) && !has_rung(&peer, RING_ROOM));
    bed.memory.header->senders_sleep = bed.memory.header->receivers_sleep = 0;
    CHECK(send_one(&other, 1) == RING_OK && receive(&other) == 1);
    CHECK(!has_rung(&peer, RING_MESSAGES) && !has_rung(&peer, RING_ROOM));
    ring_arm(&peer.ring, RING_MESSAGES);
    CHECK(send_one(&other, 1) == RING_OK && send_one(&other, 1) == RING_OK);
    CHECK(has_rung(&peer, RING_MESSAGES) && !has_rung(&peer, RING_ROOM));
    ring_arm(&peer.ring, RING_MESSAGES);    /* once for both */
    CHECK(!has_rung(&peer, RING_MESSAGES));
    ring_arm(&peer.ring, RING_ROOM);
    CHECK(receive(&other) == 1);
    CHECK(has_rung(&peer, RING_ROOM) && !has_rung(&peer, RING_MESSAGES));
    /* However many rings nobody heeds, the next is heard by all. */
    for (int i = 0; i < 200000; i++)
        ring_ring(&peer.ring, RING_ROOM);
    ring_arm(&peer.ring, RING_ROOM);
    ring_arm(&other.ring, RING_ROOM);
    CHECK(!has_rung(&peer, RING_ROOM) && !has_rung(&other, RING_ROOM));
    ring_ring(&peer.ring, RING_ROOM);
    CHECK(has_rung(&peer, RING_ROOM) && has_rung(&other, RING_ROOM));
    peer_leave(&peer);
    CHECK(has_rung(&other, RING_MESSAGES) && has_rung(&other, RING_ROOM));
    peer_leave(&other);
    bed_remove(&bed);
}

/* Sleepers at one bell wait for different things: each hears each ring. */
static void
test_a_long_message_does_not_hold_up_a_short_one(void)
{
    struct bed bed;
    struct peer receiver, of_long, of_short;
    bed_make(&bed, 256, true);
    peer_join(&receiver, &bed);
    peer_join(&of_long, &bed);
    peer_join(&of_short, &bed);
    for (int i = 0; i < 4; i++)
        CHECK(send_one(&receiver, 32) == RING_OK);
    ring_arm(&of_long.ring, RING_ROOM);
    CHECK(send_one(&of_long, 200) == RING_FULL);
    ring_arm(&of_short.ring, RING_ROOM);
    CHECK(send_one(&of_short, 1) == RING_FULL);
    CHECK(receive(&receiver) == 32 && has_rung(&of_long, RING_ROOM) && has_rung(&of_short, RING_ROOM));
    ring_arm(&of_long.ring, RING_ROOM);
    CHECK(send_one(&of_long, 200) == RING_FULL);
    CHECK(!has_rung(&of_long, RING_ROOM) && has_rung(&of_short, RING_ROOM));
    ring_arm(&of_short.ring, RING_ROOM);
    CHECK(send_one(&of_short, 1) == RING_OK);
    peer_leave(&receiver);
    peer_leave(&of_long);
    peer_leave(&of_short);
    bed_remove(&bed);
}

static void
test_busy(void)
{
    struct bed bed;
    struct peer holder, other;
    struct ring_loan loan;
    bed_make(&bed, 256, true);
    peer_join(&holder, &bed);
    peer_join(&other, &bed);
    struct ring_header *header = bed.memory.header;
    for (int waits = 0; waits < 2; waits++) {
        other.ring.waits = waits != 0;
        ring_arm(&other.ring, RING_MESSAGES);
        ring_arm(&other.ring, RING_ROOM);
        CHECK(ring_lock_send(&holder.ring) == RING_OK && header->send_lock == holder.ring.slot + 1);
        CHECK(ring_lock_send(&other.ring) == RING_BUSY && ring_end(&other.ring) == RING_BUSY);
        CHECK(header->send_lock == ((holder.ring.slot + 1) | (waits ? RING_CONTENDED : 0)));
        ring_unlock_send(&holder.ring);
        CHECK(header->send_lock == 0);
        CHECK(has_rung(&other, RING_MESSAGES) == (waits != 0) && has_rung(&other, RING_ROOM) == (waits != 0));
        ring_arm(&other.ring, RING_MESSAGES);
        ring_arm(&other.ring, RING_ROOM);
        CHECK(ring_lock_receive(&holder.ring) == RING_OK);
        CHECK(find_and(&other, ring_consume, &loan) == RING_BUSY);
        /* A sender that needs no more room does not need this lock. */
        CHECK(send_one(&other, ring_longest(256)) == RING_OK && send_one(&other, 1) == RING_BUSY);
        ring_unlock_receive(&holder.ring);
        CHECK(receive(&other) == (int64_t)ring_longest(256));
    }
    peer_leave(&holder);
    peer_leave(&other);
    bed_remove(&bed);
}

/* Peers ------------------------------------------------------------------------ */

static void
test_slots(void)
{
    static struct peer peers[RING_PEERS + 1];
    struct bed bed;
    bed_make(&bed, 256, true);
    for (uint32_t i = 0; i < RING_PEERS; i++) {
        peer_join(&peers[i], &bed);
        CHECK(peers[i].ring.slot == i && bed.memory.header->peer[i].pid == (uint32_t)getpid());
        /* 256 inotify instances would be more than a user may have. */
        close(peers[i].deaths);
        peers[i].deaths = -1;
    }
    CHECK(peer_try_join(&peers[RING_PEERS], &bed) == RING_NO_SLOT);
    peer_die(&peers[RING_PEERS]);
    peer_leave(&peers[100]);
    peer_die(&peers[200]);
    CHECK(bed.memory.header->peer[100].state == RING_FREE && bed.memory.header->peer[200].state == RING_USED);
    peer_join(&peers[100], &bed);
    peer_join(&peers[200], &bed);
    CHECK(peers[100].ring.slot == 100 && peers[200].ring.slot == 200);
    CHECK(bed.memory.header->dead == 1);
    CHECK(peer_try_join(&peers[RING_PEERS], &bed) == RING_NO_SLOT);
    peer_die(&peers[RING_PEERS]);
    for (uint32_t i = 0; i < RING_PEERS; i++)
        peer_leave(&peers[i]);
    CHECK(bed.memory.header->dead == 1);
    int bells[2] = {-1, -1};
    CHECK(ring_join(&peers[0].ring, &bed.memory, -1, bells) == RING_SYSTEM && errno == EBADF);
    bed_remove(&bed);
}

static void
test_statistics(void)
{
    struct bed bed;
    struct peer peer, other, third;
    bed_make(&bed, 4096, true);
    peer_join(&peer, &bed);
    peer_join(&other, &bed);
    peer_join(&third, &bed);
    struct ring_statistics statistics = look(&peer);
    CHECK(statistics.senders == 0 && statistics.receivers == 0 && statistics.dead == 0 && !statistics.ended);
    CHECK(send_one(&peer, 3) == RING_OK && send_one(&other, 4) == RING_OK && receive(&other) == 3);
    statistics = look(&third);
    CHECK(statistics.senders == 2 && statistics.receivers == 1);
    CHECK(statistics.messages == 1 && statistics.bytes == 4);
    peer_die(&peer);
    CHECK(deaths_reported(&third) && ring_reap(&third.ring) == RING_OK);
    statistics = look(&third);
    CHECK(statistics.senders == 1 && statistics.receivers == 1 && statistics.dead == 1);
    peer_leave(&other);
    CHECK(look(&third).senders == 0 && look(&third).dead == 1);
    peer_leave(&third);
    bed_remove(&bed);

    /* More than are counted one by one. */
    bed_make(&bed, 1 << 23, true);
    peer_join(&peer, &bed);
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < 120000; i++) {
        CHECK(send_one(&peer, i % 33) == RING_OK);
        bytes += i % 33;
    }
    CHECK(look(&peer).messages == 120000 && look(&peer).bytes == bytes);
    for (uint64_t i = 0; i < 119999; i++) {
        CHECK(receive(&peer) == (int64_t)(i % 33));
        bytes -= i % 33;
    }
    CHECK(look(&peer).messages == 1 && look(&peer).bytes == bytes);
    /* An old one is read still, and those behind it are gone. */
    struct ring_loan loan = borrow(&peer), second;
    make_gone(&peer, 80000);
    CHECK(look(&peer).messages == 1 && look(&peer).bytes == bytes);
    for (uint64_t i = 0; i < 40000; i++)
        CHECK(send_one(&peer, 1) == RING_OK);
    CHECK(look(&peer).messages == 40001 && look(&peer).bytes == bytes + 40000);
    second = borrow(&peer);
    CHECK(second.position > loan.position);
    for (uint64_t i = 1; i < 40000; i++)
        CHECK(receive(&peer) == 1);
    ring_return(&peer.ring, &loan);
    CHECK(look(&peer).bytes <= bytes + 1);
    CHECK(receive(&peer) == (int64_t)(119999 % 33));
    ring_finish(&peer.ring, &second);
    while (receive(&peer) != NOTHING)
        ;
    CHECK(look(&peer).messages == 0 && look(&peer).bytes == 0);
    peer_leave(&peer);
    bed_remove(&bed);
}

/* What is left of each kind when a peer dies, and what becomes of it. */
static void
test_death(void)
{
    for (int how = 0; how < 3; how++) {     /* reaped, by who joins, by leaving */
        struct bed bed;
        struct peer dead, other, third;
        bed_make(&bed, 4096, true);
        peer_join(&other, &bed);
        peer_join(&dead, &bed);
        uint32_t slot = dead.ring.slot;
        for (uint64_t size = 1; size <= 4; size++)
            CHECK(send_one(&other, size) == RING_OK);
        borrow(&dead);
        struct ring_loan mine = borrow(&other);
        borrow(&dead);
        reserve(&dead, 5);
        struct ring_loan late = reserve(&other, 6);
        CHECK(holds(&bed, slot) == 3 && mine.size == 2);
        CHECK(receive(&other) == 4 && receive(&other) == NOTHING);
        ring_arm(&other.ring, RING_MESSAGES);
        ring_arm(&other.ring, RING_ROOM);
        if (how == 2)
            peer_leave(&dead);
        else {
            peer_die(&dead);
            CHECK(receive(&other) == NOTHING && bed.memory.header->peer[slot].state == RING_USED);
        }
        CHECK(deaths_reported(&other));
        if (how == 0)
            CHECK(ring_reap(&other.ring) == RING_OK);
        if (how == 1) {
            peer_join(&third, &bed);
            CHECK(third.ring.slot == slot);
            peer_leave(&third);
        }
        CHECK(has_rung(&other, RING_MESSAGES) && has_rung(&other, RING_ROOM));
        CHECK(bed.memory.header->peer[slot].state == RING_FREE && bed.memory.header->dead == (how < 2));
        CHECK(receive(&other) == 1 && receive(&other) == 3 && receive(&other) == NOTHING);
        ring_return(&other.ring, &mine);
        ring_commit(&other.ring, &late);
        CHECK(receive(&other) == 2 && receive(&other) == 6 && receive(&other) == NOTHING);
        CHECK(bed.memory.header->head == bed.memory.header->tail);
        CHECK(ring_reap(&other.ring) == RING_OK && bed.memory.header->dead == (how < 2));
        peer_leave(&other);
        bed_remove(&bed);
    }
}

/* A lock of a dead peer is freed by whoever waits for it, or reaps. */
static void
test_death_in_a_lock(void)
{
    for (int which = 0; which < 2; which++) {
        for (int how = 0; how < 2; how++) {
            struct bed bed;
            struct peer dead, other;
            struct ring_loan loan;
            bed_make(&bed, 4096, true);
            peer_join(&other, &bed);
            peer_join(&dead, &bed);
            CHECK(send_one(&other, 1) == RING_OK);
            CHECK((which == 0 ? ring_lock_send : ring_lock_receive)(&dead.ring) == RING_OK);
            if (which == 0) {
                CHECK(ring_make_room(&dead.ring, ring_length(99)) == RING_OK);
                ring_allocate(&dead.ring, 99, RING_RESERVED, &loan);
            } else
                CHECK(ring_find(&dead.ring, &loan) == RING_OK);
            ring_arm(&other.ring, which == 0 ? RING_ROOM : RING_MESSAGES);
            peer_die(&dead);
            CHECK((which == 0 ? send_one(&other, 2) : find_and(&other, ring_consume, &loan)) == RING_BUSY);
            if (how == 0)
                CHECK(ring_reap(&other.ring) == RING_OK);
            else
                other.ring.waits = true;
            CHECK(send_one(&other, 2) == RING_OK && receive(&other) == 1 && receive(&other) == 2);
            CHECK(receive(&other) == NOTHING && bed.memory.header->dead == 1);
            CHECK(has_rung(&other, RING_MESSAGES) && has_rung(&other, RING_ROOM));
            peer_leave(&other);
            bed_remove(&bed);
        }
    }
}

/* One dead peer holds what it takes to clean up after another. */
static void
test_two_deaths(void)
{
    struct bed bed;
    struct peer first, second, other;
    bed_make(&bed, 4096, true);
    peer_join(&first, &bed);
    peer_join(&second, &bed);
    peer_join(&other, &bed);
    CHECK(send_one(&other, 1) == RING_OK && send_one(&other, 2) == RING_OK);
    borrow(&first);
    borrow(&second);
    CHECK(ring_lock_receive(&second.ring) == RING_OK);
    peer_die(&first);
    peer_die(&second);
    CHECK(ring_reap(&other.ring) == RING_OK && bed.memory.header->dead == 2);
    CHECK(receive(&other) == 1 && receive(&other) == 2 && receive(&other) == NOTHING);
    peer_leave(&other);
    bed_remove(&bed);
}

/* Cleaning up is kept from it by a lock, and told when that is free. */
static void
test_reap_while_busy(void)
{
    struct bed bed;
    struct peer dead, stopped, other;
    bed_make(&bed, 4096, true);
    peer_join(&dead, &bed);
    peer_join(&stopped, &bed);
    peer_join(&other, &bed);
    CHECK(send_one(&other, 1) == RING_OK);
    borrow(&dead);
    CHECK(ring_lock_receive(&stopped.ring) == RING_OK);
    peer_die(&dead);
    other.ring.waits = true;
    for (int i = 0; i < 3; i++) {
        ring_arm(&other.ring, RING_MESSAGES);
        CHECK(ring_reap(&other.ring) == RING_BUSY);
        CHECK(!has_rung(&other, RING_MESSAGES));    /* or it would never sleep until the other goes on */
    }
    ring_unlock_receive(&stopped.ring);
    CHECK(has_rung(&other, RING_MESSAGES));
    CHECK(ring_reap(&other.ring) == RING_OK && receive(&other) == 1);
    peer_leave(&stopped);
    peer_leave(&other);
    bed_remove(&bed);
}

/* It can't clean up after itself: the next one does. */
static void
test_leave_while_busy(void)
{
    struct bed bed;
    struct peer leaver, stopped, other;
    bed_make(&bed, 4096, true);
    peer_join(&leaver, &bed);
    peer_join(&stopped, &bed);
    peer_join(&other, &bed);
    CHECK(send_one(&other, 1) == RING_OK);
    borrow(&leaver);
    CHECK(ring_lock_receive(&stopped.ring) == RING_OK);
    peer_leave(&leaver);
    ring_unlock_receive(&stopped.ring);
    CHECK(receive(&other) == NOTHING && deaths_reported(&other));
    CHECK(ring_reap(&other.ring) == RING_OK && receive(&other) == 1);
    peer_leave(&stopped);
    peer_leave(&other);
    bed_remove(&bed);
}

/* What can't be right -------------------------------------------------------------- */

static void
test_lock_of_nobody(void)
{
    struct bed bed;
    struct peer peer;
    bed_make(&bed, 4096, true);
    peer_join(&peer, &bed);
    peer.ring.waits = true;
    struct ring_header *header = bed.memory.header;
    header->send_lock = RING_PEERS + 1;
    CHECK(send_one(&peer, 1) == RING_CORRUPT && ring_end(&peer.ring) == RING_CORRUPT);
    header->send_lock = peer.ring.slot + 1;
    CHECK(send_one(&peer, 1) == RING_CORRUPT);
    /* A peer that there is not: it is as good as dead. */
    alarm(10);
    header->send_lock = 77;
    header->receive_lock = 78 | RING_CONTENDED;
    CHECK(send_one(&peer, 1) == RING_OK && receive(&peer) == 1);
    alarm(0);
    peer_leave(&peer);
    bed_remove(&bed);
}

static void
test_positions_that_cannot_be(void)
{
    static const struct {
        uint64_t head, tail;
    } bad[] = {
        {1, 64}, {0, 65}, {64, 0}, {0, 4096 + 64}, {64, 0}, {64, UINT64_MAX - 63}, {UINT64_MAX - 63, 64},
        {0, UINT64_MAX - 63},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct bed bed;
        struct peer peer;
        struct ring_statistics statistics;
        struct ring_loan loan;
        bed_make(&bed, 4096, true);
        peer_join(&peer, &bed);
        bed.memory.header->head = bad[i].head;
        bed.memory.header->tail = bad[i].tail;
        CHECK(ring_look(&peer.ring, &statistics) == RING_CORRUPT && peer.ring.fault != NULL);
        CHECK(find_and(&peer, ring_consume, &loan) == RING_CORRUPT);
        CHECK(bed.memory.header->receive_lock == 0);
        if (bad[i].tail - bad[i].head <= UINT64_MAX / 2 && bad[i].head % 64 == 0)
            CHECK(send_one(&peer, ring_longest(4096)) == RING_CORRUPT);
        if (bad[i].tail == UINT64_MAX - 63 && bad[i].head == 0)
            CHECK(send_one(&peer, 1) == RING_CORRUPT);
        CHECK(bed.memory.header->send_lock == 0);
        peer_leave(&peer);
        bed_remove(&bed);
    }
}

static const struct {
    const char *name;
    void (*run)(void);
} TESTS[] = {
#define TEST(name) {#name, test_##name}
    TEST(format_and_map),
    TEST(layout),
    TEST(not_a_ring),
    TEST(sizes),
    TEST(wrap),
    TEST(exactly_full),
    TEST(many_at_once),
    TEST(many_at_once_one_by_one),
    TEST(unpublished),
    TEST(reserve),
    TEST(borrow),
    TEST(what_is_gone_makes_room),
    TEST(the_loop_comes_before_what_is_gone),
    TEST(a_message_that_comes_back_all_the_time),
    TEST(what_is_gone_is_joined),
    TEST(end),
    TEST(end_while_borrowed),
    TEST(rewind_that_comes_late),
    TEST(order_of_one_sender),
    TEST(bells),
    TEST(a_long_message_does_not_hold_up_a_short_one),
    TEST(busy),
    TEST(slots),
    TEST(statistics),
    TEST(death),
    TEST(death_in_a_lock),
    TEST(two_deaths),
    TEST(reap_while_busy),
    TEST(leave_while_busy),
    TEST(lock_of_nobody),
    TEST(positions_that_cannot_be),
};

int
main(int argc, char **argv)
{
    int ran = 0;
    for (size_t i = 0; i < sizeof TESTS / sizeof *TESTS; i++)
        if (argc < 2 || strcmp(argv[1], TESTS[i].name) == 0) {
            printf("%s\n", TESTS[i].name);
            fflush(stdout);
            TESTS[i].run();
            ran++;
        }
    printf("%d tests\n", ran);
    return ran == 0;
}
