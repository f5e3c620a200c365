"""Cancellation at any moment, many thousand times: nothing lost, doubled or out of order.

How often is set by --races; a run prints its seed, and --seed repeats it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from tempfile import TemporaryFile

import anyio
import anyio.lowlevel
import posix_ipc
import pytest
from conftest import Task, passes, running

from aioipc.posix import Message, MessageQueue

LAST = "the last message"


def small(name: str, max_messages: int = 1) -> MessageQueue:
    return MessageQueue.create(name, max_messages=max_messages, max_message_size=32)


@pytest.mark.anyio
@pytest.mark.parametrize("style", ["receive", "async for"])
async def test_a_receiver_cancelled_as_its_message_arrives(
    name: str, style: str, races: int, rng: random.Random
) -> None:
    """Each message is either the task's or still in the queue, whatever the moment."""

    async def iterate() -> Message:
        async for message in queue:
            return message
        raise AssertionError

    async with small(name) as queue, anyio.create_task_group() as group:
        operation = queue.receive if style == "receive" else iterate
        received = left = 0
        with closing(posix_ipc.MessageQueue(name, posix_ipc.O_NONBLOCK)) as bare:
            for number in range(races):
                data = b"%d" % number
                task = Task(group, operation)
                steps = [
                    lambda data=data: bare.send(data),
                    task.scope.cancel,
                ]
                if rng.random() < 0.2:
                    steps.reverse()
                await passes(rng.randrange(4))
                steps[0]()
                await passes(rng.randrange(4))
                steps[1]()
                await task.done.wait()
                try:
                    assert bare.receive() == (data, 0)
                    assert task.result is None
                    left += 1
                except posix_ipc.BusyError:
                    assert task.result == (data, 0)
                    received += 1
        assert received + left == races
        assert min(received, left) > races / 20, "the moment of cancellation was not random enough"
        assert queue.statistics().tasks_waiting_receive == 0


@pytest.mark.anyio
async def test_a_sender_cancelled_as_room_appears(name: str, races: int, rng: random.Random) -> None:
    async with small(name) as queue, anyio.create_task_group() as group:
        sent = given_up = 0
        with closing(posix_ipc.MessageQueue(name, posix_ipc.O_NONBLOCK)) as bare:
            for number in range(races):
                data = b"%d" % number
                bare.send(b"in the way")

                async def send(data: bytes = data) -> bool:
                    await queue.send(data)
                    return True

                task = Task(group, send)
                await passes(rng.randrange(4))
                assert bare.receive() == (b"in the way", 0)
                await passes(rng.randrange(4))
                await task.cancel()
                try:
                    assert bare.receive() == (data, 0)
                    assert task.result is True
                    sent += 1
                except posix_ipc.BusyError:
                    assert task.result is None
                    given_up += 1
        assert sent + given_up == races
        assert min(sent, given_up) > races / 20
        assert queue.statistics().tasks_waiting_send == 0


@asynccontextmanager
async def drained_elsewhere(mq: str, name: str) -> AsyncIterator[list[int]]:
    """A C program that receives from the same queue; what it got is in the list in the end."""
    got: list[int] = []
    with TemporaryFile("w+") as output:
        with running(mq, "drain", name, LAST, stdout=output):
            yield got
        output.seek(0)
        got.extend(int(line.split()[1]) for line in output)


