"""What asyncio demands of its queues, of each kind of queue here and on each loop: see docs/conformance.md."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import Task, times_out, until

import aioipc
from aioipc import Channel, posix, sysv

SIZE = 8
"""Bytes of each message here."""

KINDS: dict[str, Callable[[str, int], Any]] = {
    "posix": lambda name, n: posix.MessageQueue.create(name, max_messages=n, max_message_size=SIZE),
    "sysv": lambda name, n: sysv.MessageQueue.create(None, max_bytes=n * SIZE),
    "channel": lambda name, n: Channel.create(name, capacity=n * 64),  # what the smallest messages take
}


class Queue:
    """A queue of small numbers, with words like those of asyncio's."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def put(self, number: int) -> int:
        await self.handle.send(_packed(number))
        return number

    def put_nowait(self, number: int) -> None:
        self.handle.send_nowait(_packed(number))

    async def get(self) -> int:
        return _unpacked(await self.handle.receive())

    def get_nowait(self) -> int:
        return _unpacked(self.handle.receive_nowait())

    @property
    def qsize(self) -> int:
        return self.handle.statistics().messages

    @property
    def putters(self) -> int:
        return self.handle.statistics().tasks_waiting_send

    @property
    def getters(self) -> int:
        return self.handle.statistics().tasks_waiting_receive


def _packed(number: int) -> bytes:
    return b"%0*d" % (SIZE, number)


def _unpacked(message: Any) -> int:
    return int(message if isinstance(message, bytes) else message.data)


class Tasks:
    """Starts tasks that wait at a queue, one after the other."""

    def __init__(self, group: anyio.abc.TaskGroup, queue: Queue) -> None:
        self._group = group
        self._queue = queue

    async def waiting(self, operation: Callable[[], Awaitable[object]]) -> Task:
        queue = self._queue
        before = queue.putters + queue.getters
        task = Task(self._group, operation)
        await until(lambda: queue.putters + queue.getters == before + 1)
        return task

    async def putter(self, number: int) -> Task:
        return await self.waiting(lambda: self._queue.put(number))

    async def getter(self) -> Task:
        return await self.waiting(self._queue.get)


@asynccontextmanager
async def made(kind: str, name: str, maxsize: int) -> AsyncIterator[tuple[Queue, Tasks]]:
    with KINDS[kind](name, maxsize) as handle:
        queue = Queue(handle)
        async with anyio.create_task_group() as group:
            yield queue, Tasks(group, queue)


pytestmark = pytest.mark.anyio


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


# Basics


async def test_order(name: str, kind: str) -> None:
    async with made(kind, name, 3) as (queue, _):
        for number in (1, 3, 2):
            await queue.put(number)
        assert [await queue.get() for _ in range(3)] == [1, 3, 2]


async def test_empty_and_full(name: str, kind: str) -> None:
    async with made(kind, name, 2) as (queue, _):
        for _ in range(3):  # a ring goes round
            with pytest.raises(aioipc.WouldBlock):
                queue.get_nowait()
            sizes = [queue.qsize]
            for number in (1, 2):
                queue.put_nowait(number)
                sizes.append(queue.qsize)
            with pytest.raises(aioipc.WouldBlock):
                queue.put_nowait(3)
            sizes.append(queue.qsize)
            assert sizes == [0, 1, 2, 2]
            assert [queue.get_nowait(), queue.get_nowait()] == [1, 2]


async def test_a_putter_waits_when_the_queue_is_full(name: str, kind: str) -> None:
    async with made(kind, name, 2) as (queue, tasks):
        put = []

        async def put_three() -> None:
            for number in range(3):
                put.append(await queue.put(number))

        task = await tasks.waiting(put_three)
        assert put == [0, 1]
        assert await queue.get() == 0
        await task.done.wait()
        assert put == [0, 1, 2]
        assert [await queue.get(), await queue.get()] == [1, 2]


# Getting


