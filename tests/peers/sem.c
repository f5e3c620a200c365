/* A program that uses POSIX semaphores and knows nothing of aioipc.
 *
 *   sem create NAME VALUE
 *   sem unlink NAME
 *   sem value NAME                      prints it
 *   sem wait NAME COUNT                 prints "got N" for each permit
 *   sem post NAME COUNT
 *   sem hold NAME                       prints "held", and posts at the end of standard input
 *   sem echo IN OUT COUNT               posts OUT for each permit of IN
 *   sem try NAME COUNT                  takes up to COUNT without waiting, and prints how many
 *
 * All calls but those of try block.  Anything unexpected ends the program with the name of the call. */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
check(const char *call, int result)
{
    if (result == -1) {
        perror(call);
        exit(1);
    }
}

static sem_t *
open_semaphore(const char *name)
{
    sem_t *semaphore = sem_open(name, 0);
    check("sem_open", semaphore == SEM_FAILED ? -1 : 0);
    return semaphore;
}

int
main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";
    long count = argc > 3 ? atol(argv[argc - 1]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);

    if (!strcmp(command, "create") && argc == 4) {
        sem_t *semaphore = sem_open(argv[2], O_CREAT | O_EXCL, 0600, (unsigned)count);
        check("sem_open", semaphore == SEM_FAILED ? -1 : 0);
    } else if (!strcmp(command, "unlink")) {
        check("sem_unlink", sem_unlink(argv[2]));
    } else if (!strcmp(command, "value")) {
        int value;
        check("sem_getvalue", sem_getvalue(open_semaphore(argv[2]), &value));
        printf("%d\n", value);
    } else if (!strcmp(command, "wait") && argc == 4) {
        sem_t *semaphore = open_semaphore(argv[2]);
        for (long i = 0; i < count; i++) {
            check("sem_wait", sem_wait(semaphore));
            printf("got %ld\n", i);
        }
    } else if (!strcmp(command, "post") && argc == 4) {
        sem_t *semaphore = open_semaphore(argv[2]);
        for (long i = 0; i < count; i++)
            check("sem_post", sem_post(semaphore));
    } else if (!strcmp(command, "hold")) {
        sem_t *semaphore = open_semaphore(argv[2]);
        check("sem_wait", sem_wait(semaphore));
        puts("held");
        while (getchar() != EOF)
            ;
        check("sem_post", sem_post(semaphore));
    } else if (!strcmp(command, "echo") && argc == 5) {
        sem_t *in = open_semaphore(argv[2]), *out = open_semaphore(argv[3]);
        for (long i = 0; i < count; i++) {
            check("sem_wait", sem_wait(in));
            check("sem_post", sem_post(out));
        }
    } else if (!strcmp(command, "try") && argc == 4) {
        sem_t *semaphore = open_semaphore(argv[2]);
        long taken = 0;
        while (taken < count && sem_trywait(semaphore) == 0)
            taken++;
        if (taken < count && errno != EAGAIN)
            check("sem_trywait", -1);
        printf("%ld\n", taken);
    } else {
        fputs("usage: see the head of sem.c\n", stderr);
        return 2;
    }
    return 0;
}
