/* Bells: how a peer sleeps, and is woken.  See ring.h, invariant 7. */
#include "inside.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

void
ring_ring(struct ring *ring, enum ring_bell bell)
{
    char bytes[4096];
    /* A byte more, for that is what is heard.  When the FIFO is full, or there is no page for it, some of the old ones
     * make room: others may do the same at once, hence the bound. */
    for (int i = 0; i < 16 && write(ring->bells[bell], "", 1) < 0
                    && (errno == EAGAIN || errno == EINTR || errno == ENOMEM); i++) {
        ssize_t got = read(ring->bells[bell], bytes, sizeof bytes);
        (void)got;
    }
}

void
ring_both(struct ring *ring)
{
    ring_ring(ring, RING_MESSAGES);
    ring_ring(ring, RING_ROOM);
}

int
ring_listen(struct ring *ring, enum ring_bell bell)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int ear = epoll_create1(EPOLL_CLOEXEC);
    if (ear >= 0 && epoll_ctl(ear, EPOLL_CTL_ADD, ring->bells[bell], &event) != 0) {
        int error = errno;
        close(ear);
        errno = error;
        return -1;
    }
    ring->ears[bell] = ear;
    return ear;
}

static void
wake(struct ring *ring, _Atomic uint32_t *sleep, enum ring_bell bell)
{
    /* The other half of Dekker's algorithm is in ring_arm. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(sleep, memory_order_relaxed) != 0
        && atomic_exchange_explicit(sleep, 0, memory_order_relaxed) != 0)
        ring_ring(ring, bell);
}

void
ring_wake_receivers(struct ring *ring)
{
    wake(ring, &ring->memory.header->receivers_sleep, RING_MESSAGES);
}

void
ring_wake_senders(struct ring *ring)
{
    wake(ring, &ring->memory.header->senders_sleep, RING_ROOM);
}

void
ring_arm(struct ring *ring, enum ring_bell bell)
{
    struct ring_header *header = ring->memory.header;
    struct epoll_event heard[4];
    /* What has been heard is heeded now.  Before the flag: a ring after it must be heard. */
    if (ring->ears[bell] >= 0)
        epoll_wait(ring->ears[bell], heard, 4, 0);
    atomic_store_explicit(bell == RING_MESSAGES ? &header->receivers_sleep : &header->senders_sleep, 1,
                          memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}
