/* A program at the other end of a POSIX message queue that knows nothing of aioipc.
 *
 *   mq create NAME MAX_MESSAGES MAX_MESSAGE_SIZE
 *   mq unlink NAME
 *   mq send NAME PRIORITY TEXT...       one message for each TEXT
 *   mq receive NAME COUNT               prints "PRIORITY TEXT" for each message
 *   mq drain NAME LAST                  the same until a message is LAST, which it does not print
 *   mq count NAME COUNT SIZE            sends the numbers 0 to COUNT-1 in SIZE bytes each
 *   mq fill NAME COUNT SIZE             the same COUNT again for each byte on standard input
 *   mq echo IN OUT COUNT                sends back what it receives
 *   mq ping OUT IN COUNT                prints the nanoseconds that a round trip took
 *
 * All calls block.  Anything unexpected ends the program with the name of the call. */
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "peer.h"

static char buffer[1 << 20];

static mqd_t
open_queue(const char *name, int flags)
{
    return (mqd_t)check("mq_open", mq_open(name, flags));
}

static void
send_numbers(mqd_t queue, long count, long size)
{
    for (long i = 0; i < count; i++) {
        snprintf(buffer, sizeof buffer, "%0*ld", (int)size, i);
        check("mq_send", mq_send(queue, buffer, (size_t)size, 0));
    }
}

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int
main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";
    unsigned priority;
    setvbuf(stdout, NULL, _IOLBF, 0);

    if (!strcmp(command, "create") && argc == 5) {
        struct mq_attr attr = {.mq_maxmsg = atol(argv[3]), .mq_msgsize = atol(argv[4])};
        check("mq_open", mq_open(argv[2], O_RDWR | O_CREAT | O_EXCL, 0600, &attr));
    } else if (!strcmp(command, "unlink")) {
        check("mq_unlink", mq_unlink(argv[2]));
    } else if (!strcmp(command, "send")) {
        mqd_t queue = open_queue(argv[2], O_WRONLY);
        for (int i = 4; i < argc; i++)
            check("mq_send", mq_send(queue, argv[i], strlen(argv[i]), (unsigned)atol(argv[3])));
    } else if (!strcmp(command, "receive") && argc == 4) {
        mqd_t queue = open_queue(argv[2], O_RDONLY);
        for (long i = atol(argv[3]); i > 0; i--) {
            long size = check("mq_receive", mq_receive(queue, buffer, sizeof buffer, &priority));
            printf("%u %.*s\n", priority, (int)size, buffer);
        }
    } else if (!strcmp(command, "drain") && argc == 4) {
        mqd_t queue = open_queue(argv[2], O_RDONLY);
        for (;;) {
            long size = check("mq_receive", mq_receive(queue, buffer, sizeof buffer, &priority));
            if ((size_t)size == strlen(argv[3]) && !memcmp(buffer, argv[3], (size_t)size))
                break;
            printf("%u %.*s\n", priority, (int)size, buffer);
        }
    } else if (!strcmp(command, "count") && argc == 5) {
        send_numbers(open_queue(argv[2], O_WRONLY), atol(argv[3]), atol(argv[4]));
    } else if (!strcmp(command, "fill") && argc == 5) {
        mqd_t queue = open_queue(argv[2], O_WRONLY);
        while (getchar() != EOF) {
            send_numbers(queue, atol(argv[3]), atol(argv[4]));
            puts("full");
        }
    } else if (!strcmp(command, "echo") && argc == 5) {
        mqd_t in = open_queue(argv[2], O_RDONLY), out = open_queue(argv[3], O_WRONLY);
        for (long i = atol(argv[4]); i > 0; i--) {
            long size = check("mq_receive", mq_receive(in, buffer, sizeof buffer, &priority));
            check("mq_send", mq_send(out, buffer, (size_t)size, priority));
        }
    } else if (!strcmp(command, "ping") && argc == 5) {
        mqd_t out = open_queue(argv[2], O_WRONLY), in = open_queue(argv[3], O_RDONLY);
        long count = atol(argv[4]);
        double start = now();
        for (long i = 0; i < count; i++) {
            check("mq_send", mq_send(out, "12345678", 8, 0));
            check("mq_receive", mq_receive(in, buffer, sizeof buffer, &priority));
        }
        printf("%.0f\n", (now() - start) / (double)count);
    } else {
        fputs("usage: see the head of mq.c\n", stderr);
        return 2;
    }
    return 0;
}
