/* Files that are no rings, and rings in which somebody has written what can't be, or what could be but is not.
 *
 *   ring_fuzz header [--count N] [--seed S]
 *   ring_fuzz shared [--count N] [--seed S]
 *
 * Every operation must return one of its results, in time, and touch nothing outside of the mapping, around which
 * nothing can be accessed.  What has to be noticed is RING_CORRUPT.
 *
 * What cannot be noticed, for it could be right:
 *   - the bytes of a message, the bytes between two records, the reserved bytes of the header;
 *   - a record's state that becomes another of the five, or names another of the 256 peers;
 *   - a size that takes as many units as before, or whose record ends where, by chance, another one begins;
 *   - a record's number and bytes, as long as no more than LOOK_AT records are counted: they are statistics;
 *   - head or next at the beginning of another record; next before head, which means head;
 *   - a tail at the beginning of another record, or behind the end if nobody looks there;
 *   - a rewind before the tail: it means that more is looked at;
 *   - a lock that becomes free or contended, or is held by a peer that lives: BUSY until that one dies;
 *   - a lock of a peer that is not there: it is freed;
 *   - the flags of those who sleep and that of the end;
 *   - all about a peer: who is USED and has no lock on its byte is dead, and only that is believed.
 */
#include "harness.h"

#include <time.h>

#define GUARD (UINT64_C(1) << 30)

static uint64_t seed;

/* Headers ------------------------------------------------------------------------ */

static struct ring_header right;
static struct ring_header *header;
static int file;
static unsigned long refused[RING_SYSTEM + 1];

static void
expect_refusal(void)
{
    struct ring_memory memory;
    enum ring_result result = ring_map(&memory, file);
    if (result == RING_OK) {
        const unsigned char *is = (const unsigned char *)header, *was = (const unsigned char *)&right;
        for (size_t i = 0; i < 128; i++)
            if (is[i] != was[i])
                fprintf(stderr, "byte %zu: %u, was %u\n", i, is[i], was[i]);
        CHECK(!"a header that is wrong is refused");
    }
    CHECK(result == RING_SHORT || result == RING_FOREIGN || result == RING_OTHER_VERSION || result == RING_OTHER_ABI
          || result == RING_CORRUPT);
    refused[result]++;
}

