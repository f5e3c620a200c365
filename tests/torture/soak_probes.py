"""How long it takes through each object: from one handle to a task that waits with another, in one event loop.

The control takes the same way through a pipe and the loop alone: what slows down both is not the library's, unless it
has left something in the loop.  So it is also told what the control takes when nothing else is done.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import perf_counter, thread_time
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
from soak_drift import CONTROL
from soak_place import Place

from aioipc import Channel, posix, sysv

PAUSE = 0.02
"""Seconds between two probes."""
ALONE = 200
"""Probes of the control alone."""


class Probes:
    """Those of all objects, which stay open."""

    def __init__(self) -> None:
        self.found: defaultdict[str, list[float]] = defaultdict(list)
        """Seconds, by what was gone through."""
        self._through: dict[str, Callable[[], Awaitable[None]]] = {}

    async def run(self, place: Place) -> None:
        """Probe for ever, in any order."""
        names = list(self._through)
        while True:
            place.rng.shuffle(names)
            for name in names:
                await anyio.sleep(PAUSE)  # so that the task waits again, and its thread
                began = perf_counter()
                await self._through[name]()
                self.found[name].append(perf_counter() - began)

    async def alone(self) -> list[float]:
        """What processor time the control takes while nothing else is done in the loop.

        It is a multiple of what a piece of work takes that is always the same.  What other processes do changes neither
        much, and hardly one without the other.
        """
        found = []
        for _ in range(ALONE):
            await anyio.lowlevel.checkpoint()  # so that the task waits again
            began = thread_time()
            await self._through[CONTROL]()
            arrived = thread_time()
            sorted(map(str, range(1000)))
            found.append((arrived - began) / (thread_time() - arrived))
        return found

    def add(
        self,
        group: anyio.abc.TaskGroup,
        name: str,
        send: Callable[[], Awaitable[object]],
        receive: Callable[[], Awaitable[object]],
    ) -> None:
        """Probe what a task receives that is sent."""
        arrived = anyio.Event()

        async def wait() -> None:
            while True:
                await receive()
                arrived.set()

        async def through() -> None:
            nonlocal arrived
            arrived = anyio.Event()
            await send()
            await arrived.wait()

        group.start_soon(wait)
        self._through[name] = through

    def add_memory(self, name: str, open_segment: Callable[[], posix.SharedMemory | sysv.SharedMemory]) -> None:
        """Probe what is opened, written to and closed: nobody waits for memory."""

        async def through() -> None:
            with open_segment() as segment:
                segment.buffer[0] = 1

        self._through[name] = through


@asynccontextmanager
async def probing(place: Place) -> AsyncIterator[Probes]:
    """Have probes of all objects until the block ends."""
    probes = Probes()
    with (
        place.some("names", 3) as (name, memory, ring),
        place.some("keys", 1) as (key,),
        place.some("paths", 1) as path,
    ):
        async with AsyncExitStack() as stack:
            enter = stack.enter_context
            queues: list[Any] = [
                enter(posix.MessageQueue.create(name, max_messages=2, max_message_size=8)),
                enter(posix.MessageQueue.open(name)),
            ]
            semaphores = enter(posix.Semaphore.create(name, value=0)), enter(posix.Semaphore.open(name))
            jobs = enter(sysv.MessageQueue.create(key)), enter(sysv.MessageQueue.open(key))
            sets = enter(sysv.SemaphoreSet.create(key, values=[0])), enter(sysv.SemaphoreSet.open(key))
            channels = enter(Channel.create(ring, capacity=2**12)), enter(Channel.open(ring))
            enter(posix.SharedMemory.create(memory, size=10_000))
            enter(sysv.SharedMemory.create(key, size=10_000))
            enter(posix.Fifo.create(path[0]))
            reader = await stack.enter_async_context(posix.Fifo.open_reader(path[0], keep_open=True))
            writer = await stack.enter_async_context(posix.Fifo.open_writer(path[0]))
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            stack.callback(os.close, writing)

            async def read() -> None:
                await anyio.wait_readable(reading)
                os.read(reading, 1)

            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            add = partial(probes.add, group)
            add(CONTROL, at_once(lambda: os.write(writing, b"x")), read)
            add("posix.MessageQueue", partial(queues[0].send, b"x"), queues[1].receive)
            add("posix.Semaphore", at_once(semaphores[0].release), semaphores[1].acquire)
            add("posix.Fifo", partial(writer.send, b"x"), reader.receive)
            add("sysv.MessageQueue", partial(jobs[0].send, b"x", type=1), jobs[1].receive)
            add("sysv.SemaphoreSet", at_once(sets[0][0].release), sets[1][0].acquire)
            add("Channel", partial(channels[0].send, b"x"), channels[1].receive)
            probes.add_memory("posix.SharedMemory", partial(posix.SharedMemory.open, memory))
            probes.add_memory("sysv.SharedMemory", partial(sysv.SharedMemory.open, key))
            yield probes


def at_once(function: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """Let what does not wait be awaited."""

    async def call() -> None:
        function()

    return call
