/* A model of the ring (aioipc/_ring) for spin: see check_model.py for what is checked, and how.
 *
 * Two producers (slots 0, 1) and two consumers (slots 2, 3), one of which (slot 1) may call ring_end in the end.  Each
 * runs the loop of an operation: try, arm, reap, try again, sleep (ring.h, invariant 7, and `attempt` in binding.c).  Any of them is
 * killed between any two steps, CRASHES times.  A step is what the code does with one atomic access or system call; several
 * are put together only where nobody else can tell.
 *
 * Positions count units and never wrap: a record is kind[p], owner[p], size[p], and the message is known by its position.
 *
 * Memory is weaker than x86's where the code has a fence or needs an order:
 *   - a store of a sleeping flag, and of READY, waits in a buffer of its process (flags_buffer, ready_buffer) until a fence, for
 *     READY also a releasing read-modify-write, or until `memory` writes it, at any time;
 *   - the flag that `wake` reads may have been read (early) before the store it comes after, if no fence is between.
 * What a process had stored is there when it is dead.
 *
 * Sizes, by -D: SENDS0, SENDS1 messages of LENGTH0, LENGTH1 units, CAPACITY, TAKES2, TAKES3 (how many messages a consumer
 * receives before it goes on with something else; 99: for ever), CRASHES, STOPS, CANCELS (of sleepers, who do nothing after).
 * What is done: RESERVE0, RESERVE1, BORROW2, BORROW3 (1: in place), END (1: slot 1 ends the ring).
 * Faults put in, each of which must be found: NO_FENCE_ARM, NO_FENCE_WAKE, REWIND_LOAD_ONLY, IGNORE_BELOW_HEAD, DRAIN_LAST,
 * ONE_BELL, NEXT_AFTER_CAS, FREE_FIRST, NO_DEATH_REPORT, NO_CONTENDED, NO_REWIND_HEAD, REAP_IF_TOLD, REAP_FIRST, NO_RING_AFTER.
 */
#ifndef SENDS0
#define SENDS0 1
#endif
#ifndef SENDS1
#define SENDS1 1
#endif
#ifndef LENGTH0
#define LENGTH0 1
#endif
#ifndef LENGTH1
#define LENGTH1 1
#endif
#ifndef CAPACITY
#define CAPACITY 1
#endif
#ifndef TAKES2
#define TAKES2 99
#endif
#ifndef TAKES3
#define TAKES3 99
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#ifndef RESERVE0
#define RESERVE0 0
#endif
#ifndef RESERVE1
#define RESERVE1 0
#endif
#ifndef BORROW2
#define BORROW2 0
#endif
#ifndef BORROW3
#define BORROW3 0
#endif
#ifndef END
#define END 0
#endif
#ifndef PEERS
#define PEERS 4
#endif
#ifndef ROOM_UNITS
#define ROOM_UNITS 7
#endif

#define NOWHERE 15
#define NOBODY 7
#define NONE 2

/* enum ring_kind */
#define BLANK 0
#define RESERVED 1
#define READY 2
#define BORROWED 3
#define GONE 4

/* enum ring_result */
#define OK 0
#define FULL 1              /* or EMPTY; in `bury`: the peer lives */
#define BUSY 3
#define ENDED 4

#define MESSAGES 0
#define ROOM 1

#define SEND 0
#define RECEIVE 1
#define CONTENDED 8
#define HOLDER(l) ((l) & 7)

/* struct ring_header */
byte lock[2];               /* send_lock, receive_lock: 0, or slot + 1 | CONTENDED */
byte tail, next, head;
byte rewind = NOWHERE;
bit sleeps[2];              /* receivers_sleep, senders_sleep */
bit ended;
bit used[PEERS];            /* RING_USED */
byte holds[PEERS];
/* The records. */
byte kind[ROOM_UNITS];
byte owner[ROOM_UNITS];
byte size[ROOM_UNITS];
/* The kernel. */
byte byte_of[PEERS];        /* who has locked this byte of the lock file */
bit dead[PEERS];
bit told[PEERS];            /* a death was reported to it (inotify) */
#ifndef ONE_BELL
bit bell[2 * PEERS];        /* what each has heard: ring_listen */
#define BELL(b) bell[(b) * PEERS + me]
#else
bit bell[2];                /* as if who heeds a ring kept the others from hearing it */
#define BELL(b) bell[b]
#endif
/* The memory. */
byte flags_buffer[PEERS];   /* 0, or bell + 1 */
byte ready_buffer[PEERS];   /* 0, or position + 1 */
/* What is checked. */
byte published[ROOM_UNITS]; /* 0, or producer + 1 */
byte taken[ROOM_UNITS];
byte asleep[PEERS];         /* 0, or bell + 1 */
bit done[PEERS];
bit stopped;
byte crashes = CRASHES, stops = STOPS, cancels = CANCELS, wakes;
bit ending;