@pytest.mark.anyio
@pytest.mark.parametrize("tasks", [1, 5])
async def test_a_stream_that_is_shared_with_another_process(
    name: str, mq: str, races: int, rng: random.Random, tasks: int
) -> None:
    """Tasks that are cancelled again and again, and a C program: together they get every message once."""
    received: list[int] = []

    async def receive_for_a_while() -> None:
        while True:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel_soon, scope)
                    async for message in queue:
                        received.append(int(message.data))
            if sender.poll() is not None and queue.statistics().messages == 0:
                return

    async def cancel_soon(scope: anyio.CancelScope) -> None:
        if rng.random() < 0.1:
            await anyio.sleep(rng.random() / 10_000)
        else:
            await passes(rng.randrange(20))
        scope.cancel()

    async with small(name, 10) as queue:
        async with drained_elsewhere(mq, name) as elsewhere:
            with running(mq, "count", name, str(races), "20") as sender:
                async with anyio.create_task_group() as group:
                    for _ in range(tasks):
                        group.start_soon(receive_for_a_while)
            await queue.send(LAST.encode())
        assert sorted(received + elsewhere) == list(range(races))
        assert elsewhere == sorted(elsewhere)
        assert received == sorted(received)


@pytest.mark.anyio
async def test_senders_cancelled_while_another_process_receives(
    name: str, mq: str, races: int, rng: random.Random
) -> None:
    """Every send that returned is received once, in order, and no other."""
    sent: list[int] = []

    async with small(name, 1) as queue:
        async with drained_elsewhere(mq, name) as elsewhere:
            for number in itertools.count():
                if number >= races and len(sent) < number:  # until a cancellation has come in time
                    break

                async def send(number: int = number) -> None:
                    await queue.send(b"%d" % number)
                    sent.append(number)

                if rng.random() < 0.5:
                    await send()
                    continue
                async with anyio.create_task_group() as group:
                    task = Task(group, send)
                    await passes(rng.randrange(6))
                    await task.cancel()
            await queue.send(LAST.encode())
        assert elsewhere == sent


@pytest.mark.anyio
async def test_order_within_each_priority(name: str, races: int, rng: random.Random) -> None:
    """Receivers are cancelled while messages of several priorities arrive from another handle."""
    received: dict[int, list[int]] = {0: [], 1: [], 2: []}
    count = races

    async def send() -> None:
        async with MessageQueue.open(name) as other:
            for number in range(count):
                await other.send(b"%d" % number, priority=rng.randrange(3))

    async def receive() -> None:
        while sum(map(len, received.values())) < count:
            with anyio.move_on_after(rng.random() / 5000):
                async for message in queue:
                    received[message.priority].append(int(message.data))

    async with small(name, 5) as queue, anyio.create_task_group() as group:
        group.start_soon(send)
        group.start_soon(receive)
    assert sorted(itertools.chain.from_iterable(received.values())) == list(range(count))
    for numbers in received.values():
        assert numbers == sorted(numbers)


@pytest.mark.anyio
async def test_close_at_any_moment(name: str, races: int, rng: random.Random) -> None:
    """What the closed handle's tasks did not return is still in the queue."""
    async with small(name, 4) as queue:
        for number in range(races // 4):
            handle = MessageQueue.open(name)
            async with anyio.create_task_group() as group:
                received: list[int] = []

                async def receive(handle: MessageQueue = handle, received: list[int] = received) -> None:
                    async for message in handle:
                        received.append(int(message.data))

                for _ in range(3):
                    group.start_soon(receive)
                await passes(rng.randrange(4))
                queue.send_nowait(b"%d" % number)
                await passes(rng.randrange(4))
                handle.close()
            left = [int(queue.receive_nowait().data) for _ in range(queue.statistics().messages)]
            assert received + left == [number]


@pytest.mark.parametrize("way", ["timeout", "wait_for", "task group", "cancel twice"])
@pytest.mark.asyncio
async def test_the_ways_of_asyncio(name: str, way: str, races: int, rng: random.Random) -> None:
    """A stream of messages in the same process, received under each kind of cancellation."""
    received: list[int] = []
    count = races // 2

    async def send() -> None:
        for number in range(count):
            await queue.send(b"%d" % number)
            await passes(rng.randrange(3))
            if way in ("timeout", "wait_for") and rng.random() < 0.5:
                await asyncio.sleep(rng.random() / 4000)

    async def receive() -> None:
        received.append(int((await queue.receive()).data))

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

    async with small(name, 2) as queue:
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
        assert queue.statistics().messages == 0
