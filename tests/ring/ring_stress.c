/* Many senders and receivers at once, as threads of one process, or as processes that are killed.
 *
 *   ring_stress threads [--messages N] [--capacity N] [--equal 1] [--seed S]
 *   ring_stress processes [--kills N] [--capacity N] [--seed S]
 *
 * Each message arrives once and whole, whatever happens; those of one sender in order, if it publishes each before the
 * next one.  --equal: all records are as long, so that a sender's wake-up can't be lost either (see docs/ring.md). */
#include "harness.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define SENDERS 4
#define RECEIVERS 4
#define BATCH 3
#define MAX_MESSAGES (1 << 20)

/* What is noted of the messages, and outlives the processes. */
static struct notes {
    _Atomic bool stop;
    _Atomic uint32_t next[SENDERS];
    _Atomic unsigned lost_wakeups[2];
    _Atomic uint8_t published[SENDERS][MAX_MESSAGES];   /* 0 no, 1 perhaps, 2 yes */
    _Atomic uint8_t taking[SENDERS][MAX_MESSAGES];      /* it was consumed, or was about to be */
    _Atomic uint8_t consumed[SENDERS][MAX_MESSAGES];    /* how often */
    _Atomic uint8_t unordered[SENDERS][MAX_MESSAGES];   /* published late, or given back */
} *notes;

static struct bed bed;
static uint64_t equal_size;     /* or 0 */
static uint32_t messages;       /* of each sender */
static bool is_ordered;         /* nobody is killed */
static int64_t last[SENDERS];   /* the newest message in order; with receive_lock */

static void
nap(uint64_t microseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)microseconds * 1000}, NULL);
}

static uint64_t
draw_size(uint64_t *seed)
{
    if (equal_size > 0)
        return equal_size;
    /* So long that a batch of the longest still fits. */
    uint64_t most = ring_longest(bed.memory.capacity / BATCH) - sizeof(struct label) + 1;
    uint64_t bound = draw_below(seed, 20) == 0 && most > 1000 ? most : 200;
    return sizeof(struct label) + draw_below(seed, bound > most ? most : bound) % 20000;
}

/* Sending ---------------------------------------------------------------------- */

struct sending {
    uint32_t sender;
    uint32_t first;
    unsigned count;
    uint64_t sizes[BATCH];
    enum ring_kind kind;
    struct ring_loan loan;
};

static enum ring_result
try_send(struct peer *peer, void *what)
{
    struct sending *sending = what;
    struct ring *ring = &peer->ring;
    uint64_t length = 0;
    for (unsigned i = 0; i < sending->count; i++)
        length += ring_length(sending->sizes[i]);
    enum ring_result result = ring_lock_send(ring);
    if (result != RING_OK)
        return result;
    result = ring_make_room(ring, length);
    if (result == RING_OK) {
        for (unsigned i = 0; i < sending->count; i++) {
            ring_allocate(ring, sending->sizes[i], sending->kind, &sending->loan);
            if (sending->kind == RING_READY)
                fill(sending->loan.data, sending->sizes[i], sending->sender, sending->first + i);
        }
        ring_publish(ring);
    }
    ring_unlock_send(ring);
    if (result == RING_OK && sending->kind == RING_READY)
        ring_wake_receivers(ring);
    return result;
}

static void
note_published(struct sending *sending, uint8_t value)
{
    for (unsigned i = 0; i < sending->count; i++)
        atomic_store(&notes->published[sending->sender][sending->first + i], value);
}

static void
commit(struct peer *peer, struct sending *sending)
{
    fill(sending->loan.data, sending->loan.size, sending->sender, sending->first);
    note_published(sending, 1);
    ring_commit(&peer->ring, &sending->loan);
    note_published(sending, 2);
}

