/* A ring of messages in shared memory, for any number of processes on both sides.
 *
 * No Python here: this can be used, tested and fuzzed alone.  docs/ring.md describes the format for
 * programs in other languages; tests/ring/ring.pml is a model of the protocol that spin checks.
 *
 * The file holds a header, the peers, and the data.  Positions count bytes from the beginning of time and only
 * grow; a record at position p lies at p modulo *room*.  The data is mapped twice, one after
 * the other, so that no record is ever in two pieces.
 *
 *      head ............ next ............. tail
 *      oldest record     where to look      end of the
 *      not gone          for the next       records
 *
 * Invariants.  A process may be killed or stopped between any two instructions.
 *   1. head <= tail <= head + capacity <= head + room - RING_UNIT.  All records between head and tail
 *      are whole, and behind the last one lies a blank one with the number of the next.
 *   2. Only the holder of send_lock changes tail; only the holder of receive_lock changes head and
 *      next and takes a READY record.  Each lock protects single stores, so there is nothing to
 *      repair after a holder that died.
 *   3. A message is published by one store: of tail, or of READY over its RESERVED.  It is consumed by
 *      one store: of head, or of GONE over its BORROWED or, if it is not the first, its READY.
 *   4. A RESERVED or BORROWED record belongs to the peer named in it, and only that peer, or who has proved
 *      it dead, changes it.
 *   5. A peer is dead if its byte of the lock file is not locked though its state is RING_USED (an open file
 *      description's lock, fcntl(2) F_OFD_SETLK: the kernel drops it with the process).  Who gets
 *      that lock cleans up: undoes what is RESERVED and BORROWED, frees locks, rings both bells, and
 *      sets the state to RING_FREE last.  If it dies meanwhile, the next one does so again.
 *   6. No READY record lies before next, except those at or after *rewind*, or whose peer is between
 *      its store of READY and that of rewind.  A rewind before head says the same of all the records.
 *   7. A ring of a bell is heard by every peer that listens, whoever else heeds it.  Who sleeps has heeded what it
 *      heard, *then* set the flag that somebody sleeps, *then* looked once more.  Who changes
 *      something looks at the flag *after* that, and rings if it takes it away.  A full fence stands
 *      between store and load on both sides (Dekker).
 *   8. The holder of receive_lock may lengthen a GONE record over those behind it that are GONE, too: by one store
 *      of its size.  What lies within stays as it is until head passes it, for who may be about to go there.
 *
 * All in the file may be written by others at any time, also by mistake or on purpose: each number is
 * read once, and checked before it is used.
 */
#ifndef AIOIPC_RING_H
#define AIOIPC_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RING_MAGIC UINT64_C(0x474e495243504941)     /* "AIPCRING" in little endian */
#define RING_VERSION 1
#define RING_ABI UINT32_C(0x01020408)               /* as the writer's byte order has it */
#define RING_PEERS 256
#define RING_UNIT 64                                /* records begin at multiples of this */
#define RING_PAGE 65536                             /* a multiple of every size of pages there is */
#define RING_DATA RING_PAGE
#define RING_NOWHERE UINT64_MAX

/* Up to so many bytes are copied under the lock: less than it takes to do without. */
#define RING_SMALL 4096

/* The states of a record, its lowest 8 bits. */
enum ring_kind {
    RING_RESERVED = 1,      /* being written by a peer */
    RING_READY,             /* a message */
    RING_BORROWED,          /* being read by a peer */
    RING_GONE,              /* consumed, or never published */
};

/* What comes before the bytes of a message. */
struct ring_record {
    /* kind | peer << 8 | mark << 24, where mark tells the positions apart: see ring_mark */
    _Atomic uint64_t state;
    _Atomic uint64_t size;      /* of the message, in bytes */
    _Atomic uint64_t number;    /* of records before this one */
    _Atomic uint64_t bytes;     /* of the messages of these */
};

enum ring_peer_state { RING_FREE, RING_USED };

/* What is known of a peer.  Its own, but for the cleaning up after its death. */
struct ring_peer {
    _Alignas(64) _Atomic uint32_t state;
    _Atomic uint32_t does;      /* RING_SENDS | RING_RECEIVES */
    _Atomic uint32_t holds;     /* at least as many records as are RESERVED or BORROWED by it */
    _Atomic uint32_t pid;       /* in its own name space: for people */
};

#define RING_SENDS 1u
#define RING_RECEIVES 2u