#define flush(p) \
    if \
    :: flags_buffer[p] != 0 -> sleeps[flags_buffer[p] - 1] = 1; flags_buffer[p] = 0 \
    :: else \
    fi; \
    if \
    :: ready_buffer[p] != 0 -> kind[ready_buffer[p] - 1] = READY; ready_buffer[p] = 0 \
    :: else \
    fi

#define flush_ready(p) \
    if \
    :: ready_buffer[p] != 0 -> kind[ready_buffer[p] - 1] = READY; ready_buffer[p] = 0 \
    :: else \
    fi

/* ring_ring */
#ifndef ONE_BELL
#define ring(b) d_step { bell[(b) * PEERS] = 1; bell[(b) * PEERS + 1] = 1; bell[(b) * PEERS + 2] = 1; bell[(b) * PEERS + 3] = 1 }
#else
#define ring(b) bell[b] = 1
#endif
#define ring_both() ring(MESSAGES); ring(ROOM)

/* A load of the flag that is done before its turn, which only a fence forbids: with the fence nobody ever sees it. */
#ifdef NO_FENCE_WAKE
#define load_early(b) if :: early = sleeps[b] :: early = NONE fi;
#else
#define load_early(b)
#endif

/* wake.  The fence and the load after it are one step: `memory` may have done what the fence does before. */
#ifdef NO_FENCE_WAKE
#define FENCE_WAKE skip
#define FLAG(b) (early != NONE -> early : sleeps[b])
#else
#define FENCE_WAKE flush(me)
#define FLAG(b) sleeps[b]
#endif
inline wake(b) {
    if
    :: atomic { FLAG(b) -> FENCE_WAKE; early = NONE };
        if
        :: atomic { sleeps[b] -> sleeps[b] = 0 };
            ring(b)
        :: atomic { !sleeps[b] -> skip }
        fi
    :: atomic { !FLAG(b) -> FENCE_WAKE; early = NONE }
    fi
}

/* ring_arm */
inline arm(b) {
#ifndef DRAIN_LAST
    BELL(b) = 0;
#endif
    flags_buffer[me] = b + 1;
#ifndef NO_FENCE_ARM
    d_step { flush(me) };
#endif
#ifdef DRAIN_LAST
    BELL(b) = 0;
#endif
}

/* ring_rewind: a releasing read-modify-write. */
inline go_back(p) {
#ifdef REWIND_LOAD_ONLY
    if
    :: atomic { p >= rewind -> skip }
    :: atomic { p < rewind -> flush_ready(me); rewind = p }
    fi
#else
    atomic {
        flush_ready(me);
        rewind = (p < rewind -> p : rewind)
    }
#endif
}

/* ring_unlock */
inline unlock(l) {
    if
    :: atomic { (lock[l] & CONTENDED) != 0 -> lock[l] = 0 };
        ring_both()
    :: atomic { (lock[l] & CONTENDED) == 0 -> lock[l] = 0 }
    fi
}

