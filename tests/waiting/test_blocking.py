"""Waiting for what only blocks: threads, signals, loops, and who gets what."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import libc
import posix_ipc
import pytest
import trio
import uvloop
from conftest import as_nobody, in_child, until, worker_threads
from kinds import KINDS, every_kind, made

import aioipc
from aioipc import posix, sysv
from aioipc._waiting import workers

NewName = Callable[[], str]

LOOPS: dict[str, Callable[[Any], Any]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
    "trio": lambda coroutine: trio.run(lambda: coroutine),
}


@asynccontextmanager
async def no_thread_is_left() -> AsyncIterator[None]:
    """As there was none before."""
    await until(lambda: not worker_threads())
    yield
    await until(lambda: not worker_threads())


async def check_threads(count: int) -> None:
    """There are so many threads, and no more come."""
    await until(lambda: len(worker_threads()) >= count)
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
        assert len(worker_threads()) == count


@contextmanager
def bare(name: str) -> Iterator[posix_ipc.Semaphore]:
    semaphore = posix_ipc.Semaphore(name)
    try:
        yield semaphore
    finally:
        semaphore.close()


# At once


@every_kind
def test_at_once_when_possible(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What need not wait touches neither a loop, there is none here, nor a thread."""

    def refuse(run: object) -> None:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(workers.Run, "start", refuse)
    with made(kind, name) as it:
        it.give()
        with pytest.raises(StopIteration) as ended:
            it.wait().send(None)
        assert ended.value.value
        assert it.left() == 0


# Threads


@pytest.mark.anyio
@every_kind
async def test_one_thread_for_all_tasks_that_want_the_same(name: str, kind: str) -> None:
    with made(kind, name) as it:
        async with no_thread_is_left(), anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(it.wait)
            await until(lambda: it.waiting == 100)
            await check_threads(1)
            group.cancel_scope.cancel()
        assert it.waiting == 0


@pytest.mark.anyio
async def test_a_thread_for_each_thing_that_is_waited_for() -> None:
    async with sysv.MessageQueue.create(None) as queue:
        async with no_thread_is_left(), anyio.create_task_group() as group:
            for type in (0, 1, 2, -3):
                group.start_soon(partial(queue.receive, type))
                group.start_soon(partial(queue.receive, type))
            group.start_soon(partial(queue.receive, exclude=1))
            await until(lambda: queue.statistics().tasks_waiting_receive == 9)
            await check_threads(5)
            group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_thousand_semaphores_waited_for_at_once() -> None:
    order: list[int] = []
    with sysv.SemaphoreSet.create(None, values=[0] * 1000) as members:

        async def acquire(number: int) -> None:
            await members[number].acquire()
            order.append(number)

        async with no_thread_is_left(), anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(acquire, number)
            await until(lambda: sum(members.statistics().waiting_for_nonzero) == 1000)
            await check_threads(1000)
            for number in range(1000):
                libc.semop(members.id, (number, 1))
        assert sorted(order) == list(range(1000))
        assert sum(members.values) == 0


@pytest.mark.anyio
async def test_a_thread_is_used_again(name: str) -> None:
    with posix.Semaphore.create(name, value=0) as semaphore, bare(name) as other:
        seen: set[str] = set()
        for _ in range(100):
            async with anyio.create_task_group() as group:
                group.start_soon(semaphore.acquire)
                await until(lambda: semaphore.statistics().tasks_waiting_acquire == 1)
                seen |= worker_threads()
                other.release()
        assert len(seen) < 50


