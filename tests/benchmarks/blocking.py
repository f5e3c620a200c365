"""The figures of semaphores and System V queues, each as a ratio of two measurements of one run.

    python tests/benchmarks/blocking.py [--rounds N] [--only WORD]

The rounds of the things compared are interleaved, and the median of the rounds is what
counts; the spread tells how much the machine did meanwhile.  Messages and permits cross the
border of a process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import posix_ipc
import sysv_ipc
from harness import LOOPS, own_namespace, report, report_idle, run, start

from aioipc import posix, sysv

NAME = f"/aioipc-benchmark-{os.getpid()}"

FILL = """
import sys, sysv_ipc
queue = sysv_ipc.MessageQueue(int(sys.argv[1]))
while sys.stdin.buffer.read(1):
    for number in range(int(sys.argv[2])):
        queue.send(b"%08d" % number)
    sys.stdout.write(".")
    sys.stdout.flush()
"""

ECHO_POSIX = """
import posix_ipc, sys
first, second = (posix_ipc.Semaphore(name) for name in sys.argv[1:3])
for _ in range(int(sys.argv[3])):
    first.acquire()
    second.release()
"""

ECHO_SYSV = """
import sysv_ipc, sys
first, second = (sysv_ipc.Semaphore(int(key)) for key in sys.argv[1:3])
for _ in range(int(sys.argv[3])):
    first.acquire()
    second.release()
"""


def never_empty(rounds: int) -> None:
    """Take the messages of a full System V queue: a bare loop of sysv_ipc against async for."""
    key = os.getpid()
    with ExitStack() as stack:
        queue = stack.enter_context(sysv.MessageQueue.create(key))
        depth = 2000
        repeat = 2
        filler = stack.enter_context(
            start([sys.executable, "-c", FILL, str(key), str(depth)], stdin=-1, stdout=-1, bufsize=0)
        )
        bare_queue = sysv_ipc.MessageQueue(key)

        def fill() -> None:
            filler.stdin.write(b".")
            filler.stdout.read(1)

        def bare() -> float:
            elapsed = 0.0
            for _ in range(repeat):
                fill()
                n = depth
                began = time.perf_counter()
                while n:
                    message = bare_queue.receive(False)  # noqa: F841
                    n -= 1
                elapsed += time.perf_counter() - began
            return elapsed / depth / repeat

        async def iterate() -> float:
            elapsed = 0.0
            for _ in range(repeat):
                fill()
                n = depth
                began = time.perf_counter()
                async for message in queue:  # noqa: B007
                    n -= 1
                    if not n:
                        break
                elapsed += time.perf_counter() - began
            return elapsed / depth / repeat

        report(
            "System V queue, never empty, async for", 1.25, rounds, bare, {"asyncio": lambda: asyncio.run(iterate())}
        )
        filler.stdin.close()


def hand_over(
    title: str,
    rounds: int,
    peer: list[str],
    release: Callable[[], None],
    acquire: Callable[[], Awaitable[None]],
    bare_acquire: Callable[[], None],
    count: int = 2000,
) -> None:
    """Release one semaphore and acquire another, which a peer on the other processor releases in answer."""

    async def trips(acquire: Callable[[], Awaitable[None]]) -> float:
        with start([*peer, str(count + 1)]):
            release()
            await acquire()  # the peer runs
            began = time.perf_counter()
            for _ in range(count):
                release()
                await acquire()
            return (time.perf_counter() - began) / count

    async def in_executor() -> None:
        await asyncio.get_running_loop().run_in_executor(None, bare_acquire)

    for name, loop in LOOPS.items():
        baseline, own = (lambda loop=loop, how=how: loop(trips(how)) for how in (in_executor, acquire))
        report(title, 1.2, rounds, baseline, {name: own})


def posix_hand_over(rounds: int) -> None:
    """A POSIX semaphore, against run_in_executor(None, posix_ipc.Semaphore.acquire)."""
    first, second = NAME + "-first", NAME + "-second"
    for name in (first, second):
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=0).close()
    bare_first, bare_second = posix_ipc.Semaphore(first), posix_ipc.Semaphore(second)
    peer = [sys.executable, "-c", ECHO_POSIX, first, second]

    async def acquire() -> None:
        nonlocal own
        loop = asyncio.get_running_loop()
        if own is None or own[0] is not loop:
            if own is not None:
                own[1].close()
            own = loop, posix.Semaphore.open(second)
        await own[1].acquire()

    own: tuple[object, posix.Semaphore] | None = None
    try:
        hand_over("POSIX semaphore, hand-over", rounds, peer, bare_first.release, acquire, bare_second.acquire)
    finally:
        if own is not None:
            own[1].close()
        for name in (first, second):
            posix_ipc.unlink_semaphore(name)


def sysv_hand_over(rounds: int) -> None:
    """A System V semaphore, against run_in_executor(None, sysv_ipc.Semaphore.acquire)."""
    keys = os.getpid(), os.getpid() + 2**20
    first, second = (sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX, initial_value=0) for key in keys)
    peer = [sys.executable, "-c", ECHO_SYSV, *map(str, keys)]

    async def acquire() -> None:
        nonlocal own
        loop = asyncio.get_running_loop()
        if own is None or own[0] is not loop:
            if own is not None:
                own[1].close()
            own = loop, sysv.SemaphoreSet.open(keys[1])
        await own[1][0].acquire()

    own: tuple[object, sysv.SemaphoreSet] | None = None
    try:
        hand_over("System V semaphore, hand-over", rounds, peer, first.release, acquire, second.acquire)
    finally:
        if own is not None:
            own[1].close()
        first.remove()
        second.remove()


async def wait_idle(seconds: float) -> float:
    """Processor time with one task at each kind of wait."""
    with ExitStack() as stack:
        semaphore = stack.enter_context(posix.Semaphore.create(NAME, value=0))
        members = stack.enter_context(sysv.SemaphoreSet.create(None, values=[0, 1]))
        queue = stack.enter_context(sysv.MessageQueue.create(None))
        full = stack.enter_context(sysv.MessageQueue.create(None, max_bytes=4))
        full.send_nowait(b"full")
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(posix.Fifo.create(folder + "/fifo"))
        reader = await posix.Fifo.open_reader(folder + "/fifo", keep_open=True)
        stack.callback(reader.close)
        stack.enter_context(posix.Fifo.create(folder + "/other"))
        waits = [
            semaphore.acquire(),
            members[0].acquire(),
            members[1].wait_for_zero(),
            members.operate((0, -1), (1, 1)),
            queue.receive(),
            queue.receive(5),
            queue.receive(-5),
            queue.receive(exclude=5),
            full.send(b"more"),
            reader.receive(),
            posix.Fifo.open_reader(folder + "/other").__aenter__(),
        ]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.sleep(0.5)  # threads that are not needed any more have ended by then
        began = time.process_time()
        await asyncio.sleep(seconds)
        used = time.process_time() - began
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return used


def idle(rounds: int) -> None:
    """Processor time of ten seconds of waiting."""
    for name, loop in LOOPS.items():
        report_idle(name, loop(wait_idle(10)))


if __name__ == "__main__":
    own_namespace()
    run(__doc__, (never_empty, posix_hand_over, sysv_hand_over, idle))