/* undo */
inline undo() {
    if
    :: holds[victim] == 0 -> buried = OK
    :: else ->
        /* ring_lock; of burying yet another one, who holds it, only the first step */
        do
        :: atomic { lock[RECEIVE] == 0 -> lock[RECEIVE] = me + 1; buried = OK; break }
        :: atomic { lock[RECEIVE] != 0 && !waits && !reaps -> buried = BUSY; break }
        :: atomic { lock[RECEIVE] != 0 && (waits || reaps) ->
                if
                :: byte_of[HOLDER(lock[RECEIVE]) - 1] == NOBODY -> lock[RECEIVE] = 0; freed = 1
                :: else -> lock[RECEIVE] = lock[RECEIVE] | CONTENDED; buried = BUSY; break
                fi }
        od;
        if
        :: buried == OK ->
            d_step { at = head; upto = tail };
            do
            :: at < upto ->
                if
                :: owner[at] == victim && kind[at] == BORROWED ->
                    kind[at] = READY;
                    go_back(at)
                :: owner[at] == victim && kind[at] == RESERVED -> kind[at] = GONE
                :: else
                fi;
                at = at + size[at]
            :: else -> break
            od;
#ifndef NO_REWIND_HEAD
            go_back(head);
#endif
            atomic { at = 0; upto = 0 };
            unlock(RECEIVE);
            holds[victim] = 0
        :: else
        fi
    fi
}

/* ring_bury and clean */
inline bury(slot) {
    victim = slot;
    if
    :: atomic { byte_of[victim] != NOBODY -> buried = FULL }
    :: atomic { byte_of[victim] == NOBODY -> byte_of[victim] = me };
        if
        :: !used[victim] -> buried = OK
        :: else ->
#ifdef FREE_FIRST
            used[victim] = 0;
#endif
            freed = 0;
            d_step {
                if
                :: HOLDER(lock[SEND]) == victim + 1 -> lock[SEND] = 0; freed = 1
                :: else
                fi
            };
            d_step {
                if
                :: HOLDER(lock[RECEIVE]) == victim + 1 -> lock[RECEIVE] = 0; freed = 1
                :: else
                fi
            };
            undo();
            if
            :: freed || buried != BUSY -> ring_both()
            :: else
            fi;
            freed = 0;
            if
            :: buried == OK -> used[victim] = 0
            :: else
            fi
        fi;
        byte_of[victim] = NOBODY
#ifndef NO_RING_AFTER
        ; /* Others may have taken the dead one for alive until now.  Who lets a contended lock go rings anyway. */
        if
        :: buried == BUSY && (lock[RECEIVE] & CONTENDED) == 0 -> ring_both()
        :: else
        fi
#endif
    fi;
    victim = 0
}

/* ring_lock and wait_for */
inline take(l) {
    do
    :: atomic { lock[l] == 0 -> lock[l] = me + 1; result = OK; break }
    :: atomic { lock[l] != 0 && !waits -> result = BUSY; break }
    :: atomic { lock[l] != 0 && waits -> seen = lock[l]; assert(HOLDER(seen) != me + 1) };
        bury(HOLDER(seen) - 1);
        if
        :: atomic { buried == OK -> seen = 0; buried = 0 }
#ifdef NO_CONTENDED
        :: atomic { buried != OK -> seen = 0; buried = 0; result = BUSY; break }
#else
        :: atomic { buried != OK && ((seen & CONTENDED) != 0 || lock[l] == seen) ->
                if
                :: (seen & CONTENDED) == 0 -> lock[l] = seen | CONTENDED
                :: else
                fi;
                seen = 0; buried = 0; result = BUSY; break }
        :: atomic { buried != OK && (seen & CONTENDED) == 0 && lock[l] != seen -> seen = 0; buried = 0 }
#endif
        fi
    od
}

/* Stopped by SIGSTOP for as long as anything else happens. */
#if STOPS > 0
#define may_stop() if :: atomic { stops > 0 -> stops--; stopped = 1 }; stopped == 0 :: skip fi;
#else
#define may_stop()
#endif

/* ring_reap.  What could not be done is owed. */
#ifdef REAP_IF_TOLD
#define to_reap (told[me] || owes)
#else
#define to_reap 1
#endif
#define forget told[me] = 0; owes = 0
inline reap() {
    if
    :: atomic { to_reap -> forget; which = 0; reaps = 1 };
        do
        :: which < PEERS ->
            if
            :: which != me && used[which] ->
                bury(which);
                atomic { owes = (buried == BUSY -> 1 : owes); buried = 0; which++ }
            :: else -> which++
            fi
        :: atomic { which == PEERS -> which = 0; reaps = 0; break }
        od
    :: atomic { !(to_reap) -> skip }
    fi
}

/* sweep, with the lock */
inline sweep(from, to) {
    d_step {
        at = from;
        do
        :: at < to && kind[at] == GONE -> at = at + size[at]
        :: else -> break
        od
    };
    if
    :: at != from -> d_step { from = at; head = at; at = 0 }
    :: else -> at = 0
    fi
}

