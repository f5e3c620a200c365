/* A program that takes what others might steal, and knows nothing of aioipc.
 *
 *   taker semaphore NAME
 *   taker set ID NUMBER...          one of each of these semaphores, at once
 *   taker queue ID TYPE [except]
 *
 * For each byte on standard input it takes one, waiting, and writes a byte in answer.
 * Anything unexpected ends the program with the name of the call. */
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <unistd.h>

#include "peer.h"

int
main(int argc, char **argv)
{
    const char *kind = argc > 2 ? argv[1] : "";
    sem_t *semaphore = SEM_FAILED;
    struct sembuf operations[8];
    size_t count = 0;
    struct {
        long type;
        char data[8192];
    } message;
    long id = 0;

    if (strcmp(kind, "semaphore") == 0) {
        semaphore = sem_open(argv[2], 0);
        check("sem_open", semaphore == SEM_FAILED ? -1 : 0);
    } else if (argc > 2)
        id = atol(argv[2]);
    for (int i = 3; strcmp(kind, "set") == 0 && i < argc; i++)
        operations[count++] = (struct sembuf){.sem_num = (unsigned short)atoi(argv[i]), .sem_op = -1};

    char byte;
    while (read(0, &byte, 1) == 1) {
        if (semaphore != SEM_FAILED)
            check("sem_wait", sem_wait(semaphore));
        else if (count > 0)
            check("semop", semop((int)id, operations, count));
        else if (strcmp(kind, "queue") == 0 && argc > 3)
            check("msgrcv", msgrcv((int)id, &message, sizeof message.data, atol(argv[3]), argc > 4 ? MSG_EXCEPT : 0));
        else
            return fprintf(stderr, "see the comment in taker.c\n"), 2;
        check("write", write(1, &byte, 1));
    }
    return 0;
}
