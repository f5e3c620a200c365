/* How fast blocking calls are, without a loop, a task or Python: what no library can go below.
 *
 *   floor KIND send SIZE COUNT ENDS LINK    COUNT messages, then ENDS messages that mean the end
 *   floor KIND receive SIZE ENDS LINK       prints when the first came and the last (ns), and how many that were
 *   floor KIND ping SIZE COUNT OUT IN       prints the nanoseconds of each round trip
 *   floor KIND echo SIZE COUNT IN OUT       sends back what it receives
 *   floor memory copy SIZE COUNT            prints the nanoseconds that COUNT memcpy took
 *
 * KIND is mq, and LINK the name of a POSIX message queue; or fifo, and LINK a path.  Times are those of CLOCK_MONOTONIC.
 * The program says "ready" when it has opened what it needs, and goes on after a line on standard input. */
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "peer.h"

static int is_queue;
static size_t size;

static int
open_link(const char *link, int flags)
{
    /* A FIFO for both: opening does not wait, and there is no end of file. */
    return (int)(is_queue ? check("mq_open", mq_open(link, flags)) : check("open", open(link, O_RDWR)));
}

static void
send_message(int link, const char *data)
{
    if (is_queue)
        check("mq_send", mq_send(link, data, size, 0));
    else
        for (size_t done = 0; done < size;)
            done += (size_t)check("write", write(link, data + done, size - done));
}

static void
receive_message(int link, char *data)
{
    if (is_queue)
        check("mq_receive", mq_receive(link, data, size, NULL));
    else
        for (size_t done = 0; done < size;)
            done += (size_t)check("read", read(link, data + done, size - done));
}

static long
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void
wait_for_the_others(void)
{
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        exit(1);
}

int
main(int argc, char **argv)
{
    const char *command = argc > 4 ? argv[2] : "";
    size = argc > 4 ? strtoul(argv[3], NULL, 10) : 0;
    long count = argc > 4 ? atol(argv[4]) : 0;
    is_queue = argc > 4 && !strcmp(argv[1], "mq");
    char *data = malloc(size + 1), *end = calloc(size + 1, 1), *got = malloc(size + 1);
    check("prctl", prctl(PR_SET_PDEATHSIG, SIGKILL)); /* a FIFO that is open for both has no end of file */
    if (data == NULL || end == NULL || got == NULL)
        return 1;
    memset(data, 'd', size + 1);
    memset(got, 0, size + 1);
    if (!strcmp(command, "send") && argc == 7) {
        int link = open_link(argv[6], O_WRONLY);
        wait_for_the_others();
        while (count--)
            send_message(link, data);
        for (long ends = atol(argv[5]); ends > 0; ends--)
            send_message(link, end);
        getchar(); /* a FIFO keeps its bytes only while somebody has it open */
    } else if (!strcmp(command, "receive") && argc == 6) {
        int link = open_link(argv[5], O_RDONLY);
        wait_for_the_others();
        long began = 0, messages = 0;
        for (long ends = count; ends > 0; messages++) {
            receive_message(link, got);
            if (began == 0)
                began = now();
            if (memcmp(got, data, size) != 0) {
                if (memcmp(got, end, size) != 0) {
                    fputs("not what was sent\n", stderr);
                    return 1;
                }
                ends--;
            }
        }
        printf("%ld %ld %ld\n", began, now(), messages);
    } else if (!strcmp(command, "ping") && argc == 7) {
        int out = open_link(argv[5], O_WRONLY), in = open_link(argv[6], O_RDONLY);
        wait_for_the_others();
        while (count--) {
            long began = now();
            send_message(out, data);
            receive_message(in, got);
            printf("%ld\n", now() - began);
        }
    } else if (!strcmp(command, "echo") && argc == 7) {
        int in = open_link(argv[5], O_RDONLY), out = open_link(argv[6], O_WRONLY);
        wait_for_the_others();
        while (count--) {
            receive_message(in, got);
            send_message(out, got);
        }
    } else if (!strcmp(command, "copy") && argc == 5) {
        long began = now();
        for (long i = 0; i < count; i++) {
            memcpy(got, data, size);
            __asm__ volatile("" : : "r"(got), "r"(data) : "memory"); /* or none would be made */
        }
        printf("%ld\n", now() - began);
    } else {
        fputs("usage: see the top of floor.c\n", stderr);
        return 2;
    }
    return 0;
}
