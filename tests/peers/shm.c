/* A program that uses shared memory and knows nothing of aioipc.
 *
 *   shm create OBJECT SIZE MODE     shm_open and ftruncate, or shmget; prints the id, or the name
 *   shm write OBJECT OFFSET TEXT
 *   shm read OBJECT OFFSET COUNT    prints that many bytes
 *   shm stat OBJECT                 prints "SIZE MODE", and "ATTACHED CREATOR_PID LAST_PID" of a segment
 *   shm hold OBJECT                 prints "attached", then waits for the end of standard input
 *   shm resize OBJECT SIZE          ftruncate
 *   shm remove OBJECT
 *
 * OBJECT is a POSIX name with its slash, a System V key, or =ID.  Numbers are as in C: decimal, 0x or 0.
 * Anything unexpected ends the program with the name of the call. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "peer.h"

static long
number(const char *text)
{
    return strtol(text, NULL, 0);
}

static int
find(const char *object)
{
    if (object[0] == '/')
        return (int)check("shm_open", shm_open(object, O_RDWR, 0));
    return object[0] == '=' ? (int)number(object + 1) : (int)check("shmget", shmget((key_t)number(object), 0, 0));
}

static char *
attach(const char *object)
{
    int id = find(object);
    void *address;
    if (object[0] == '/') {
        struct stat status;
        check("fstat", fstat(id, &status));
        address = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, id, 0);
    } else
        address = shmat(id, NULL, 0);
    check("mmap or shmat", (long)address);
    return address;
}

static void
create(const char *object, long size, mode_t mode)
{
    if (object[0] == '/') {
        umask(0);
        int id = (int)check("shm_open", shm_open(object, O_RDWR | O_CREAT | O_EXCL, mode));
        check("ftruncate", ftruncate(id, size));
        puts(object);
    } else
        printf("%ld\n",
               check("shmget", shmget((key_t)number(object), (size_t)size, IPC_CREAT | IPC_EXCL | (int)mode)));
}

static void
print_status(const char *object)
{
    int id = find(object);
    if (object[0] == '/') {
        struct stat status;
        check("fstat", fstat(id, &status));
        printf("%ld %o\n", (long)status.st_size, status.st_mode & 0777);
    } else {
        struct shmid_ds status;
        check("shmctl", shmctl(id, IPC_STAT, &status));
        printf("%zu %o %lu %d %d\n", status.shm_segsz, status.shm_perm.mode & 0777u, (unsigned long)status.shm_nattch,
               status.shm_cpid, status.shm_lpid);
    }
}

int
main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";
    const char *object = argc > 2 ? argv[2] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(command, "create") == 0 && argc == 5)
        create(object, number(argv[3]), (mode_t)number(argv[4]));
    else if (strcmp(command, "write") == 0 && argc == 5)
        memcpy(attach(object) + number(argv[3]), argv[4], strlen(argv[4]));
    else if (strcmp(command, "read") == 0 && argc == 5)
        fwrite(attach(object) + number(argv[3]), 1, (size_t)number(argv[4]), stdout);
    else if (strcmp(command, "stat") == 0)
        print_status(object);
    else if (strcmp(command, "hold") == 0) {
        attach(object);
        puts("attached");
        while (getchar() != EOF)
            ;
    } else if (strcmp(command, "resize") == 0 && argc == 4)
        check("ftruncate", ftruncate(find(object), number(argv[3])));
    else if (strcmp(command, "remove") == 0)
        check("remove", object[0] == '/' ? shm_unlink(object) : shmctl(find(object), IPC_RMID, NULL));
    else {
        fprintf(stderr, "usage: see the top of shm.c\n");
        return 2;
    }
    return 0;
}
