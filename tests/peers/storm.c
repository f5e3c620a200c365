/* A peer that gives or takes when it is told to, for tests/torture/storms.py, and says in the end what it did.
 *
 *   storm give OBJECT... RECORD
 *   storm take OBJECT... RECORD
 *   storm end
 *
 * OBJECT is one of these:
 *
 *   mq NAME
 *   semaphore NAME
 *   queue ID FIRST TYPES CHOICE e|- SIZE
 *                                       messages of the types FIRST to FIRST + TYPES - 1 in turn, of that many bytes,
 *                                       are given; taken is what CHOICE says, or with e everything else
 *   set ID NUMBER...                    one of each of these semaphores, at once
 *   swing ID                            one of semaphore 1, for which semaphore 0 must be zero: to give it, this raises
 *                                       semaphore 0, and lowers it again
 *   latch ID                            semaphore 0 is lowered, or raised when it is zero
 *   fifo PATH SIZE                      messages of that many bytes
 *   opening PATH                        each time it opens its end, and closes it again
 *   channel NAME
 *
 * For each byte on standard input it gives or takes one, waiting, and writes a byte to standard output.  What it
 * gives are the numbers START, START + 1 and so on, as text in 16 bytes or more; START is in the environment, or 0.  At
 * the end of standard input it takes what is left without waiting, and writes to the file RECORD how many it gave, or
 * the numbers it took, a line each.  SIGUSR1 ends a wait then.
 *
 * "end" reads lines, does what they say, and writes a byte for each, which is a + where nothing else is said:
 *
 *   queue ID, set ID                    removes it
 *   reader PATH, writer PATH, close -   opens an end of a FIFO, and closes it again
 *   lock NAME, unlock -                 goes where it alone can send to a channel, and comes back
 *   finish NAME                         ends a channel
 *   ended NAME                          whether it has been ended: the byte is a + or a -
 *   mq NAME, semaphore NAME, channel NAME
 *                                       opens it, to have it in the following
 *   unlink NAME                         takes its name away
 *   give -                              gives one
 *   left -                              takes what is left, and closes it: the byte is a digit, how many these were
 *
 * Anything unexpected ends the program with the name of the call. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <unistd.h>

#include "peer.h"

#include "../../aioipc/_ring/ring.h"

enum { OTHER = -1 };   /* the number of what this has not given */

static bool gives;
static char **words;    /* those after the kind of the object */
static int count;       /* of these */
static char text[16384];

/* Whether a call was successful; false if it had to wait, and was not to, or was interrupted. */
static bool
done(const char *call, long result)
{
    if (result == -1 && (errno == EINTR || errno == EAGAIN || errno == ENOMSG))
        return false;
    check(call, result);
    return true;
}

static void
interrupt(int number)
{
    (void)number;
}

static void
write_text(long number, int size)
{
    snprintf(text, sizeof text, "%016ld%*s", number, size - 16, "");
}

static long
read_text(void)
{
    return strtol(text, NULL, 10);
}

/* POSIX message queues ------------------------------------------------------- */

static mqd_t mq;

static void
open_mq(void)
{
    mq = (mqd_t)check("mq_open", mq_open(words[0], O_RDWR));
}

static void
close_mq(void)
{
    check("mq_close", mq_close(mq));
}

static void
unlink_mq(void)
{
    check("mq_unlink", mq_unlink(words[0]));
}

static bool
give_mq(long number)
{
    write_text(number, 16);
    return done("mq_send", mq_send(mq, text, 16, 0));
}

static bool
take_mq(bool waiting, long *number)
{
    struct timespec past = {0, 0};
    if (!waiting) {
        ssize_t size = mq_timedreceive(mq, text, sizeof text, NULL, &past);
        if (size == -1 && errno == ETIMEDOUT)
            return false;
        check("mq_timedreceive", size);
    } else if (!done("mq_receive", mq_receive(mq, text, sizeof text, NULL)))
        return false;
    *number = read_text();
    return true;
}

/* POSIX semaphores ----------------------------------------------------------- */

static sem_t *semaphore;

static void
open_semaphore(void)
{
    semaphore = sem_open(words[0], 0);
    check("sem_open", semaphore == SEM_FAILED ? -1 : 0);
}

static void
close_semaphore(void)
{
    check("sem_close", sem_close(semaphore));
}

static void
unlink_semaphore(void)
{
    check("sem_unlink", sem_unlink(words[0]));
}

static bool
give_semaphore(long number)
{
    (void)number;
    return done("sem_post", sem_post(semaphore));
}

