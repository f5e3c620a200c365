"""What is measured besides transfers: hand-over, many queues, many tasks, waiting for nothing, memory, imports."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candidate import folder_link, unique
from processes import perform
from transfers import run_on

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

OBJECTS = 100
"""How many are open when the memory of one is measured."""


# Messages that need not be waited for


def take_from_full(kind: str, how: str, depth: int, repeat: int) -> float:
    """Seconds to take a message from a queue that has some: a bare loop, or async for."""
    (seconds,) = perform([partial(_take_from_full, kind, how, depth, repeat)])
    return float(seconds)


def _take_from_full(kind: str, how: str, depth: int, repeat: int, barrier: Barrier) -> float:
    with ExitStack() as stack:
        own, bare = _queues(stack, kind, depth)
        receive = bare.receive if kind == "posix" else partial(bare.receive, False)

        def take_bare() -> None:
            left = depth
            while left:
                message = receive()  # noqa: F841
                left -= 1

        async def take() -> float:
            elapsed = 0.0
            for _ in range(repeat):
                for _ in range(depth):
                    bare.send(b"12345678")
                began = time.perf_counter()
                if how == "bare":
                    take_bare()
                else:
                    left = depth
                    async for message in own:  # noqa: B007
                        left -= 1
                        if not left:
                            break
                elapsed += time.perf_counter() - began
            return elapsed / depth / repeat

        return asyncio.run(take())


def _queues(stack: ExitStack, kind: str, depth: int) -> tuple[Any, Any]:
    """A queue, opened by this library and by the package that it stands on."""
    if kind == "posix":
        import posix_ipc

        from aioipc import posix

        posix_queue = stack.enter_context(posix.MessageQueue.create(unique(), max_messages=depth, max_message_size=8))
        bare = posix_ipc.MessageQueue(posix_queue.name, posix_ipc.O_NONBLOCK)
        stack.callback(bare.close)
        return posix_queue, bare
    import sysv_ipc

    from aioipc import sysv

    key = os.getpid()
    queue = stack.enter_context(sysv.MessageQueue.create(key))
    return queue, sysv_ipc.MessageQueue(key)


# Hand-over of a semaphore


def hand_over(kind: str, how: str, loop: str, count: int) -> float:
    """Seconds to release one semaphore and to acquire another, that a peer releases in answer."""
    with ExitStack() as stack:
        names = _semaphores(stack, kind)
        trips = partial(_hand_over, kind, how, loop, names, count)
        seconds, _ = perform([trips, partial(_answer, kind, names, count)])
    return float(seconds)


def _semaphores(stack: ExitStack, kind: str) -> list[Any]:
    if kind == "posix":
        import posix_ipc

        names: list[Any] = [unique(), unique()]
        for name in names:
            posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=0).close()
            stack.callback(posix_ipc.unlink_semaphore, name)
        return names
    import sysv_ipc

    semaphores = [sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=0) for _ in range(2)]
    for semaphore in semaphores:
        stack.callback(semaphore.remove)
    return [semaphore.key for semaphore in semaphores]


def _bare_semaphore(kind: str, name: Any) -> Any:
    if kind == "posix":
        import posix_ipc

        return posix_ipc.Semaphore(name)
    import sysv_ipc

    return sysv_ipc.Semaphore(name)


def _answer(kind: str, names: list[Any], count: int, barrier: Barrier) -> None:
    first, second = (_bare_semaphore(kind, name) for name in names)
    barrier.wait()
    for _ in range(count + 1):
        first.acquire()
        second.release()


def _hand_over(kind: str, how: str, loop: str, names: list[Any], count: int, barrier: Barrier) -> float:
    async def trips() -> float:
        running = asyncio.get_running_loop()
        with ExitStack() as stack:
            release = _bare_semaphore(kind, names[0]).release
            acquire: Callable[[], Any]
            if how == "own":
                from aioipc import posix, sysv

                if kind == "posix":
                    acquire = stack.enter_context(posix.Semaphore.open(names[1])).acquire
                else:
                    acquire = stack.enter_context(sysv.SemaphoreSet.open(names[1]))[0].acquire
            else:
                bare = _bare_semaphore(kind, names[1])
                acquire = partial(running.run_in_executor, None, bare.acquire)
            barrier.wait()
            release()
            await acquire()
            began = time.perf_counter()
            for _ in range(count):
                release()
                await acquire()
            return (time.perf_counter() - began) / count

    return run_on(loop, trips())


# Many queues, many tasks


def beside_queues(queues: int, count: int) -> float:
    """Seconds for a round trip through two POSIX queues, while others are waited for."""
    from aioipc.posix import MessageQueue

    with ExitStack() as stack:
        out, back = (
            stack.enter_context(MessageQueue.create(unique(), max_messages=4, max_message_size=8)) for _ in range(2)
        )
        trips = partial(_beside_queues, queues - 1, out.name, back.name, count)
        seconds, _ = perform([trips, partial(_echo_in_c, out.name, back.name, 2 * count)])
    return float(seconds)


def _echo_in_c(inward: str, outward: str, count: int, barrier: Barrier) -> None:
    command = [os.environ["AIOIPC_FLOOR"], "mq", "echo", "8", str(count), inward, outward]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # else nobody might be there to read it, and the program be ended for that
        process.stdin.write(b"\n")
        process.stdin.flush()
        barrier.wait()


def _beside_queues(idle: int, out: str, back: str, count: int, barrier: Barrier) -> float:
    from aioipc.posix import MessageQueue

    async def trips() -> float:
        async with AsyncExitStack() as stack:
            there = await stack.enter_async_context(MessageQueue.open(out))
            here = await stack.enter_async_context(MessageQueue.open(back))
            waited_for = [MessageQueue.create(unique(), max_messages=1, max_message_size=8) for _ in range(idle)]
            queues = [await stack.enter_async_context(queue) for queue in waited_for]
            tasks = [asyncio.ensure_future(queue.receive()) for queue in queues]
            barrier.wait()
            for _ in range(2):  # the first time, Python still sorts its new objects into generations
                began = time.perf_counter()
                for _ in range(count):
                    await there.send(b"12345678")
                    await here.receive()
                elapsed = (time.perf_counter() - began) / count
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return elapsed

    return asyncio.run(trips())


def among_tasks(tasks: int, loop: str, count: int) -> float:
    """Seconds to wake one of the tasks that wait for a POSIX queue, each again and again."""
    (seconds,) = perform([partial(_among_tasks, tasks, loop, count)])
    return float(seconds)


def _among_tasks(tasks: int, loop: str, count: int, barrier: Barrier) -> float:
    from aioipc.posix import MessageQueue

    async def wake() -> float:
        async with MessageQueue.create(unique(), max_messages=2, max_message_size=8) as queue:
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

    return run_on(loop, wake())


# Waiting for nothing


def idle(loop: str, seconds: float) -> float:
    """Processor seconds, of ten seconds of one task at each kind of wait."""
    (used,) = perform([partial(_idle, loop, seconds)])
    return float(used) * 10 / seconds


def _idle(loop: str, seconds: float, barrier: Barrier) -> float:
    async def wait() -> float:
        async with AsyncExitStack() as stack:
            tasks = [asyncio.ensure_future(waiting) for waiting in await _all_waits(stack)]
            await asyncio.sleep(0.5)  # threads that are not needed any more have ended by then
            began = time.process_time()
            await asyncio.sleep(seconds)
            used = time.process_time() - began
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return used

    return run_on(loop, wait())


async def _all_waits(stack: AsyncExitStack) -> list[Any]:
    from aioipc import Channel, posix, sysv

    queue = stack.enter_context(posix.MessageQueue.create(unique(), max_messages=1, max_message_size=8))
    full_queue = stack.enter_context(posix.MessageQueue.create(unique(), max_messages=1, max_message_size=8))
    full_queue.send_nowait(b"full")
    channel = stack.enter_context(Channel.create(unique()))
    full_channel = stack.enter_context(Channel.create(unique(), capacity=64))
    full_channel.send_nowait(b"")
    semaphore = stack.enter_context(posix.Semaphore.create(unique(), value=0))
    members = stack.enter_context(sysv.SemaphoreSet.create(None, values=[0, 1]))
    jobs = stack.enter_context(sysv.MessageQueue.create(None))
    full_jobs = stack.enter_context(sysv.MessageQueue.create(None, max_bytes=4))
    full_jobs.send_nowait(b"full")
    path, other_path = (stack.enter_context(folder_link()) for _ in range(2))
    stack.enter_context(posix.Fifo.create(path))
    stack.enter_context(posix.Fifo.create(other_path))
    reader = await posix.Fifo.open_reader(path, keep_open=True)
    stack.callback(reader.close)
    return [
        *(queue.receive(), full_queue.send(b"more")),
        *(channel.receive(), channel.receive_many(5), channel.borrow().__aenter__(), anext(channel)),
        *(full_channel.send(b""), full_channel.send_many([b""]), full_channel.reserve(1).__aenter__()),
        *(semaphore.acquire(), members[0].acquire(), members[1].wait_for_zero(), members.operate((0, -1), (1, 1))),
        *(jobs.receive(), jobs.receive(5), jobs.receive(-5), jobs.receive(exclude=5), full_jobs.send(b"more")),
        *(reader.receive(), posix.Fifo.open_reader(other_path).__aenter__()),
    ]


# Memory, imports


def _open_own(what: str, stack: ExitStack) -> None:
    from aioipc import Channel, posix, sysv

    makers: dict[str, Callable[[], Any]] = {
        "aioipc.posix.MessageQueue": lambda: posix.MessageQueue.create(unique(), max_messages=1, max_message_size=8),
        "aioipc.posix.Semaphore": lambda: posix.Semaphore.create(unique()),
        "aioipc.posix.SharedMemory": lambda: posix.SharedMemory.create(unique(), size=4096),
        "aioipc.sysv.MessageQueue": lambda: sysv.MessageQueue.create(None),
        "aioipc.sysv.SemaphoreSet": lambda: sysv.SemaphoreSet.create(None, values=[1]),
        "aioipc.sysv.SharedMemory": lambda: sysv.SharedMemory.create(None, size=4096),
        "aioipc.Channel": lambda: Channel.create(unique(), capacity=2**16),
    }
    stack.enter_context(makers[what]())


def _open_other(what: str, stack: ExitStack) -> None:
    if what == "multiprocessing.Queue":
        import multiprocessing

        stack.callback(multiprocessing.Queue().close)
    else:
        import posix_ipc

        name = unique()
        stack.callback(posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_messages=1, max_message_size=8).close)
        stack.callback(posix_ipc.unlink_message_queue, name)


def memory(what: str) -> float:
    """Resident bytes of this process for an open object."""
    (size,) = perform([partial(_memory, what)])
    return float(size)


def _memory(what: str, barrier: Barrier) -> float:
    open_one = _open_own if what.startswith("aioipc") else _open_other
    with ExitStack() as stack:
        open_one(what, stack)  # what is there once only
        gc.collect()
        before = _resident()
        for _ in range(OBJECTS):
            open_one(what, stack)
        return (_resident() - before) / OBJECTS


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def importing(statement: str) -> float:
    """Seconds that an import adds to those of asyncio and anyio."""
    before = "" if statement == "import asyncio, anyio" else "import asyncio, anyio; "
    code = f"import time; {before}t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    with suppress(KeyError):
        del os.environ["PYTHONDONTWRITEBYTECODE"]  # as users have it
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
