"""Fails when an operation that need not wait has become markedly slower.

    python tests/benchmarks/guard.py [--rounds N]

Each is compared with work of the same kind in the same process: a bare call where there is one, else a call of a small
coroutine function.  Both take turns in short rounds, and the shortest of each counts: what the machine does beside
makes a round longer, never shorter.  The bounds are about 1.6 times what was measured on CPython 3.11 to 3.13; a
doubling is over them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import posix_ipc
import sysv_ipc
from candidate import unique

from aioipc import Channel, posix, sysv

REPEAT = 200
DATA = bytes(64)

Loop = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """What a coroutine costs."""


async def coroutines() -> None:
    for _ in range(REPEAT):
        await nothing()
        await nothing()


def channel_one(stack: ExitStack) -> tuple[Loop, Loop]:
    channel = stack.enter_context(Channel.create(unique()))

    async def own() -> None:
        for _ in range(REPEAT):
            await channel.send(DATA)
            await channel.receive()

    return own, coroutines


def channel_iterate(stack: ExitStack) -> tuple[Loop, Loop]:
    channel = stack.enter_context(Channel.create(unique()))

    async def own() -> None:
        channel.send_nowait(DATA)
        left = REPEAT
        async for message in channel:
            left -= 1
            if not left:
                break
            channel.send_nowait(message)

    return own, coroutines


def channel_many(stack: ExitStack) -> tuple[Loop, Loop]:
    channel = stack.enter_context(Channel.create(unique()))
    batch = [DATA] * REPEAT

    async def own() -> None:
        await channel.send_many(batch)
        await channel.receive_many(REPEAT)

    return own, coroutines


def channel_in_place(stack: ExitStack) -> tuple[Loop, Loop]:
    channel = stack.enter_context(Channel.create(unique()))

    async def own() -> None:
        for _ in range(REPEAT):
            async with channel.reserve(64):
                pass
            async with channel.borrow():
                pass

    return own, coroutines


def channel_large(stack: ExitStack) -> tuple[Loop, Loop]:
    channel = stack.enter_context(Channel.create(unique(), capacity=2**20))
    data, buffer = bytes(2**16), bytearray(2**16)

    async def own() -> None:
        for _ in range(20):
            await channel.send(data)
            await channel.receive()

    async def bare() -> None:
        for _ in range(20):
            buffer[:] = data
            bytes(buffer)

    return own, bare


def posix_queue(stack: ExitStack) -> tuple[Loop, Loop]:
    queue = stack.enter_context(posix.MessageQueue.create(unique(), max_messages=2, max_message_size=64))
    bare_queue = posix_ipc.MessageQueue(queue.name)
    stack.callback(bare_queue.close)

    async def own() -> None:
        for _ in range(REPEAT):
            await queue.send(DATA)
            await queue.receive()

    async def bare() -> None:
        for _ in range(REPEAT):
            bare_queue.send(DATA)
            bare_queue.receive()

    return own, bare


def system_v_queue(stack: ExitStack) -> tuple[Loop, Loop]:
    key = os.getpid()
    queue = stack.enter_context(sysv.MessageQueue.create(key))
    bare_queue = sysv_ipc.MessageQueue(key)

    async def own() -> None:
        for _ in range(REPEAT):
            await queue.send(DATA)
            await queue.receive()

    async def bare() -> None:
        for _ in range(REPEAT):
            bare_queue.send(DATA)
            bare_queue.receive()

    return own, bare


def posix_semaphore(stack: ExitStack) -> tuple[Loop, Loop]:
    semaphore = stack.enter_context(posix.Semaphore.create(unique(), value=1))
    bare_semaphore = posix_ipc.Semaphore(semaphore.name)
    stack.callback(bare_semaphore.close)

    async def own() -> None:
        for _ in range(REPEAT):
            await semaphore.acquire()
            semaphore.release()

    async def bare() -> None:
        for _ in range(REPEAT):
            bare_semaphore.acquire()
            bare_semaphore.release()

    return own, bare


PATHS: dict[str, tuple[Callable[[ExitStack], tuple[Loop, Loop]], float]] = {
    "Channel, send and receive 64 B": (channel_one, 0),
    "Channel, async for": (channel_iterate, 0),
    "Channel, send_many and receive_many": (channel_many, 0),
    "Channel, reserve and borrow": (channel_in_place, 0),
    "Channel, 64 KiB, by two copies": (channel_large, 0),
    "posix.MessageQueue, by posix_ipc": (posix_queue, 0),
    "sysv.MessageQueue, by sysv_ipc": (system_v_queue, 0),
    "posix.Semaphore, by posix_ipc": (posix_semaphore, 0),
}
"""What is measured, and the bound of its ratio."""


async def shortest(own: Loop, base: Loop, rounds: int) -> tuple[float, float]:
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for index, loop in enumerate((own, base)):
            began = time.perf_counter()
            await loop()
            times[index].append(time.perf_counter() - began)
    return min(times[0]), min(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="of each, in turn (300)")
    arguments = parser.parse_args()
    missed = False
    for name, (prepare, bound) in PATHS.items():
        with ExitStack() as stack:
            own, base = asyncio.run(shortest(*prepare(stack), arguments.rounds))
        print(f"{name:<40} {own / base:5.2f} (bound {bound})")
        missed |= own / base > bound
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
