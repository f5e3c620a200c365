"""What posix_ipc's own tests demand, of the same objects here: see docs/conformance.md."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from conftest import Task, in_child, until

import aioipc
from aioipc import Channel
from aioipc.posix import MessageQueue, Semaphore, SharedMemory

CREATE: dict[str, Callable[..., Any]] = {
    "queue": lambda name: MessageQueue.create(name, max_messages=4, max_message_size=16),
    "semaphore": Semaphore.create,
    "shared memory": lambda name: SharedMemory.create(name, size=10),
}
OPEN: dict[str, Callable[..., Any]] = {
    "queue": MessageQueue.open,
    "semaphore": Semaphore.open,
    "shared memory": SharedMemory.open,
}

each_object = pytest.mark.parametrize("kind", CREATE)


@each_object
def test_opened_by_its_name(name: str, kind: str) -> None:
    assert_missing(name, kind)
    with CREATE[kind](name) as created, OPEN[kind](name) as opened:
        assert opened.name == created.name == name
        with pytest.raises(aioipc.ExistsError):
            CREATE[kind](name)


@each_object
def test_removed_by_its_name(name: str, kind: str) -> None:
    CREATE[kind](name).close()
    with OPEN[kind](name) as handle:
        handle.unlink()
    assert_missing(name, kind)


def assert_missing(name: str, kind: str) -> None:
    with pytest.raises(aioipc.NotFoundError):
        OPEN[kind](name)


def use_memory(segment: SharedMemory, loop: str) -> None:
    segment.resize(2 * segment.size)
    segment.buffer[-1] = 1


def use_stream(stream: MessageQueue | Channel, loop: str) -> None:
    async def use() -> None:
        async with anyio.create_task_group() as group:
            task = Task(group, stream.receive)
            await until(lambda: stream.statistics().tasks_waiting_receive == 1)
            stream.send_nowait(b"x")
            await task.done.wait()
            assert task.result in (b"x", (b"x", 0))

    anyio.run(use, backend=loop)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])  # libuv does not go on without the standard descriptors
@pytest.mark.parametrize(
    ("create", "use"),
    [(CREATE["queue"], use_stream), (CREATE["shared memory"], use_memory), (Channel.create, use_stream)],
    ids=["queue", "shared memory", "channel"],
)
def test_descriptor_zero(name: str, create: Callable[[str], Any], use: Callable[[Any, str], None], loop: str) -> None:
    """Which a daemon has closed, and the kernel gives to whoever opens something next."""

    def create_and_use() -> None:
        os.closerange(0, 3)
        with create(name) as handle:
            assert any(os.path.exists(f"/proc/self/fd/{number}") for number in range(3))
            use(handle, loop)

    in_child(create_and_use)


def test_messages_are_in_order_by_default(name: str) -> None:
    with CREATE["queue"](name) as queue:
        for letter in (b"a", b"b", b"c"):
            queue.send_nowait(letter)
        assert [queue.receive_nowait() for _ in range(3)] == [(b"a", 0), (b"b", 0), (b"c", 0)]


def test_every_priority(name: str) -> None:
    with CREATE["queue"](name) as queue:
        for priority in range(32768):
            queue.send_nowait(b"", priority=priority)
            assert queue.receive_nowait() == (b"", priority)
        with pytest.raises(ValueError, match="priority 32768"):
            queue.send_nowait(b"", priority=32768)


def test_a_queue_can_be_watched_by_others(name: str) -> None:
    """By its descriptor, with select."""

    def ready() -> tuple[bool, bool]:
        reading, writing, _ = select.select([queue], [queue], [], 0)
        return bool(reading), bool(writing)

    with CREATE["queue"](name) as queue:
        found = [ready()]
        for step in [lambda: queue.send_nowait(b"")] * 4 + [queue.receive_nowait] * 4:
            step()
            found.append(ready())
    some = (True, True)
    assert found == [(False, True), some, some, some, (True, False), some, some, some, (False, True)]


def test_many_permits(name: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        for _ in range(1000):
            semaphore.release()
        semaphore.release(99_000)
        assert semaphore.value == 100_001


@pytest.mark.anyio
async def test_a_block_holds_the_semaphore(name: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        async with semaphore:
            assert semaphore.value == 0
            with pytest.raises(aioipc.WouldBlock):
                semaphore.acquire_nowait()
        assert semaphore.value == 1
        with pytest.raises(ZeroDivisionError):
            async with semaphore:
                raise ZeroDivisionError
        with anyio.move_on_after(0):
            async with semaphore:
                await anyio.sleep_forever()
        assert semaphore.value == 1


def test_opening_does_not_change_the_size(name: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(SharedMemory.create(name, size=8192))
        second = stack.enter_context(SharedMemory.open(name))
        assert (first.size, second.size) == (8192, 8192)
        for size in (16384, 4096):
            second.resize(size)
            assert (second.size, first.statistics().size) == (size, size)
            assert stack.enter_context(SharedMemory.open(name)).size == size
