"""What the processes of the soak do, each by a task of its own, over and over.

What an activity makes is gone when it returns.  Most are visits: objects are made, a peer comes to them, sends back
what it gets, and leaves or is killed; nothing is lost, doubled or left, whatever was cancelled.  A
cancelled operation that has done something nevertheless leaves a message too many; if it has taken
something, the peer does not end.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest
from soak_place import PYTHON_PEER, Place, ended, has_come_further, numbered, output_of

import aioipc
from aioipc import Channel, inspect, posix, sysv


class Activity(NamedTuple):
    do: Callable[[Place], Awaitable[None]]
    pause: float
    """Seconds until it is done again, on average."""


# Visits


async def posix_queue(place: Place) -> None:
    count, depth = place.rng.randint(1, 100), place.rng.randint(1, 10)
    with place.some("names", 2) as (there, back):
        async with (
            posix.MessageQueue.create(there, max_messages=depth, max_message_size=64) as outgoing,
            posix.MessageQueue.create(back, max_messages=depth, max_message_size=64) as incoming,
        ):

            async def receive() -> bytes:
                return (await incoming.receive()).data

            peer = place.either((place.programs.mq, "echo", there, back), ("mq", there, back))
            async with place.visitor(*peer, count=count):
                await place.exchange(count, outgoing.send, receive)
            assert (outgoing.statistics().messages, incoming.statistics().messages) == (0, 0)


async def posix_semaphore(place: Place) -> None:
    count = place.rng.randint(1, 100)
    with (
        place.some("names", 2) as (there, back),
        posix.Semaphore.create(there, value=0) as outgoing,
        posix.Semaphore.create(back, value=0) as incoming,
    ):

        async def send(_: bytes) -> None:
            outgoing.release()

        peer = place.either((place.programs.sem, "echo", there, back), ("sem", there, back))
        async with place.visitor(*peer, count=count):
            await place.exchange(count, send, numbered(incoming.acquire))
        assert (outgoing.value, incoming.value) == (0, 0)


async def sysv_queue(place: Place) -> None:
    count, room = place.rng.randint(1, 100), place.rng.choice([10, 100, 1000])
    chosen: dict[str, int] = place.rng.choice([{"type": 3}, {"type": -5}, {"exclude": 4}])
    with place.some("keys", 2) as (there, back):
        async with (
            sysv.MessageQueue.create(there, max_bytes=room) as outgoing,
            sysv.MessageQueue.create(back, max_bytes=room) as incoming,
        ):

            async def send(data: bytes) -> None:
                await outgoing.send(data, type=3)

            async def receive() -> bytes:
                return (await incoming.receive(**chosen)).data

            peer = place.either(
                (place.programs.sysv, "echo", outgoing.id, incoming.id), ("sysv", outgoing.key, incoming.key)
            )
            async with place.visitor(*peer, count=count):
                await place.exchange(count, send, receive)
            assert (outgoing.statistics().messages, incoming.statistics().messages) == (0, 0)


async def sysv_set(place: Place) -> None:
    count, undo = place.rng.randint(1, 100), place.rng.random() < 0.5
    with place.some("keys", 1) as (key,), sysv.SemaphoreSet.create(key, values=[0, 0, 0]) as semaphores:

        async def send(_: bytes) -> None:
            semaphores[0].release()

        async def acquire() -> None:
            await semaphores[1].acquire(undo=undo)
            if undo:
                semaphores[2].release(undo=True)

        async with place.visitor(place.programs.sysv, "hand", semaphores.id, 0, 1, count=count):
            await place.exchange(count, send, numbered(acquire))
        assert semaphores.values == (0, 0, count * undo)


async def fifo(place: Place) -> None:
    rng = place.rng
    text = rng.randbytes(rng.randint(1, 100_000))
    parts = [text[start : start + 2000] for start in range(0, len(text), 2000)]
    with place.some("paths", 2) as (there, back):
        async with posix.Fifo.create(there), posix.Fifo.create(back):
            for open_end in (posix.Fifo.open_reader, posix.Fifo.open_writer):
                with anyio.move_on_after(0.001):  # while there is nobody at the other end
                    await open_end(there)
            peer = ("sh", "-c", 'exec cat "$0" >"$1"', there, back)
            async with AsyncExitStack() as opened, place.visitor(*peer) as is_killed:
                reader = await opened.enter_async_context(posix.Fifo.open_reader(back))
                writer = await opened.enter_async_context(posix.Fifo.open_writer(there))
                await _pump(place, reader, writer, parts)
                if not is_killed:
                    writer.close()
                    with pytest.raises(aioipc.EndOfStream):
                        await reader.receive()
    place.counts["operations"] += 2 * len(parts)


async def _pump(place: Place, reader: posix.FifoReader, writer: posix.FifoWriter, parts: list[bytes]) -> None:
    async def write() -> None:
        for part in parts:
            await place.insist(lambda: writer.send(part))  # noqa: B023, it is awaited here

    text = b"".join(parts)
    came = b""
    async with anyio.create_task_group() as group:
        group.start_soon(write)
        while len(came) < len(text):
            came += await place.insist(reader.receive)
            has_come_further()
    assert came == text


async def channel(place: Place) -> None:
    count = place.rng.randint(1, 200)
    with place.some("names", 2) as (there, back):
        async with (
            Channel.create(there, capacity=2**12) as outgoing,
            Channel.create(back, capacity=2**12) as incoming,
        ):

            async def send(data: bytes) -> None:
                how = place.rng.randrange(3)
                if how == 0:
                    await outgoing.send(data)
                elif how == 1:
                    await outgoing.send_many([data])
                else:
                    async with outgoing.reserve(len(data)) as buffer:
                        buffer[:] = data

            async def receive() -> bytes:
                how = place.rng.randrange(3)
                if how == 0:
                    return await incoming.receive()
                if how == 1:
                    return (await incoming.receive_many(1))[0]
                async with incoming.borrow() as view:
                    return bytes(view)

            async with place.visitor(sys.executable, PYTHON_PEER, "channel", there, back, count=count):
                await place.exchange(count, send, receive)
            assert (outgoing.statistics().messages, incoming.statistics().messages) == (0, 0)


async def posix_memory(place: Place) -> None:
    with place.some("names", 1) as (name,):
        with posix.SharedMemory.create(name, size=place.rng.randint(100, 50_000)) as segment:
            await _write_and_read(place, segment, name)
            segment.resize(100_000)
            await _write_and_read(place, segment, name)


async def sysv_memory(place: Place) -> None:
    with place.some("keys", 1) as (key,):
        with sysv.SharedMemory.create(key, size=place.rng.randint(100, 50_000)) as segment:
            await _write_and_read(place, segment, str(key))


async def _write_and_read(place: Place, segment: posix.SharedMemory | sysv.SharedMemory, address: str) -> None:
    offset = place.rng.randint(0, segment.size - 20)
    view = segment.buffer[offset : offset + 20]
    view[:] = b"%020d" % offset
    assert await output_of(place.programs.shm, "read", address, offset, 20) == b"%020d" % offset
    await output_of(place.programs.shm, "write", address, offset, "another")
    assert view[:7] == b"another"
    place.counts["operations"] += 2


# What goes on in one process


async def stream(place: Place) -> None:
    """A channel is filled by one handle and emptied by another, with messages of all sizes."""
    sizes = [place.rng.choice([0, 10, 1000, 20_000]) for _ in range(300)]

    async def send() -> None:
        async with Channel.open(name) as channel:
            for start in range(0, len(sizes), 5):
                await channel.send_many([bytes(size) for size in sizes[start : start + 5]])
            await channel.end()

    with place.some("names", 1) as (name,):
        async with Channel.create(name, capacity=2**17) as channel, anyio.create_task_group() as group:
            group.start_soon(send)
            assert [len(message) async for message in channel] == sizes
    place.counts["operations"] += 2 * len(sizes)


async def threads(place: Place) -> None:
    """Ten threads wait, then do so no more, by cancellation or because their time has come; and end when they idle."""
    with place.some("keys", 1) as (key,), sysv.SemaphoreSet.create(key, values=[0] * 10) as semaphores:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for semaphore in semaphores:
                    group.start_soon(semaphore.acquire)
                await anyio.sleep(place.rng.random() / 50)
                group.cancel_scope.cancel()
        async with anyio.create_task_group() as group:
            for semaphore in semaphores:
                group.start_soon(semaphore.acquire)
            await anyio.sleep(place.rng.random() / 50)
            for semaphore in semaphores:
                semaphore.release()
        assert not any(semaphores.values)
    place.counts["operations"] += 30


async def ends(place: Place) -> None:
    """Crowds wait when handles are closed, or objects removed."""

    async def expect(error: type[Exception], wait: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(error):
            await wait()

    with place.some("names", 2) as (name, other), place.some("keys", 1) as (key,), ExitStack() as stack:
        opened: tuple[Any, ...] = (
            posix.MessageQueue.create(name, max_messages=1, max_message_size=8),
            posix.Semaphore.create(name, value=0),
            Channel.create(other, capacity=64),
            sysv.MessageQueue.create(key),
            sysv.SemaphoreSet.create(key, values=[0]),
        )
        for handle in opened:
            stack.enter_context(handle)
        queue, semaphore, a_channel, jobs, semaphores = opened
        async with anyio.create_task_group() as group:
            for wait in (queue.receive, semaphore.acquire, a_channel.receive):
                for _ in range(20):
                    group.start_soon(expect, aioipc.ClosedError, wait)
            removal = place.rng.random() < 0.5
            for wait in (jobs.receive, semaphores[0].acquire):
                for _ in range(20):
                    group.start_soon(expect, aioipc.RemovedError if removal else aioipc.ClosedError, wait)
            await anyio.sleep(place.rng.random() / 100)
            for handle in opened:
                if removal and handle in (jobs, semaphores):
                    handle.remove()
                else:
                    handle.close()
    place.counts["operations"] += 100


async def errors(place: Place) -> None:
    """What can't be done says so, and leaves nothing."""
    with place.some("names", 2) as (name, other):
        async with posix.MessageQueue.create(name, max_messages=1, max_message_size=8) as queue:
            with pytest.raises(aioipc.ExistsError):
                posix.MessageQueue.create(name)
            with pytest.raises(aioipc.MessageTooLongError):
                await queue.send(bytes(9))
            with pytest.raises(aioipc.WouldBlock):
                queue.receive_nowait()
            queue.send_nowait(b"")
            with pytest.raises(aioipc.WouldBlock):
                queue.send_nowait(b"")
        with pytest.raises(aioipc.ClosedError):
            queue.send_nowait(b"")
        for kind in (posix.MessageQueue, posix.Semaphore, posix.SharedMemory, Channel):
            with pytest.raises(aioipc.NotFoundError):
                kind.open(name)
            with pytest.raises(ValueError, match="slash"):
                kind.open("name")
        with pytest.raises(aioipc.LimitError):
            posix.MessageQueue.create(name, max_message_size=2**30)
        with pytest.raises(aioipc.LimitError):
            Channel.create(name, capacity=2**45)
        with posix.SharedMemory.create(name, size=10_000), pytest.raises(aioipc.CorruptError):
            Channel.open(name)
        with Channel.create(other, capacity=64) as full:
            full.send_nowait(bytes(32))
            with pytest.raises(aioipc.WouldBlock):
                full.send_nowait(b"")
            with pytest.raises(aioipc.ExistsError):
                Channel.create(other)
    with place.some("keys", 1) as (key,):
        async with sysv.MessageQueue.create(key, max_bytes=4) as jobs:
            with pytest.raises(aioipc.MessageTooLongError):
                jobs.send_nowait(bytes(5), type=1)
            jobs.send_nowait(bytes(4), type=1)
            with pytest.raises(aioipc.WouldBlock):
                jobs.send_nowait(b"more", type=1)
            jobs.remove()
            with pytest.raises(aioipc.RemovedError):
                jobs.receive_nowait()
        for sysv_kind in (sysv.MessageQueue, sysv.SemaphoreSet, sysv.SharedMemory):
            with pytest.raises(aioipc.NotFoundError):
                sysv_kind.open(key)
    place.counts["errors"] += 24


