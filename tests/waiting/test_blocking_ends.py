"""What has come, but has not reached its task: when the task, the handle or the loop ends before."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import libc
import pytest
import uvloop
from conftest import in_child, until, worker_threads
from kinds import KINDS, made

import aioipc
from aioipc import posix, sysv
from aioipc._waiting import workers

both_loops = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def until_no_thread_is_in_the_kernel() -> None:
    """Without letting the loop run."""
    while workers.in_the_kernel():
        pass


def drop(task: asyncio.Task[Any]) -> None:
    with suppress(AttributeError):
        task._log_destroy_pending = False  # which asyncio would complain of, rightly


@both_loops
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_that_is_closed_before_its_thread_is_done(name: str, kind: str, new_loop: Callable[[], Any]) -> None:
    """The thread gives back what it takes then, and nobody does so a second time."""
    with made(kind, name) as it:
        it.reopen()
        loop = new_loop()
        task = loop.create_task(it.wait())
        loop.run_until_complete(until(lambda: it.waiting == 1))
        loop.close()
        it.give()
        while it.busy:
            pass
        assert it.left() == 1
        it.handle.close()
        drop(task)
        del task
        gc.collect()
        assert it.left() == 0


@both_loops
def test_the_descriptor_of_an_opening_whose_loop_is_closed(tmp_path: Path, new_loop: Callable[[], Any]) -> None:
    """It is closed once: its number may belong to somebody else afterwards."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def wait() -> None:
        await posix.Fifo.open_reader(path)

    loop = new_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(until(lambda: workers.in_the_kernel() > 0))
    loop.close()
    os.close(os.open(path, os.O_WRONLY))
    until_no_thread_is_in_the_kernel()
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    drop(task)
    del task
    gc.collect()
    for descriptor in others:
        os.close(descriptor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_closed_with_one_result_handed_out_and_one_on_its_way(name: str, kind: str) -> None:
    with made(kind, name) as it:
        it.reopen()
        first = asyncio.create_task(it.wait_until_closed())
        await until(lambda: it.waiting == 1)
        it.give()
        until_no_thread_is_in_the_kernel()

        def close() -> None:
            it.give()
            it.handle.close()

        second = asyncio.create_task(it.wait_until_closed())
        asyncio.get_running_loop().call_soon(close)
        results = [await first, await second]
        await until(lambda: not it.busy)
        assert it.left() == 2 - sum(result is not None for result in results)


@pytest.mark.asyncio
async def test_no_thread_is_left_behind_by_a_result_that_is_passed_on(name: str) -> None:
    """A permit was handed to a task that is cancelled: the next in line gets it, and its thread must end."""
    with posix.Semaphore.create(name, value=0) as semaphore:
        first = asyncio.create_task(semaphore.acquire())
        await until(lambda: semaphore.statistics().tasks_waiting_acquire == 1)
        semaphore.release()
        until_no_thread_is_in_the_kernel()
        second = asyncio.create_task(semaphore.acquire())
        asyncio.get_running_loop().call_soon(first.cancel)
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert sum(result is None for result in results) == 1
        await until(lambda: not workers.in_the_kernel())
        semaphore.release(2)
        assert semaphore.value == 2 + (None not in results)


@pytest.mark.parametrize("kind", ["queue, sending", "operations with a release"])
@pytest.mark.asyncio
async def test_a_cancellation_that_comes_too_late_keeps_out_of_shields(name: str, kind: str) -> None:
    """anyio's scope delivers it itself, where there is no shield."""

    async def wait_and_go_on() -> str:
        with scope:
            await it.wait()
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await asyncio.sleep(0)
            reached.append("end of the shield")
            await asyncio.sleep(60)
        return "cancelled by its scope"

    reached: list[str] = []
    with made(kind, name) as it:
        scope = anyio.CancelScope()
        task = asyncio.create_task(wait_and_go_on())
        await until(lambda: it.waiting == 1)
        it.give()
        while not it.is_taken():
            pass
        scope.cancel()
        assert await task == "cancelled by its scope"
        assert reached == ["end of the shield"]
        it.settle()


@pytest.mark.asyncio
async def test_a_task_that_does_nothing_but_send_can_be_cancelled(key: int) -> None:
    """Even if each cancellation comes too late for one message, and the next message goes at once."""
    consumer = """
import sys, sysv_ipc
queue = sysv_ipc.MessageQueue(int(sys.argv[1]))
try:
    while True:
        queue.receive()
except sysv_ipc.ExistentialError:
    pass
"""
    async with sysv.MessageQueue.create(key, max_bytes=4) as queue:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", consumer, str(key))

        async def send_for_ever() -> None:
            nonlocal sent
            while True:
                await queue.send(b"abcd")
                sent += 1

        sent = 0
        for number in range(200):
            task = asyncio.create_task(send_for_ever())
            await until(lambda number=number: sent > 10 * number)  # type: ignore[misc]
            task.cancel()
            async with asyncio.timeout(30):
                with pytest.raises(asyncio.CancelledError):
                    await task
        queue.remove()
        assert await process.wait() == 0


def test_an_interrupt_that_comes_too_late_on_trio() -> None:
    """Ctrl-C is no cancellation, which trio would repeat."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import libc, os, signal, trio
from aioipc import sysv

class Peer(trio.abc.Instrument):
    done = False
    def before_io_wait(self, timeout):
        if not self.done and queue.statistics().tasks_waiting_send:
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
            libc.msgrcv(queue.id)
            while not queue.statistics().messages:
                pass

async def main():
    queue.send_nowait(b"full")
    trio.lowlevel.add_instrument(Peer())
    await queue.send(b"more")
    await trio.sleep(10)
    print("it was lost")

signal.signal(signal.SIGINT, signal.default_int_handler)
with sysv.MessageQueue.create(None, max_bytes=4) as queue:
    try:
        trio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("interrupted\n", "")


@pytest.mark.anyio
async def test_a_message_that_never_fits_does_not_hold_up_the_others() -> None:
    """Also if it gets to the head of the line by a cancellation."""
    async with sysv.MessageQueue.create(None, max_bytes=100) as queue:
        queue.send_nowait(b"0" * 100)
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def send_first() -> None:
                with scope:
                    await queue.send(b"1")

            async def send_too_much() -> None:
                with pytest.raises(aioipc.MessageTooLongError, match="holds 100 at most"):
                    await queue.send(b"2" * 101)

            async def send_last() -> None:
                await queue.send(b"3")

            for number, send in enumerate((send_first, send_too_much, send_last)):
                group.start_soon(send)
                await until(lambda number=number: queue.statistics().tasks_waiting_send == number + 1)  # type: ignore[misc]
            scope.cancel()
            await until(lambda: queue.statistics().tasks_waiting_send == 1)
            assert libc.msgrcv(queue.id)[0] == b"0" * 100
        assert libc.msgrcv(queue.id)[0] == b"3"


@pytest.mark.parametrize("kind", ["POSIX semaphore", "queue, sending", "operations with a release"])
@pytest.mark.asyncio
async def test_a_child_that_collects_what_waits_in_the_parent(name: str, kind: str) -> None:
    """It does nothing in the parent's place, and starts no thread."""
    with made(kind, name) as it:
        tasks = [asyncio.create_task(it.wait()) for _ in range(2)]
        await until(lambda: it.waiting == 2)

        def child() -> int:
            for task in tasks:
                task.get_coro().close()
            return len(os.listdir("/proc/self/task"))

        assert in_child(child) == 1
        it.give()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(result is True for result in results) == 1
        assert it.left() == 0


@pytest.mark.parametrize("which", ["posix", "sysv"])
@pytest.mark.anyio
async def test_an_iteration_keeps_its_queue_open(name: str, which: str) -> None:
    received = []

    async def consume() -> None:
        opened: Any = posix.MessageQueue.open(name) if which == "posix" else sysv.MessageQueue.open(id=queue.id)
        iterator = aiter(opened)
        del opened
        gc.collect()
        async for message in iterator:
            received.append(message.data)
            if len(received) == 2:
                break

    queue: Any
    make: Any = posix.MessageQueue.create if which == "posix" else sysv.MessageQueue.create
    async with make(name if which == "posix" else None) as queue:
        with pytest.warns(ResourceWarning):
            async with anyio.create_task_group() as group:
                group.start_soon(consume)
                for number in (b"1", b"2"):
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()
                    await queue.send(number)
            gc.collect()
    assert received == [b"1", b"2"]


@pytest.mark.parametrize("comes_before", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_exit_gives_back_what_a_thread_takes_meanwhile(name: str, kind: str, comes_before: bool) -> None:
    """A program may live on for long after its loop was left behind, or end slowly."""
    code = f"""
import atexit, sys, time
atexit.register(lambda: (print("exiting", flush=True), sys.stdin.readline()))
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
import asyncio
from aioipc import posix, sysv
from aioipc._waiting import workers
how, what, comes_before = eval(sys.argv[1])

async def main():
    task = asyncio.ensure_future(eval(how, dict(globals())))
    while not workers.in_the_kernel():
        await asyncio.sleep(0)

loop = asyncio.new_event_loop()
handle = eval(what, dict(globals()))
loop.run_until_complete(main())
if comes_before:
    # What came before the exit was reported to a loop that does not run again.
    print("waiting", flush=True)
    sys.stdin.readline()
    while workers.in_the_kernel():
        pass
"""
    with made(kind, name) as it:
        wait = {
            "POSIX semaphore": "handle.acquire()",
            "set member": "handle[1].acquire()",
            "set member with undo": "handle[1].acquire(undo=True)",
            "several operations": "handle.operate((0, -1), (2, -1))",
        }.get(kind) or f"handle.receive(**{it._how!r})"
        open_it = (
            f"posix.Semaphore.open({name!r})"
            if isinstance(it.handle, posix.Semaphore)
            else f"sysv.{type(it.handle).__name__}.open(id={it.handle.id})"
        )
        command = [sys.executable, "-c", code, repr((wait, open_it, comes_before))]
        with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if comes_before:
                assert process.stdout.readline() == "waiting\n"
                it.give()
                process.stdin.write("\n")
                process.stdin.flush()
            assert process.stdout.readline() == "exiting\n"
            if not comes_before:
                it.give()
            process.stdin.write("\n")
            process.stdin.close()
        assert process.returncode == 0
        assert it.left() == 1


def test_interrupted_as_a_thread_is_asked(name: str, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a thread that has not been asked, or for what it may have taken: the program ends."""
    give, given = workers._give_to_worker, 0

    def be_interrupted(run: workers.Run) -> None:
        nonlocal given
        given += 1
        if given == 2:
            raise KeyboardInterrupt
        give(run)

    async def main() -> None:
        with posix.Semaphore.create(name, value=0) as semaphore:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(semaphore.acquire)
                await until(lambda: given == 1 and semaphore.statistics().tasks_waiting_acquire == 3)
                semaphore.release()

    monkeypatch.setattr(workers, "_give_to_worker", be_interrupted)
    backend, options = anyio_backend
    with pytest.raises(BaseException) as raised:  # noqa: PT011 -- which may be in a group
        anyio.run(main, backend=backend, backend_options=options)
    error = raised.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, KeyboardInterrupt)
    while workers.in_the_kernel():  # the thread that was asked before
        pass


@pytest.mark.anyio
async def test_an_error_that_is_kept_keeps_no_timer() -> None:
    def timers() -> str:
        return Path("/proc/self/timers").read_text()

    async def remove() -> None:
        await until(lambda: forks[0].waiting_for_nonzero == 1)
        forks.remove()

    await until(lambda: not worker_threads())
    before = timers()
    with sysv.SemaphoreSet.create(None, values=[0]) as forks:
        async with anyio.create_task_group() as group:
            group.start_soon(remove)
            with pytest.raises(aioipc.RemovedError) as raised:
                await forks.operate((0, -1))
    await until(lambda: not worker_threads())
    assert raised.value.__traceback__ is not None
    assert timers() == before
