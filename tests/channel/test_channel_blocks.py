"""Messages written and read in place: what a block means, and what is left of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.abc
import numpy as np
import pytest
from conftest import Task, in_child, until

import aioipc
from aioipc import Channel

pytestmark = pytest.mark.anyio

UNIT = 64


def units(count: int) -> int:
    """The size of a message that takes so much room."""
    return count * UNIT - 32


def small(name: str, capacity: int = 16 * UNIT) -> Channel:
    return Channel.create(name, capacity=capacity)


def received(channel: Channel) -> list[bytes]:
    """All that is there."""
    messages = []
    with suppress(aioipc.WouldBlock):
        while True:
            messages.append(channel.receive_nowait())
    return messages


# Writing in place -----------------------------------------------------------------------


async def test_a_message_is_written_in_place(name: str) -> None:
    async with small(name) as channel:
        async with channel.reserve(5) as buffer:
            assert (len(buffer), buffer.format, buffer.readonly, buffer.ndim) == (5, "B", False, 1)
            buffer[:] = b"hello"
            assert channel.statistics().messages == 0
            with pytest.raises(aioipc.WouldBlock):
                channel.receive_nowait()
        assert await channel.receive() == b"hello"


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 63, 64, 65, units(16)])
async def test_sizes(name: str, size: int) -> None:
    async with small(name) as channel:
        for _ in range(3):
            data = bytes(n % 251 for n in range(size))
            with channel.reserve_nowait(size) as buffer:
                buffer[:] = data
            with channel.borrow_nowait() as view:
                assert view == data


async def test_what_is_not_finished_is_never_seen(name: str) -> None:
    async with small(name) as channel:
        with pytest.raises(ZeroDivisionError):
            async with channel.reserve(units(16)) as buffer:
                buffer[:] = b"x" * len(buffer)
                raise ZeroDivisionError
        assert received(channel) == []
        channel.send_nowait(bytes(units(16)))  # the room is free again


async def test_an_open_reserve_holds_up_nobody(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other:
        with channel.reserve_nowait(1) as first, channel.reserve_nowait(1) as second:
            channel.send_nowait(b"c")
            other.send_nowait(b"d")
            assert received(other) == [b"c", b"d"]
            first[:], second[:] = b"a", b"b"
        assert received(other) == [b"a", b"b"]


async def test_reserved_room_is_published_out_of_order(name: str) -> None:
    async with small(name) as channel:
        blocks = [channel.reserve_nowait(1) for _ in range(5)]
        for number, block in enumerate(blocks):
            block.__enter__()[:] = b"%d" % number
        for number in (3, 1, 4):
            blocks[number].__exit__(None, None, None)
        assert received(channel) == [b"1", b"3", b"4"]
        blocks[2].__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        blocks[0].__exit__(None, None, None)
        assert received(channel) == [b"0"]


async def test_an_array_left_over_could_still_write(name: str) -> None:
    async with small(name) as channel:
        for left in (lambda buffer: np.frombuffer(buffer, np.uint8), lambda buffer: buffer[1:3], memoryview):
            with pytest.raises(BufferError, match="delete it before the block ends; the message was not sent"):
                async with channel.reserve(units(16)) as buffer:
                    array = left(buffer)
            assert received(channel) == []
            with pytest.raises(aioipc.WouldBlock):  # its room is not free while it can be written
                channel.send_nowait(b"")
            array[0] = 1
            array = buffer = None
            gc.collect()  # the traceback had them, too
            channel.send_nowait(b"")
            assert received(channel) == [b""]


async def test_an_array_that_is_gone_before_the_end_is_no_harm(name: str) -> None:
    async with small(name) as channel:
        async with channel.reserve(8) as buffer:
            array = np.frombuffer(buffer, np.uint32)
            array[:] = 7
            del array
        assert channel.receive_nowait() == np.array([7, 7], np.uint32).tobytes()


async def test_the_view_ends_with_the_block(name: str) -> None:
    async with small(name) as channel:
        async with channel.reserve(1) as buffer:
            owner = buffer.obj
        async with channel.borrow() as view:
            pass
        for each in (buffer, view):
            with pytest.raises(ValueError, match="released"):
                len(each)
        with pytest.raises(BufferError, match="has ended"):
            memoryview(owner)  # type: ignore[arg-type]


# Reading in place -----------------------------------------------------------------------


async def test_a_message_is_read_in_place(name: str) -> None:
    async with small(name) as channel:
        await channel.send(b"hello")
        async with channel.borrow() as view:
            assert (bytes(view), view.format, view.readonly) == (b"hello", "B", True)
            assert channel.statistics().messages == 1
            with pytest.raises(aioipc.WouldBlock):
                channel.receive_nowait()
        assert channel.statistics().messages == 0


async def test_what_was_not_consumed_is_delivered_again(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other:
        await channel.send_many([b"a", b"b"])
        with pytest.raises(ZeroDivisionError):
            async with channel.borrow():
                raise ZeroDivisionError
        assert received(other) == [b"a", b"b"]


async def test_what_goes_back_wakes_who_waits(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        await channel.send(b"a")
        with suppress(ZeroDivisionError):
            async with channel.borrow():
                task = Task(group, other.receive)
                await until(lambda: other.statistics().tasks_waiting_receive == 1)
                raise ZeroDivisionError
        await task.done.wait()
        assert task.result == b"a"


async def test_a_slow_borrow_holds_up_nobody(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other:
        for letter in b"abcd":
            channel.send_nowait(bytes([letter]))
        with channel.borrow_nowait() as first, other.borrow_nowait() as second:
            assert (bytes(first), bytes(second)) == (b"a", b"b")
            assert received(channel) == [b"c", b"d"]
            for _ in range(12):  # the four before still take their room
                other.send_nowait(b"e")
            with pytest.raises(aioipc.WouldBlock):
                other.send_nowait(b"e")
        assert received(channel) == [b"e"] * 12


@pytest.mark.parametrize(
    "make",
    [lambda view: np.frombuffer(view, np.uint8), lambda view: view[1:3], memoryview],
    ids=["array", "slice", "view"],
)
async def test_nothing_may_be_left_of_what_was_borrowed(name: str, make: Callable[[memoryview], object]) -> None:
    async with small(name) as channel:
        channel.send_nowait(b"abcd")
        with pytest.raises(BufferError, match="delete it before the block ends; the message goes back"):
            async with channel.borrow() as view:
                left = make(view)
        assert channel.statistics().messages == 1
        del left
        async with channel.borrow() as view:
            left = make(view)
            assert bytes(view) == b"abcd"
            del left
        assert received(channel) == []


async def test_room_that_an_array_gave_up_wakes_who_waits(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        with pytest.raises(BufferError):
            async with channel.reserve(units(16)) as view:
                part = view[3:7]
        task = Task(group, lambda: other.send(b"x"))
        await until(lambda: other.statistics().tasks_waiting_send == 1)
        del part, view
        await task.done.wait()
        assert received(channel) == [b"x"]


# Blocks as objects ----------------------------------------------------------------------


@pytest.mark.parametrize("waits", [True, False], ids=["async with", "with"])
async def test_a_block_is_entered_once_at_a_time(name: str, waits: bool) -> None:
    async with small(name) as channel:
        channel.send_nowait(b"a")
        channel.send_nowait(b"b")
        if waits:
            writes, reads = channel.reserve(1), channel.borrow()
            async with writes as buffer, reads as view:
                for block in (writes, reads):
                    with pytest.raises(RuntimeError, match="entered already"):
                        await block.__aenter__()
                buffer[:] = view
            assert received(channel) == [b"b", b"a"]
            async with writes as buffer:
                buffer[:] = b"c"
        else:
            writing, reading = channel.reserve_nowait(1), channel.borrow_nowait()
            with writing as buffer, reading as view:
                for each in (writing, reading):
                    with pytest.raises(RuntimeError, match="entered already"):
                        each.__enter__()
                buffer[:] = view
            assert received(channel) == [b"b", b"a"]
            with writing as buffer:
                buffer[:] = b"c"
        assert received(channel) == [b"c"]


async def test_a_block_that_another_task_is_entering(name: str) -> None:
    async with small(name) as channel, anyio.create_task_group() as group:
        block = channel.borrow()

        async def read() -> bytes:
            async with block as view:
                return bytes(view)

        task = Task(group, read)
        await until(lambda: channel.statistics().tasks_waiting_receive == 1)
        with pytest.raises(RuntimeError, match="entered already"):
            await block.__aenter__()
        await task.cancel()
        channel.send_nowait(b"a")
        assert await read() == b"a"  # entering was given up


async def test_a_block_that_is_never_entered_does_nothing(name: str) -> None:
    async with small(name) as channel:
        channel.send_nowait(b"a")
        for block in (channel.reserve(5), channel.borrow(), channel.reserve_nowait(5), channel.borrow_nowait()):
            del block
        assert channel.statistics().messages == 1
        assert received(channel) == [b"a"]


ENTER: dict[str, Callable[[Channel], Any]] = {
    "reserve": lambda channel: channel.reserve(units(8)).__aenter__(),
    "borrow": lambda channel: channel.borrow().__aenter__(),
    "reserve_nowait": lambda channel: channel.reserve_nowait(units(8)).__enter__(),
    "borrow_nowait": lambda channel: channel.borrow_nowait().__enter__(),
}


@pytest.mark.parametrize("kind", ENTER)
async def test_a_block_that_is_never_left_is_undone_when_its_view_is_gone(name: str, kind: str) -> None:
    async with small(name) as channel, Channel.open(name) as other:
        channel.send_nowait(bytes(units(8)))
        view = ENTER[kind](channel)
        if not isinstance(view, memoryview):
            view = await view
        assert len(view) == units(8)
        assert received(other) == ([] if kind.startswith("borrow") else [bytes(units(8))])
        del view
        gc.collect()
        if kind.startswith("borrow"):
            assert received(other) == [bytes(units(8))]
        other.send_nowait(bytes(units(16)))


async def test_a_view_that_lies_in_the_channel_itself_is_collected_with_it(
    name: str, descriptors: Callable[[], int]
) -> None:
    async with small(name) as channel:
        channel.send_nowait(b"a")
        before = descriptors()
        handle: Any = Channel.open(name)
        handle.block = handle.borrow()
        handle.view = await handle.block.__aenter__()
        handle.close()
        del handle
        gc.collect()
        assert descriptors() == before
        assert received(channel) == [b"a"]


@pytest.mark.parametrize("waits", [True, False], ids=["async with", "with"])
async def test_what_failed_can_be_entered_again(name: str, waits: bool) -> None:
    async with small(name) as channel:
        writes = channel.reserve(1) if waits else channel.reserve_nowait(1)
        reads = channel.borrow() if waits else channel.borrow_nowait()
        await channel.end()
        for block, error in ((writes, aioipc.BrokenError), (reads, aioipc.EndOfStream)):
            for _ in range(2):
                with pytest.raises(error):
                    if isinstance(block, AbstractAsyncContextManager):
                        await block.__aenter__()
                    else:
                        block.__enter__()


async def test_leaving_a_block_that_nobody_is_in(name: str) -> None:
    async with small(name) as channel, anyio.create_task_group() as group:
        nothing: tuple[None, None, None] = (None, None, None)
        for each in (channel.reserve_nowait(1), channel.borrow_nowait()):
            each.__exit__(*nothing)
        for block in (channel.reserve(1), channel.borrow()):
            await block.__aexit__(*nothing)
        task = Task(group, block.__aenter__)
        await until(lambda: channel.statistics().tasks_waiting_receive == 1)
        await block.__aexit__(*nothing)
        with pytest.raises(RuntimeError, match="entered already"):
            await block.__aenter__()
        channel.send_nowait(b"a")
        await task.done.wait()
        assert bytes(task.result) == b"a"  # type: ignore[call-overload]
        await block.__aexit__(*nothing)
        await block.__aexit__(*nothing)
        assert received(channel) == []


async def test_blocks_on_a_stack(name: str) -> None:
    async with small(name) as channel:
        assert isinstance(channel.borrow(), AbstractAsyncContextManager)
        assert isinstance(channel.borrow_nowait(), AbstractContextManager)
        assert not isinstance(channel.borrow(), AbstractContextManager)
        with suppress(ZeroDivisionError):
            async with AsyncExitStack() as stack:
                kept = await stack.enter_async_context(channel.reserve(1))
                stack.enter_context(channel.reserve_nowait(1))
                kept[:] = b"a"
                raise ZeroDivisionError
        async with AsyncExitStack() as stack:
            for letter in (b"b", b"c"):
                (await stack.enter_async_context(channel.reserve(1)))[:] = letter
        async with channel.borrow() as first, channel.borrow() as second:
            assert (bytes(first), bytes(second)) == (b"b", b"c")


async def test_blocks_leave_nothing_behind(name: str) -> None:
    """Neither the good ones nor the others: the handle has as many references as before."""

    async def use(channel: Channel, group: anyio.abc.TaskGroup) -> None:
        async with channel.reserve(1) as buffer:
            buffer[:] = b"a"
        with suppress(ZeroDivisionError):
            async with channel.borrow():
                raise ZeroDivisionError
        with suppress(BufferError):
            async with channel.borrow() as view:
                left = view[:1]
                assert len(left) == 1
        with suppress(RuntimeError):
            async with channel.borrow() as view:
                block = channel.reserve(1)
                async with block, block:
                    pass
        async with channel.borrow() as view:
            pass
        task = Task(group, channel.borrow().__aenter__)
        await until(lambda: channel.statistics().tasks_waiting_receive == 1)
        await task.cancel()
        with suppress(aioipc.WouldBlock), channel.borrow_nowait():
            pass
        with suppress(aioipc.MessageTooLongError):
            await channel.reserve(units(17)).__aenter__()
        channel.reserve(1).__aenter__().close()

    async with small(name) as channel, anyio.create_task_group() as group:
        await use(channel, group)
        counts = set()
        for _ in range(3):
            await use(channel, group)
            gc.collect()
            counts.add(sys.getrefcount(channel))
        assert len(counts) == 1
        assert channel.statistics()[:2] == (0, 0)
        channel.send_nowait(bytes(units(16)))


# The handle closed within -----------------------------------------------------------------


@pytest.mark.parametrize("keeps", [False, True], ids=["", "an array stays"])
async def test_closed_within_a_borrow(name: str, keeps: bool) -> None:
    async with small(name) as channel:
        channel.send_nowait(b"a")
        handle = Channel.open(name)
        with pytest.raises(aioipc.ClosedError, match="closed"):
            async with handle.borrow() as view:
                array = np.frombuffer(view, np.uint8) if keeps else None
                handle.close()
                assert bytes(view) == b"a"
                assert channel.statistics().messages == 1
        assert received(channel) == [b"a"]
        if array is not None:
            assert array.tolist() == [97]


@pytest.mark.parametrize("keeps", [False, True], ids=["", "an array stays"])
async def test_closed_within_a_reserve(name: str, keeps: bool) -> None:
    async with small(name) as channel:
        handle = Channel.open(name)
        with pytest.raises(aioipc.ClosedError, match="closed"):
            async with handle.reserve(units(16)) as buffer:
                array = np.frombuffer(buffer, np.uint8) if keeps else None
                handle.close()
                buffer[:] = b"x" * len(buffer)
        assert received(channel) == []
        if array is not None:
            with pytest.raises(aioipc.WouldBlock):
                channel.send_nowait(b"")
            array[:] = 1
        del array, buffer
        gc.collect()
        channel.send_nowait(bytes(units(16)))


async def test_an_exception_goes_before_that_of_a_closed_handle(name: str) -> None:
    async with small(name) as channel:
        with pytest.raises(ZeroDivisionError):
            async with channel.reserve(1):
                channel.close()
                raise ZeroDivisionError


async def test_the_descriptors_of_a_closed_handle_go_with_the_last_array(
    name: str, descriptors: Callable[[], int]
) -> None:
    async with small(name):
        before = descriptors()
        handle = Channel.open(name)
        with pytest.raises(BufferError):
            async with handle.reserve(3) as view:
                array = np.frombuffer(view, np.uint8)
        handle.close()
        del handle, view
        gc.collect()
        array[:] = 7
        assert array.tolist() == [7, 7, 7]
        assert descriptors() > before
        del array
        assert descriptors() == before


# A fork within ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reserve", "borrow"])
async def test_a_child_that_leaves_the_block_changes_nothing(name: str, kind: str) -> None:
    with small(name) as channel:
        channel.send_nowait(b"a")
        block = channel.reserve_nowait(1) if kind == "reserve" else channel.borrow_nowait()
        view = block.__enter__()

        def leave() -> str:
            with pytest.raises(RuntimeError, match="belongs to the parent process"):
                block.__exit__(None, None, None)
            channel.close()
            gc.collect()
            return "done"

        assert in_child(leave) == "done"
        assert channel.statistics().messages == 1
        if kind == "reserve":
            view[:] = b"b"
        block.__exit__(None, None, None)
        assert received(channel) == ([b"a", b"b"] if kind == "reserve" else [])


async def test_a_child_can_look_at_what_its_parent_has_borrowed(name: str) -> None:
    with small(name) as channel:
        channel.send_nowait(b"abc")
        with channel.borrow_nowait() as view:
            arrays = [np.frombuffer(view, np.uint8)]

            def look() -> list[int]:
                channel.close()
                return arrays[0].tolist()

            assert in_child(look) == [97, 98, 99]
            arrays.clear()
        assert received(channel) == []
