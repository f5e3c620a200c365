/* The file of a ring: what its header says, and the file in the address space.  See ring.h. */
#include "inside.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONSTANT offsetof(struct ring_header, send_lock)

_Static_assert(sizeof(struct ring_record) == 32, "a record's head is part of the format");
_Static_assert(sizeof(struct ring_peer) == 64, "a peer is part of the format");
_Static_assert(offsetof(struct ring_header, send_lock) == 128, "the header is part of the format");
_Static_assert(sizeof(struct ring_header) <= RING_DATA, "the header fits before the data");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics without locks");

static uint64_t
room_for(uint64_t capacity)
{
    return (capacity + RING_UNIT + RING_PAGE - 1) / RING_PAGE * RING_PAGE;
}

uint64_t
ring_file_size(uint64_t capacity)
{
    return RING_DATA + room_for(capacity);
}

uint64_t
ring_longest(uint64_t capacity)
{
    return capacity / RING_UNIT * RING_UNIT - sizeof(struct ring_record);
}

/* FNV-1a of the constant part. */
static uint64_t
header_check(const struct ring_header *header)
{
    const unsigned char *bytes = (const unsigned char *)header;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < offsetof(struct ring_header, check); i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

enum ring_result
ring_format(int file, uint64_t capacity, uint64_t id)
{
    struct ring_header *header = mmap(NULL, RING_DATA, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (header == MAP_FAILED)
        return RING_SYSTEM;
    header->magic = RING_MAGIC;
    header->version = RING_VERSION;
    header->abi = RING_ABI;
    header->file_size = ring_file_size(capacity);
    header->data = RING_DATA;
    header->room = room_for(capacity);
    header->capacity = capacity;
    header->peers = RING_PEERS;
    header->unit = RING_UNIT;
    header->id = id;
    header->check = header_check(header);
    atomic_init(&header->rewind, RING_NOWHERE);
    munmap(header, RING_DATA);
    return RING_OK;
}

/* Whether the constant part can be what this library, or another one of its version, has written. */
static enum ring_result
check_header(const struct ring_header *header, uint64_t file_size)
{
    if (header->magic == __builtin_bswap64(RING_MAGIC))
        return RING_OTHER_ABI;
    if (header->magic != RING_MAGIC)
        return RING_FOREIGN;
    if (header->abi != RING_ABI)
        return RING_OTHER_ABI;
    if (header->version != RING_VERSION)
        return RING_OTHER_VERSION;
    if (header->check != header_check(header) || header->capacity < RING_CAPACITY_MIN
        || header->capacity > RING_CAPACITY_MAX || header->data != RING_DATA || header->peers != RING_PEERS
        || header->unit != RING_UNIT || header->room != room_for(header->capacity)
        || header->file_size != ring_file_size(header->capacity))
        return RING_CORRUPT;
    return file_size < header->file_size ? RING_SHORT : RING_OK;
}

enum ring_result
ring_identify(int file, struct ring_header *header)
{
    struct stat status;
    memset(header, 0, sizeof *header);  /* what is too short leaves the rest of it */
    if (fstat(file, &status) != 0)
        return RING_SYSTEM;
    ssize_t got = ring_pread(file, header, CONSTANT, 0);
    if (got < 0)
        return RING_SYSTEM;
    return (size_t)got < CONSTANT ? RING_SHORT : check_header(header, (uint64_t)status.st_size);
}

enum ring_result
ring_map(struct ring_memory *memory, int file)
{
    struct ring_header header;
    enum ring_result result = ring_identify(file, &header);
    if (result != RING_OK)
        return result;

    /* First the place for all, then the file and once more its data. */
    size_t once = (size_t)header.file_size;
    size_t whole = once + (size_t)header.room;
    char *base = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return RING_SYSTEM;
    int flags = MAP_SHARED | MAP_FIXED;
    if (mmap(base, once, PROT_READ | PROT_WRITE, flags, file, 0) == MAP_FAILED
        || mmap(base + once, (size_t)header.room, PROT_READ | PROT_WRITE, flags, file, RING_DATA) == MAP_FAILED) {
        int error = errno;
        munmap(base, whole);
        errno = error;
        return RING_SYSTEM;
    }
    memory->header = (struct ring_header *)(void *)base;
    memory->data = base + RING_DATA;
    memory->room = header.room;
    memory->capacity = header.capacity;
    memory->mapped = whole;
    return RING_OK;
}

void
ring_unmap(struct ring_memory *memory)
{
    munmap(memory->header, memory->mapped);
}
