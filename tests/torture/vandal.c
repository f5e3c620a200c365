/* A hostile neighbour of a channel: does to its files what a script says, once and then again until SIGTERM.
 *
 *   vandal MEMORY BELL BELL
 *
 * The script comes on standard input, a step in a line:
 *
 *   PAUSE WHAT BASE OFFSET WIDTH VALUE TIMES HOLD
 *
 * After PAUSE microseconds it does WHAT, TIMES times, with HOLD microseconds after each.
 *
 *   s a x      write VALUE; add it; exclusive or.  Every other time what was there before
 *   c          copy what is at VALUE in the file
 *   m          write VALUE, with the mark that the state of a record has at this place
 *   p          write VALUE in each of 256 places that are 64 bytes apart: the peers
 *   t          cut the file to OFFSET bytes, and every other time make it as long as it was
 *   w r k      write VALUE bytes to a bell, of messages or of room, as BASE is m or r; read as many; open and close it
 *
 * The place is OFFSET bytes (and of WIDTH bytes: 1, 4 or 8) behind the beginning of the file, or where the header says
 * head, tail or next is: BASE is f, h, t or n.
 *
 * It prints "ready" when it begins, and in the end how many steps it has done. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../peers/peer.h"

#include "../../aioipc/_ring/inside.h"

struct step {
    unsigned pause;
    char what, base;
    int64_t offset;
    unsigned width;
    uint64_t value;
    unsigned times;
    unsigned hold;
};

static volatile sig_atomic_t ends;
static unsigned char *memory;
static uint64_t size;
static int file, bells[2];

static void end(int number) { ends = number; }

/* Where in the file a step writes, and what position of the ring that is. */
static uint64_t
place_of(const struct step *step, uint64_t *position)
{
    struct ring_header *header = (struct ring_header *)(void *)memory;
    if (step->base == 'f')
        return *position = (uint64_t)step->offset;
    uint64_t from = step->base == 'h' ? header->head : step->base == 't' ? header->tail : header->next;
    *position = from + (uint64_t)step->offset;
    return RING_DATA + *position % (size - RING_DATA);
}

static void
store(void *place, unsigned width, uint64_t value)
{
    /* Not in pieces: what an honest program writes by mistake comes whole, too. */
    if (width == 8)
        *(volatile uint64_t *)place = value;
    else if (width == 4)
        *(volatile uint32_t *)place = (uint32_t)value;
    else
        *(volatile uint8_t *)place = (uint8_t)value;
}

static uint64_t
load(const void *place, unsigned width)
{
    uint64_t value = 0;
    memcpy(&value, place, width);
    return value;
}

static void
hold(const struct step *step)
{
    if (step->hold > 0)
        usleep(step->hold);
}

static void
write_over(const struct step *step)
{
    uint64_t position, place = place_of(step, &position);
    place = place % size / step->width * step->width;
    uint64_t before = load(memory + place, step->width), value = step->value;
    switch (step->what) {
    case 'a': value += before; break;
    case 'x': value ^= before; break;
    case 'c': value = load(memory + value % (size - 8), 8); break;
    case 'm': value |= ring_mark(position); break;
    }
    for (unsigned i = 0; i < step->times; i++) {
        store(memory + place, step->width, i % 2 == 0 ? value : before);
        hold(step);
    }
}

static void
write_all_over(const struct step *step)
{
    for (unsigned i = 0; i < step->times; i++) {
        for (uint64_t place = (uint64_t)step->offset; place < (uint64_t)step->offset + 256 * 64; place += 64)
            store(memory + place, step->width, step->value);
        hold(step);
    }
}

static void
cut_off(const struct step *step)
{
    for (unsigned i = 0; i < step->times; i++) {
        check("ftruncate", ftruncate(file, i % 2 == 0 ? (off_t)step->offset : (off_t)size));
        hold(step);
    }
    check("ftruncate", ftruncate(file, (off_t)size));   /* or this would touch what is not there */
}

static void
use_bell(const struct step *step, char *const *paths)
{
    static char bytes[65536];
    int bell = step->base == 'm' ? 0 : 1;
    size_t count = step->value < sizeof bytes ? step->value : sizeof bytes;
    ssize_t done = 0;   /* it may be full, or empty */
    for (unsigned i = 0; i < step->times; i++) {
        if (step->what == 'w')
            done = write(bells[bell], bytes, count);
        else if (step->what == 'r')
            done = read(bells[bell], bytes, count);
        else
            close((int)check(paths[bell], open(paths[bell], O_WRONLY | O_NONBLOCK)));
        hold(step);
    }
    (void)done;
}

static void
do_step(const struct step *step, char *const *paths)
{
    if (strchr("wrk", step->what) != NULL)
        use_bell(step, paths);
    else if (step->what == 't')
        cut_off(step);
    else if (step->what == 'p')
        write_all_over(step);
    else
        write_over(step);
}

static size_t
read_script(struct step *steps, size_t most)
{
    size_t count = 0;
    for (struct step *step = steps; count < most; step++, count++)
        if (scanf("%u %c %c %ld %u %lu %u %u", &step->pause, &step->what, &step->base, &step->offset, &step->width,
                  &step->value, &step->times, &step->hold) != 8)
            break;
    return count;
}

int
main(int argc, char **argv)
{
    struct step steps[1000];
    unsigned long done = 0;
    struct stat status;
    if (argc != 4)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGTERM, end);
    size_t count = read_script(steps, sizeof steps / sizeof *steps);
    file = (int)check(argv[1], open(argv[1], O_RDWR));
    for (int i = 0; i < 2; i++)
        bells[i] = (int)check(argv[2 + i], open(argv[2 + i], O_RDWR | O_NONBLOCK));
    check("fstat", fstat(file, &status));
    size = (uint64_t)status.st_size;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    check("mmap", memory == MAP_FAILED ? -1 : 0);
    puts("ready");
    fflush(stdout);
    do
        for (size_t i = 0; i < count; i++, done++) {
            if (steps[i].pause > 0)
                usleep(steps[i].pause);
            do_step(&steps[i], argv + 2);
        }
    while (!ends && count > 0);
    printf("%lu\n", done);
    return 0;
}