@every_kind
@pytest.mark.asyncio
async def test_the_executor_of_the_loop_is_left_alone(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("something goes through an executor")

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    with made(kind, name) as it:
        task = asyncio.create_task(it.wait())
        await until(lambda: it.waiting == 1)
        it.give()
        await task


def test_loops_in_other_threads(new_name: NewName) -> None:
    """Each with handles of its own, all at the same semaphores; cancelled, timed out and served."""
    first, second = new_name(), new_name()
    served: list[str] = []

    async def main(kind: str) -> None:
        with posix.Semaphore.open(first) as here, posix.Semaphore.open(second) as there:
            for _ in range(50):
                with anyio.move_on_after(0.0005):
                    await there.acquire()
                    raise AssertionError("nobody has released it")
                await here.acquire()
                served.append(kind)

    with posix.Semaphore.create(first, value=0) as semaphore, posix.Semaphore.create(second, value=0):
        running = [threading.Thread(target=run, args=(main(kind),)) for kind, run in [*LOOPS.items()] * 2]
        for thread in running:
            thread.start()
        for _ in range(300):
            semaphore.release()
        for thread in running:
            thread.join()
        assert semaphore.value == 0
    assert {kind: served.count(kind) for kind in LOOPS} == dict.fromkeys(LOOPS, 100)


# Who gets it


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [*KINDS, "operations with a release"])
async def test_first_come_first_served(name: str, kind: str) -> None:
    order: list[int] = []

    async def wait(number: int) -> None:
        await it.wait()
        order.append(number)

    with made(kind, name) as it:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(wait, number)
                await until(lambda number=number: it.waiting == number + 1)  # type: ignore[misc]
            for number in range(20):
                it.give()
                await until(lambda number=number: len(order) == number + 1)  # type: ignore[misc]
        assert order == list(range(20))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_many_come_at_once(name: str, kind: str) -> None:
    """A thousand tasks get what comes in one go, each of them one."""
    with made(kind, name) as it:
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(it.wait)
            await until(lambda: it.waiting == 1000)
            for _ in range(1000):
                it.give()
        assert it.left() == 0


@pytest.mark.anyio
@every_kind
async def test_a_coroutine_that_is_closed(name: str, kind: str) -> None:
    """One that nobody drives any more takes nothing, or gives it back."""
    with made(kind, name) as it:
        for _ in range(100):
            coroutine = it.wait()
            coroutine.send(None)
            assert it.waiting == 1
            if _ % 2:
                coroutine.close()
            it.give()
            coroutine.close()
            assert it.waiting == 0
            await until(lambda: not it.busy)
            if kind in KINDS:
                assert it.left() == 1
            else:
                it.settle()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_is_closed_under_its_waits(name: str, kind: str, new_loop: Callable[[], Any]) -> None:
    """What comes then is not taken, or given back by the thread itself."""
    with made(kind, name) as it:
        loop = new_loop()
        task = loop.create_task(it.wait())
        loop.run_until_complete(until(lambda: it.waiting == 1))
        loop.close()
        it.give()
        with suppress(AttributeError):
            task._log_destroy_pending = False
        del task
        gc.collect()
        while it.busy:
            pass
        assert it.left() == 1


# Signals


def test_signals_of_the_program_go_on_as_before() -> None:
    """Handlers, asyncio's and the wakeup descriptor, while waits are interrupted a thousand times."""
    code = """
import asyncio, os, signal, socket, threading
from aioipc import sysv

plain = asynchronous = 0

def handler(number, frame):
    global plain
    assert threading.current_thread() is threading.main_thread()
    plain += 1

def callback():
    global asynchronous
    asynchronous += 1

async def main():
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGUSR1, handler)
    loop.add_signal_handler(signal.SIGUSR2, callback)
    with sysv.SemaphoreSet.create(None, values=[0]) as members:
        for number in range(1000):
            task = asyncio.create_task(members[0].acquire())
            while not members.statistics().tasks_waiting:
                await asyncio.sleep(0)
            if number % 10 == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGUSR2)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            while asynchronous < number // 10 + 1:
                await asyncio.sleep(0)
    loop.remove_signal_handler(signal.SIGUSR2)
    assert (plain, asynchronous) == (100, 100), (plain, asynchronous)

    # Nothing but the program's own signals is written to its wakeup descriptor.
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    before = signal.set_wakeup_fd(writing.fileno())
    with sysv.SemaphoreSet.create(None, values=[0]) as members:
        for _ in range(1000):
            task = asyncio.create_task(members[0].acquire())
            while not members.statistics().tasks_waiting:
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
    os.kill(os.getpid(), signal.SIGUSR1)
    assert reading.recv(100) == bytes([signal.SIGUSR1])
    signal.set_wakeup_fd(before)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-X", "dev", "-W", "error::RuntimeWarning", "-c", code], check=True, timeout=120)


WAIT_ONCE = """
async def wait_once():
    with sysv.SemaphoreSet.create(None, values=[0]) as members:
        with anyio.move_on_after(0.01):
            await members[0].acquire()

def caught():
    line = next(line for line in open("/proc/self/status") if line.startswith("SigCgt"))
    return [n for n in range(34, 65) if int(line.split()[1], 16) >> (n - 1) & 1]
