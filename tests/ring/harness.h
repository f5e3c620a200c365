/* What the tests of the ring share: a ring with its doorbells, peers, and waiting as a program does it. */
#ifndef AIOIPC_RING_HARNESS_H
#define AIOIPC_RING_HARNESS_H

#include "../../aioipc/_ring/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not true: %s (errno %s)\n", __FILE__, __LINE__, #condition, strerror(errno));      \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Random numbers: splitmix64. */
static inline uint64_t
draw(uint64_t *seed)
{
    uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint64_t
draw_below(uint64_t *seed, uint64_t bound)
{
    return draw(seed) % bound;
}

/* A ring, in a file without a name, and its doorbells in a folder for the time of the test. */
struct bed {
    int file;
    struct ring_memory memory;
    char folder[200];
    char bells[2][216];
};

static inline void
bed_make(struct bed *bed, uint64_t capacity, bool in_shm)
{
    bed->file = in_shm ? open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : memfd_create("ring", MFD_CLOEXEC);
    CHECK(bed->file >= 0);
    CHECK(ftruncate(bed->file, (off_t)ring_file_size(capacity)) == 0);
    CHECK(ring_format(bed->file, capacity, 42) == RING_OK);
    CHECK(ring_map(&bed->memory, bed->file) == RING_OK);
    const char *parent = getenv("TMPDIR");
    snprintf(bed->folder, sizeof bed->folder, "%s/ring-XXXXXX", parent == NULL ? "/tmp" : parent);
    CHECK(mkdtemp(bed->folder) != NULL);
    for (int i = 0; i < 2; i++) {
        snprintf(bed->bells[i], sizeof bed->bells[i], "%s/%d", bed->folder, i);
        CHECK(mkfifo(bed->bells[i], 0600) == 0);
    }
}

static inline void
bed_remove(struct bed *bed)
{
    ring_unmap(&bed->memory);
    close(bed->file);
    unlink(bed->bells[0]);
    unlink(bed->bells[1]);
    CHECK(rmdir(bed->folder) == 0);
}

struct peer {
    struct ring ring;
    int deaths;             /* inotify */
    unsigned long lost;     /* how often no bell rang though it could be done */
};

/* Milliseconds.  Nothing relies on it: it tells a wake-up that was lost. */
#define PATIENCE 2000

static inline enum ring_result
peer_try_join(struct peer *peer, struct bed *bed)
{
    int bells[2], lock_file;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", bed->file);
    /* The lock file between the bells: whichever order they are closed in, there is an event after
     * the lock is gone. */
    bells[0] = open(bed->bells[0], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    lock_file = open(path, O_RDWR | O_CLOEXEC);
    bells[1] = open(bed->bells[1], O_RDWR | O_NONBLOCK | O_CLOEXEC);
    CHECK(bells[0] >= 0 && lock_file >= 0 && bells[1] >= 0);
    peer->deaths = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(peer->deaths >= 0);
    CHECK(inotify_add_watch(peer->deaths, bed->bells[0], IN_CLOSE_WRITE) >= 0);
    CHECK(inotify_add_watch(peer->deaths, bed->bells[1], IN_CLOSE_WRITE) >= 0);
    peer->lost = 0;
    enum ring_result result = ring_join(&peer->ring, &bed->memory, lock_file, bells);
    if (result == RING_OK)
        for (int bell = RING_MESSAGES; bell <= RING_ROOM; bell++)
            CHECK(ring_listen(&peer->ring, bell) >= 0);
    return result;
}

static inline void
peer_join(struct peer *peer, struct bed *bed)
{
    CHECK(peer_try_join(peer, bed) == RING_OK);
}

/* What the kernel does with a process that is killed. */
static inline void
peer_die(struct peer *peer)
{
    close(peer->deaths);
    for (int bell = RING_MESSAGES; bell <= RING_ROOM; bell++)
        if (peer->ring.ears[bell] >= 0)
            close(peer->ring.ears[bell]);
    close(peer->ring.bells[0]);
    close(peer->ring.lock_file);
    close(peer->ring.bells[1]);
}

static inline void
peer_leave(struct peer *peer)
{
    ring_leave(&peer->ring);
    peer_die(peer);
}

static inline bool
has_rung(struct peer *peer, enum ring_bell bell)
{
    struct pollfd ready = {.fd = peer->ring.ears[bell], .events = POLLIN};
    return poll(&ready, 1, 0) == 1;
}

static inline bool
deaths_reported(struct peer *peer)
{
    char events[4096] __attribute__((aligned(8)));
    bool reported = false;
    while (read(peer->deaths, events, sizeof events) > 0)
        reported = true;
    return reported;
}

typedef enum ring_result attempt(struct peer *peer, void *what);

static inline bool
is_final(enum ring_result result)
{
    return result != RING_FULL && result != RING_EMPTY && result != RING_BUSY;
}

/* Wait until it can be done, as every program has to: see "Sleeping" in docs/ring.md. */
static inline enum ring_result
wait_until(struct peer *peer, enum ring_bell bell, attempt *try, void *what)
{
    struct ring *ring = &peer->ring;
    enum ring_result result = try(peer, what);
    bool is_late = false;
    while (!is_final(result)) {
        ring->waits = true;
        ring_arm(ring, bell);
        deaths_reported(peer);
        result = ring_reap(ring);
        CHECK(result == RING_OK || result == RING_BUSY);
        result = try(peer, what);
        ring->waits = false;
        if (is_final(result)) {
            peer->lost += is_late;
            break;
        }
        struct pollfd ready[2] = {{.fd = ring->ears[bell], .events = POLLIN}, {.fd = peer->deaths, .events = POLLIN}};
        int count;
        do
            count = poll(ready, 2, PATIENCE);
        while (count < 0 && errno == EINTR);
        CHECK(count >= 0);
        is_late = count == 0;
    }
    return result;
}

/* Messages that show what they are: the sender, the number, and bytes that follow from both. */
struct label {
    uint32_t sender;
    uint32_t number;
    uint64_t size;
    uint64_t check;
};

static inline uint64_t
label_check(const struct label *label)
{
    uint64_t seed = (uint64_t)label->sender << 32 ^ label->number ^ label->size << 7;
    return draw(&seed);
}

/* Fill at least a label's size of bytes. */
static inline void
fill(char *data, uint64_t size, uint32_t sender, uint32_t number)
{
    struct label label = {.sender = sender, .number = number, .size = size};
    label.check = label_check(&label);
    memcpy(data, &label, sizeof label);
    memset(data + sizeof label, (int)(label.check & 0xff), size - sizeof label);
}

static inline struct label
checked(const char *data, uint64_t size)
{
    struct label label;
    CHECK(size >= sizeof label);
    memcpy(&label, data, sizeof label);
    CHECK(label.size == size && label.check == label_check(&label));
    for (uint64_t i = sizeof label; i < size; i++)
        CHECK((unsigned char)data[i] == (label.check & 0xff));
    return label;
}

#endif