static void
fuzz_headers(unsigned long count)
{
    static const uint64_t capacities[] = {64, 1000, 65536, 1 << 20};
    const size_t constant = offsetof(struct ring_header, check) + 8;
    unsigned long cases = 0;
    for (size_t c = 0; c < 4; c++) {
        uint64_t size = ring_file_size(capacities[c]);
        file = memfd_create("ring", MFD_CLOEXEC);
        CHECK(file >= 0 && ftruncate(file, (off_t)size) == 0);
        CHECK(ring_format(file, capacities[c], draw(&seed)) == RING_OK);
        header = mmap(NULL, RING_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        CHECK(header != MAP_FAILED);
        memcpy(&right, header, sizeof right);
        unsigned char *bytes = (unsigned char *)header;
        /* Each byte with each value. */
        for (size_t i = 0; i < constant; i++)
            for (unsigned other = 1; other < 256; other++, cases++) {
                bytes[i] ^= (unsigned char)other;
                expect_refusal();
                bytes[i] ^= (unsigned char)other;
            }
        /* Several bytes; now and then the check as if that were right. */
        for (unsigned long n = 0; n < count / 4; n++, cases++) {
            for (uint64_t i = draw_below(&seed, 8) + 1; i > 0; i--)
                bytes[draw_below(&seed, constant)] = (unsigned char)draw(&seed);
            if (draw_below(&seed, 4) == 0) {
                /* 64-bit fields from capacity on, small numbers, and their neighbours. */
                uint64_t *field = (uint64_t *)(void *)(bytes + 8 * draw_below(&seed, constant / 8));
                *field += draw_below(&seed, 3) - 1;
            }
            if (memcmp(header, &right, constant) != 0)
                expect_refusal();
            memcpy(header, &right, constant);
        }
        /* A file that ends too soon.  Nothing is mapped beyond its first page meanwhile. */
        for (unsigned long n = 0; n < 200 + count / 1000; n++, cases++) {
            uint64_t end = n < 200 ? n : draw_below(&seed, size);
            CHECK(ftruncate(file, (off_t)end) == 0);
            struct ring_memory memory;
            CHECK(ring_map(&memory, file) == RING_SHORT);
            refused[RING_SHORT]++;
            CHECK(ftruncate(file, (off_t)size) == 0);
            memcpy(header, &right, sizeof right);
        }
        struct ring_memory memory;
        CHECK(ring_map(&memory, file) == RING_OK);
        ring_unmap(&memory);
        munmap(header, RING_PAGE);
        close(file);
    }
    printf("%lu headers, all refused: %lu corrupt, %lu foreign, %lu of another version, %lu of another ABI, %lu short\n",
           cases, refused[RING_CORRUPT], refused[RING_FOREIGN], refused[RING_OTHER_VERSION], refused[RING_OTHER_ABI],
           refused[RING_SHORT]);
}

/* What is shared ------------------------------------------------------------------ */

#define PEERS 3
#define LOANS 8
#define SNAPSHOT (640 + 8 * sizeof(struct ring_peer))

static struct ring_memory memory;
static struct ring rings[PEERS], saved_rings[PEERS];
static char *saved;

/* The mapping of ring_map, but with nothing around it. */
static void
map_alone(int file_of_ring)
{
    struct ring_memory mapped;
    CHECK(ring_map(&mapped, file_of_ring) == RING_OK);
    uint64_t once = RING_PAGE + mapped.room;
    char *base = mmap(NULL, 2 * GUARD + once + mapped.room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base != MAP_FAILED);
    base += GUARD;
    memory = mapped;
    ring_unmap(&mapped);
    CHECK(mmap(base, once, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_of_ring, 0) != MAP_FAILED);
    CHECK(mmap(base + once, memory.room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_of_ring, RING_DATA)
          != MAP_FAILED);
    /* Behind the header's bytes, up to the data, nothing is ever accessed. */
    memory.header = (struct ring_header *)(void *)base;
    memory.data = base + RING_DATA;
}

static unsigned long results[RING_SYSTEM + 1];
static bool noticed;

static enum ring_result
note(enum ring_result result, unsigned allowed)
{
    CHECK(result <= RING_SYSTEM && (1u << result & (allowed | 1u << RING_OK | 1u << RING_CORRUPT)) != 0);
    results[result]++;
    noticed |= result == RING_CORRUPT;
    return result;
}

#define OR(result) (1u << RING_##result)

static bool
send_something(struct ring *ring, uint64_t size, enum ring_kind kind, struct ring_loan *loan)
{
    if (note(ring_lock_send(ring), OR(BUSY) | OR(ENDED)) != RING_OK)
        return false;
    enum ring_result result = note(ring_make_room(ring, ring_length(size)), OR(FULL) | OR(TOO_LONG) | OR(BUSY));
    if (result == RING_OK) {
        ring_allocate(ring, size, kind, loan);
        CHECK(loan->size == size);
        memset(loan->data, 1, size);
        ring_publish(ring);
    }
    ring_unlock_send(ring);
    ring_wake_receivers(ring);
    return result == RING_OK;
}

static volatile unsigned sum;

static bool
receive_something(struct ring *ring, bool borrows, struct ring_loan *loan)
{
    if (note(ring_lock_receive(ring), OR(BUSY)) != RING_OK)
        return false;
    enum ring_result result = note(ring_find(ring, loan), OR(EMPTY) | OR(ENDED));
    if (result == RING_OK) {
        CHECK(loan->size <= ring_longest(memory.capacity));
        for (uint64_t i = 0; i < loan->size; i += 16)
            sum += (unsigned char)loan->data[i];
        if (loan->size > 0)
            sum += (unsigned char)loan->data[loan->size - 1];
        (borrows ? ring_borrow : ring_consume)(ring, loan);
    }
    ring_unlock_receive(ring);
    ring_wake_senders(ring);
    return result == RING_OK;
}

static struct {
    struct ring *ring;
    struct ring_loan loan;
    bool is_written;
} loans[LOANS], saved_loans[LOANS];
static unsigned lent, saved_lent;

static void
end_loan(unsigned i, uint64_t how)
{
    struct ring *ring = loans[i].ring;
    if (loans[i].is_written)
        (how % 2 == 0 ? ring_commit : ring_abort)(ring, &loans[i].loan);
    else if (how % 3 == 0)
        ring_return(ring, &loans[i].loan);
    else
        ring_finish(ring, &loans[i].loan);
    loans[i] = loans[--lent];
}

static void
do_something(void)
{
    struct ring *ring = &rings[draw_below(&seed, PEERS)];
    struct ring_loan loan;
    uint64_t how = draw_below(&seed, 8);
    uint64_t size = draw_below(&seed, draw_below(&seed, 4) == 0 ? memory.capacity : 200);
    if (how < 3)
        send_something(ring, size, RING_READY, &loan);
    else if (how < 5)
        receive_something(ring, false, &loan);
    else if (how == 5 && lent > 0)
        end_loan((unsigned)draw_below(&seed, lent), draw(&seed));
    else if (lent < LOANS) {
        bool is_written = how == 6;
        if (is_written ? send_something(ring, size / 4, RING_RESERVED, &loan) : receive_something(ring, true, &loan)) {
            loans[lent].ring = ring;
            loans[lent].loan = loan;
            loans[lent++].is_written = is_written;
        }
    }
}

/* Where the records of the ring that is right lie, and the blank one behind them. */
static uint64_t records[100];
static unsigned record_count;

static void
list_records(void)
{
    uint64_t position = memory.header->head;
    record_count = 0;
    for (; position != memory.header->tail; position += ring_length(ring_record(&rings[0], position)->size))
        records[record_count++] = position;
    records[record_count++] = position;
    CHECK(record_count <= sizeof records / sizeof *records);
}

/* Which fields are overwritten. */
enum field { STATE, SIZE, NUMBERS, TAIL, HEAD, NEXT, REWIND, LOCK, PEER, FLAG, ANYTHING, FIELDS };
static const char *const names[FIELDS] = {
    "a record's state", "a record's size", "a record's number or bytes", "tail", "head", "next", "rewind", "a lock",
    "a peer", "a flag", "any 8 bytes of a record's head or the header",
};
static unsigned long tried[FIELDS], found[FIELDS];

/* A number that is wrong in an interesting way. */
static uint64_t
odd_number(uint64_t right_one)
{
    switch (draw_below(&seed, 8)) {
    case 0: return draw(&seed);
    case 1: return right_one ^ UINT64_C(1) << draw_below(&seed, 64);
    case 2: return right_one + draw_below(&seed, 5) - 2;
    case 3: return right_one + RING_UNIT * draw_below(&seed, 64);
    case 4: return right_one - RING_UNIT * draw_below(&seed, 64);
    case 5: return UINT64_MAX - draw_below(&seed, 200);
    case 6: return draw_below(&seed, 2 * memory.capacity);
    default: return (uint64_t)1 << draw_below(&seed, 64);
    }
}

static uint64_t
is_right(const struct ring_record *record, uint64_t position, uint64_t end)
{
    uint64_t state = record->state, size = record->size;
    return (state & ~UINT64_C(0xffffff)) == ring_mark(position) && (state & 0xff) >= RING_RESERVED
           && (state & 0xff) <= RING_GONE && (state >> 8 & 0xffff) < RING_PEERS
           && size <= ring_longest(memory.capacity) && ring_length(size) <= end - position;
}

/* Overwrite something, and say whether ring_look, ring_lock_receive or ring_find must notice. */
static void
overwrite(enum field field, bool *look_must, bool *receive_must)
{
    struct ring_header *h = memory.header;
    uint64_t head = h->head, tail = h->tail, position;
    _Atomic uint32_t *const locks[] = {&h->send_lock, &h->receive_lock};
    *look_must = *receive_must = false;
    if (field <= NUMBERS) {
        position = records[draw_below(&seed, record_count)];
        struct ring_record *record = ring_record(&rings[0], position);
        if (field == STATE) {
            uint64_t kind = draw_below(&seed, 3);
            if (kind == 0)
                record->state = odd_number(record->state);
            else if (kind == 1)
                record->state = (record->state & ~UINT64_C(0xff)) | draw_below(&seed, 256);
            else
                record->state ^= draw_below(&seed, 256) << 8 * draw_below(&seed, 8);
        } else if (field == SIZE)
            record->size = odd_number(record->size);
        else if (draw_below(&seed, 2) == 0)
            record->number = odd_number(record->number);
        else
            record->bytes = odd_number(record->bytes);
        *look_must = position != tail && !is_right(record, position, tail);
    } else if (field == TAIL || field == HEAD) {
        if (field == TAIL)
            h->tail = odd_number(tail);
        else
            h->head = odd_number(head);
        *look_must = h->head % RING_UNIT != 0 || h->tail % RING_UNIT != 0 || h->tail - h->head > memory.capacity;
    } else if (field == NEXT) {
        h->next = odd_number(h->next);
        *receive_must = h->next > tail || (h->next > head && h->next % RING_UNIT != 0);
    } else if (field == REWIND) {
        h->rewind = odd_number(draw_below(&seed, 2) == 0 ? tail : h->rewind);
        *receive_must = h->rewind != RING_NOWHERE && (h->rewind % RING_UNIT != 0 || h->rewind > tail);
    } else if (field == LOCK) {
        _Atomic uint32_t *lock = locks[draw_below(&seed, 2)];
        *lock = draw_below(&seed, 3) == 0 ? (uint32_t)draw(&seed)
                                          : (uint32_t)draw_below(&seed, 300) | (uint32_t)draw_below(&seed, 2) << 31;
        uint32_t slot = (*lock & ~RING_CONTENDED) - 1;
        *receive_must = lock == &h->receive_lock && *lock != 0 && (slot >= RING_PEERS || slot == rings[0].slot);
    } else if (field == PEER) {
        struct ring_peer *peer = &h->peer[draw_below(&seed, 6)];
        _Atomic uint32_t *const parts[] = {&peer->state, &peer->does, &peer->holds, &peer->pid};
        *parts[draw_below(&seed, 4)] = draw_below(&seed, 2) == 0 ? (uint32_t)draw_below(&seed, 3) : (uint32_t)draw(&seed);
    } else if (field == FLAG) {
        _Atomic uint32_t *const flags[] = {&h->receivers_sleep, &h->senders_sleep, &h->ended, &h->dead};
        *flags[draw_below(&seed, 4)] = draw_below(&seed, 2) == 0 ? 1 : (uint32_t)draw(&seed);
    } else {
        uint64_t *word;
        if (draw_below(&seed, 2) == 0)
            word = (uint64_t *)(void *)((char *)h + 128 + 8 * draw_below(&seed, (SNAPSHOT - 128) / 8));
        else
            word = (uint64_t *)(void *)(memory.data + RING_UNIT * draw_below(&seed, memory.room / RING_UNIT)
                                        + 8 * draw_below(&seed, 4));
        *word = odd_number(*word);
    }
}

/* Use the ring in every way. */
static void
use(bool look_must, bool receive_must)
{
    struct ring_statistics statistics;
    struct ring_glance seen;
    struct ring_loan loan;
    enum ring_result result = note(ring_look(&rings[0], &statistics), 0);
    CHECK(!look_must || result == RING_CORRUPT);
    /* Who looks from outside sees the same. */
    CHECK(ring_peek(rings[0].lock_file, &seen) == result);
    CHECK(result != RING_OK || (seen.messages == statistics.messages && seen.bytes == statistics.bytes));
    for (unsigned i = 0; i < PEERS; i++)
        rings[i].waits = true;
    result = note(ring_lock_receive(&rings[0]), OR(BUSY));
    CHECK(!receive_must || result != RING_BUSY);
    if (result == RING_OK) {
        result = note(ring_find(&rings[0], &loan), OR(EMPTY) | OR(ENDED));
        ring_unlock_receive(&rings[0]);
    }
    CHECK(!receive_must || result == RING_CORRUPT);
    for (unsigned i = 0; i < PEERS; i++)
        rings[i].waits = draw_below(&seed, 2) == 0;
    for (uint64_t i = draw_below(&seed, 8); i > 0; i--)
        do_something();
    if (draw_below(&seed, 4) == 0)
        note(ring_reap(&rings[1]), OR(BUSY));
    while (lent > 0 && draw_below(&seed, 4) > 0)
        end_loan(lent - 1, draw(&seed));
    for (int i = 0; i < 30 && receive_something(&rings[2], false, &loan); i++)
        ;
    send_something(&rings[1], ring_longest(memory.capacity) / 2, RING_READY, &loan);
    if (draw_below(&seed, 64) == 0) {
        struct ring another;
        int bells[2] = {-1, -1};
        enum ring_result joined = ring_join(&another, &memory, rings[2].lock_file, bells);
        CHECK(joined == RING_OK);
        /* One open file description can't tell its own locks from its own: no slot was taken from another peer. */
        ring_leave(&another);
    }
    note(ring_end(&rings[0]), OR(BUSY));
    note(ring_look(&rings[0], &statistics), 0);
}

static void
fuzz_shared(unsigned long count, uint64_t capacity)
{
    int ring_file = memfd_create("ring", MFD_CLOEXEC), bells[2] = {-1, -1};
    char path[32];
    CHECK(ring_file >= 0 && ftruncate(ring_file, (off_t)ring_file_size(capacity)) == 0);
    CHECK(ring_format(ring_file, capacity, 7) == RING_OK);
    map_alone(ring_file);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ring_file);
    for (unsigned i = 0; i < PEERS; i++)
        CHECK(ring_join(&rings[i], &memory, open(path, O_RDWR | O_CLOEXEC), bells) == RING_OK);
    saved = malloc(SNAPSHOT + memory.room);
    CHECK(saved != NULL);
    for (unsigned long n = 0; n < count; n++) {
        if (n % 64 == 0) {
            /* Another ring that is right: by chance. */
            for (uint64_t i = draw_below(&seed, 200); i > 0; i--)
                do_something();
            CHECK(!noticed);
            list_records();
            memcpy(saved, memory.header, SNAPSHOT);
            memcpy(saved + SNAPSHOT, memory.data, memory.room);
            memcpy(saved_rings, rings, sizeof rings);
            memcpy(saved_loans, loans, sizeof loans);
            saved_lent = lent;
        }
        enum field field = (enum field)draw_below(&seed, FIELDS);
        bool look_must, receive_must;
        overwrite(field, &look_must, &receive_must);
        if (draw_below(&seed, 8) == 0) {
            /* And something else, and something else again: no promises then. */
            bool ignored;
            overwrite(ANYTHING, &ignored, &ignored);
            overwrite((enum field)(NUMBERS + draw_below(&seed, FIELDS - NUMBERS)), &ignored, &ignored);
            look_must = receive_must = false;
        }
        use(look_must, receive_must);
        tried[field]++;
        found[field] += noticed;
        noticed = false;
        memcpy(memory.header, saved, SNAPSHOT);
        memcpy(memory.data, saved + SNAPSHOT, memory.room);
        memcpy(rings, saved_rings, sizeof rings);
        memcpy(loans, saved_loans, sizeof loans);
        lent = saved_lent;
        if (n % 1000 == 0)
            alarm(60);
    }
    for (unsigned i = 0; i < PEERS; i++) {
        ring_leave(&rings[i]);
        close(rings[i].lock_file);
    }
    lent = 0;
    munmap((char *)memory.header - GUARD, 2 * GUARD + RING_PAGE + 2 * memory.room);
    close(ring_file);
    free(saved);
}

int
main(int argc, char **argv)
{
    unsigned long count = 1000000;
    seed = (uint64_t)time(NULL);
    bool shared = argc > 1 && strcmp(argv[1], "shared") == 0;
    CHECK(argc > 1 && (shared || strcmp(argv[1], "header") == 0));
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--count") == 0)
            count = strtoul(argv[i + 1], NULL, 0);
        else
            CHECK(!"an option");
    }
    printf("%s: --count %lu --seed %llu\n", argv[1], count, (unsigned long long)seed);
    fflush(stdout);
    alarm(60);
    if (!shared) {
        alarm(300);
        fuzz_headers(count);
        return 0;
    }
    fuzz_shared(count / 2, 1000);
    fuzz_shared(count - count / 2, 4096);
    unsigned long all = 0, all_found = 0;
    for (int field = 0; field < FIELDS; field++) {
        printf("%-45s %7lu overwritten, %5.1f %% noticed\n", names[field], tried[field],
               100.0 * (double)found[field] / (double)(tried[field] + !tried[field]));
        all += tried[field];
        all_found += found[field];
    }
    printf("%-45s %7lu overwritten, %5.1f %% noticed\n", "together", all, 100.0 * (double)all_found / (double)(all + !all));
    return 0;
}