async def dropped(place: Place) -> None:
    """Handles that nobody has closed, some of which only the garbage collector finds."""
    with place.some("names", 2) as (name, other), place.some("keys", 1) as (key,), ExitStack() as stack:
        for created in (
            posix.MessageQueue.create(name, max_messages=1, max_message_size=8),
            posix.Semaphore.create(name, value=0),
            posix.SharedMemory.create(name, size=10_000),
            Channel.create(other, capacity=64),
            sysv.MessageQueue.create(key),
            sysv.SemaphoreSet.create(key, values=[0]),
            sysv.SharedMemory.create(key, size=10_000),
        ):
            stack.enter_context(created)  # type: ignore[arg-type]
        opened: list[Any] = [kind.open(name) for kind in (posix.MessageQueue, posix.Semaphore, posix.SharedMemory)]
        opened += [kind.open(key) for kind in (sysv.MessageQueue, sysv.SemaphoreSet, sysv.SharedMemory)]
        opened.append(Channel.open(other))
        for waits in (opened[0].receive, opened[1].acquire, opened[3].receive, opened[6].receive):
            with anyio.move_on_after(0.001):
                await waits()
        opened.append(opened)
        del opened, waits
        gc.collect()
    place.counts["handles dropped"] += 7


async def forks(place: Place) -> None:
    """A child opens its own handles, and leaves inherited ones alone."""
    with place.some("names", 1) as (name,), posix.Semaphore.create(name, value=0) as semaphore:
        async with posix.MessageQueue.create(name, max_messages=1, max_message_size=8) as queue:
            async with anyio.create_task_group() as group:
                group.start_soon(queue.receive)
                group.start_soon(semaphore.acquire)
                await anyio.sleep(place.rng.random() / 200)
                child = os.fork()
                if child == 0:
                    _be_child(name, semaphore, queue)
                await ended(child)
                assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 -- it has ended
    place.counts["forks"] += 1


