/* A peer of a channel that stops or dies where it is told to, down to the instruction.
 *
 *   channel NAME - WORD...         does what the words say, one after the other
 *   channel NAME STEPS WORD...     does so in a child, and stops that so many instructions after the word "begin";
 *                                  prints "stopped", or "ended" if it came to its end before.  Then it reads a
 *                                  letter: k kills it, c lets it go on to its end
 *   channel NAME overwrite=PLACE:FIRST:STEP:LAST:PERIOD:STEPS WORD...
 *                                  does so in a child, and meanwhile overwrites the word at this place of the file
 *                                  with FIRST, FIRST + STEP ... LAST, FIRST ..., each time that it has made as many
 *                                  instructions as PERIOD says.  Prints "endless" if it takes more than STEPS of them
 *
 * The words are the functions of ring.h, and these:
 *
 *   size=BYTES                     of the messages, which are all "ppp..."
 *   send reserve receive borrow    composed of those, as binding.c does
 *   crowd                          joins until there is no slot left, and prints how often
 *   stop kill                      raise that signal
 *   lack_page                      lets the next write(2) fail for want of memory
 *   say                            prints "here"
 *   lock_in_vain look              print what came of it */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../aioipc/_ring/ring.h"

static struct ring ring;
static struct ring_memory memory;
static struct ring_loan loan;
static char path[300];
static int lock_file, bells[2];
static uint64_t size = 10;

static bool lacks_page;

/* write(2), for which the kernel has no page once when it was told so.  The linker has it called instead: --wrap. */
ssize_t __real_write(int file, const void *bytes, size_t size);
ssize_t __wrap_write(int file, const void *bytes, size_t size);

ssize_t
__wrap_write(int file, const void *bytes, size_t size)
{
    if (!lacks_page)
        return __real_write(file, bytes, size);
    lacks_page = false;
    errno = ENOMEM;
    return -1;
}

static int
check(const char *call, int result)
{
    if (result == -1) {
        perror(call);
        exit(1);
    }
    return result;
}

static void
must(const char *word, enum ring_result result)
{
    if (result != RING_OK) {
        fprintf(stderr, "%s: %d %s\n", word, (int)result, ring.fault == NULL ? "" : ring.fault);
        exit(1);
    }
}

/* An open FIFO of the channel. */
static int
open_bell(uint64_t id, const char *which)
{
    char bell[100];
    snprintf(bell, sizeof bell, "/dev/shm/aioipc.%016llx.%s", (unsigned long long)id, which);
    return check(bell, open(bell, O_RDWR | O_NONBLOCK | O_CLOEXEC));
}

/* The descriptors in rising order: see _deaths.py. */
static void
open_files(void)
{
    int file = check(path, open(path, O_RDWR | O_CLOEXEC));
    must("map", ring_map(&memory, file));
    bells[RING_MESSAGES] = open_bell(memory.header->id, "messages");
    lock_file = check(path, open(path, O_RDWR | O_CLOEXEC));
    bells[RING_ROOM] = open_bell(memory.header->id, "room");
}

static void
fill(void)
{
    memset(loan.data, 'p', size);
}

static void
crowd(void)
{
    static struct ring rings[RING_PEERS];
    int locks[RING_PEERS], count = 0;
    for (int i = 0; i < RING_PEERS; i++)
        locks[i] = check(path, open(path, O_RDWR | O_CLOEXEC));
    /* Behind the locks. */
    bells[RING_ROOM] = open_bell(memory.header->id, "room");
    while (count < RING_PEERS && ring_join(&rings[count], &memory, locks[count], bells) == RING_OK)
        count++;
    printf("%d\n", count);
}

/* The words ---------------------------------------------------------------- */

static void stop(void) { raise(SIGSTOP); }
static void die(void) { raise(SIGKILL); }
static void lack_page(void) { lacks_page = true; }
static void say(void) { puts("here"); }
static void join(void) { must("join", ring_join(&ring, &memory, lock_file, bells)); }
static void leave(void) { ring_leave(&ring); }
static void reap(void) { must("reap", ring_reap(&ring)); }

static void
lock_in_vain(void)
{
    ring.waits = true;
    printf("%s\n", ring_lock_send(&ring) == RING_BUSY ? "busy" : "locked");
}

static void
look(void)
{
    struct ring_statistics statistics;
    printf("%s\n", ring_look(&ring, &statistics) == RING_CORRUPT ? "corrupt" : "well");
}

static void lock_send(void) { must("lock_send", ring_lock_send(&ring)); }
static void make_room(void) { must("make_room", ring_make_room(&ring, ring_length(size))); }
static void allocate_reserved(void) { ring_allocate(&ring, size, RING_RESERVED, &loan); }
static void publish(void) { ring_publish(&ring); }
static void unlock_send(void) { ring_unlock_send(&ring); }
static void wake_receivers(void) { ring_wake_receivers(&ring); }
static void commit(void) { ring_commit(&ring, &loan); }
static void give_up(void) { ring_abort(&ring, &loan); }
static void end(void) { must("end", ring_end(&ring)); }

static void lock_receive(void) { must("lock_receive", ring_lock_receive(&ring)); }
static void find(void) { must("find", ring_find(&ring, &loan)); }
static void consume(void) { ring_consume(&ring, &loan); }
static void take(void) { ring_borrow(&ring, &loan); }
static void unlock_receive(void) { ring_unlock_receive(&ring); }
static void wake_senders(void) { ring_wake_senders(&ring); }
static void finish(void) { ring_finish(&ring, &loan); }
static void give_back(void) { ring_return(&ring, &loan); }