/* Not now: arm and try again (`attempt` in binding.c), or sleep and begin again. */
inline not_now(b) {
    if
    :: !waits ->
#ifdef REAP_FIRST
        reap();
#endif
        arm(b);
#ifndef REAP_FIRST
        reap();
#endif
        waits = 1
    :: atomic { waits -> asleep[me] = b + 1 };
        if
#if CANCELS > 0
        /* Cancelled: it lives, and does nothing more. */
        :: atomic { cancels > 0 -> cancels--; asleep[me] = 0; done[me] = 1 };
            false
#endif
        :: atomic { BELL(b) || told[me] -> asleep[me] = 0; waits = 0;
#if STOPS > 0
            if
            :: stopped -> wakes++; assert(wakes < 12)
            :: else
            fi
#endif
        }
        fi
    fi
}

proctype producer(byte me; byte left; byte length; bit reserves; bit ends) {
    byte result, seen, victim, buried, at, upto, which, start, room_head;
    byte early = NONE;
    bit waits, reaps, owes, freed;
    {
        do
        :: left > 0 ->
            do
            :: take(SEND);                                 /* ring_lock_send */
                if
                :: result == OK && ended -> unlock(SEND); result = ENDED
                :: result == OK && !ended ->
                    d_step { start = tail; room_head = head };          /* ring_make_room */
                    if
                    :: start - room_head + length <= CAPACITY
                    :: else ->
                        take(RECEIVE);
                        if
                        :: result == OK ->
                            room_head = head;
                            sweep(room_head, start);
                            unlock(RECEIVE);
                            result = (start - room_head + length <= CAPACITY -> OK : FULL)
                        :: else
                        fi
                    fi;
                    if
                    :: result == OK ->
                        /* ring_allocate */
                        if
                        :: reserves -> holds[me]++
                        :: else -> load_early(MESSAGES) skip
                        fi;
                        d_step {
                            owner[start] = me;
                            size[start] = length;
                            kind[start] = (reserves -> RESERVED : READY)
                        };
                        /* ring_publish */
                        d_step {
                            tail = start + length;
                            published[start] = (reserves -> 0 : me + 1)
                        }
                    :: else
                    fi;
                    unlock(SEND)
                :: else
                fi;
                if
                :: atomic { result == OK || result == ENDED -> room_head = 0; break }
                :: atomic { result != OK && result != ENDED -> room_head = 0; start = 0 };
                    not_now(ROOM)
                fi
            od;
            if
            :: result == OK && !reserves -> wake(MESSAGES)
            :: else
            fi;
#ifdef ONE_BELL
            if
            :: atomic { waits -> waits = 0; ring(ROOM) }
            :: else
            fi;
#else
            waits = 0
#endif
            ;
            if
            :: result == OK && reserves ->
                if
                ::  /* ring_commit */
                    load_early(MESSAGES)
                    d_step { ready_buffer[me] = start + 1; published[start] = me + 1 };
                    go_back(start);
                    d_step { flush_ready(me); holds[me]-- };            /* let_go */
                    wake(MESSAGES)
                ::  /* ring_abort */
                    load_early(ROOM)
                    kind[start] = GONE;
                    holds[me]--;
                    wake(ROOM);
                    if
                    :: ended -> wake(MESSAGES)
                    :: else
                    fi
                fi
            :: else
            fi;
            d_step { start = 0; left = (result == ENDED -> 0 : left - 1); result = 0 }
        :: else -> break
        od;
        if
        :: ends ->                                          /* ring_end */
            ending = 1;
            do
            :: take(SEND);
                if
                :: result == OK -> ended = 1; unlock(SEND); ring_both(); break
                :: else -> not_now(ROOM)
                fi
            od;
#ifdef ONE_BELL
            if
            :: atomic { waits -> waits = 0; ring(ROOM) }
            :: else
            fi;
#else
            waits = 0
#endif
        :: else
        fi;
        atomic { result = 0; owes = 0; done[me] = 1 }
    } unless { dead[me] }
}

