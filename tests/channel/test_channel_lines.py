"""Tasks in line for a channel: who is served first, and what an end or a close does to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from conftest import Task, until
from test_channel import UNIT, small, units, until_waiting

import aioipc
from aioipc import Channel

pytestmark = pytest.mark.anyio

Wait = Callable[[Channel], Awaitable[object]]


async def iterate_once(channel: Channel) -> bytes | None:
    async for message in channel:
        return message
    return None


async def borrow(channel: Channel) -> bytes:
    async with channel.borrow() as view:
        return bytes(view)


async def receive_many(channel: Channel) -> bytes:
    return b"".join(await channel.receive_many(1))


RECEIVING: dict[str, Callable[[Channel], Awaitable[Any]]] = {
    "receive": lambda channel: channel.receive(),
    "async for": iterate_once,
    "receive_many": receive_many,
    "borrow": borrow,
}


async def reserve(channel: Channel, item: bytes) -> None:
    async with channel.reserve(len(item)) as buffer:
        buffer[:] = item


SENDING: dict[str, Callable[[Channel, bytes], Awaitable[Any]]] = {
    "send": lambda channel, item: channel.send(item),
    "send_many": lambda channel, item: channel.send_many([item]),
    "reserve": reserve,
}


def would_block(*uses: Callable[[], object], words: str = "other tasks wait") -> None:
    for use in uses:
        with pytest.raises(aioipc.WouldBlock, match=words):
            use()


# C2: first come, first served ---------------------------------------------------------------


async def test_receivers_are_served_in_the_order_they_came(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        got: list[tuple[int, Any]] = []

        async def take(number: int, wait: Callable[[Channel], Awaitable[Any]]) -> None:
            got.append((number, await wait(channel)))

        ways = list(RECEIVING.values()) * 5
        for number, way in enumerate(ways):
            group.start_soon(take, number, way)
            await until_waiting(channel, receive=number + 1)
        for number in range(len(ways)):
            await other.send(b"%d" % number)
        await until(lambda: len(got) == len(ways))
        assert got == [(number, b"%d" % number) for number in range(len(ways))]


async def test_senders_are_served_in_the_order_they_came(name: str) -> None:
    async with small(name, UNIT) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        channel.send_nowait(b"0")
        for number in range(1, 20):
            group.start_soon(list(SENDING.values())[number % 3], channel, b"%d" % number)
            await until_waiting(channel, send=number)
        assert [int(await other.receive()) for _ in range(20)] == list(range(20))


async def test_a_large_message_is_not_overtaken_by_small_ones(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        channel.send_nowait(b"first")
        group.start_soon(channel.send, bytes(units(4)))
        await until_waiting(channel, send=1)
        would_block(
            lambda: channel.send_nowait(b"small"),
            lambda: channel.send_many_nowait([b"small"]),
            lambda: channel.reserve_nowait(1).__enter__(),
            channel.end_nowait,
        )
        group.start_soon(channel.send, b"small")
        await until_waiting(channel, send=2)
        assert [len(await other.receive()) for _ in range(3)] == [5, units(4), 5]


async def test_nobody_overtakes_those_in_line(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        task = Task(group, channel.receive)
        await until_waiting(channel, receive=1)
        other.send_nowait(b"first")
        would_block(
            channel.receive_nowait,
            lambda: channel.receive_many_nowait(1),
            lambda: channel.borrow_nowait().__enter__(),
        )
        other.send_nowait(b"second")
        assert await channel.receive() == b"second"  # asked in the very same step
        await task.done.wait()
        assert task.result == b"first"


# C3: cancellation (the races are in test_channel_races.py) --------------------------------------


@pytest.mark.parametrize("way", RECEIVING)
async def test_a_cancelled_receiver_has_taken_nothing(name: str, way: str) -> None:
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        tasks = [Task(group, lambda: RECEIVING[way](channel)) for _ in range(3)]
        await until_waiting(channel, receive=3)
        other.send_nowait(b"a")
        for task in tasks[:2]:
            task.scope.cancel()
        await tasks[2].done.wait()
        assert [task.result for task in tasks] == [None, None, b"a"]
        task = Task(group, lambda: RECEIVING[way](channel))
        await until_waiting(channel, receive=1)
        await task.cancel()
        other.send_nowait(b"b")
        assert other.receive_nowait() == b"b"


@pytest.mark.parametrize("way", SENDING)
async def test_a_cancelled_sender_has_sent_nothing(name: str, way: str) -> None:
    async with small(name, UNIT) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        channel.send_nowait(b"in the way")
        task = Task(group, lambda: SENDING[way](channel, b"x"))
        await until_waiting(channel, send=1)
        await task.cancel()
        assert other.receive_nowait() == b"in the way"
        assert channel.statistics()[:2] == (0, 0)
        channel.send_nowait(b"")


# C4: closing wakes ------------------------------------------------------------------------------


async def test_close_wakes_everybody(name: str) -> None:
    outcomes: list[str] = []

    async def wait(label: str, operation: Callable[[], Awaitable[object]]) -> None:
        try:
            outcomes.append(f"{label}: {await operation()}")
        except aioipc.ClosedError as error:
            assert name in str(error)
            outcomes.append(label)

    async with small(name, UNIT) as channel, anyio.create_task_group() as group:
        for number, (label, way) in enumerate(RECEIVING.items()):
            group.start_soon(wait, label, lambda way=way: way(channel))
            await until_waiting(channel, receive=number + 1)
        async with Channel.open(name) as full:
            with full.reserve_nowait(1):
                for number, (label, send) in enumerate(SENDING.items()):
                    group.start_soon(wait, label, lambda send=send: send(channel, b"x"))
                    await until_waiting(channel, receive=4, send=number + 1)
                channel.close()
                channel.close()
                await until(lambda: len(outcomes) == 7)
            assert full.statistics().messages == 1
    assert sorted(outcomes) == sorted(
        ["receive", "async for: None", "receive_many", "borrow", "send", "send_many", "reserve"]
    )


async def test_closed_inside_its_own_iteration(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other:
        channel.send_many_nowait([b"a", b"b"])
        received = []
        async for message in channel:
            received.append(message)
            channel.close()
        assert received == [b"a"]
        assert other.receive_nowait() == b"b"


# The end ------------------------------------------------------------------------------------------


async def test_receivers_drain_and_senders_stop(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other:
        channel.send_many_nowait([b"a", b"b"])
        await other.end()
        await channel.end()
        other.end_nowait()
        with pytest.raises(anyio.BrokenResourceError, match="has been ended") as caught:
            channel.send_nowait(b"")
        assert type(caught.value) is aioipc.BrokenError
        for send in SENDING.values():
            with pytest.raises(aioipc.BrokenError, match="has been ended: nothing more can be sent"):
                await send(channel, b"x")
        with pytest.raises(aioipc.BrokenError), channel.reserve_nowait(1):
            pass
        assert [message async for message in channel] == [b"a", b"b"]
        for way in ("receive", "receive_many", "borrow"):
            for handle in (channel, other):
                with pytest.raises(aioipc.EndOfStream, match=name):
                    await RECEIVING[way](handle)
        for use in (channel.receive_nowait, lambda: channel.receive_many_nowait(1), channel.borrow_nowait().__enter__):
            with pytest.raises(anyio.EndOfStream):
                use()
        with Channel.open(name) as late, pytest.raises(aioipc.EndOfStream):
            late.receive_nowait()


async def test_the_end_wakes_everybody(name: str) -> None:
    outcomes: list[str] = []

    async def wait(label: str, operation: Callable[[], Awaitable[object]]) -> None:
        try:
            outcomes.append(f"{label}: {await operation()}")
        except (aioipc.BrokenError, aioipc.EndOfStream) as error:
            outcomes.append(f"{label}: {type(error).__name__}")

    async with small(name, UNIT) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        block = other.reserve_nowait(1)  # neither is there room nor a message
        block.__enter__()
        for number, (label, way) in enumerate(RECEIVING.items()):
            group.start_soon(wait, label, lambda way=way: way(channel))
            await until_waiting(channel, receive=number + 1)
        for number, (label, send) in enumerate(SENDING.items()):
            group.start_soon(wait, label, lambda send=send: send(channel, b"x"))
            await until_waiting(channel, receive=4, send=number + 1)
        other.end_nowait()
        await until(lambda: len(outcomes) == 3)
        assert sorted(outcomes) == sorted(f"{label}: BrokenError" for label in SENDING)
        block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        await until(lambda: len(outcomes) == 7)
        assert sorted(outcomes[3:]) == sorted(
            ["receive: EndOfStream", "receive_many: EndOfStream", "borrow: EndOfStream", "async for: None"]
        )


async def test_what_is_reserved_before_the_end_arrives(name: str) -> None:
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        with channel.reserve_nowait(1) as buffer:
            channel.end_nowait()
            task = Task(group, other.receive)
            await until_waiting(other, receive=1)
            buffer[:] = b"x"
        await task.done.wait()
        assert task.result == b"x"
        with pytest.raises(aioipc.EndOfStream):
            other.receive_nowait()


async def test_the_end_comes_after_those_in_line(name: str) -> None:
    async with small(name, UNIT) as channel, anyio.create_task_group() as group:
        channel.send_nowait(b"a")
        group.start_soon(channel.send, b"b")
        await until_waiting(channel, send=1)
        group.start_soon(channel.end)
        await until_waiting(channel, send=2)
        assert [message async for message in channel] == [b"a", b"b"]


async def test_room_that_is_too_small_for_one_is_there_for_the_other(name: str) -> None:
    async with small(name, 12 * UNIT) as channel, Channel.open(name) as first, Channel.open(name) as second:
        channel.send_nowait(bytes(units(1)))
        channel.send_nowait(bytes(units(11)))
        async with anyio.create_task_group() as group:
            short = Task(group, lambda: first.send(b"short"))
            Task(group, lambda: second.send(bytes(units(10))))
            await until_waiting(first, send=1)
            await until_waiting(second, send=1)
            # Both hear that there is room; who tries in vain must not keep the other from it.
            channel.receive_nowait()
            with anyio.fail_after(30):
                await short.done.wait()
            group.cancel_scope.cancel()