static bool
take_semaphore(bool waiting, long *number)
{
    *number = 0;
    return done("sem_wait", (waiting ? sem_wait : sem_trywait)(semaphore));
}

/* System V queues ------------------------------------------------------------ */

static int id;
static struct {
    long type;
    char text[sizeof text];
} message;

static void
open_id(void)
{
    id = atoi(words[0]);
}

static bool
give_queue(long number)
{
    message.type = atol(words[1]) + number % atol(words[2]);
    size_t length = (size_t)atoi(words[5]);
    write_text(number, (int)length);
    memcpy(message.text, text, length);
    return done("msgsnd", msgsnd(id, &message, length, 0));
}

static bool
take_queue(bool waiting, long *number)
{
    int flags = words[4][0] == 'e' ? MSG_EXCEPT : 0;
    ssize_t size = waiting ? msgrcv(id, &message, sizeof text, atol(words[3]), flags)
                           : msgrcv(id, &message, sizeof text, 0, IPC_NOWAIT);
    if (!done("msgrcv", size))
        return false;
    memcpy(text, message.text, (size_t)size);
    text[size] = 0;
    *number = size == 0 ? OTHER : read_text();
    return true;
}

/* System V sets -------------------------------------------------------------- */

static bool
operate_all(short amount, short flags)
{
    struct sembuf operations[8];
    for (int i = 1; i < count; i++)
        operations[i - 1] =
            (struct sembuf){.sem_num = (unsigned short)atoi(words[i]), .sem_op = amount, .sem_flg = flags};
    return done("semop", semop(id, operations, (size_t)count - 1));
}

static bool
give_set(long number)
{
    (void)number;
    return operate_all(1, 0);
}

static bool
take_set(bool waiting, long *number)
{
    *number = 0;
    return operate_all(-1, waiting ? 0 : IPC_NOWAIT);
}

static bool
give_swing(long number)
{
    struct sembuf raise[] = {{0, 1, 0}}, lower[] = {{0, -1, 0}, {1, 1, 0}};
    (void)number;
    return done("semop", semop(id, raise, 1)) && done("semop", semop(id, lower, 2));
}

static bool
take_swing(bool waiting, long *number)
{
    short flags = waiting ? 0 : IPC_NOWAIT;
    struct sembuf operations[] = {{0, 0, flags}, {1, -1, flags}};
    *number = 0;
    return done("semop", semop(id, operations, 2));
}

static bool
give_latch(long number)
{
    struct sembuf lower[] = {{0, -1, 0}};
    (void)number;
    return done("semop", semop(id, lower, 1));
}

static bool
take_latch(bool waiting, long *number)
{
    struct sembuf raise[] = {{0, 0, waiting ? 0 : IPC_NOWAIT}, {0, 1, 0}};
    *number = 0;
    return done("semop", semop(id, raise, 2));
}

/* FIFOs ---------------------------------------------------------------------- */

static int fifo, size;

/* For both: neither end is ever the last one. */
static void
open_fifo(void)
{
    fifo = (int)check("open", open(words[0], O_RDWR));
    size = atoi(words[1]);
}

static bool
give_fifo(long number)
{
    write_text(number, size);
    return done("write", write(fifo, text, (size_t)size));
}

static bool
take_fifo(bool waiting, long *number)
{
    struct pollfd ready = {.fd = fifo, .events = POLLIN};
    if (!done("poll", poll(&ready, 1, waiting ? -1 : 0)) || ready.revents == 0)
        return false;
    ssize_t got = read(fifo, text, (size_t)size);
    if (!done("read", got))
        return false;
    if (got != size) {
        fprintf(stderr, "%zd bytes\n", got);
        exit(1);
    }
    *number = read_text();
    return true;
}

static void
open_nothing(void)
{
}

/* Who opened the other end may have given up at once: then once more. */
static bool
give_opening(long number)
{
    write_text(number, 16);
    for (;;) {
        int end = open(words[0], O_WRONLY);
        if (!done("open", end))
            return false;
        ssize_t written = write(end, text, 16);
        close(end);
        if (written == 16)
            return true;
        if (errno != EPIPE)
            check("write", -1);
    }
}

/* Who opened the other end may leave without a message: that is one time, too. */
static bool
take_opening(bool waiting, long *number)
{
    int end = waiting ? open(words[0], O_RDONLY) : -1;
    if (!waiting || !done("open", end))
        return false;
    ssize_t got = read(end, text, 16);
    close(end);
    if (!done("read", got))
        return false;
    *number = got == 0 ? OTHER : read_text();
    return true;
}