struct ring_header {
    /* Constant from the creation on. */
    uint64_t magic;
    uint32_t version;
    uint32_t abi;
    uint64_t file_size;
    uint64_t data;              /* where the data begins in the file: RING_DATA */
    uint64_t room;              /* bytes of data: a multiple of 64 KiB, more than the capacity */
    uint64_t capacity;          /* how many bytes of records there may be */
    uint32_t peers;
    uint32_t unit;
    uint64_t id;                /* random; the doorbells are named after it */
    uint64_t check;             /* a hash of the bytes before: header_check */

    /* Each on a cache line of its own, by who writes it. */
    _Alignas(64) _Atomic uint32_t send_lock;        /* 0, or the holder's slot + 1 | RING_CONTENDED */
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) _Atomic uint32_t receive_lock;
    _Atomic uint64_t next;
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) _Atomic uint64_t rewind;           /* where something became READY late, or RING_NOWHERE */
    _Alignas(64) _Atomic uint32_t receivers_sleep;
    _Alignas(64) _Atomic uint32_t senders_sleep;
    _Alignas(64) _Atomic uint32_t ended;            /* nothing more will be sent */
    _Atomic uint32_t dead;                          /* how many dead peers were cleaned up after */
    struct ring_peer peer[RING_PEERS];
};

#define RING_CONTENDED UINT32_C(0x80000000)

enum ring_result {
    RING_OK,
    RING_FULL,              /* no room now */
    RING_EMPTY,             /* no message now */
    RING_BUSY,              /* another peer is in the lock */
    RING_ENDED,             /* nothing more can be sent; all has been received */
    RING_TOO_LONG,          /* it never fits */
    RING_CORRUPT,           /* what is in the file can't be right: see ring.fault */
    RING_NO_SLOT,           /* as many peers as there can be */
    RING_SHORT,             /* the file is too short */
    RING_FOREIGN,           /* the file is no ring */
    RING_OTHER_VERSION,
    RING_OTHER_ABI,
    RING_SYSTEM,            /* a system call failed: see errno */
};

/* The file in the address space.  Any number of rings of one process can share it. */
struct ring_memory {
    struct ring_header *header;
    char *data;
    uint64_t room;
    uint64_t capacity;
    size_t mapped;
};

enum ring_bell { RING_MESSAGES, RING_ROOM };

/* A peer's view.  One thread at a time. */
struct ring {
    struct ring_memory memory;
    uint32_t slot;
    int lock_file;          /* an open file description of its own, which is mapped nowhere */
    int bells[2];           /* FIFOs, open for both, not blocking */
    int ears[2];            /* epoll descriptors that can be read when a bell has rung, or -1 */
    bool waits;             /* whether who finds a lock taken is to be told when it is free */
    uint64_t head;          /* what it was when seen last: it only moves on */
    uint64_t tail;          /* the same */
    uint64_t next;          /* with receive_lock, where to look */
    uint64_t end;           /* with send_lock, of what was allocated */
    uint64_t looked;        /* how many records it was seen of whether they are a dead peer's */
    uint32_t passed;        /* with receive_lock, how many records were passed over */
    bool again;             /* it was not all, and who waits is to try again at once */
    const char *fault;
};

/* A record that is being written or read. */
struct ring_loan {
    uint64_t position;
    uint64_t size;
    char *data;
};

/* The file --------------------------------------------------------------- */

#define RING_CAPACITY_MIN RING_UNIT
#define RING_CAPACITY_MAX (UINT64_C(1) << 46)

/* The size of the file for a capacity within these bounds. */
uint64_t ring_file_size(uint64_t capacity);

/* How many bytes the longest message has that a ring of this capacity takes. */
uint64_t ring_longest(uint64_t capacity);

/* Make a ring of a file of the right size, all zeros, that nobody else knows yet. */
enum ring_result ring_format(int file, uint64_t capacity, uint64_t id);

/* The constant part of the header, if this is the file of a ring. */
enum ring_result ring_identify(int file, struct ring_header *header);

/* Put a ring in the address space, if it is one. */
enum ring_result ring_map(struct ring_memory *memory, int file);
void ring_unmap(struct ring_memory *memory);

/* Peers ------------------------------------------------------------------ */

/* Become a peer.  The descriptors stay the caller's, and must be open until ring_leave. */
enum ring_result ring_join(struct ring *ring, const struct ring_memory *memory, int lock_file, const int bells[2]);

