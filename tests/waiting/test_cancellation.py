"""Cancelled waits for what only blocks: nothing is stolen, nothing lost, no thread is left.

How often each race is run is set by --races; a run prints its seed, and --seed repeats it.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import time

import anyio
import anyio.abc
import anyio.lowlevel
import libc
import pytest
from conftest import PEERS, Task, compile_c, running, until
from kinds import KINDS, every_kind, made

from aioipc import sysv
from aioipc._waiting import workers
from aioipc._waiting.blocking import CallLine


@pytest.fixture(scope="session")
def taker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C program that takes what tasks wait for: see peers/taker.c."""
    return compile_c(PEERS / "taker.c", tmp_path_factory.mktemp("peers") / "taker")


def spin(seconds: float) -> None:
    """Pass some time without giving it to anybody on this processor."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_no_theft(name: str, taker: str, kind: str, races: int, rng: random.Random) -> None:
    """What comes a millisecond after the cancellation goes to another process."""
    with made(kind, name) as it:
        async with anyio.create_task_group() as group:
            with running(taker, *it.taker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as other:
                assert other.stdin is not None
                assert other.stdout is not None
                for number in range(races // 10 // 3):  # as there are three loops
                    other_is_first = rng.random() < 0.5
                    if other_is_first:
                        other.stdin.write(b".")
                    if number % 2:
                        task = Task(group, it.wait)
                        await until(lambda: it.waiting == 1)
                        if rng.random() < 0.5:
                            await anyio.sleep(rng.random() / 1000)
                        task.scope.cancel()
                        await task.done.wait()
                        assert task.result is None
                    else:
                        with anyio.move_on_after(rng.random() / 1000):
                            await it.wait()
                            raise AssertionError("there was nothing to get")
                    assert it.waiting == 0
                    await anyio.sleep(0.001)
                    it.give()
                    if not other_is_first:
                        other.stdin.write(b".")
                    assert other.stdout.read(1) == b"."
                assert it.left() == 0
                other.stdin.close()


@pytest.mark.anyio
@every_kind
async def test_cancelled_as_it_comes(name: str, kind: str, races: int, rng: random.Random) -> None:
    """Whatever the moment: either the task has it, or it is there for others, as soon as the task is done."""
    with made(kind, name) as it:
        async with anyio.create_task_group() as group:
            got = 0
            races //= 3  # as there are three loops
            for _ in range(races):
                task = Task(group, it.wait)
                if rng.random() < 0.9:
                    await until(lambda: it.waiting == 1)
                else:
                    for _ in range(rng.randrange(3)):
                        await anyio.lowlevel.checkpoint()
                if rng.random() < 0.5:
                    it.give()
                    if rng.random() < 0.2:  # until it has been handed to the task, which has not run yet
                        await until(lambda: it.waiting == 0)
                    else:
                        spin(rng.random() / 5000)
                        for _ in range(rng.randrange(3)):
                            await anyio.lowlevel.checkpoint()
                    task.scope.cancel()
                else:
                    task.scope.cancel()
                    for _ in range(rng.randrange(2)):
                        await anyio.lowlevel.checkpoint()
                    spin(rng.random() / 20000)
                    it.give()
                await task.done.wait()
                has_it = task.result is not None
                got += has_it
                assert it.left() == 1 - has_it
        is_random = races / 50 < got < races - races / 50
        assert is_random or races < 3000, "the moment of cancellation was not random enough"
        assert it.waiting == 0


@pytest.mark.anyio
@every_kind
async def test_closed_as_it_comes(name: str, kind: str, races: int, rng: random.Random) -> None:
    """What the tasks of a closed handle did not get is there for others."""
    with made(kind, name) as it:
        kept = it.handle
        for _ in range(races // 20):
            it.reopen()
            async with anyio.create_task_group() as group:
                tasks = [Task(group, it.wait_until_closed) for _ in range(3)]
                await until(lambda: it.waiting == 3)
                it.give()
                if rng.random() < 0.2:
                    await until(lambda: it.waiting == 2)
                else:
                    spin(rng.random() / 5000)
                    for _ in range(rng.randrange(3)):
                        await anyio.lowlevel.checkpoint()
                it.handle.close()
            await until(lambda: not it.busy)
            assert it.left() == 1 - sum(task.result is not None for task in tasks)
        it.handle = kept


@pytest.mark.parametrize("way", ["timeout", "wait_for", "task group", "cancel twice"])
@pytest.mark.parametrize("kind", ["POSIX semaphore", "queue, one type", "queue, sending", "operations with a release"])
@pytest.mark.asyncio
async def test_the_ways_of_asyncio(name: str, kind: str, way: str, races: int, rng: random.Random) -> None:
    """Each kind of cancellation there is, around the moment when it comes; none is lost, none comes later."""
    loop = asyncio.get_running_loop()

    async def wait_once_or_not() -> None:
        nonlocal got
        delay = rng.random() / 1000
        if way == "timeout":
            async with asyncio.timeout(delay):
                await it.wait()
                got += 1
        elif way == "wait_for":
            await asyncio.wait_for(count(), delay)
        elif way == "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(count())
                await asyncio.sleep(delay)
                raise TimeoutError
        else:
            task = asyncio.create_task(count())
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await task

    async def count() -> None:
        nonlocal got
        await it.wait()
        got += 1

    def give() -> None:
        nonlocal given
        given = True
        it.give()

    this_task = asyncio.current_task()
    assert this_task is not None
    with made(kind, name) as it:
        given_up = all_got = 0
        for _ in range(races // 20):
            got = 0
            given = False
            gift = loop.call_later(rng.random() / 2000, give)
            try:
                await wait_once_or_not()
            except* (TimeoutError, asyncio.CancelledError):
                pass
            assert this_task.cancelling() == 0
            if not given:
                gift.cancel()
                give()
            await asyncio.sleep(0)  # where a cancellation that is too much would come
            await until(lambda: it.waiting == 0)
            assert it.left() == 1 - got
            all_got += got
            given_up += not got
        assert min(given_up, all_got) > 0 or races < 10_000


@pytest.mark.parametrize("kind", ["POSIX semaphore", "set member", "several operations"])
@pytest.mark.asyncio
async def test_no_thread_is_asked_while_a_result_is_on_its_way(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could be in the kernel still, and take something, when all who waited have ended."""

    def start_counted(run: workers.Run) -> None:
        starts.append(run)
        start(run)

    def finish_as_another_comes(line: CallLine, run: workers.Run) -> None:
        others.append(asyncio.create_task(it.wait()))  # it gets in line before the first hears of the result
        finish(line, run)
        first.cancel()  # so the other gets it

    start, finish = workers.Run.start, CallLine.finish
    starts: list[workers.Run] = []
    others: list[asyncio.Task[object]] = []
    with made(kind, name) as it:
        monkeypatch.setattr(workers.Run, "start", start_counted)
        monkeypatch.setattr(CallLine, "finish", finish_as_another_comes)
        first = asyncio.create_task(it.wait())
        await until(lambda: it.waiting == 1)
        it.give()
        with pytest.raises(asyncio.CancelledError):
            await first
        await others[0]
        assert len(starts) == len(others) == 1