static void
send_all(struct peer *peer, uint32_t sender, uint64_t *seed)
{
    struct sending late = {0};
    for (;;) {
        struct sending sending = {.sender = sender, .count = 1, .kind = RING_READY};
        uint64_t how = draw_below(seed, 10);
        if (how < 2)
            sending.count = equal_size > 0 ? 1 : BATCH;
        if (how >= 6)
            sending.kind = RING_RESERVED;
        sending.first = atomic_load(&notes->next[sender]);
        if (sending.first + sending.count > messages || atomic_load(&notes->stop))
            break;
        /* Who comes after this one's death goes on with the next. */
        atomic_store(&notes->next[sender], sending.first + sending.count);
        for (unsigned i = 0; i < sending.count; i++)
            sending.sizes[i] = draw_size(seed);
        if (sending.kind == RING_READY)
            note_published(&sending, 1);
        enum ring_result result = late.count > 0 ? try_send(peer, &sending) : RING_BUSY;
        if (!is_final(result)) {
            /* Who waits for room must not keep any from itself. */
            if (late.count > 0)
                commit(peer, &late);
            late.count = 0;
            result = wait_until(peer, RING_ROOM, try_send, &sending);
        }
        CHECK(result == RING_OK);
        if (sending.kind == RING_READY)
            note_published(&sending, 2);
        else if (how == 9)
            ring_abort(&peer->ring, &sending.loan);
        else if (how == 8 && late.count == 0) {
            late = sending;
            atomic_store(&notes->unordered[sender][late.first], 1);
            continue;
        } else
            commit(peer, &sending);
        if (late.count > 0 && draw_below(seed, 3) == 0) {
            commit(peer, &late);
            late.count = 0;
        }
    }
    if (late.count > 0)
        commit(peer, &late);
    /* On a fast machine there may be no numbers left. */
    while (!is_ordered && !atomic_load(&notes->stop))
        nap(1000);
}

static enum ring_result
try_end(struct peer *peer, void *what)
{
    (void)what;
    return ring_end(&peer->ring);
}

/* Receiving ---------------------------------------------------------------------- */

struct receiving {
    bool borrows;
    struct ring_loan loan;
    struct label label;
};

static enum ring_result
try_receive(struct peer *peer, void *what)
{
    struct receiving *receiving = what;
    struct ring *ring = &peer->ring;
    enum ring_result result = ring_lock_receive(ring);
    if (result != RING_OK)
        return result;
    result = ring_find(ring, &receiving->loan);
    if (result == RING_OK) {
        struct label label;
        memcpy(&label, receiving->loan.data, sizeof label);
        CHECK(label.sender < SENDERS && label.number < messages);
        if (is_ordered && atomic_load(&notes->unordered[label.sender][label.number]) == 0) {
            CHECK(last[label.sender] < (int64_t)label.number);
            last[label.sender] = label.number;
        }
        if (receiving->borrows)
            ring_borrow(ring, &receiving->loan);
        else {
            receiving->label = checked(receiving->loan.data, receiving->loan.size);
            atomic_store(&notes->taking[label.sender][label.number], 1);
            ring_consume(ring, &receiving->loan);
        }
    }
    ring_unlock_receive(ring);
    if (result == RING_OK && !receiving->borrows)
        ring_wake_senders(ring);
    return result;
}

static void
note_consumed(const struct label *label)
{
    CHECK(atomic_fetch_add(&notes->consumed[label->sender][label->number], 1) == 0);
}

static void
finish(struct peer *peer, struct ring_loan *loan)
{
    struct label label = checked(loan->data, loan->size);
    atomic_store(&notes->taking[label.sender][label.number], 1);
    ring_finish(&peer->ring, loan);
    loan->data = NULL;
    note_consumed(&label);
}

static void
receive_all(struct peer *peer, uint64_t *seed)
{
    struct ring_loan held = {0};
    for (;;) {
        struct receiving receiving = {.borrows = draw_below(seed, 3) == 0};
        enum ring_result result = try_receive(peer, &receiving);
        if (!is_final(result)) {
            /* Who waits for messages must not keep the room from those who send them. */
            if (held.data != NULL)
                finish(peer, &held);
            result = wait_until(peer, RING_MESSAGES, try_receive, &receiving);
        }
        if (result == RING_ENDED)
            break;
        CHECK(result == RING_OK);
        if (receiving.borrows) {
            struct label label = checked(receiving.loan.data, receiving.loan.size);
            uint64_t how = draw_below(seed, 8);
            if (how == 0) {
                atomic_store(&notes->unordered[label.sender][label.number], 1);
                ring_return(&peer->ring, &receiving.loan);
            } else if (how == 1 && held.data == NULL)
                held = receiving.loan;
            else
                finish(peer, &receiving.loan);
        } else
            note_consumed(&receiving.label);
        if (held.data != NULL && draw_below(seed, 4) == 0)
            finish(peer, &held);
    }
    CHECK(held.data == NULL);       /* it could have come back: there was no end yet */
}