/* Channels ------------------------------------------------------------------- */

static struct ring ring;

static char path[300];

static const char *
in_memory(const char *name)
{
    snprintf(path, sizeof path, "/dev/shm%.255s", name);
    return path;
}

static const char *
doorbell(const struct ring_header *header, const char *which)
{
    snprintf(path, sizeof path, "/dev/shm/aioipc.%016llx.%s", (unsigned long long)header->id, which);
    return path;
}

static int
open_file(const char *file)
{
    return (int)check(file, open(file, O_RDWR | O_NONBLOCK | O_CLOEXEC));
}

static void
must(const char *call, enum ring_result result)
{
    if (result != RING_OK) {
        fprintf(stderr, "%s: %d\n", call, (int)result);
        exit(1);
    }
}

/* The descriptors in rising order: see _deaths.py. */
static void
open_channel(void)
{
    struct ring_memory memory;
    int bells[2], file = open_file(in_memory(words[0]));
    must("ring_map", ring_map(&memory, file));
    close(file);
    bells[RING_MESSAGES] = open_file(doorbell(memory.header, "messages"));
    int lock_file = open_file(in_memory(words[0]));
    bells[RING_ROOM] = open_file(doorbell(memory.header, "room"));
    must("ring_join", ring_join(&ring, &memory, lock_file, bells));
    check("ring_listen", ring_listen(&ring, gives ? RING_ROOM : RING_MESSAGES));
}

static void
close_channel(void)
{
    ring_leave(&ring);
    ring_unmap(&ring.memory);
    close(ring.ears[gives ? RING_ROOM : RING_MESSAGES]);
    close(ring.bells[RING_MESSAGES]);
    close(ring.lock_file);
    close(ring.bells[RING_ROOM]);
}

static void
unlink_channel(void)
{
    check("unlink", unlink(in_memory(words[0])));
    check("unlink", unlink(doorbell(ring.memory.header, "messages")));
    check("unlink", unlink(doorbell(ring.memory.header, "room")));
}

static enum ring_result
try_channel(void)
{
    struct ring_loan loan;
    enum ring_result result = (gives ? ring_lock_send : ring_lock_receive)(&ring);
    if (result != RING_OK)
        return result;
    result = gives ? ring_make_room(&ring, ring_length(16)) : ring_find(&ring, &loan);
    if (result == RING_OK && gives) {
        ring_allocate(&ring, 16, RING_READY, &loan);
        memcpy(loan.data, text, 16);
        ring_publish(&ring);
    } else if (result == RING_OK) {
        memcpy(text, loan.data, 16);
        ring_consume(&ring, &loan);
    }
    (gives ? ring_unlock_send : ring_unlock_receive)(&ring);
    if (result == RING_OK)
        (gives ? ring_wake_receivers : ring_wake_senders)(&ring);
    return result;
}

static bool
must_wait(enum ring_result result)
{
    return result == RING_FULL || result == RING_EMPTY || result == RING_BUSY;
}

static bool
use_channel(bool waiting)
{
    enum ring_bell bell = gives ? RING_ROOM : RING_MESSAGES;
    enum ring_result result = try_channel();
    bool has_waited = false;
    while (must_wait(result)) {
        struct pollfd ready = {.fd = ring.ears[bell], .events = POLLIN};
        if (!waiting && result != RING_BUSY)
            return false;
        has_waited = ring.waits = true;
        ring_arm(&ring, bell);
        result = try_channel();
        ring.waits = false;
        if (must_wait(result) && waiting && !done("poll", poll(&ready, 1, -1)))
            return false;
    }
    must("channel", result);
    if (has_waited)
        ring_ring(&ring, bell);
    return true;
}

static bool
give_channel(long number)
{
    write_text(number, 16);
    return use_channel(true);
}

static bool
take_channel(bool waiting, long *number)
{
    if (!use_channel(waiting))
        return false;
    text[16] = 0;
    *number = read_text();
    return true;
}

/* ---------------------------------------------------------------------------- */