async def test_a_getter_waits_for_an_item(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        task = await tasks.getter()
        assert not task.done.is_set()
        await queue.put(1)
        await task.done.wait()
        assert task.result == 1


async def test_a_cancelled_getter_is_passed_over(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        first, second = await tasks.getter(), await tasks.getter()
        first.scope.cancel()
        await first.done.wait()
        await queue.put(1)
        await second.done.wait()
        assert (first.result, second.result) == (None, 1)


async def test_getters_are_served_with_putters_in_line(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        await queue.put(1)
        await tasks.putter(2)
        await tasks.putter(3)
        assert [await queue.get() for _ in range(3)] == [1, 2, 3]


async def test_producer_and_consumer_take_turns(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        got = []

        async def consume() -> None:
            for _ in range(50):
                got.append(await queue.get())

        await tasks.waiting(consume)
        for number in range(50):
            await queue.put(number)
    assert got == list(range(50))


async def test_who_times_out_is_not_in_line_any_more(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, _):
        assert await times_out(queue.get)
        assert queue.getters == 0
        await queue.put(1)
        assert await times_out(lambda: queue.put(2))
        assert (queue.putters, queue.qsize) == (0, 1)
        assert await queue.get() == 1


async def test_a_getter_cancelled_as_an_item_comes(name: str, kind: str) -> None:
    """It has the first, or leaves it to the next."""
    async with made(kind, name, 2) as (queue, tasks):
        task = await tasks.getter()
        queue.put_nowait(1)
        queue.put_nowait(2)
        await task.cancel()
        assert (await queue.get() if task.result is None else task.result) == 1
        assert await queue.get() == 2


async def test_one_of_many_getters_cancelled_as_items_come(name: str, kind: str) -> None:
    async with made(kind, name, 2) as (queue, tasks):
        first, second, third = [await tasks.getter() for _ in range(3)]
        queue.put_nowait(1)
        queue.put_nowait(2)
        first.scope.cancel()
        for task in (first, second, third):
            await task.done.wait()
        assert [task.result for task in (first, second, third)] == [None, 1, 2]


# Putting


async def test_putters_are_served_with_getters_in_line(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        getters = [await tasks.getter() for _ in range(3)]
        for number in range(3):
            await queue.put(number)
        for number, task in enumerate(getters):
            await task.done.wait()
            assert task.result == number


async def test_a_putter_cancelled_as_room_appears(name: str, kind: str) -> None:
    """It has put its item, and says so, or has not."""
    async with made(kind, name, 1) as (queue, tasks):
        await queue.put(1)
        task = await tasks.putter(2)
        assert queue.get_nowait() == 1
        await task.cancel()
        if task.result is None:
            await queue.put(2)
        assert queue.get_nowait() == 2
        assert (queue.qsize, queue.putters) == (0, 0)


async def test_a_cancelled_putter_is_passed_over(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        await queue.put(1)
        second, third, fourth = [await tasks.putter(number) for number in (2, 3, 4)]
        await third.cancel()
        assert not second.done.is_set()
        assert [await queue.get(), await queue.get()] == [1, 2]
        assert await queue.get() == 4
        await fourth.done.wait()
        assert (second.result, third.result, fourth.result) == (2, None, 4)


async def test_all_putters_go_on_when_many_items_are_taken(name: str, kind: str) -> None:
    """All the room is used, not just that of one item."""
    async with made(kind, name, 3) as (queue, tasks):
        for number in range(3):
            await queue.put(number)
        putters = [await tasks.putter(number) for number in (3, 4, 5)]
        assert [queue.get_nowait() for _ in range(3)] == [0, 1, 2]
        for task in putters:
            await task.done.wait()
        assert [queue.get_nowait() for _ in range(3)] == [3, 4, 5]


# Shutting down


async def test_closing_wakes_getters(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        task = await tasks.waiting(lambda: closed(queue.get))
        queue.handle.close()
        await task.done.wait()
        assert task.result is True
        for operation in (queue.get, lambda: queue.put(1)):
            assert await closed(operation)
        for operation in (queue.get_nowait, lambda: queue.put_nowait(1)):
            with pytest.raises(aioipc.ClosedError):
                operation()


async def test_closing_wakes_putters_and_leaves_the_items(name: str, kind: str) -> None:
    async with made(kind, name, 1) as (queue, tasks):
        await queue.put(1)
        other = type(queue.handle).open(**_way_to(queue.handle))
        with other:
            task = await tasks.waiting(lambda: closed(lambda: queue.put(2)))
            queue.handle.close()
            await task.done.wait()
            assert task.result is True
            assert _unpacked(other.receive_nowait()) == 1
            with pytest.raises(aioipc.WouldBlock):
                other.receive_nowait()


def _way_to(handle: Any) -> dict[str, Any]:
    return {"id": handle.id} if isinstance(handle, sysv.MessageQueue) else {"name": handle.name}


async def closed(operation: Callable[[], Awaitable[object]]) -> bool:
    try:
        await operation()
    except aioipc.ClosedError:
        return True
    return False


@pytest.mark.parametrize("kind", ["channel"])
async def test_the_end_lets_getters_have_what_there_is(name: str, kind: str) -> None:
    """Only a channel has an end."""
    async with made(kind, name, 2) as (queue, _):
        await queue.put(1)
        await queue.put(2)
        await queue.handle.end()
        for operation in (lambda: queue.put_nowait(3), lambda: queue.handle.send(b"3").send(None)):
            with pytest.raises(aioipc.BrokenError):
                operation()
        assert [await queue.get(), queue.get_nowait()] == [1, 2]
        with pytest.raises(aioipc.EndOfStream):
            await queue.get()
        with pytest.raises(aioipc.EndOfStream):
            queue.get_nowait()
