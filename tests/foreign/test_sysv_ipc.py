"""What sysv_ipc's own tests demand, of the same objects here: see docs/conformance.md."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import times_out
from together import long_ago, winners

import aioipc
from aioipc.sysv import MessageQueue, SemaphoreSet, SharedMemory

CREATE: dict[str, Callable[..., Any]] = {
    "queue": MessageQueue.create,
    "set": lambda key: SemaphoreSet.create(key, values=[1]),
    "segment": lambda key: SharedMemory.create(key, size=3333),
}
OPEN: dict[str, Callable[..., Any]] = {
    "queue": MessageQueue.open,
    "set": SemaphoreSet.open,
    "segment": SharedMemory.open,
}

each_object = pytest.mark.parametrize("kind", CREATE)


@each_object
def test_opened_by_its_key(key: int, kind: str) -> None:
    assert_missing(key, kind)
    with CREATE[kind](key) as created, OPEN[kind](key) as opened:
        assert (opened.key, opened.id) == (created.key, created.id)
        assert created.key == key
        assert created.id >= 0
        with pytest.raises(aioipc.ExistsError):
            CREATE[kind](key)


@each_object
def test_one_of_many_creates_it(new_key: Callable[[], int], kind: str) -> None:
    keys = [new_key() for _ in range(50)]
    assert winners(lambda number: CREATE[kind](keys[number])) == [1] * 50


@each_object
def test_removed_by_its_id(key: int, kind: str) -> None:
    handle = CREATE[kind](key)
    handle.close()
    with OPEN[kind](id=handle.id) as other:
        other.remove()
    assert_missing(key, kind)


def assert_missing(key: int, kind: str) -> None:
    with pytest.raises(aioipc.NotFoundError):
        OPEN[kind](key)


@each_object
def test_whose_it_is(kind: str) -> None:
    with CREATE[kind](None) as handle:
        found = handle.statistics()
        assert (found.owner, found.creator) == (os.geteuid(), os.geteuid())
        assert (found.group, found.creator_group) == (os.getegid(), os.getegid())


# Queues


def test_a_message_has_data_and_a_type() -> None:
    with MessageQueue.create(None) as queue:
        for data in (b"abcdefg", b"abc\0def", "G\u00f6teborg".encode()):
            queue.send_nowait(data)
            assert queue.receive_nowait() == (data, 1)
            queue.send_nowait(data, type=2)
            assert queue.receive_nowait() == (data, 2)


def test_by_default_the_oldest_message_comes_first() -> None:
    with MessageQueue.create(None) as queue:
        for type in (2, 3, 1):
            queue.send_nowait(b"%d" % type, type=type)
        assert [queue.receive_nowait() for _ in range(3)] == [(b"2", 2), (b"3", 3), (b"1", 1)]
        assert queue.statistics().messages == 0


def test_messages_are_received_by_their_types() -> None:
    with MessageQueue.create(None) as queue:
        for type in (4, 3, 2, 1):
            queue.send_nowait(b"%d" % type, type=type)
        assert queue.receive_nowait(type=-2) == (b"1", 1)  # the lowest, though the other is older
        assert queue.receive_nowait(type=3) == (b"3", 3)
        with pytest.raises(aioipc.WouldBlock):
            queue.receive_nowait(type=3)
        with pytest.raises(aioipc.WouldBlock):
            queue.receive_nowait(type=-1)
        assert [queue.receive_nowait() for _ in range(2)] == [(b"4", 4), (b"2", 2)]
        assert queue.statistics().messages == 0


def test_a_queue_is_filled_without_waiting() -> None:
    with MessageQueue.create(None, max_bytes=100) as queue:
        sent = 0
        with pytest.raises(aioipc.WouldBlock):
            while True:
                queue.send_nowait(b"0123456789")
                sent += 1
        found = queue.statistics()
        assert sent == found.messages == 10
        assert found.bytes == found.max_bytes == 100


def test_messages_are_counted() -> None:
    with MessageQueue.create(None) as queue:
        counts = []
        for step in [lambda: queue.send_nowait(b"x")] * 3 + [queue.receive_nowait] * 3:
            step()
            counts.append(queue.statistics().messages)
        assert counts == [1, 2, 3, 2, 1, 0]


def test_the_longest_message_may_be_chosen() -> None:
    with MessageQueue.create(None, max_message_size=10) as queue:
        with pytest.raises(aioipc.MessageTooLongError):
            queue.send_nowait(bytes(11))
        queue.send_nowait(bytes(10))
        assert queue.receive_nowait() == (bytes(10), 1)


def test_who_used_a_queue_last() -> None:
    with MessageQueue.create(None) as queue:
        found = queue.statistics()
        assert (found.last_send_pid, found.last_receive_pid, found.sent_at, found.received_at) == (0, 0, None, None)
        began = int(time.time())  # the kernel's seconds are whole ones, and a tick may be late
        queue.send_nowait(b"x")
        found = queue.statistics()
        assert (found.last_send_pid, found.last_receive_pid, found.received_at) == (os.getpid(), 0, None)
        queue.receive_nowait()
        found = queue.statistics()
        assert found.last_receive_pid == os.getpid()
        assert found.sent_at is not None
        assert found.received_at is not None
        assert began - 1 <= found.sent_at <= found.received_at <= time.time() + 1


# Sets


def test_amounts() -> None:
    with SemaphoreSet.create(None, values=[42]) as semaphores:
        member = semaphores[0]
        member.acquire_nowait(10)
        assert member.value == 32
        member.release(5)
        assert member.value == 37
        with pytest.raises(aioipc.WouldBlock):
            member.acquire_nowait(38)
        for operation in (member.acquire_nowait, member.release):
            with pytest.raises(ValueError, match="amount 0"):
                operation(0)
        assert member.value == 37


def test_a_value_is_set() -> None:
    with SemaphoreSet.create(None, values=[1]) as semaphores:
        member = semaphores[0]
        for value in (42, 0, 32767):
            member.value = value
            assert member.value == value
        for value in (-1, 32768, 999_999):
            with pytest.raises(ValueError, match=f"value {value}"):
                member.value = value
        assert member.value == 32767


def test_who_used_a_set_last() -> None:
    began = int(time.time())  # to create it is a use: its values are set by an operation
    with SemaphoreSet.create(None, values=[0]) as semaphores:
        assert (semaphores[0].waiting_for_nonzero, semaphores[0].waiting_for_zero) == (0, 0)
        semaphores[0].release()
        operated_at = semaphores.statistics().operated_at
        assert operated_at is not None
        assert began - 1 <= operated_at <= time.time() + 1
        assert semaphores[0].last_pid == os.getpid()


@pytest.mark.anyio
async def test_timeouts_of_a_set() -> None:
    async with SemaphoreSet.create(None, values=[0, 42]) as semaphores:
        for wait in (semaphores[0].acquire, semaphores[1].wait_for_zero):
            assert await times_out(wait)
            with long_ago() as scope:
                await wait()
            assert scope.cancelled_caught
        assert semaphores.values == (0, 42)
        assert semaphores.statistics().tasks_waiting == 0
        with long_ago() as scope:
            await semaphores[1].acquire(42)
            await semaphores[1].wait_for_zero()
        assert not scope.cancelled_caught
        assert semaphores.values == (0, 0)


@pytest.mark.anyio
async def test_a_block_holds_a_member() -> None:
    async with SemaphoreSet.create(None, values=[1]) as semaphores:
        async with semaphores[0] as member:
            assert member.value == 0
            with pytest.raises(aioipc.WouldBlock):
                member.acquire_nowait()
        assert member.value == 1
        member.acquire_nowait()


# Segments


def test_reading_and_writing_stay_inside() -> None:
    with SharedMemory.create(None, size=3333) as segment:
        buffer = segment.buffer
        assert bytes(buffer) == bytes(3333)
        buffer[3:10] = b"abcdefg"
        assert bytes(buffer[:11]) == b"\0\0\0abcdefg\0"
        assert bytearray(buffer)[5:7] == b"cd"
        assert bytes(buffer[3330:9999]) == bytes(3)
        for start in (-1, 3332, 3333, 9999):
            with pytest.raises(ValueError, match="different structures"):
                buffer[start : start + 7] = b"1234567"
        for place in (-3334, 3333):
            with pytest.raises(IndexError):
                buffer[place] = 1
        assert bytes(buffer[10:]) == bytes(3323)


def test_a_segment_can_be_attached_again() -> None:
    with SharedMemory.create(None, size=3333) as segment:
        segment.buffer[:5] = b"hello"
        assert segment.statistics().attached == 1
        with SharedMemory.open(id=segment.id) as other:
            assert segment.statistics().attached == 2
            segment.close()
            with pytest.raises(aioipc.ClosedError):
                segment.buffer  # noqa: B018
            assert other.statistics().attached == 1
            assert other.statistics().last_pid == other.statistics().creator_pid == os.getpid()
            assert other.buffer[:5] == b"hello"
        with SharedMemory.open(id=segment.id, read_only=True) as other:
            assert other.buffer[:5] == b"hello"
            with pytest.raises(TypeError, match="read-only"):
                other.buffer[0] = 1