inline heed_rewind() {
    if
    :: atomic { rewind != NOWHERE -> old = rewind };
        d_step {
            assert(old <= tail);
#ifdef IGNORE_BELOW_HEAD
            my_next = (old < my_next && old >= my_head -> old : my_next)
#else
            my_next = (old < my_next -> (old < my_head -> my_head : old) : my_next)
#endif
        };
#ifndef NEXT_AFTER_CAS
        next = my_next;
#endif
        d_step {
            if
            :: rewind == old -> rewind = NOWHERE
            :: else
            fi;
            old = 0
        };
#ifdef NEXT_AFTER_CAS
        next = my_next
#endif
    :: rewind == NOWHERE
    fi
}

proctype consumer(byte me; byte left; bit borrows) {
    byte result, seen, victim, buried, at, upto, which, old;
    byte my_next, my_head, my_tail;
    byte early = NONE;
    bit waits, reaps, owes, freed, over;
    {
        do
        :: left > 0 ->
            do
            :: take(RECEIVE);                              /* ring_lock_receive */
                if
                :: result == OK ->
                    may_stop()
                    d_step {
                        my_head = head;
                        my_next = (next < head -> head : next);
                        my_tail = tail;
                        assert(my_next <= my_tail && my_tail - my_head <= CAPACITY)
                    };
                    heed_rewind();
                    /* ring_find */
                    do
                    :: my_next == my_tail ->
                        over = ended;
                        my_tail = tail;
                        if
                        :: my_next == my_tail ->
                            next = my_next;
                            sweep(my_head, my_tail);
                            d_step { result = (over && my_head == my_tail -> ENDED : FULL) };
                            break
                        :: else
                        fi
                    :: atomic { my_next != my_tail && kind[my_next] == READY && rewind >= my_next -> result = OK; break }
                    :: atomic { my_next != my_tail && kind[my_next] == READY && rewind < my_next -> skip };
                        heed_rewind()
                    :: atomic { my_next != my_tail && kind[my_next] != READY ->
                            assert(kind[my_next] != BLANK);
                            my_next = my_next + size[my_next] }
                    od;
                    if
                    :: result == OK && borrows ->           /* ring_borrow */
                        holds[me]++;
                        d_step { assert(published[my_next] != 0); kind[my_next] = BORROWED; owner[my_next] = me };
                        next = my_next + size[my_next]
                    :: result == OK && !borrows ->          /* ring_consume */
                        load_early(ROOM)
                        d_step {
                            assert(published[my_next] != 0 && taken[my_next] == 0);
                            taken[my_next] = 1;
                            if
                            :: my_next == my_head -> head = my_next + size[my_next]
                            :: else -> kind[my_next] = GONE
                            fi
                        };
                        next = my_next + size[my_next]
                    :: else
                    fi;
                    unlock(RECEIVE)
                :: else
                fi;
                if
                :: atomic { result == OK || result == ENDED -> my_head = 0; my_tail = 0; over = 0; break }
                :: atomic { result != OK && result != ENDED -> my_head = 0; my_tail = 0; over = 0; my_next = 0 };
                    not_now(MESSAGES)
                fi
            od;
            if
            :: result == OK && !borrows -> wake(ROOM)
            :: else
            fi;
#ifdef ONE_BELL
            if
            :: atomic { waits -> waits = 0; ring(MESSAGES) }
            :: else
            fi;
#else
            waits = 0
#endif
            ;
            if
            :: result == OK && borrows ->
                if
                ::  /* ring_finish: gone */
                    load_early(ROOM)
                    d_step { assert(taken[my_next] == 0); taken[my_next] = 1; kind[my_next] = GONE };
                    holds[me]--;
                    wake(ROOM);
                    if
                    :: ended -> wake(MESSAGES)
                    :: else
                    fi
                :: atomic { left > 1 -> left = 2 };         /* ring_return, then once more */
                    load_early(MESSAGES)
                    d_step { owner[my_next] = me; ready_buffer[me] = my_next + 1 };
                    go_back(my_next);
                    d_step { flush_ready(me); holds[me]-- };
                    wake(MESSAGES)
                fi
            :: else
            fi;
            d_step {
                my_next = 0;
                left = (result == ENDED -> 0 : (left == 99 -> 99 : left - 1));
                result = 0
            }
        :: else -> break
        od;
        atomic { result = 0; owes = 0; done[me] = 1 }
    } unless { dead[me] }
}