"""


@pytest.mark.parametrize(
    ("code", "last_line"),
    [
        ("anyio.run(wait_once); print(caught() == [signal.SIGRTMAX - 1])", "True"),
        ("aioipc.set_interrupt_signal(40); anyio.run(wait_once); print(caught())", "[40]"),
        ("aioipc.set_interrupt_signal(40); aioipc.set_interrupt_signal(40); print(caught())", "[40]"),
        ("aioipc.set_interrupt_signal(signal.SIGUSR1)", "ValueError: signal 10 must be a real-time signal, 34 to 64"),
        (
            "anyio.run(wait_once); aioipc.set_interrupt_signal(40)",
            "RuntimeError: signal 63 is in use: choose another before anything waits",
        ),
        (
            "signal.signal(63, print); anyio.run(wait_once)",
            "RuntimeError: signal 63, by which aioipc interrupts its threads, has a handler already: "
            "choose another with aioipc.set_interrupt_signal()",
        ),
        ("signal.signal(40, signal.SIG_IGN); aioipc.set_interrupt_signal(40)", "RuntimeError: signal 40, by which"),
    ],
)
def test_choice_of_the_signal(code: str, last_line: str) -> None:
    code = f"import aioipc, anyio, signal\nfrom aioipc import sysv\n{WAIT_ONCE}\n{code}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout + result.stderr).splitlines()[-1].startswith(last_line)


def test_a_thread_that_has_all_signals_blocked(name: str) -> None:
    """The mask of the thread that the loop runs in is not that of the threads that wait."""

    def main() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        asyncio.run(wait())

    async def wait() -> None:
        with posix.Semaphore.create(name, value=0) as semaphore:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await semaphore.acquire()

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()


# Limits


def test_no_more_threads(name: str) -> None:
    def main() -> list[object]:
        async def attempt() -> list[object]:
            with posix.Semaphore.open(name) as semaphore:
                resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
                with pytest.raises(aioipc.LimitError, match=r"RLIMIT_NPROC \(1 now, .*`ulimit -u`") as raised:
                    await semaphore.acquire()
                resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
                waiting = semaphore.statistics().tasks_waiting_acquire
                with anyio.move_on_after(0.01) as scope:
                    await semaphore.acquire()
                return [raised.value.errno, waiting, scope.cancelled_caught]

        limit = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        return anyio.run(attempt)

    with posix.Semaphore.create(name, value=0):
        os.chmod("/dev/shm/sem." + name[1:], 0o666)
        assert as_nobody(main) == [11, 0, True]


def test_no_more_timers(name: str) -> None:
    def main() -> list[object]:
        async def attempt() -> list[object]:
            with posix.Semaphore.open(name) as semaphore:
                resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, limit))
                with pytest.raises(aioipc.LimitError, match=r"RLIMIT_SIGPENDING \(0 now") as raised:
                    await semaphore.acquire()
                resource.setrlimit(resource.RLIMIT_SIGPENDING, (limit, limit))
                with anyio.move_on_after(0.01) as scope:
                    await semaphore.acquire()
                return [raised.value.errno, semaphore.statistics().tasks_waiting_acquire, scope.cancelled_caught]

        limit = resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]
        return anyio.run(attempt)

    with posix.Semaphore.create(name, value=0):
        os.chmod("/dev/shm/sem." + name[1:], 0o666)
        assert as_nobody(main) == [11, 0, True]


# Whose a handle is


@pytest.mark.parametrize("kind", KINDS)
def test_it_belongs_to_the_first_loop_that_waits(name: str, kind: str) -> None:
    with made(kind, name) as it:

        async def wait_a_little() -> None:
            with anyio.move_on_after(0.001):
                await it.wait()

        async def wait_elsewhere() -> None:
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await it.wait()
            it.give()
            await it.wait()  # what need not wait needs no loop

        asyncio.run(wait_a_little())
        for run in LOOPS.values():
            run(wait_elsewhere())


@pytest.mark.parametrize("loop", LOOPS)
@every_kind
def test_fork_while_tasks_wait(name: str, kind: str, loop: str) -> None:
    """The child can't use the handle, can open its own, and what it drops is still the parent's."""

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(it.wait)
            await until(lambda: it.waiting == 1)
            in_child(child)
            it.give()

    def child() -> None:
        with pytest.raises(RuntimeError, match="belongs to the parent process"):
            it.wait().send(None)
        it.handle.close()
        it.reopen()
        threading.Thread(target=lambda: asyncio.run(wait_a_little())).start()
        gc.collect()

    async def wait_a_little() -> None:
        with it.handle, anyio.move_on_after(0.001):
            await it.wait()

    with made(kind, name) as it:
        LOOPS[loop](main())
        assert it.waiting == 0
