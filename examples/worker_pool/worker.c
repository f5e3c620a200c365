/* A worker in C: takes jobs from one System V queue, and sends what comes of them to another.
 *
 *     cc worker.c -o worker
 *     ./worker JOBS RESULTS          (ids of the queues, as ipcs -q shows them)
 *
 * The same in Python, and what travels: worker.py.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <unistd.h>

enum { URGENT = 1, NORMAL = 2, GO_HOME = 3, READY = 4 };

struct message {
    long type;
    char text[100];
};

static long
count_primes(long below)
{
    long count = 0;
    for (long n = 2; n < below; n++) {
        long divisor = 2;
        while (divisor * divisor <= n && n % divisor != 0)
            divisor++;
        count += divisor * divisor > n;
    }
    return count;
}

/* The next message, with text that ends.  A queue that is removed ends the work. */
static void
receive(int jobs, struct message *message, long type)
{
    ssize_t size = msgrcv(jobs, message, sizeof message->text - 1, type, 0);
    if (size == -1) {
        if (errno == EIDRM || errno == EINVAL)
            exit(0);
        perror("msgrcv");
        exit(1);
    }
    message->text[size] = '\0';
}

static void
reply(int results, long type, const char *text)
{
    struct message message = {.type = type};
    snprintf(message.text, sizeof message.text, "%s", text);
    if (msgsnd(results, &message, strlen(message.text), 0) == -1) {
        if (errno == EIDRM || errno == EINVAL)
            exit(0);
        perror("msgsnd");
        exit(1);
    }
}

int
main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s JOBS RESULTS\n", argv[0]);
        return 2;
    }
    int jobs = atoi(argv[1]), results = atoi(argv[2]), done = 0;
    long pid = getpid();
    struct message job;
    char answer[100];

    snprintf(answer, sizeof answer, "%ld", pid);
    reply(results, READY, answer);
    receive(jobs, &job, pid);                   /* the first job is for this worker alone */
    while (job.type != GO_HOME) {
        long number, below;
        if (sscanf(job.text, "%ld %ld", &number, &below) != 2) {
            fprintf(stderr, "not a job: %s\n", job.text);
            return 1;
        }
        usleep(20000);                          /* stands for what real jobs wait for */
        snprintf(answer, sizeof answer, "%ld %ld %ld", pid, number, count_primes(below));
        reply(results, job.type, answer);
        done++;
        receive(jobs, &job, -GO_HOME);          /* of types 1 to 3, the lowest there is */
    }
    snprintf(answer, sizeof answer, "%ld %d", pid, done);
    reply(results, GO_HOME, answer);
    return 0;
}
