/* A program at the other end of System V queues and semaphore sets that knows nothing of aioipc.
 *
 *   sysv msgget KEY MODE                  makes a queue and prints its id
 *   sysv msgsnd ID TYPE TEXT...           one message for each TEXT
 *   sysv msgrcv ID COUNT TYPE SIZE FLAGS  prints "TYPE TEXT" for each message
 *   sysv count ID COUNT SIZE TYPE         sends the numbers 0 to COUNT-1 in SIZE bytes each
 *   sysv echo IN OUT COUNT                sends back what it receives
 *   sysv semget KEY MODE VALUE...         makes a set of these values and prints its id
 *   sysv semop ID [NUMBER AMOUNT FLAGS]...  all of them at once; prints "done"
 *   sysv hold ID [NUMBER AMOUNT FLAGS]...   the same, then waits for the end of standard input
 *   sysv hand ID FROM TO COUNT            takes one of semaphore FROM and adds one to TO, so often
 *   sysv getall ID COUNT                  prints the values
 *   sysv setall ID VALUE...
 *   sysv ftok PATH PROJECT                prints the key
 *
 * KEY and MODE are as in C: decimal, 0x or 0.  FLAGS are letters, or "-" for none: e MSG_EXCEPT,
 * n MSG_NOERROR, w IPC_NOWAIT, u SEM_UNDO.  All calls block, unless w says otherwise.  Anything
 * unexpected ends the program with the name of the call. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <unistd.h>

#include "peer.h"

static struct {
    long type;
    char text[1 << 20];
} message;

static int
flags(const char *letters)
{
    return (strchr(letters, 'e') ? MSG_EXCEPT : 0) | (strchr(letters, 'n') ? MSG_NOERROR : 0) |
           (strchr(letters, 'w') ? IPC_NOWAIT : 0) | (strchr(letters, 'u') ? SEM_UNDO : 0);
}

static int
number(const char *text)
{
    return (int)strtoll(text, NULL, 0);
}

static void
operate(int id, int count, char **words)
{
    struct sembuf operations[64];
    for (int i = 0; i < count / 3; i++, words += 3) {
        operations[i].sem_num = (unsigned short)number(words[0]);
        operations[i].sem_op = (short)number(words[1]);
        operations[i].sem_flg = (short)flags(words[2]);
    }
    check("semop", semop(id, operations, (size_t)count / 3));
    puts("done");
}

static void
add(int id, const char *semaphore, short amount)
{
    struct sembuf operation = {.sem_num = (unsigned short)number(semaphore), .sem_op = amount};
    check("semop", semop(id, &operation, 1));
}

static void
set_all(int id, int count, char **words)
{
    unsigned short values[64];
    for (int i = 0; i < count; i++)
        values[i] = (unsigned short)number(words[i]);
    check("semctl", semctl(id, 0, SETALL, values));
}

int
main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";
    int id = argc > 2 ? number(argv[2]) : -1;
    setvbuf(stdout, NULL, _IOLBF, 0);

    if (!strcmp(command, "msgget") && argc == 4) {
        printf("%ld\n", check("msgget", msgget(id, IPC_CREAT | IPC_EXCL | number(argv[3]))));
    } else if (!strcmp(command, "msgsnd") && argc > 3) {
        message.type = atol(argv[3]);
        for (int i = 4; i < argc; i++) {
            memcpy(message.text, argv[i], strlen(argv[i]));
            check("msgsnd", msgsnd(id, &message, strlen(argv[i]), 0));
        }
    } else if (!strcmp(command, "msgrcv") && argc == 7) {
        for (long i = atol(argv[3]); i > 0; i--) {
            long size = check("msgrcv", msgrcv(id, &message, (size_t)atol(argv[5]), atol(argv[4]), flags(argv[6])));
            printf("%ld %.*s\n", message.type, (int)size, message.text);
        }
    } else if (!strcmp(command, "count") && argc == 6) {
        int size = number(argv[4]);
        message.type = atol(argv[5]);
        for (long i = 0, count = atol(argv[3]); i < count; i++) {
            snprintf(message.text, sizeof message.text, "%0*ld", size, i);
            check("msgsnd", msgsnd(id, &message, (size_t)size, 0));
        }
    } else if (!strcmp(command, "echo") && argc == 5) {
        for (long i = atol(argv[4]); i > 0; i--) {
            long size = check("msgrcv", msgrcv(id, &message, sizeof message.text, 0, 0));
            check("msgsnd", msgsnd(number(argv[3]), &message, (size_t)size, 0));
        }
    } else if (!strcmp(command, "semget") && argc > 4 && argc < 64) {
        int set = (int)check("semget", semget(id, argc - 4, IPC_CREAT | IPC_EXCL | number(argv[3])));
        set_all(set, argc - 4, argv + 4);
        printf("%d\n", set);
    } else if ((!strcmp(command, "semop") || !strcmp(command, "hold")) && argc < 64) {
        operate(id, argc - 3, argv + 3);
        if (!strcmp(command, "hold"))
            while (getchar() != EOF) {}
    } else if (!strcmp(command, "hand") && argc == 6) {
        for (long i = atol(argv[5]); i > 0; i--) {
            add(id, argv[3], -1);
            add(id, argv[4], 1);
        }
    } else if (!strcmp(command, "getall") && argc == 4 && number(argv[3]) <= 64) {
        unsigned short values[64];
        check("semctl", semctl(id, 0, GETALL, values));
        for (int i = 0; i < number(argv[3]); i++)
            printf("%d\n", values[i]);
    } else if (!strcmp(command, "setall") && argc < 64) {
        set_all(id, argc - 3, argv + 3);
    } else if (!strcmp(command, "ftok") && argc == 4) {
        printf("%d\n", (int)ftok(argv[2], number(argv[3])));
    } else {
        fputs("usage: see the head of sysv.c\n", stderr);
        return 2;
    }
    return 0;
}