/* Cease to be one: what is RESERVED is given up, what is BORROWED goes back. */
void ring_leave(struct ring *ring);

/* Clean up after the dead.  RING_BUSY: not after all, for a lock is taken, or it would take long; RING_CORRUPT. */
enum ring_result ring_reap(struct ring *ring);

/* How many bytes the record of a message of this size takes. */
static inline uint64_t
ring_length(uint64_t size)
{
    return (size + sizeof(struct ring_record) + RING_UNIT - 1) / RING_UNIT * RING_UNIT;
}

/* Sending: lock, make room, allocate, publish, unlock; then, with the lock free, wake. --- */

/* RING_OK with the lock; RING_BUSY, RING_ENDED or RING_CORRUPT without. */
enum ring_result ring_lock_send(struct ring *ring);

/* Make sure that records of this length, all together, can be allocated: RING_OK, RING_FULL, RING_TOO_LONG,
 * RING_BUSY or RING_CORRUPT. */
enum ring_result ring_make_room(struct ring *ring, uint64_t length);

/* Make a record of this kind (READY or RESERVED) behind those allocated before.  Nobody sees it
 * before ring_publish. */
void ring_allocate(struct ring *ring, uint64_t size, enum ring_kind kind, struct ring_loan *loan);
void ring_publish(struct ring *ring);
void ring_unlock_send(struct ring *ring);
void ring_wake_receivers(struct ring *ring);

/* Publish what was RESERVED, and wake; or give it up. */
void ring_commit(struct ring *ring, const struct ring_loan *loan);
void ring_abort(struct ring *ring, const struct ring_loan *loan);

/* Nothing more can be sent from now on.  RING_OK, RING_BUSY or RING_CORRUPT. */
enum ring_result ring_end(struct ring *ring);

/* Receiving: lock, find, consume or borrow, unlock; then wake. ----------------------- */

enum ring_result ring_lock_receive(struct ring *ring);

/* The next message: RING_OK, RING_EMPTY, RING_ENDED, RING_CORRUPT; or RING_BUSY, for so many records were passed over with
 * this lock that it must be freed first.  The next attempt goes on from there. */
enum ring_result ring_find(struct ring *ring, struct ring_loan *loan);

/* What was found is consumed; or it is read first, and consumed or given back later. */
void ring_consume(struct ring *ring, const struct ring_loan *loan);
void ring_borrow(struct ring *ring, const struct ring_loan *loan);
void ring_unlock_receive(struct ring *ring);
void ring_wake_senders(struct ring *ring);

/* What was BORROWED is consumed; goes back. */
void ring_finish(struct ring *ring, const struct ring_loan *loan);
void ring_return(struct ring *ring, const struct ring_loan *loan);

/* Sleeping: arm, try again, then sleep until the ear can be read. ------------------------ */

/* Listen to a bell: what can be read when it has rung, or -1 and errno.  Nobody empties a FIFO, or it could be empty
 * before all have looked; epoll(7) tells each listener of each byte (EPOLLET).  The descriptor is the caller's. */
int ring_listen(struct ring *ring, enum ring_bell bell);

void ring_arm(struct ring *ring, enum ring_bell bell);
void ring_ring(struct ring *ring, enum ring_bell bell);

/* Looking ---------------------------------------------------------------- */

struct ring_statistics {
    uint64_t messages;      /* published and not consumed */
    uint64_t bytes;         /* of these */
    uint32_t senders;
    uint32_t receivers;
    uint32_t dead;
    bool ended;
};

enum ring_result ring_look(struct ring *ring, struct ring_statistics *statistics);

/* What can be seen of a file without becoming a peer. */
struct ring_glance {
    uint64_t id;
    uint64_t capacity;
    uint64_t messages;      /* published and not consumed */
    uint64_t bytes;         /* of these */
    uint64_t sent;          /* records from the beginning of time */
    uint32_t peers;         /* those alive */
    uint32_t senders;
    uint32_t receivers;
    uint32_t pids[RING_PEERS];
    uint32_t dead;
    bool ended;
};

/* RING_OK; RING_BUSY if receivers were too quick to count the messages; RING_CORRUPT if it may be the records that
 * can't be right, and then the id is not 0; RING_FOREIGN also of a file that is too short to tell, and RING_SHORT of
 * one that was truncated; RING_OTHER_VERSION, RING_OTHER_ABI, RING_SYSTEM. */
enum ring_result ring_peek(int file, struct ring_glance *seen);

#endif
