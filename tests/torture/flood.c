/* A neighbour that sends without end, or takes all there is, until SIGTERM; then it prints how many that were.
 *
 *   flood KIND send|receive NAME            mq, sem (post and wait), fifo
 *   flood KIND send|receive ID              msg, semset (its first semaphore)
 *   flood channel send|receive MEMORY BELL BELL
 *
 * A message is one byte.  It prints "ready" when it begins.  All calls block, but for those of a channel. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/time.h>
#include <unistd.h>

#include "../peers/peer.h"

#include "../../aioipc/_ring/ring.h"

static volatile sig_atomic_t ends;
static bool sends;
static int descriptor;      /* of a queue or a FIFO, or the id of what is System V */
static sem_t *semaphore;
static struct ring ring;

static void end(int number) { ends = number; }
static void interrupt(int number) { (void)number; }

/* Each does it once: -1 with errno if it has not. */

static long
use_mq(void)
{
    char bytes[8192] = "x";
    return sends ? mq_send(descriptor, bytes, 1, 0) : mq_receive(descriptor, bytes, sizeof bytes, NULL);
}

static long
use_msg(void)
{
    struct {
        long type;
        char byte;
    } message = {1, 'x'};
    return sends ? msgsnd(descriptor, &message, 1, 0) : msgrcv(descriptor, &message, 1, 0, 0);
}

static long
use_fifo(void)
{
    char byte = 'x';
    return sends ? write(descriptor, &byte, 1) : read(descriptor, &byte, 1);
}

static long
use_sem(void)
{
    return sends ? sem_post(semaphore) : sem_wait(semaphore);
}

static long
use_semset(void)
{
    struct sembuf operation = {.sem_num = 0, .sem_op = sends ? 1 : -1};
    return semop(descriptor, &operation, 1);
}

static long
use_channel(void)
{
    struct ring_loan loan;
    enum ring_result result = sends ? ring_lock_send(&ring) : ring_lock_receive(&ring);
    if (result == RING_OK && sends) {
        result = ring_make_room(&ring, ring_length(1));
        if (result == RING_OK) {
            ring_allocate(&ring, 1, RING_READY, &loan);
            loan.data[0] = 'x';
            ring_publish(&ring);
        }
        ring_unlock_send(&ring);
        ring_wake_receivers(&ring);
    } else if (result == RING_OK) {
        result = ring_find(&ring, &loan);
        if (result == RING_OK)
            ring_consume(&ring, &loan);
        ring_unlock_receive(&ring);
        ring_wake_senders(&ring);
    }
    errno = result == RING_FULL || result == RING_EMPTY || result == RING_BUSY ? EAGAIN : EIO;
    return result == RING_OK ? 0 : -1;
}

static void
open_channel(char *const *paths)
{
    struct ring_memory memory;
    int bells[2], file = (int)check(paths[0], open(paths[0], O_RDWR));
    bells[RING_MESSAGES] = (int)check(paths[1], open(paths[1], O_RDWR | O_NONBLOCK));
    int locks = (int)check(paths[0], open(paths[0], O_RDWR));
    bells[RING_ROOM] = (int)check(paths[2], open(paths[2], O_RDWR | O_NONBLOCK));
    check("ring_map", ring_map(&memory, file) == RING_OK ? 0 : -1);
    check("ring_join", ring_join(&ring, &memory, locks, bells) == RING_OK ? 0 : -1);
}

static long (*open_kind(const char *kind, char *const *names))(void)
{
    if (strcmp(kind, "mq") == 0) {
        descriptor = (int)check("mq_open", mq_open(names[0], O_RDWR));
        return use_mq;
    }
    if (strcmp(kind, "fifo") == 0) {
        descriptor = (int)check("open", open(names[0], O_RDWR));
        return use_fifo;
    }
    if (strcmp(kind, "sem") == 0) {
        semaphore = sem_open(names[0], 0);
        check("sem_open", semaphore == SEM_FAILED ? -1 : 0);
        return use_sem;
    }
    if (strcmp(kind, "channel") == 0) {
        open_channel(names);
        return use_channel;
    }
    descriptor = atoi(names[0]);
    return strcmp(kind, "msg") == 0 ? use_msg : use_semset;
}

int
main(int argc, char **argv)
{
    unsigned long done = 0;
    if (argc < 4)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sends = strcmp(argv[2], "send") == 0;
    long (*use)(void) = open_kind(argv[1], argv + 3);
    /* A call that begins just after SIGTERM has come is interrupted by the next of these. */
    struct itimerval often = {{0, 10000}, {0, 10000}};
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = end}, NULL);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = interrupt}, NULL);
    check("setitimer", setitimer(ITIMER_REAL, &often, NULL));
    puts("ready");
    fflush(stdout);
    while (!ends) {
        if (use() != -1)
            done++;
        else if (errno == EAGAIN || errno == ERANGE || errno == EOVERFLOW)
            usleep(50);     /* a channel, or a semaphore, has to be asked again */
        else
            check(argv[1], errno == EINTR ? 0 : -1);
    }
    if (use == use_channel)
        ring_leave(&ring);
    printf("%lu\n", done);
    return 0;
}
