"""Cancellation at any moment, many thousand times: nothing lost, doubled or out of order.

How often is set by --races; a run prints its seed, and --seed repeats it.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import Task, passes, running
from test_channel import UNIT, small
from test_channel_lines import RECEIVING, SENDING, iterate_once

import aioipc
from aioipc import Channel

PEER = str(Path(__file__).parent / "peer.py")


async def a_while(rng: random.Random) -> None:
    """A few passes of the loop, or some microseconds."""
    if rng.random() < 0.1:
        await anyio.sleep(rng.random() / 10_000)
    else:
        await passes(rng.randrange(5))


@pytest.mark.anyio
@pytest.mark.parametrize("way", RECEIVING)
async def test_a_receiver_cancelled_as_its_message_arrives(name: str, way: str, races: int, rng: random.Random) -> None:
    """Each message is either the task's or still in the channel, whatever the moment."""
    async with small(name) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        received = left = 0
        for number in range(races):
            data = b"%d" % number
            task = Task(group, lambda: RECEIVING[way](channel))
            steps: list[Callable[[], object]] = [lambda data=data: other.send_nowait(data), task.scope.cancel]
            if rng.random() < 0.2:
                steps.reverse()
            await passes(rng.randrange(4))
            steps[0]()
            await passes(rng.randrange(4))
            steps[1]()
            await task.done.wait()
            try:
                assert other.receive_nowait() == data
                assert task.result is None
                left += 1
            except aioipc.WouldBlock:
                assert task.result == data
                received += 1
        assert received + left == races
        assert min(received, left) > races / 20, "the moment of cancellation was not random enough"
        assert channel.statistics()[7:9] == (0, 0)
        assert channel.statistics().messages == 0


@pytest.mark.anyio
@pytest.mark.parametrize("way", SENDING)
async def test_a_sender_cancelled_as_room_appears(name: str, way: str, races: int, rng: random.Random) -> None:
    async def send(data: bytes) -> bool:
        await SENDING[way](channel, data)
        return True

    async with small(name, UNIT) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        sent = given_up = 0
        for number in range(races):
            data = b"%d" % number
            other.send_nowait(b"in the way")
            task = Task(group, lambda data=data: send(data))
            await passes(rng.randrange(4))
            assert other.receive_nowait() == b"in the way"
            await passes(rng.randrange(4))
            await task.cancel()
            try:
                assert other.receive_nowait() == data
                assert task.result is True
                sent += 1
            except aioipc.WouldBlock:
                assert task.result is None
                given_up += 1
        assert sent + given_up == races
        assert min(sent, given_up) > races / 20
        assert channel.statistics()[7:9] == (0, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("tasks", [1, 5])
@pytest.mark.parametrize("way", ["async for", "receive", "receive_many", "borrow"])
async def test_a_stream_that_is_shared_with_another_process(
    name: str, way: str, tasks: int, races: int, rng: random.Random
) -> None:
    """Tasks that are cancelled again and again, and another process: together they get every message once."""
    received: list[int] = []

    async def receive_for_a_while() -> None:
        ended = False
        while not ended:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel_soon, scope)
                    with suppress(aioipc.EndOfStream):
                        await receive()
                    if not scope.cancel_called:
                        ended = True
                        group.cancel_scope.cancel()

    async def receive() -> None:
        if way == "async for":
            async for message in channel:
                received.append(int(message))
        while True:
            if way == "receive_many":
                received.extend(map(int, await channel.receive_many(3)))
            elif way == "borrow":
                async with channel.borrow() as view:
                    received.append(int(bytes(view)))
            else:
                received.append(int(await channel.receive()))

    async def cancel_soon(scope: anyio.CancelScope) -> None:
        await a_while(rng)
        scope.cancel()

    count = races // 2
    async with small(name, 10 * UNIT) as channel:
        with running(sys.executable, PEER, "drain", name, stdout=subprocess.PIPE, text=True) as drain:
            with running(sys.executable, PEER, "count", name, str(count), "end"):
                with anyio.fail_after(120):
                    async with anyio.create_task_group() as group:
                        for _ in range(tasks):
                            group.start_soon(receive_for_a_while)
            assert drain.stdout is not None
            elsewhere = [int(line) for line in drain.stdout]
        assert sorted(received + elsewhere) == list(range(count))
        assert elsewhere == sorted(elsewhere)
        if way != "borrow":  # where what was cancelled comes again
            assert received == sorted(received)


