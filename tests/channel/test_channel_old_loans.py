"""A message that was borrowed long ago, and many that are gone behind it: the loop is not held up, and nothing is lost.

So many are not passed over at once (RING_PASSES): operations have to come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import anyio.lowlevel
import pytest
from conftest import until

import aioipc
from aioipc import Channel, inspect

pytestmark = pytest.mark.anyio

GONE = 55_000
CAPACITY = (GONE + 3) * 64


class GiveBackError(Exception):
    """What a block ends with that gives its message back."""


@contextmanager
def borrowed_long(channel: Channel) -> Iterator[None]:
    """In the block, the first message is borrowed, and those behind it are gone.  How it ends is how the loan does."""
    channel.send_nowait(b"old")
    with channel.borrow_nowait():
        for _ in range(GONE // 1000):
            channel.send_many_nowait([b"x"] * 1000)
            assert len(channel.receive_many_nowait(1000)) == 1000
        yield


def come_back(channel: Channel) -> None:
    """Have the old message come back, and receive it: those that are gone lie before the next."""
    with suppress(GiveBackError), borrowed_long(channel):
        channel.send_nowait(b"new")
        raise GiveBackError
    assert channel.receive_nowait() == b"old"


async def test_receiving(name: str) -> None:
    async with Channel.create(name, capacity=CAPACITY) as channel:
        come_back(channel)
        with anyio.fail_after(60):
            assert await channel.receive() == b"new"
            with pytest.raises(aioipc.WouldBlock):
                channel.receive_nowait()


async def test_receiving_without_waiting(name: str) -> None:
    async with Channel.create(name, capacity=CAPACITY) as channel:
        come_back(channel)
        received, calls = [], 0
        while not received:
            calls += 1
            with suppress(aioipc.WouldBlock):
                received.append(channel.receive_nowait())
        assert received == [b"new"]
        assert 1 < calls < 10  # each goes on from where the one before it was


async def test_receivers_that_wait(name: str) -> None:
    async with Channel.create(name, capacity=CAPACITY) as channel, Channel.open(name) as other:
        received: list[bytes] = []

        async def receive(receiver: Channel) -> None:
            async for message in receiver:
                received.append(message)

        async with anyio.create_task_group() as group:
            with suppress(GiveBackError), borrowed_long(channel):
                for receiver in (channel, other, other):
                    group.start_soon(receive, receiver)
                await until(lambda: other.statistics().tasks_waiting_receive == 2)
                raise GiveBackError
            await other.send(b"new")
            with anyio.fail_after(60):
                await until(lambda: len(received) == 2)
                await channel.end()
        assert sorted(received) == [b"new", b"old"]


async def test_the_end(name: str) -> None:
    async with Channel.create(name, capacity=CAPACITY) as channel, Channel.open(name) as other:
        async with anyio.create_task_group() as group:

            async def receive() -> None:
                with anyio.fail_after(60), pytest.raises(aioipc.EndOfStream):
                    await other.receive()

            with borrowed_long(channel):
                group.start_soon(receive)
                await until(lambda: other.statistics().tasks_waiting_receive == 1)
                channel.end_nowait()


async def test_senders_that_wait(name: str) -> None:
    async with Channel.create(name, capacity=CAPACITY) as channel, Channel.open(name) as other:
        async with anyio.create_task_group() as group:
            with borrowed_long(channel):
                group.start_soon(other.send, bytes(GONE * 64 - 32))
                group.start_soon(channel.send, bytes(5 * 64))
                await until(lambda: other.statistics().tasks_waiting_send == 1)
                await until(lambda: channel.statistics().tasks_waiting_send == 1)
            with anyio.fail_after(60):
                got = {len(await channel.receive()) for _ in range(2)}
        assert got == {GONE * 64 - 32, 5 * 64}


async def test_who_is_cancelled_loses_nothing(name: str) -> None:
    async with Channel.create(name, capacity=CAPACITY) as channel, Channel.open(name) as other:
        for passes in range(6):
            come_back(channel)
            received: list[bytes] = []

            async def receive(received: list[bytes] = received) -> None:
                received.append(await other.receive())

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                for _ in range(passes):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            with anyio.fail_after(60):
                if not received:
                    received.append(await channel.receive())
            assert received == [b"new"]
            assert channel.statistics().messages == 0


async def test_statistics_count_what_is_not_consumed(name: str) -> None:
    async with Channel.create(name, capacity=2 * CAPACITY) as channel:

        def counted() -> tuple[int, int]:
            found = channel.statistics()
            seen = inspect.find(f"channel:{name}")
            assert (seen.messages, seen.bytes) == (found.messages, found.bytes)
            return found.messages, found.bytes

        with borrowed_long(channel):
            assert counted() == (1, 3)
            channel.send_many_nowait([b"12"] * 40_000)
            assert counted() == (40_001, 80_003)
        assert counted() == (40_000, 80_000)