def _be_child(name: str, *inherited: Any) -> None:
    status = 1
    try:
        semaphore, queue = inherited
        with pytest.raises(RuntimeError):
            semaphore.acquire_nowait()
        with pytest.raises(RuntimeError):
            queue.send_nowait(b"")
        for handle in inherited:
            handle.close()
        with posix.Semaphore.open(name) as own_semaphore, posix.MessageQueue.open(name) as own_queue:
            own_semaphore.release()
            own_queue.send_nowait(b"child")
        status = 0
    except BaseException:  # noqa: BLE001 -- it is reported
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


async def looks(place: Place) -> None:
    """Who looks at all objects, while they come and go, leaves no trace."""
    inspect.look()
    inspect.limits()
    place.counts["looks"] += 1
    await anyio.lowlevel.checkpoint()


ACTIVITIES = {
    "posix.MessageQueue": Activity(posix_queue, 0.1),
    "posix.Semaphore": Activity(posix_semaphore, 0.1),
    "posix.SharedMemory": Activity(posix_memory, 0.2),
    "posix.Fifo": Activity(fifo, 0.1),
    "sysv.MessageQueue": Activity(sysv_queue, 0.1),
    "sysv.SemaphoreSet": Activity(sysv_set, 0.1),
    "sysv.SharedMemory": Activity(sysv_memory, 0.2),
    "Channel": Activity(channel, 1),
    "stream": Activity(stream, 0.2),
    "threads": Activity(threads, 0.2),
    "ends": Activity(ends, 0.2),
    "errors": Activity(errors, 0.1),
    "dropped": Activity(dropped, 0.2),
    "forks": Activity(forks, 0.5),
    "looks": Activity(looks, 0.5),
}
"""By their names, which are the steps of a schedule."""
