"""What asyncio demands of its locks and semaphores, of both kinds of semaphores here and on each loop.

See docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from conftest import Task, call_soon, times_out, until

import aioipc
from aioipc import posix, sysv

pytestmark = pytest.mark.anyio

KINDS: dict[str, Callable[[str, int], Any]] = {
    "posix": lambda name, value: posix.Semaphore.create(name, value=value),
    "sysv": lambda name, value: sysv.SemaphoreSet.create(None, values=[value]),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


class Tasks:
    """Tasks that use a semaphore, started one after the other; each notes a number when it has acquired it."""

    def __init__(self, group: anyio.abc.TaskGroup, handle: Any, semaphore: Any) -> None:
        self._group = group
        self._handle = handle
        self._semaphore = semaphore
        self.result: list[int] = []

    @property
    def in_line(self) -> int:
        statistics = self._handle.statistics()
        return getattr(statistics, "tasks_waiting", None) or getattr(statistics, "tasks_waiting_acquire", 0)

    async def waiting(self, operation: Callable[[], Awaitable[object]]) -> Task:
        before = self.in_line
        task = Task(self._group, operation)
        await until(lambda: self.in_line == before + 1)
        return task

    async def acquire(self, number: int) -> bool:
        await self._semaphore.acquire()
        self.result.append(number)
        return True

    async def acquirer(self, number: int) -> Task:
        return await self.waiting(lambda: self.acquire(number))


@asynccontextmanager
async def made(kind: str, name: str, value: int) -> AsyncIterator[tuple[Any, Tasks]]:
    with KINDS[kind](name, value) as handle:
        semaphore = handle if kind == "posix" else handle[0]
        async with anyio.create_task_group() as group:
            yield semaphore, Tasks(group, handle, semaphore)


# As a lock


async def test_holders_come_one_by_one_in_order(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (semaphore, tasks):
        await semaphore.acquire()
        waiting = [await tasks.acquirer(number) for number in range(3)]
        assert tasks.result == []
        for number, task in enumerate(waiting):
            semaphore.release()
            await task.done.wait()
            assert tasks.result == list(range(number + 1))
            assert semaphore.value == 0


async def test_who_is_cancelled_is_not_in_line_any_more(name: str, kind: str) -> None:
    async with made(kind, name, 0) as (semaphore, tasks):
        task = await tasks.acquirer(1)
        await task.cancel()
        assert await times_out(semaphore.acquire)
        assert (tasks.in_line, tasks.result) == (0, [])
        semaphore.release()
        assert semaphore.value == 1


@pytest.mark.parametrize("first", ["cancel", "release"])
@pytest.mark.parametrize("from_callback", [False, True], ids=["task", "callback"])
async def test_released_and_cancelled_at_once(name: str, kind: str, first: str, from_callback: bool) -> None:
    """The next in line is served, and only that one."""
    async with made(kind, name, 1) as (semaphore, tasks):
        await semaphore.acquire()
        cancelled, served, left = [await tasks.acquirer(number) for number in range(3)]

        def cancel_and_release() -> None:
            steps = [cancelled.scope.cancel, semaphore.release]
            for step in steps if first == "cancel" else reversed(steps):
                step()

        if from_callback:
            call_soon(cancel_and_release)
        else:
            cancel_and_release()
        await cancelled.done.wait()
        await served.done.wait()
        assert tasks.result == [1]
        assert (semaphore.value, tasks.in_line) == (0, 1)
        await left.cancel()
        semaphore.release()
        assert semaphore.value == 1


async def test_a_block_holds_it(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (semaphore, _):
        for _ in range(2):
            async with semaphore:
                assert semaphore.value == 0
            assert semaphore.value == 1


async def test_cancelled_by_the_holder_at_the_end_of_its_block(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (semaphore, tasks):

        async def enter() -> None:
            async with semaphore:
                raise AssertionError("it has it, though it was cancelled first")

        async with semaphore:
            task = await tasks.waiting(enter)
            task.scope.cancel()
        await task.done.wait()
        await semaphore.acquire()
        assert semaphore.value == 0


# As a semaphore


async def test_none_to_begin_with(name: str, kind: str) -> None:
    async with made(kind, name, 0) as (semaphore, _):
        assert semaphore.value == 0
        with pytest.raises(aioipc.WouldBlock):
            semaphore.acquire_nowait()


async def test_released_when_nobody_waits(name: str, kind: str) -> None:
    """More often than it was acquired, too: it has no bound."""
    async with made(kind, name, 1) as (semaphore, _):
        await semaphore.acquire()
        for value in (1, 2):
            semaphore.release()
            assert semaphore.value == value


async def test_as_many_as_there_are_permits(name: str, kind: str) -> None:
    async with made(kind, name, 3) as (semaphore, tasks):
        for number in range(3):
            await tasks.acquire(number)
        waiting = [await tasks.acquirer(number) for number in (3, 4, 5)]
        assert tasks.result == [0, 1, 2]
        semaphore.release()
        semaphore.release()
        for task in waiting[:2]:
            await task.done.wait()
        assert (tasks.result, tasks.in_line, semaphore.value) == ([0, 1, 2, 3, 4], 1, 0)
        semaphore.release()
        await waiting[2].done.wait()


async def test_some_are_cancelled_before_a_release(name: str, kind: str) -> None:
    async with made(kind, name, 0) as (semaphore, tasks):
        waiting = [await tasks.acquirer(number) for number in range(4)]
        waiting[0].scope.cancel()
        waiting[1].scope.cancel()
        semaphore.release()
        await waiting[2].done.wait()
        assert (tasks.result, tasks.in_line, semaphore.value) == ([2], 1, 0)
        await waiting[3].cancel()


async def test_two_releases_after_the_first_was_cancelled(name: str, kind: str) -> None:
    async with made(kind, name, 0) as (semaphore, tasks):
        waiting = [await tasks.acquirer(number) for number in range(3)]
        await waiting[0].cancel()
        semaphore.release()
        semaphore.release()
        for task in waiting:
            await task.done.wait()
        assert (tasks.result, tasks.in_line, semaphore.value) == ([1, 2], 0, 0)


async def test_who_comes_again_stands_behind_the_others(name: str, kind: str) -> None:
    async with made(kind, name, 0) as (semaphore, tasks):

        async def come_twice(number: int) -> None:
            for turn in (0, 10):
                await tasks.acquire(turn + number)
                if turn == 0:
                    semaphore.release()

        waiting = [await tasks.waiting(lambda number=number: come_twice(number)) for number in range(3)]
        for _ in range(3):
            semaphore.release()
        for task in waiting:
            await task.done.wait()
        assert tasks.result == [0, 1, 2, 10, 11, 12]
        assert semaphore.value == 0


async def test_who_comes_again_waits_for_one_that_has_not_run_yet(name: str, kind: str) -> None:
    async with made(kind, name, 0) as (semaphore, tasks):

        async def come_twice() -> None:
            await tasks.acquire(1)
            semaphore.release()
            await tasks.acquire(3)

        waiting = [await tasks.waiting(come_twice), await tasks.acquirer(2)]
        semaphore.release()
        semaphore.release()
        for task in waiting:
            await task.done.wait()
        assert (tasks.result, semaphore.value) == ([1, 2, 3], 0)


async def test_nobody_goes_past_one_who_has_not_run_yet(name: str, kind: str) -> None:
    async with made(kind, name, 0) as (semaphore, tasks):
        first = await tasks.acquirer(1)
        semaphore.release()
        semaphore.release()
        await tasks.acquire(2)
        await first.done.wait()
        assert tasks.result == [1, 2]