/* What waits in a buffer is written some time. */
proctype memory() {
    do
    :: atomic { flags_buffer[0] != 0 || ready_buffer[0] != 0 -> flush(0) }
    :: atomic { flags_buffer[1] != 0 || ready_buffer[1] != 0 -> flush(1) }
    :: atomic { flags_buffer[2] != 0 || ready_buffer[2] != 0 -> flush(2) }
    :: atomic { flags_buffer[3] != 0 || ready_buffer[3] != 0 -> flush(3) }
    od
}

#ifdef NO_DEATH_REPORT
#define tell(p) skip
#else
#define tell(p) told[p] = !dead[p]
#endif

/* The kernel drops the locks, then tells the others. */
#define kill(p) \
    atomic { crashes > 0 && !dead[p] && !done[p] -> crashes--; dead[p] = 1; asleep[p] = 0; told[p] = 0; flush(p); byte_of[p] = NOBODY; \
        if :: byte_of[0] == p -> byte_of[0] = NOBODY :: else fi; \
        if :: byte_of[1] == p -> byte_of[1] = NOBODY :: else fi; \
        if :: byte_of[2] == p -> byte_of[2] = NOBODY :: else fi; \
        if :: byte_of[3] == p -> byte_of[3] = NOBODY :: else fi; \
        tell(0); tell(1); tell(2); tell(3) }

proctype killer() {
    do
#ifdef VICTIM
    :: kill(VICTIM)
#else
    :: kill(0)
    :: kill(1)
    :: kill(2)
    :: kill(3)
#endif
    :: crashes = 0; break
    od
}

/* Nothing happens any more: has everything happened that should? */
inline check() {
    /* Who lives, sleeps or has finished: nobody hangs. */
    which = 0;
    do
    :: which < PEERS ->
        assert(dead[which] || done[which] || asleep[which] != 0);
        which++
    :: else -> break
    od;
    any = asleep[0] != 0 || asleep[1] != 0 || asleep[2] != 0 || asleep[3] != 0;
    receivers = asleep[2] != 0 || asleep[3] != 0;
    /* A lock that a dead one holds must not keep anybody. */
    assert(!any || lock[SEND] == 0 && lock[RECEIVE] == 0);
    at = 0;
    room = CAPACITY - (tail - head);
    gone = 1;
    do
    :: at < tail ->
        if
        :: at < head -> assert(published[at] == 0 || taken[at] == 1)
        :: else ->
            gone = gone && kind[at] == GONE;
            room = room + (gone -> size[at] : 0);
            /* No message is lost, and none waits while somebody waits for it. */
            assert(published[at] == 0 || taken[at] == 1 || kind[at] == READY || kind[at] == BORROWED);
            assert(!(receivers && kind[at] == READY));
            /* Nothing is left of the dead. */
            assert(!(any && (kind[at] == RESERVED || kind[at] == BORROWED) && dead[owner[at]]))
        fi;
        at = at + size[at]
    :: else -> break
    od;
    assert(!(receivers && ended && gone));
    assert(!(asleep[0] != 0 && (room >= LENGTH0 || ended)));
    assert(!(asleep[1] != 0 && (room >= LENGTH1 || ended)));
#if END
    /* Who waits to end the ring has its reason in the lock, which is free. */
    assert(asleep[1] == 0 || !ending)
#endif
}

proctype judge() {
    byte which, at, room;
    bit any, receivers, gone;
    do
    :: atomic { timeout ->
        if
        :: stopped -> stopped = 0; wakes = 0
        :: else -> check(); break
        fi }
    od
}

#define START(p, work, what) \
    if \
    :: (work) > 0 -> byte_of[p] = p; used[p] = 1; run what \
    :: else -> byte_of[p] = NOBODY; done[p] = 1 \
    fi

init {
    atomic {
        START(0, SENDS0, producer(0, SENDS0, LENGTH0, RESERVE0, 0));
        START(1, SENDS1 + END, producer(1, SENDS1, LENGTH1, RESERVE1, END));
        START(2, TAKES2, consumer(2, TAKES2, BORROW2));
        START(3, TAKES3, consumer(3, TAKES3, BORROW3));
        run memory();
#if CRASHES > 0
        run killer();
#endif
        run judge()
    }
}
