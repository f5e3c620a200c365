"""Creators and openers of one name or key, killed in the middle of it.

Whoever finds something finds it complete, whatever its creator died of.  In the end what has the name can be opened,
used and removed, and nothing else is left but what `aioipc rm --orphans` removes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import posix_ipc
from harness import Scenario, Schedule
from kills_crowd import CLOSING, CREATING, RESTING, USING, Crowd, Me, draw
from kills_left import (
    SHM,
    check_doorbells,
    check_segments,
    doorbells,
    half_made_semaphores,
    note_bells,
    remove,
    rows_of,
)
from world import World

import aioipc
from aioipc import Channel, posix, sysv

SIZE = 10_000
CREATORS, OPENERS = 3, 2

GONE = (aioipc.NotFoundError, aioipc.RemovedError)
"""What somebody meets who is late."""


@dataclass(frozen=True)
class Kind:
    """Objects of one kind, and what is done to them."""

    name: str
    address: Callable[[World], Any]
    create: Callable[..., Any]
    """Takes the address, exist_ok and persist."""
    open: Callable[[Any], Any]
    use: Callable[[Any], Awaitable[bool]]
    """Looks whether it is complete, and uses it; whether something came of that."""
    exists: Callable[[Any], bool]
    """Whether there is one at the address, asked without aioipc."""
    litter: Callable[[Crowd], set[Path]] = lambda _: set()
    """The files that those who were killed have left, besides."""
    check_litter: Callable[[World, set[Path]], None] = lambda *_: None


async def use_queue(queue: posix.MessageQueue) -> bool:
    assert (queue.max_messages, queue.max_message_size) == (3, 100)
    with suppress(aioipc.WouldBlock):
        queue.send_nowait(b"text", priority=2)
    with suppress(aioipc.WouldBlock):
        assert queue.receive_nowait() == (b"text", 2)
        return True
    return False


async def use_semaphore(semaphore: posix.Semaphore) -> bool:
    # Those that were killed have taken permits along, but nobody has given more than he took.
    assert semaphore.value <= 5
    with suppress(aioipc.WouldBlock):
        semaphore.acquire_nowait()
        await anyio.lowlevel.checkpoint()
        semaphore.release()
        return True
    return False


async def use_shared_memory(segment: posix.SharedMemory | sysv.SharedMemory) -> bool:
    assert segment.size == SIZE
    if isinstance(segment, posix.SharedMemory):
        assert segment.statistics().reserved >= SIZE
    with segment.buffer as view:
        assert set(view[:100]) <= {0, ord("x")}
        view[:100] = b"x" * 100
        view[-1] = 1
    return True


async def use_fifo(fifo: posix.Fifo | str) -> bool:
    path = os.fspath(fifo)
    # Where the path stands for another FIFO from one opening to the next, nobody may come to the other end.
    with anyio.move_on_after(0.005):
        async with posix.Fifo.open_reader(path, keep_open=True) as reader:
            async with posix.Fifo.open_writer(path) as writer:
                with suppress(aioipc.BrokenError):  # it is another FIFO, whose reader has gone
                    await writer.send(b"text")
            assert set(await reader.receive(64)) <= set(b"text")
            return True
    return False


async def use_sysv_queue(queue: sysv.MessageQueue) -> bool:
    with suppress(aioipc.WouldBlock):
        queue.send_nowait(b"text", type=2)
    with suppress(aioipc.WouldBlock):
        assert queue.receive_nowait() == (b"text", 2)
        return True
    return False


async def use_set(semaphores: sysv.SemaphoreSet) -> bool:
    assert semaphores.values in ((0, 7), (1, 7), (0, 0))
    with suppress(aioipc.WouldBlock):
        semaphores[0].acquire_nowait(undo=True)
        await anyio.lowlevel.checkpoint()
        semaphores[0].release(undo=True)
        return True
    return False


def create_set(key: int, **how: bool) -> sysv.SemaphoreSet:
    semaphores = sysv.SemaphoreSet.create(key, values=[1, 7], **how)
    # Who only opens it may find the zeros of a creator that has died.  Nobody takes of the second one.
    with suppress(aioipc.RemovedError):
        assert semaphores[1].value == 7
    return semaphores


async def use_channel(channel: Channel) -> bool:
    assert channel.capacity == 1024
    with suppress(aioipc.WouldBlock):
        channel.send_nowait(b"text")
    with suppress(aioipc.WouldBlock):
        assert channel.receive_nowait() == b"text"
        return True
    return False


# What there is --------------------------------------------------------------------------------------------------------


def posix_queue_exists(name: str) -> bool:
    with suppress(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(name, 0).close()
        return True
    return False


def in_shm(prefix: str = "") -> Callable[[str], bool]:
    return lambda name: os.path.lexists(SHM / (prefix + name[1:]))


def in_proc(kind: str) -> Callable[[int], bool]:
    return lambda key: any(int(row[0]) == key for row in rows_of(kind))


# What the processes do -----------------------------------------------------------------------------------------------


def creator(kind: Kind, address: Any) -> Callable[[Me], Awaitable[None]]:
    async def create(me: Me) -> None:
        note_bells(me)
        while not me.is_ending:
            is_taking_over = me.rng.random() < 0.7
            me.notes.phase = CREATING
            try:
                handle = kind.create(address, exist_ok=is_taking_over, persist=me.rng.random() < 0.3)
            except aioipc.ExistsError:
                assert not is_taking_over
            else:
                me.notes.phase = USING
                with handle:
                    await use(kind, handle, me)
                    me.notes.phase = CLOSING
            await rest(me)

    return create


def opener(kind: Kind, address: Any) -> Callable[[Me], Awaitable[None]]:
    async def open_(me: Me) -> None:
        while not me.is_ending:
            me.notes.phase = CREATING
            with suppress(*GONE):
                handle = kind.open(address)
                me.notes.phase = USING
                try:
                    await use(kind, handle, me)
                    me.notes.phase = CLOSING
                finally:
                    if not isinstance(handle, str):
                        handle.close()
            await rest(me)

    return open_


async def use(kind: Kind, handle: Any, me: Me) -> None:
    """Use what was created, taken over or opened; who never comes to the end of this has not gone on."""
    with suppress(*GONE):
        if await kind.use(handle):
            me.notes.did()


async def rest(me: Me) -> None:
    me.notes.phase = RESTING
    await anyio.sleep(0.002 * me.rng.random() if me.rng.random() < 0.7 else 0)


# What is left --------------------------------------------------------------------------------------------------------


def use_and_remove(kind: Kind, address: Any) -> None:
    """As a new program does with what it finds."""

    async def main() -> None:
        handle = kind.open(address)
        await kind.use(handle)
        if not isinstance(handle, str):
            handle.close()
        with kind.create(address, exist_ok=True) as taken_over:
            await kind.use(taken_over)

    anyio.run(main)


# The rounds ----------------------------------------------------------------------------------------------------------


KINDS = (
    Kind(
        "posix.MessageQueue",
        World.name,
        lambda name, **how: posix.MessageQueue.create(name, max_messages=3, max_message_size=100, **how),
        posix.MessageQueue.open,
        use_queue,
        posix_queue_exists,
    ),
    Kind(
        "posix.Semaphore",
        World.name,
        lambda name, **how: posix.Semaphore.create(name, value=5, **how),
        posix.Semaphore.open,
        use_semaphore,
        in_shm("sem."),
        half_made_semaphores,
    ),
    Kind(
        "posix.SharedMemory",
        World.name,
        lambda name, **how: posix.SharedMemory.create(name, size=SIZE, **how),
        posix.SharedMemory.open,
        use_shared_memory,
        in_shm(),
    ),
    Kind("posix.Fifo", World.path, posix.Fifo.create, os.fspath, use_fifo, os.path.lexists),
    Kind(
        "sysv.MessageQueue",
        World.key,
        lambda key, **how: sysv.MessageQueue.create(key, max_bytes=1000, **how),
        sysv.MessageQueue.open,
        use_sysv_queue,
        in_proc("msg"),
    ),
    Kind(
        "sysv.SemaphoreSet",
        World.key,
        create_set,
        sysv.SemaphoreSet.open,
        use_set,
        in_proc("sem"),
    ),
    Kind(
        "sysv.SharedMemory",
        World.key,
        lambda key, **how: sysv.SharedMemory.create(key, size=SIZE, **how),
        sysv.SharedMemory.open,
        use_shared_memory,
        in_proc("shm"),
    ),
    Kind(
        "Channel",
        World.name,
        lambda name, **how: Channel.create(name, capacity=1024, **how),
        Channel.open,
        use_channel,
        in_shm(),
        doorbells,
        check_doorbells,
    ),
)


def run(kind: Kind, world: World, schedule: Schedule) -> Counter[str]:
    address = kind.address(world)
    crowd = Crowd(world, schedule)
    world.later(lambda: remove(kind.litter(crowd)))
    crowd.add("creator", creator(kind, address), CREATORS)
    crowd.add("opener", opener(kind, address), OPENERS)
    crowd.storm()
    crowd.end()
    for role, what in (("creator", "creations"), ("opener", "openings")):
        crowd.counts[what] += sum(member.notes.done for member in crowd.all if member.role == role)
    crowd.counts["kills while creating"] += sum(
        member.role == "creator" and member.notes.phase == CREATING for member in crowd.killed
    )
    if kind.exists(address):
        crowd.counts["objects left"] += 1
        world.fork(use_and_remove, kind, address).result()
        assert not kind.exists(address)
    litter = kind.litter(crowd)
    crowd.counts["files left"] += len(litter)
    kind.check_litter(world, litter)
    check_segments(crowd)
    return crowd.counts


def scenario(kind: Kind) -> Scenario:
    return Scenario(
        f"kill/lives of {kind.name}/all",
        lambda rng: draw(rng, members=CREATORS + OPENERS),
        lambda world, schedule: run(kind, world, schedule),
    )


SCENARIOS = tuple(map(scenario, KINDS))