/* After all that: what was published has arrived once. */
static void
check_notes(unsigned kills_of_receivers)
{
    unsigned long published = 0, perhaps = 0, unnoted = 0;
    for (uint32_t sender = 0; sender < SENDERS; sender++)
        for (uint32_t number = 0; number < notes->next[sender]; number++) {
            unsigned state = notes->published[sender][number], consumed = notes->consumed[sender][number];
            published += state == 2;
            perhaps += state == 1;
            if (consumed > 1 || (state == 0 && (consumed > 0 || notes->taking[sender][number] > 0))
                || (state == 2 && consumed == 0 && notes->taking[sender][number] == 0)) {
                fprintf(stderr, "message %u of %u: published %u, consumed %u, taking %u\n", number, sender, state,
                        consumed, (unsigned)notes->taking[sender][number]);
                abort();
            }
            unnoted += state == 2 && consumed == 0;
        }
    CHECK(unnoted <= kills_of_receivers);
    printf("%lu messages published, %lu perhaps; consumed by the dead without a note: %lu\n", published, perhaps,
           unnoted);
    struct peer peer;
    struct ring_statistics statistics;
    struct receiving receiving = {0};
    peer_join(&peer, &bed);
    CHECK(ring_reap(&peer.ring) == RING_OK && ring_look(&peer.ring, &statistics) == RING_OK);
    CHECK(statistics.messages == 0 && statistics.ended);
    CHECK(try_receive(&peer, &receiving) == RING_ENDED);
    CHECK(bed.memory.header->head == bed.memory.header->tail);
    CHECK(bed.memory.header->send_lock == 0 && bed.memory.header->receive_lock == 0);
    for (uint32_t slot = 0; slot < RING_PEERS; slot++) {
        CHECK((bed.memory.header->peer[slot].state == RING_FREE) == (slot != peer.ring.slot));
        CHECK(slot == peer.ring.slot || bed.memory.header->peer[slot].holds == 0);
    }
    peer_leave(&peer);
    printf("wake-ups lost: %u of receivers, %u of senders\n", notes->lost_wakeups[RING_MESSAGES],
           notes->lost_wakeups[RING_ROOM]);
    CHECK(notes->lost_wakeups[RING_MESSAGES] == 0);
    CHECK(notes->lost_wakeups[RING_ROOM] == 0 || equal_size == 0);
}

/* Threads -------------------------------------------------------------------------- */

struct job {
    pthread_t thread;
    uint32_t number;
    uint64_t seed;
};

static _Atomic unsigned senders_left = SENDERS;

static void *
sender_thread(void *argument)
{
    struct job *job = argument;
    struct peer peer;
    peer_join(&peer, &bed);
    send_all(&peer, job->number, &job->seed);
    atomic_fetch_add(&notes->lost_wakeups[RING_ROOM], peer.lost);
    if (atomic_fetch_sub(&senders_left, 1) == 1)
        CHECK(wait_until(&peer, RING_ROOM, try_end, NULL) == RING_OK);
    peer_leave(&peer);
    return NULL;
}

static void *
receiver_thread(void *argument)
{
    struct job *job = argument;
    struct peer peer;
    peer_join(&peer, &bed);
    receive_all(&peer, &job->seed);
    atomic_fetch_add(&notes->lost_wakeups[RING_MESSAGES], peer.lost);
    peer_leave(&peer);
    return NULL;
}

static void
run_threads(uint64_t seed)
{
    struct job jobs[SENDERS + RECEIVERS];
    is_ordered = true;
    for (uint32_t i = 0; i < SENDERS; i++)
        last[i] = -1;
    for (uint32_t i = 0; i < SENDERS + RECEIVERS; i++) {
        jobs[i].number = i;
        jobs[i].seed = seed + i * 1000;
        CHECK(pthread_create(&jobs[i].thread, NULL, i < SENDERS ? sender_thread : receiver_thread, &jobs[i]) == 0);
    }
    for (uint32_t i = 0; i < SENDERS + RECEIVERS; i++)
        CHECK(pthread_join(jobs[i].thread, NULL) == 0);
    check_notes(0);
    for (uint32_t sender = 0; sender < SENDERS; sender++)
        CHECK(last[sender] >= 0 || messages < 100);
}

/* Processes ------------------------------------------------------------------------ */

static pid_t
start(uint32_t number, uint64_t seed)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct peer peer;
    peer_join(&peer, &bed);
    if (number < SENDERS)
        send_all(&peer, number, &seed);
    else
        receive_all(&peer, &seed);
    atomic_fetch_add(&notes->lost_wakeups[number < SENDERS ? RING_ROOM : RING_MESSAGES], peer.lost);
    peer_leave(&peer);
    _exit(0);
}