static const struct kind {
    const char *name;
    void (*open)(void);
    bool (*give)(long number);
    bool (*take)(bool waiting, long *number);
    void (*unlink)(void);
    void (*close)(void);
} kinds[] = {
    {"mq", open_mq, give_mq, take_mq, unlink_mq, close_mq},
    {"semaphore", open_semaphore, give_semaphore, take_semaphore, unlink_semaphore, close_semaphore},
    {"queue", open_id, give_queue, take_queue, NULL, NULL},
    {"set", open_id, give_set, take_set, NULL, NULL},
    {"swing", open_id, give_swing, take_swing, NULL, NULL},
    {"latch", open_id, give_latch, take_latch, NULL, NULL},
    {"fifo", open_fifo, give_fifo, take_fifo, NULL, NULL},
    {"opening", open_nothing, give_opening, take_opening, NULL, NULL},
    {"channel", open_channel, give_channel, take_channel, unlink_channel, close_channel},
};

static const struct kind *
find(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    fprintf(stderr, "%s?\n", name);
    exit(2);
}

static void
note(FILE *record, long number)
{
    if (number != OTHER)
        fprintf(record, "%ld\n", number);
}

static void
serve(const struct kind *kind, FILE *record)
{
    const char *start = getenv("START");
    long first = start == NULL ? 0 : atol(start), next = first, number;
    char byte;
    while (read(0, &byte, 1) == 1) {
        if (gives ? !kind->give(next) : !kind->take(true, &number))
            break;      /* interrupted */
        if (gives)
            next++;
        else
            note(record, number);
        check("write", write(1, &byte, 1));
    }
    /* What is left is taken undisturbed. */
    signal(SIGUSR1, SIG_IGN);
    if (gives)
        fprintf(record, "%ld\n", next - first);
    else
        while (kind->take(false, &number))
            note(record, number);
}

/* Somebody may be in the lock just now. */
static void
until_free(const char *call, enum ring_result (*act)(struct ring *ring))
{
    enum ring_result result;
    while ((result = act(&ring)) == RING_BUSY)
        ;
    must(call, result);
}

static bool
is_ended(void)
{
    struct ring_statistics found;
    open_channel();
    must("ring_look", ring_look(&ring, &found));
    close_channel();
    return found.ended;
}

/* How many were left, as a digit. */
static char
take_left(const struct kind *kind)
{
    char left = '0';
    long number;
    gives = false;
    while (kind->take(false, &number))
        left++;
    gives = true;
    kind->close();
    return left;
}

static void
end_all(void)
{
    char what[20], which[4000], *name = which;
    const struct kind *kind = NULL;
    words = &name;
    while (scanf("%19s %3999s", what, which) == 2) {
        char answer = '+';
        if (strcmp(what, "queue") == 0)
            check("msgctl", msgctl(atoi(which), IPC_RMID, NULL));
        else if (strcmp(what, "set") == 0)
            check("semctl", semctl(atoi(which), 0, IPC_RMID));
        else if (strcmp(what, "reader") == 0)
            fifo = (int)check("open", open(which, O_RDONLY | O_NONBLOCK));
        else if (strcmp(what, "writer") == 0)
            fifo = (int)check("open", open(which, O_WRONLY));
        else if (strcmp(what, "close") == 0)
            check("close", close(fifo));
        else if (strcmp(what, "lock") == 0) {
            open_channel();
            until_free("ring_lock_send", ring_lock_send);
        } else if (strcmp(what, "unlock") == 0) {
            ring_unlock_send(&ring);
            close_channel();
        } else if (strcmp(what, "finish") == 0) {
            open_channel();
            until_free("ring_end", ring_end);
            close_channel();
        } else if (strcmp(what, "ended") == 0)
            answer = is_ended() ? '+' : '-';
        else if (strcmp(what, "unlink") == 0)
            kind->unlink();
        else if (strcmp(what, "give") == 0)
            kind->give(0);
        else if (strcmp(what, "left") == 0)
            answer = take_left(kind);
        else {
            kind = find(what);
            gives = true;
            kind->open();
        }
        check("write", write(1, &answer, 1));
    }
}

int
main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = interrupt};    /* without SA_RESTART */
    check("sigaction", sigaction(SIGUSR1, &action, NULL));
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && strcmp(argv[1], "end") == 0) {
        end_all();
        return 0;
    }
    if (argc < 5) {
        fputs("usage: see the head of storm.c\n", stderr);
        return 2;
    }
    gives = strcmp(argv[1], "give") == 0;
    words = argv + 3;
    count = argc - 4;
    const struct kind *kind = find(argv[2]);
    FILE *record = fopen(argv[argc - 1], "w");
    check("fopen", record == NULL ? -1 : 0);
    kind->open();
    serve(kind, record);
    check("fclose", fclose(record));
    return 0;
}