@pytest.mark.anyio
@pytest.mark.parametrize("way", SENDING)
async def test_senders_cancelled_while_another_process_receives(
    name: str, way: str, races: int, rng: random.Random
) -> None:
    """Every send that returned is received once, in order, and no other."""
    sent: list[int] = []

    async with small(name, 3 * UNIT) as channel:
        with running(sys.executable, PEER, "drain", name, stdout=subprocess.PIPE, text=True) as drain:
            assert drain.stdout is not None
            async with anyio.create_task_group() as group:
                elsewhere: list[int] = []

                async def read() -> None:
                    lines = await anyio.to_thread.run_sync(drain.stdout.read)
                    elsewhere.extend(map(int, lines.split()))

                group.start_soon(read)
                for number in range(races):

                    async def send(number: int = number) -> None:
                        await SENDING[way](channel, b"%d" % number)
                        sent.append(number)

                    if rng.random() < 0.3:
                        await send()
                        continue
                    task = Task(group, send)
                    await passes(rng.randrange(6))
                    await task.cancel()
                await channel.end()
        assert elsewhere == sent


@pytest.mark.anyio
async def test_many_messages_are_sent_together_or_not(name: str, races: int, rng: random.Random) -> None:
    """Batches of several tasks that are cancelled: each arrives whole and in one piece."""
    sent: list[int] = []
    received: list[list[int]] = []

    async def send(number: int) -> None:
        batch = [b"%d %d" % (number, place) for place in range(3)]
        await channel.send_many(batch)
        sent.append(number)

    async def receive() -> None:
        flat = [list(map(int, message.split())) async for message in other]
        received.extend(flat)

    async with small(name, 7 * UNIT) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        task = Task(group, receive)
        for number in range(races // 2):
            tasks = [Task(group, lambda number=2 * number + n: send(number)) for n in range(2)]
            await a_while(rng)
            for each in tasks:
                if rng.random() < 0.5:
                    each.scope.cancel()
            for each in tasks:
                await each.done.wait()
        await channel.end()
        await task.done.wait()
    assert received == [[number, place] for number in sent for place in range(3)]


@pytest.mark.anyio
async def test_close_at_any_moment(name: str, races: int, rng: random.Random) -> None:
    """What the closed handle's tasks did not return is still in the channel."""
    async with small(name) as channel:
        for number in range(races // 4):
            handle = Channel.open(name)
            received: list[Any] = []

            async def receive(
                way: Callable[[Channel], Awaitable[Any]], handle: Channel = handle, received: list[Any] = received
            ) -> None:
                with suppress(aioipc.ClosedError):
                    message = await way(handle)
                    if message is not None:
                        received.append(message)

            async with anyio.create_task_group() as group:
                for way in rng.sample(list(RECEIVING.values()), 3):
                    group.start_soon(receive, way)
                await passes(rng.randrange(4))
                channel.send_nowait(b"%d" % number)
                await passes(rng.randrange(4))
                handle.close()
            left = []
            with suppress(aioipc.WouldBlock):
                left.append(channel.receive_nowait())
            assert received + left == [b"%d" % number]


@pytest.mark.parametrize("way", ["timeout", "wait_for", "task group", "cancel twice"])
@pytest.mark.asyncio
async def test_the_ways_of_asyncio(name: str, way: str, races: int, rng: random.Random) -> None:
    """A stream of messages in the same process, received under each kind of cancellation."""
    received: list[int] = []
    count = races // 2

    async def send() -> None:
        for number in range(count):
            await other.send(b"%d" % number)
            await passes(rng.randrange(3))
            if way in ("timeout", "wait_for") and rng.random() < 0.5:
                await asyncio.sleep(rng.random() / 4000)

    async def receive() -> None:
        if rng.random() < 0.5:
            received.append(int(await channel.receive()))
        else:
            message = await iterate_once(channel)
            assert message is not None
            received.append(int(message))

    async def receive_once_or_not() -> None:
        delay = rng.random() / 20_000
        if way == "timeout":
            async with asyncio.timeout(delay):
                await receive()
        elif way == "wait_for":
            await asyncio.wait_for(receive(), delay)
        elif way == "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(receive())
                group.create_task(receive())
                await passes(rng.randrange(4))
                raise TimeoutError
        else:
            task = asyncio.create_task(receive())
            await passes(rng.randrange(4))
            task.cancel()
            await passes(rng.randrange(2))
            task.cancel()
            await task

    async with small(name, 2 * UNIT) as channel, Channel.open(name) as other:
        sending = asyncio.create_task(send())
        given_up = 0
        while len(received) < count:
            before = len(received)
            try:
                await receive_once_or_not()
            except* (TimeoutError, asyncio.CancelledError):
                given_up += len(received) == before
        await sending
        assert received == list(range(count))
        assert given_up > count / 20, "too few cancellations came in time"
        assert channel.statistics().messages == 0
