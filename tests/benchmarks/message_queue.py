"""The figures of POSIX message queues, each as a ratio of two measurements of one run.

    python tests/benchmarks/message_queue.py [--rounds N] [--only WORD]

The rounds of the things compared are interleaved, and the median of the rounds is what
counts; the spread tells how much the machine did meanwhile.  Messages cross the border of
a process: the other side is the C program tests/peers/mq.c.  Run as root it works in an
IPC namespace of its own, where it may raise the system's limits.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import posix_ipc
from harness import LOOPS, Measurement, compiled, own_namespace, report, report_idle, run, start

from aioipc.posix import MessageQueue

COUNTER = itertools.count()


def raise_limits() -> None:
    """Make room for all measurements, if that is allowed."""
    if own_namespace():
        for name, value in (("msg_max", 5000), ("queues_max", 2000)):
            Path("/proc/sys/fs/mqueue", name).write_text(str(value))


def bound(measurement: Callable[[str, int], None], peer: str) -> Measurement:
    """The measurement with its peer."""

    @functools.wraps(measurement)
    def measure(rounds: int) -> None:
        measurement(peer, rounds)

    return measure


def create(max_messages: int = 10, size: int = 64) -> MessageQueue:
    name = f"/aioipc-benchmark-{os.getpid()}-{next(COUNTER)}"
    return MessageQueue.create(name, max_messages=max_messages, max_message_size=size)


def never_empty(peer: str, rounds: int) -> None:
    """Take the messages of a full queue: a bare loop of posix_ipc against async for."""
    with ExitStack() as stack:
        try:
            queue = stack.enter_context(create(4000, 8))
        except OSError:
            queue = stack.enter_context(create())
        depth = queue.max_messages
        repeat = 4000 // depth
        filler = stack.enter_context(start([peer, "fill", queue.name, str(depth), "8"], stdin=-1, stdout=-1, bufsize=0))
        bare_queue = posix_ipc.MessageQueue(queue.name, posix_ipc.O_NONBLOCK)
        stack.callback(bare_queue.close)

        def fill() -> None:
            filler.stdin.write(b".")
            filler.stdout.readline()

        def bare() -> float:
            elapsed = 0.0
            for _ in range(repeat):
                fill()
                n = depth
                began = time.perf_counter()
                while n:
                    message = bare_queue.receive()  # noqa: F841
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

        report("never empty, async for", 1.25, rounds, bare, {"asyncio": lambda: asyncio.run(iterate())})
        filler.stdin.close()


def ping_pong(peer: str, rounds: int, count: int = 2000) -> None:
    """A round trip to an echoing C program, from C and from a task."""
    with create() as out, create() as back:
        command = [peer, "echo", out.name, back.name, str(count)]

        def in_c() -> float:
            with start(command):
                ping = [peer, "ping", out.name, back.name, str(count)]
                return float(subprocess.run(ping, check=True, capture_output=True).stdout) / 1e9

        async def in_task() -> float:
            async with MessageQueue.open(out.name) as there, MessageQueue.open(back.name) as here:
                with start(command):
                    began = time.perf_counter()
                    for _ in range(count):
                        await there.send(b"12345678")
                        await here.receive()
                    return (time.perf_counter() - began) / count

        report(
            "ping-pong", 1.5, rounds, in_c, {name: lambda loop=loop: loop(in_task()) for name, loop in LOOPS.items()}
        )


async def trips_beside(peer: str, count: int, idle: list[MessageQueue]) -> float:
    """Round trips while one task waits on each of the idle queues."""
    async with asyncio.TaskGroup() as group, create() as out, create() as back:
        tasks = [group.create_task(queue.receive()) for queue in idle]
        with start([peer, "echo", out.name, back.name, str(2 * count)]):
            for _ in range(2):  # the first time, Python still sorts its new objects into generations
                began = time.perf_counter()
                for _ in range(count):
                    await out.send(b"12345678")
                    await back.receive()
                elapsed = (time.perf_counter() - began) / count
        for task in tasks:
            task.cancel()
        return elapsed


def many_queues(peer: str, rounds: int, count: int = 2000) -> None:
    """A round trip beside 1,000 queues that are waited for, against one beside none."""
    if os.geteuid() != 0:
        print("1,000 queues: left out, it takes root to raise fs.mqueue.queues_max")
        return

    def beside(idle: int) -> float:
        with ExitStack() as stack:
            queues = [stack.enter_context(create(1, 8)) for _ in range(idle)]
            stack.callback(lambda: [queue.close() for queue in queues])
            return asyncio.run(trips_beside(peer, count, queues))

    report("1,000 queues, one busy", 1.2, rounds, lambda: beside(0), {"asyncio": lambda: beside(1000)})


async def wake(tasks: int, count: int) -> float:
    """Messages taken by tasks that all wait for one queue, each of them again and again."""
    async with create() as queue:
        done = asyncio.Event()
        left = count

        async def receive() -> None:
            nonlocal left
            async for _ in queue:
                left -= 1
                if left == 0:
                    done.set()
                elif left > 0:
                    await queue.send(b"next")

        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(receive())
            while queue.statistics().tasks_waiting_receive < tasks:  # noqa: ASYNC110
                await asyncio.sleep(0)
            began = time.perf_counter()
            await queue.send(b"first")
            await done.wait()
            elapsed = time.perf_counter() - began
            queue.close()
        return elapsed / count


def many_tasks(peer: str, rounds: int) -> None:
    """The wake-up of one of 10,000 tasks, against that of one of 10."""
    for name, loop in LOOPS.items():
        few, many = (lambda loop=loop, n=n: loop(wake(n, 20_000)) for n in (10, 10_000))
        report("one of 10,000 waiting tasks", 1.5, rounds, few, {name: many})


async def wait_idle(seconds: float) -> float:
    async with create() as empty, create(1) as full, asyncio.TaskGroup() as group:
        full.send_nowait(b"")
        tasks = [group.create_task(wait) for wait in (empty.receive(), full.send(b""))]
        await asyncio.sleep(0.1)
        began = time.process_time()
        await asyncio.sleep(seconds)
        used = time.process_time() - began
        for task in tasks:
            task.cancel()
        return used


def idle(peer: str, rounds: int) -> None:
    """Processor time of ten seconds of waiting."""
    for name, start_loop in LOOPS.items():
        report_idle(name, start_loop(wait_idle(10)))


def importing(peer: str, rounds: int) -> None:
    """What `import aioipc` adds to the import of asyncio and anyio."""

    def seconds(statement: str) -> float:
        code = (
            f"import time; import asyncio, anyio; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
        )
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    seconds("import aioipc")
    taken = sorted(seconds("import aioipc") for _ in range(max(rounds, 5)))
    print(f"{'import aioipc':<58} {statistics.median(taken) * 1e3:5.2f} ms (bound 25, up to {taken[-1] * 1e3:.2f})")


MEASUREMENTS = (never_empty, ping_pong, many_queues, many_tasks, idle, importing)


if __name__ == "__main__":
    raise_limits()
    with compiled("mq") as peer:
        run(__doc__, tuple(bound(measurement, peer) for measurement in MEASUREMENTS))