static void
finish_well(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void
run_processes(unsigned kills, uint64_t seed)
{
    pid_t pids[SENDERS + RECEIVERS];
    unsigned kills_of_receivers = 0, stops = 0;
    for (uint32_t i = 0; i < SENDERS + RECEIVERS; i++)
        pids[i] = start(i, draw(&seed));
    for (unsigned killed = 0; killed < kills;) {
        uint32_t i = (uint32_t)draw_below(&seed, SENDERS + RECEIVERS);
        nap(draw_below(&seed, 5000));
        int status;
        CHECK(waitpid(pids[i], &status, WNOHANG) == 0);     /* it has not failed, nor run out of numbers */
        bool stopped = draw_below(&seed, 3) == 0;
        if (stopped) {
            CHECK(kill(pids[i], SIGSTOP) == 0);
            nap(draw_below(&seed, 20000));
            stops++;
        }
        if (!stopped || draw_below(&seed, 2) == 0) {
            CHECK(kill(pids[i], SIGKILL) == 0);
            CHECK(waitpid(pids[i], &status, 0) == pids[i] && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            kills_of_receivers += i >= SENDERS;
            killed++;
            nap(draw_below(&seed, 2000));
            pids[i] = start(i, draw(&seed));
        } else
            CHECK(kill(pids[i], SIGCONT) == 0);
    }
    /* All go on: each sender and somebody who receives. */
    uint32_t now[SENDERS];
    for (uint32_t i = 0; i < SENDERS; i++)
        now[i] = notes->next[i];
    for (uint32_t i = 0; i < SENDERS; i++)
        while (notes->next[i] == now[i] && now[i] + BATCH <= messages)
            nap(1000);
    notes->stop = true;
    for (uint32_t i = 0; i < SENDERS; i++)
        finish_well(pids[i]);
    struct peer peer;
    peer_join(&peer, &bed);
    CHECK(wait_until(&peer, RING_ROOM, try_end, NULL) == RING_OK);
    for (uint32_t i = SENDERS; i < SENDERS + RECEIVERS; i++)
        finish_well(pids[i]);
    peer_leave(&peer);
    printf("%u killed (%u of them receivers), %u stopped, %u found dead\n", kills, kills_of_receivers, stops,
           bed.memory.header->dead);
    CHECK(bed.memory.header->dead <= kills);
    check_notes(kills_of_receivers);
}

static void
too_long(int signal)
{
    (void)signal;
    struct ring_header *header = bed.memory.header;
    fprintf(stderr,
            "it hangs: send_lock %x receive_lock %x head %llx next %llx tail %llx rewind %llx sleep %u %u ended %u\n",
            header->send_lock, header->receive_lock, (unsigned long long)header->head, (unsigned long long)header->next,
            (unsigned long long)header->tail, (unsigned long long)header->rewind, header->receivers_sleep,
            header->senders_sleep, header->ended);
    _exit(3);
}

int
main(int argc, char **argv)
{
    uint64_t seed = (uint64_t)time(NULL), capacity = 4096;
    unsigned kills = 100;
    messages = 20000;
    bool equal = false, processes = argc > 1 && strcmp(argv[1], "processes") == 0;
    CHECK(argc > 1 && (processes || strcmp(argv[1], "threads") == 0));
    for (int i = 2; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seed") == 0)
            seed = value;
        else if (strcmp(argv[i], "--capacity") == 0)
            capacity = value;
        else if (strcmp(argv[i], "--kills") == 0)
            kills = (unsigned)value;
        else if (strcmp(argv[i], "--messages") == 0)
            messages = (uint32_t)value;
        else if (strcmp(argv[i], "--equal") == 0)
            equal = value != 0;
        else
            CHECK(!"an option");
    }
    if (processes)
        messages = MAX_MESSAGES;
    CHECK(messages <= MAX_MESSAGES && capacity >= 1000);
    if (equal)
        equal_size = ring_longest(1000);
    printf("%s: --capacity %llu --seed %llu\n", argv[1], (unsigned long long)capacity, (unsigned long long)seed);
    fflush(stdout);
    notes = mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(notes != MAP_FAILED);
    bed_make(&bed, capacity, true);
    signal(SIGALRM, too_long);
    alarm(60 + kills / 5);
    if (processes)
        run_processes(kills, seed);
    else
        run_threads(seed);
    bed_remove(&bed);
    return 0;
}
