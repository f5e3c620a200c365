/* Decides over the system calls of another process: seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER.
 *
 * Unlike a preloaded library it also sees what the C library calls inside itself.  Who watches is told of each of these
 * calls before it is made, and answers with an error, or lets it through. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
    const char *name;
    int number;
} calls[] = {
#define CALL(name) {#name, SYS_##name}
    CALL(clone3), CALL(epoll_create1), CALL(epoll_ctl), CALL(epoll_pwait), CALL(fallocate), CALL(fcntl),
    CALL(fstat), CALL(fstatfs), CALL(ftruncate), CALL(futex), CALL(getdents64), CALL(inotify_add_watch),
    CALL(inotify_init1), CALL(ioctl), CALL(linkat), CALL(mknodat), CALL(mmap), CALL(mq_open), CALL(mq_timedreceive),
    CALL(mq_timedsend), CALL(mq_unlink), CALL(msgctl), CALL(msgget), CALL(msgrcv), CALL(msgsnd), CALL(newfstatat),
    CALL(openat), CALL(pread64), CALL(read), CALL(semctl), CALL(semget), CALL(semop), CALL(semtimedop), CALL(shmat),
    CALL(shmctl), CALL(shmget), CALL(statfs), CALL(timer_create), CALL(unlinkat), CALL(write),
#ifdef SYS_open     /* on older machines */
    CALL(clone), CALL(epoll_wait), CALL(link), CALL(lstat), CALL(mknod), CALL(open), CALL(stat), CALL(unlink),
#endif
};

#define COUNT (sizeof calls / sizeof *calls)

/* What is a call of its own, by the bits of an argument. */
static const struct {
    const char *name;
    int number, place;
    uint64_t mask, value;
} variants[] = {
#define VARIANT(call, place, mask, value) {#call " " #value, SYS_##call, place, mask, value}
#define WHOLE UINT64_C(0xffffffff)
    VARIANT(epoll_ctl, 1, WHOLE, EPOLL_CTL_DEL),
    VARIANT(fcntl, 1, WHOLE, F_DUPFD_CLOEXEC), VARIANT(fcntl, 1, WHOLE, F_OFD_SETLK),
    VARIANT(msgctl, 1, 0xff, IPC_RMID), VARIANT(msgctl, 1, 0xff, IPC_SET),
    VARIANT(semctl, 2, 0xff, IPC_RMID), VARIANT(semctl, 2, 0xff, IPC_SET),
    VARIANT(semctl, 2, 0xff, GETALL), VARIANT(semctl, 2, 0xff, SETALL),
    VARIANT(shmctl, 1, 0xff, IPC_RMID), VARIANT(shmctl, 1, 0xff, IPC_SET),
    VARIANT(newfstatat, 3, AT_EMPTY_PATH, AT_EMPTY_PATH),
    VARIANT(openat, 2, O_CREAT, O_CREAT), VARIANT(openat, 2, O_TMPFILE, O_TMPFILE),
    VARIANT(read, 2, WHOLE, 1024), VARIANT(write, 2, WHOLE, 8),     /* as libuv does, of and to its eventfd */
};

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#endif

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define UNLESS(value, skipped) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (skipped))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))

/* From now on, tell of the calls of this process; a descriptor to watch them by, or -1 with errno if that can't be.
 * Not told: what is written to standard error, futexes that no other process can have, and the waking by others. */
int
interpose(void)
{
    struct sock_filter filter[2 * COUNT + 32] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0),
        RETURN(SECCOMP_RET_ALLOW),
        LOAD(nr),
        UNLESS(SYS_write, 4),
        LOAD(args[0]),
        UNLESS(STDERR_FILENO, 1),
        RETURN(SECCOMP_RET_ALLOW),
        LOAD(nr),
        UNLESS(SYS_futex, 7),
        LOAD(args[1]),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (uint32_t)~FUTEX_CLOCK_REALTIME),
        UNLESS(FUTEX_WAIT, 1),
        RETURN(SECCOMP_RET_USER_NOTIF),
        UNLESS(FUTEX_WAIT_BITSET, 1),
        RETURN(SECCOMP_RET_USER_NOTIF),
        RETURN(SECCOMP_RET_ALLOW),
    };
    unsigned short length = 17;
    for (size_t i = 0; i < COUNT; i++) {
        filter[length++] = (struct sock_filter)UNLESS((uint32_t)calls[i].number, 1);
        filter[length++] = (struct sock_filter)RETURN(SECCOMP_RET_USER_NOTIF);
    }
    filter[length++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = length, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    /* A call that is looked at is not ended by a signal: of most, the kernel would not have it so either. */
    const unsigned flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* The names of all calls that are told of: the first, the second, and so on; NULL after the last. */
const char *
call_name(unsigned place)
{
    const unsigned plain = COUNT, all = plain + sizeof variants / sizeof *variants;
    return place < plain ? calls[place].name : place < all ? variants[place - plain].name : NULL;
}

/* The next call: its name, such as "read" or "openat O_CREAT", the thread, and the id to answer it by.  NULL if it was
 * given up meanwhile. */
const char *
next_call(int listener, uint32_t *thread, uint64_t *id)
{
    struct seccomp_notif call;
    memset(&call, 0, sizeof call);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0)
        return NULL;
    *thread = call.pid;
    *id = call.id;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        if (variants[i].number == call.data.nr
            && (call.data.args[variants[i].place] & variants[i].mask) == variants[i].value)
            return variants[i].name;
    for (size_t i = 0; i < COUNT; i++)
        if (calls[i].number == call.data.nr)
            return calls[i].name;
    return NULL;
}

/* Let a call fail with an error; let it through for 0. */
void
answer(int listener, uint64_t id, int error)
{
    struct seccomp_notif_resp response = {.id = id, .error = -error};
    if (error == 0)
        response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);   /* ENOENT: a signal has ended it before */
}
