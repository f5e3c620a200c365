/* Preloaded: each call of System V that is not to wait is interrupted the first time, which POSIX allows, and says so. */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/msg.h>
#include <sys/sem.h>

static bool
is_interrupted(const char *call, int flags)
{
    static bool was;
    was = !was && (flags & IPC_NOWAIT) != 0;
    if (was) {
        fprintf(stderr, "%s\n", call);
        errno = EINTR;
    }
    return was;
}

#define REAL(call) ((__typeof__(&call))dlsym(RTLD_NEXT, #call))

int
msgsnd(int id, const void *message, size_t size, int flags)
{
    return is_interrupted("msgsnd", flags) ? -1 : REAL(msgsnd)(id, message, size, flags);
}

ssize_t
msgrcv(int id, void *message, size_t size, long type, int flags)
{
    return is_interrupted("msgrcv", flags) ? -1 : REAL(msgrcv)(id, message, size, type, flags);
}

int
semop(int id, struct sembuf *operations, size_t count)
{
    return is_interrupted("semop", operations->sem_flg) ? -1 : REAL(semop)(id, operations, count);
}