static void arm_messages(void) { ring_arm(&ring, RING_MESSAGES); }
static void arm_room(void) { ring_arm(&ring, RING_ROOM); }

static void
allocate(void)
{
    ring_allocate(&ring, size, RING_READY, &loan);
    fill();
}

static void
send_one(void)
{
    lock_send();
    make_room();
    allocate();
    publish();
    unlock_send();
    wake_receivers();
}

static void
reserve(void)
{
    lock_send();
    make_room();
    allocate_reserved();
    publish();
    unlock_send();
    fill();
}

static void
receive(void)
{
    lock_receive();
    find();
    consume();
    unlock_receive();
    wake_senders();
}

static void
borrow(void)
{
    lock_receive();
    find();
    take();
    unlock_receive();
}

static const struct word {
    const char *name;
    void (*act)(void);
} words[] = {
    {"begin", stop}, {"stop", stop}, {"kill", die}, {"lack_page", lack_page}, {"say", say}, {"crowd", crowd}, {"join", join}, {"leave", leave},
    {"reap", reap}, {"lock_in_vain", lock_in_vain}, {"look", look}, {"lock_send", lock_send}, {"make_room", make_room}, {"allocate", allocate},
    {"allocate_reserved", allocate_reserved}, {"publish", publish}, {"unlock_send", unlock_send},
    {"wake_receivers", wake_receivers}, {"fill", fill}, {"commit", commit}, {"abort", give_up}, {"end", end},
    {"lock_receive", lock_receive}, {"find", find}, {"consume", consume}, {"take", take},
    {"unlock_receive", unlock_receive}, {"wake_senders", wake_senders}, {"finish", finish}, {"return", give_back},
    {"arm_messages", arm_messages}, {"arm_room", arm_room}, {"send", send_one}, {"reserve", reserve},
    {"receive", receive}, {"borrow", borrow},
};

/* All are looked up first: the steps are to be those of the ring. */
static void
act_on(int count, char **names)
{
    void (*acts[count + 1])(void);
    int found = 0;
    for (int i = 0; i < count; i++) {
        size_t which = 0;
        if (strncmp(names[i], "size=", 5) == 0) {
            size = strtoull(names[i] + 5, NULL, 10);
            continue;
        }
        while (which < sizeof words / sizeof *words && strcmp(words[which].name, names[i]) != 0)
            which++;
        if (which == sizeof words / sizeof *words) {
            fprintf(stderr, "%s?\n", names[i]);
            exit(2);
        }
        acts[found++] = words[which].act;
    }
    open_files();
    for (int i = 0; i < found; i++)
        acts[i]();
    fflush(NULL);
    _exit(0);
}

static int
wait_for(pid_t child)
{
    int status;
    check("waitpid", waitpid(child, &status, 0));
    return status;
}

static pid_t
fork_traced(int count, char **names)
{
    pid_t child = check("fork", fork());
    if (child == 0) {
        check("ptrace", (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        act_on(count, names);
    }
    return child;
}

static int
overwrite(const char *how, int count, char **names)
{
    long place, period, steps;
    uint32_t first, step, last;
    if (sscanf(how, "overwrite=%ld:%u:%u:%u:%ld:%ld", &place, &first, &step, &last, &period, &steps) != 6)
        return 2;
    pid_t child = fork_traced(count, names);
    int status = wait_for(child);
    must("map", ring_map(&memory, check(path, open(path, O_RDWR | O_CLOEXEC))));
    _Atomic uint32_t *word = (_Atomic uint32_t *)((char *)memory.header + place);
    uint32_t value = first;
    for (; WIFSTOPPED(status) && steps > 0; steps--) {
        if (steps % period == 0) {
            atomic_store(word, value);
            value = value + step > last ? first : value + step;
        }
        check("ptrace", (int)ptrace(PTRACE_SINGLESTEP, child, NULL, NULL));
        status = wait_for(child);
    }
    if (WIFSTOPPED(status)) {
        puts("endless");
        check("kill", kill(child, SIGKILL));
        wait_for(child);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

static int
trace(long steps, int count, char **names)
{
    pid_t child = fork_traced(count, names);
    int status = wait_for(child);
    for (; WIFSTOPPED(status) && steps > 0; steps--) {
        check("ptrace", (int)ptrace(PTRACE_SINGLESTEP, child, NULL, NULL));
        status = wait_for(child);
    }
    puts(WIFSTOPPED(status) ? "stopped" : "ended");
    if (WIFSTOPPED(status)) {
        if (getchar() == 'c')
            check("ptrace", (int)ptrace(PTRACE_CONT, child, NULL, NULL));
        else
            check("kill", kill(child, SIGKILL));
        status = wait_for(child);
        puts("gone");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

int
main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(path, sizeof path, "/dev/shm%s", argv[1]);
    if (strncmp(argv[2], "overwrite=", 10) == 0)
        return overwrite(argv[2], argc - 3, argv + 3);
    if (strcmp(argv[2], "-") != 0)
        return trace(strtol(argv[2], NULL, 10), argc - 3, argv + 3);
    act_on(argc - 3, argv + 3);
}
