/* A daemon that knows nothing of Python: it puts readings on a POSIX message queue.
 *
 *     cc client.c -o client -lrt
 *     ./client /telemetry 5
 */
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int
main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s QUEUE COUNT\n", argv[0]);
        return 2;
    }
    mqd_t queue = mq_open(argv[1], O_WRONLY);
    if (queue == (mqd_t)-1) {
        perror(argv[1]);
        return 1;
    }
    for (int i = 0; i < atoi(argv[2]); i++) {
        char reading[64];
        double temperature = 20.0 + i % 10;
        unsigned priority = temperature > 28.0 ? 10 : 1;
        snprintf(reading, sizeof reading, "temperature=%.1f number=%d", temperature, i);
        if (mq_send(queue, reading, strlen(reading), priority) == -1) {
            perror("mq_send");
            return 1;
        }
    }
    mq_close(queue);
    return 0;
}