@pytest.mark.parametrize("kind", ["queue, sending", "operations with a release"])
@pytest.mark.asyncio
async def test_a_cancellation_that_comes_too_late(name: str, kind: str) -> None:
    """What can't be undone has happened: the operation returns, and the next one is cancelled."""
    reached = False

    async def wait_and_go_on() -> None:
        nonlocal reached
        await it.wait()
        reached = True
        await asyncio.sleep(60)

    with made(kind, name) as it:
        task = asyncio.create_task(wait_and_go_on())
        await until(lambda: it.waiting == 1)
        it.give()
        while not it.is_taken():  # without letting the loop run
            pass
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        assert reached
        assert task.cancelled()


@pytest.mark.parametrize("kind", ["queue, sending", "operations with a release"])
@pytest.mark.asyncio
async def test_a_cancellation_that_comes_too_late_for_a_closed_handle(name: str, kind: str) -> None:
    """What had been done when the handle was closed has been done for a task that is cancelled then, too."""
    with made(kind, name) as it:
        task = asyncio.create_task(it.wait())
        await until(lambda: it.waiting == 1)
        it.give()
        while workers.in_the_kernel():  # without letting the loop run
            pass
        it.handle.close()
        task.cancel()
        assert await task


@pytest.mark.parametrize("kind", ["queue, sending", "operations with a release"])
@pytest.mark.asyncio
async def test_a_timeout_that_comes_too_late(name: str, kind: str) -> None:
    """A block that has reached its end in time does not time out, nor is anything after it cancelled."""
    with made(kind, name) as it:
        task = asyncio.current_task()
        assert task is not None

        def give_and_wait_for_the_deadline() -> None:
            it.give()
            while not it.is_taken():
                pass
            spin(0.05)

        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, give_and_wait_for_the_deadline)
        async with asyncio.timeout(0.05):
            await it.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert task.cancelling() == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("first", "order"), [(b"first", [b"first", b"second"]), (b"", [b"second", b""])])
async def test_where_a_message_is_after_a_cancelled_receive(first: bytes, order: list[bytes]) -> None:
    """Where it was, for it never left; but one without data has left, and is put back at the end."""
    async with sysv.MessageQueue.create(None) as queue, anyio.create_task_group() as group:
        task = Task(group, queue.receive)
        await until(lambda: queue.statistics().tasks_waiting_receive == 1)
        libc.msgsnd(queue.id, 1, first)
        while workers.in_the_kernel():  # without letting the loop run
            pass
        libc.msgsnd(queue.id, 1, b"second")
        task.scope.cancel()
        await task.done.wait()
        assert task.result is None
        assert [libc.msgrcv(queue.id)[0] for _ in order] == order
