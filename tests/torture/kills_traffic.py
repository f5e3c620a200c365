"""Producers and consumers, killed and stopped: every message arrives once, whole and in its turn.

Any of them may be killed, all at once as well.  Each takes the queue over from whoever was there before, or creates
it.  What is missing in the end may only be what those that were killed had taken.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import posix_ipc
import sysv_ipc
from harness import Scenario, Schedule
from kills_crowd import CREATING, RESTING, TASKS, USING, Crowd, Me, Notes, draw, in_tasks
from world import TESTS, World

import aioipc
from aioipc import Channel, posix, sysv

sys.path.append(str(TESTS / "channel"))

from crashing import HEAD, check, fill

PRODUCERS, CONSUMERS = 3, 3
END = b""
"""A message after which a consumer ends."""
FRAME = 64
"""The size of what goes through a FIFO, so that it is read in one piece."""

Send = Callable[[list[bytes]], Awaitable[None]]
Receive = Callable[[], Awaitable[list[bytes]]]


class Sent:
    """What a producing task writes down: how many messages it has begun to send, and how many it has sent."""

    def __init__(self, notes: Notes, task: int) -> None:
        self._words = notes.words[notes.FIRST + 2 * task :][:2]

    @property
    def begun(self) -> int:
        return self._words[0]

    @property
    def sent(self) -> int:
        return self._words[1]

    def begins(self, count: int) -> None:
        self._words[0] += count

    def has_sent(self) -> None:
        self._words[1] = self._words[0]


class Received:
    """What a consuming task writes down: what it has received, and how many messages it may be taking."""

    SIZE = (Notes.SIZE - Notes.FIRST) // TASKS

    def __init__(self, notes: Notes, task: int) -> None:
        self._words = notes.words[notes.FIRST + self.SIZE * task :][: self.SIZE]

    @property
    def taking(self) -> int:
        return self._words[0]

    @taking.setter
    def taking(self, count: int) -> None:
        self._words[0] = count

    @property
    def messages(self) -> list[int]:
        return self._words[2 : 2 + self._words[1]].tolist()

    def add(self, message: int) -> None:
        self._words[2 + self._words[1]] = message
        self._words[1] += 1


@dataclass(frozen=True)
class Kind:
    """Queues of one kind."""

    name: str
    address: Callable[[World], Any]
    sender: Callable[[Any, Me, int], AbstractAsyncContextManager[Send]]
    """Takes the address, who asks, and the number of the producing task, which is 1 or more."""
    receiver: Callable[[Any, Me, Received], AbstractAsyncContextManager[Receive]]
    """Notes how many are being taken."""
    end: Callable[[World, Any], None]
    """Send an END, if there is room, without aioipc where that is possible."""
    drain: Callable[[World, Any], list[bytes]]
    """What is left in it, likewise."""
    prepare: Callable[[World, Any], Any] = lambda _, address: address
    frame: int | None = None
    """The size of each message if it is always the same."""


# POSIX message queues ------------------------------------------------------------------------------------------------


class ToldQueue(posix.MessageQueue):
    """One that tells when it takes a message: not while it waits for one."""

    received: Received

    def _attempt_receive(self) -> posix.Message:
        self.received.taking = 1
        try:
            return super()._attempt_receive()
        except BaseException:
            self.received.taking = 0
            raise


def create_queue(name: str) -> Any:
    return ToldQueue.create(name, max_messages=5, max_message_size=4000, exist_ok=True, persist=True)


@asynccontextmanager
async def send_to_queue(name: str, _: Me, producer: int) -> AsyncIterator[Send]:
    async with create_queue(name) as queue:

        async def send(messages: list[bytes]) -> None:
            for message in messages:
                await queue.send(message, priority=1 + producer % 3)

        yield send


@asynccontextmanager
async def receive_from_queue(name: str, me: Me, received: Received) -> AsyncIterator[Receive]:
    async with create_queue(name) as queue:
        queue.received = received

        async def receive() -> list[bytes]:
            received.taking = 1
            if me.rng.random() < 0.5:
                return [(await queue.receive()).data]
            return [(await anext(aiter(queue))).data]

        yield receive


def end_of_queue(_: World, name: str) -> None:
    queue = posix_ipc.MessageQueue(name)
    with suppress(posix_ipc.BusyError):
        queue.send(END, 0)
    queue.close()


def drain_queue(_: World, name: str) -> list[bytes]:
    queue = posix_ipc.MessageQueue(name)
    found = []
    with suppress(posix_ipc.BusyError):
        while True:
            found.append(queue.receive(0)[0])
    queue.close()
    return found


# System V message queues ---------------------------------------------------------------------------------------------

LAST = 1000
"""A type that is greater than all others."""


def create_sysv_queue(key: int) -> sysv.MessageQueue:
    return sysv.MessageQueue.create(key, exist_ok=True, persist=True)


@asynccontextmanager
async def send_to_sysv_queue(key: int, _: Me, producer: int) -> AsyncIterator[Send]:
    async with create_sysv_queue(key) as queue:

        async def send(messages: list[bytes]) -> None:
            for message in messages:
                await queue.send(message, type=1 + producer % 3)

        yield send


@asynccontextmanager
async def receive_from_sysv_queue(key: int, me: Me, received: Received) -> AsyncIterator[Receive]:
    async with create_sysv_queue(key) as queue:

        async def receive() -> list[bytes]:
            received.taking = 1
            type = me.rng.choice((0, -LAST))
            if me.rng.random() < 0.5:
                return [(await queue.receive(type)).data]
            return [(await anext(queue.messages(type))).data]

        yield receive


def end_of_sysv_queue(_: World, key: int) -> None:
    with suppress(sysv_ipc.BusyError):
        sysv_ipc.MessageQueue(key).send(END, False, type=LAST)


def drain_sysv_queue(_: World, key: int) -> list[bytes]:
    queue = sysv_ipc.MessageQueue(key)
    found = []
    with suppress(sysv_ipc.BusyError):
        while True:
            found.append(queue.receive(False)[0])
    return found


# FIFOs ---------------------------------------------------------------------------------------------------------------


def keep(world: World, path: str) -> str:
    """Have a FIFO there, and keep it open: what is in it is lost when nobody has it open."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    world.later(os.close, descriptor)
    return path


@asynccontextmanager
async def send_to_fifo(path: str, _: Me, __: int) -> AsyncIterator[Send]:
    async with posix.Fifo.create(path, exist_ok=True, persist=True), posix.Fifo.open_writer(path) as writer:

        async def send(messages: list[bytes]) -> None:
            await writer.send(b"".join(messages))

        yield send


@asynccontextmanager
async def receive_from_fifo(path: str, me: Me, received: Received) -> AsyncIterator[Receive]:
    async with posix.Fifo.open_reader(path, keep_open=me.rng.random() < 0.5) as reader:

        async def receive() -> list[bytes]:
            count = received.taking = me.rng.randrange(1, 5)
            data = await reader.receive(count * FRAME)
            frames = [data[place : place + FRAME] for place in range(0, len(data), FRAME)]
            return [END if frame == bytes(FRAME) else frame for frame in frames]

        yield receive


def end_of_fifo(_: World, path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        os.write(descriptor, bytes(FRAME))
    os.close(descriptor)


def drain_fifo(_: World, path: str) -> list[bytes]:
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(os.read(descriptor, FRAME).strip(b"\0"))
    os.close(descriptor)
    return found


# Channels ------------------------------------------------------------------------------------------------------------


class ToldChannel(Channel):
    """One that tells when it takes messages: not while it waits for them."""

    received: Received
    most = 1

    def _attempt_receiving(self, attempt: Any, *args: object) -> Any:
        self.received.taking = self.most
        try:
            return super()._attempt_receiving(attempt, *args)
        except BaseException:
            self.received.taking = 0
            raise


def create_channel(name: str) -> Any:
    return ToldChannel.create(name, capacity=20_000, exist_ok=True, persist=True)


@asynccontextmanager
async def send_to_channel(name: str, _: Me, __: int) -> AsyncIterator[Send]:
    async with create_channel(name) as channel:

        async def send(messages: list[bytes]) -> None:
            if len(messages) > 1:
                await channel.send_many(messages)
            else:
                await channel.send(*messages)

        yield send


@asynccontextmanager
async def receive_from_channel(name: str, me: Me, received: Received) -> AsyncIterator[Receive]:
    async with create_channel(name) as channel:
        channel.received = received

        async def receive() -> list[bytes]:
            channel.most = received.taking = me.rng.choice((1, 1, 5))
            try:
                if channel.most > 1:
                    return await channel.receive_many(channel.most)
                return [await channel.receive()]
            except aioipc.EndOfStream:
                return [END]

        yield receive


def end_channel(world: World, name: str) -> None:
    async def end() -> None:
        async with Channel.open(name) as channel:
            await channel.end()

    world.fork(anyio.run, end).result()


def drain_channel(world: World, name: str) -> list[bytes]:
    def drain() -> list[bytes]:
        with Channel.open(name) as channel, suppress(aioipc.EndOfStream):
            return channel.receive_many_nowait(100_000)
        return []

    found: list[bytes] = world.fork(drain).result()
    return found


# The rounds ----------------------------------------------------------------------------------------------------------


def producer(kind: Kind, address: Any) -> Callable[[Me], Awaitable[None]]:
    async def produce(me: Me, task: int) -> None:
        number = me.number * TASKS + task
        sent = Sent(me.notes, task)
        while not me.is_ending:
            me.notes.phase = CREATING
            async with kind.sender(address, me, number) as send:
                for _ in range(me.rng.randrange(1, 30)):
                    count = me.rng.choice((1, 1, 1, 3))
                    first = sent.begun
                    sent.begins(count)
                    me.notes.phase = USING
                    size = kind.frame or me.rng.choice((HEAD.size, 100, 3000))
                    await send([message(number, first + place, size) for place in range(count)])
                    sent.has_sent()
                    me.notes.phase = RESTING
                    me.notes.did()
                    if me.rng.random() < 0.5:
                        await anyio.sleep(0.003 * me.rng.random())
                    if me.is_ending:
                        return

    return in_tasks(produce)


def consumer(kind: Kind, address: Any) -> Callable[[Me], Awaitable[None]]:
    async def consume(me: Me, task: int) -> None:
        received = Received(me.notes, task)
        while True:
            me.notes.phase = CREATING
            async with kind.receiver(address, me, received) as receive:
                for _ in range(me.rng.randrange(1, 30)):
                    me.notes.phase = USING
                    found = await receive()
                    for data in found:
                        if data != END:
                            received.add(check(data))
                    received.taking = 0
                    if END in found:
                        return
                    me.notes.did()
                    if me.rng.random() < 0.1:
                        await anyio.sleep(0.003 * me.rng.random())

    return in_tasks(consume)


def message(producer: int, number: int, size: int) -> bytes:
    data = bytearray(size)
    with memoryview(data) as view:
        fill(view, producer, number)
    return bytes(data)


def run(kind: Kind, world: World, schedule: Schedule) -> Counter[str]:
    address = kind.prepare(world, kind.address(world))
    crowd = Crowd(world, schedule, spares=schedule.settings["spares"])
    crowd.add("producer", producer(kind, address), PRODUCERS)
    crowd.add("consumer", consumer(kind, address), CONSUMERS)
    crowd.storm()
    crowd.end("producer")
    crowd.end("consumer", nudge=lambda: kind.end(world, address))
    account(crowd, [check(data) for data in kind.drain(world, address) if data != END])
    return crowd.counts


def account(crowd: Crowd, left: list[int]) -> None:
    """Check that each message is where it must be."""
    arrived = Counter(left)
    may_be_missing = 0
    for member in crowd.all:
        if member.role == "consumer":
            for received in (Received(member.notes, task) for task in range(TASKS)):
                messages = received.messages
                arrived.update(messages)
                assert are_in_order(messages)
                if member in crowd.killed:
                    may_be_missing += received.taking
    assert [message for message, count in arrived.items() if count > 1] == []
    sent: set[int] = set()
    begun: set[int] = set()
    for member in crowd.all:
        if member.role == "producer":
            for task in range(TASKS):
                notes = Sent(member.notes, task)
                numbers = [(member.me.number * TASKS + task) << 32 | number for number in range(notes.begun)]
                begun.update(numbers)
                sent.update(numbers[: notes.sent])
    assert arrived.keys() <= begun
    missing = sent - arrived.keys()
    assert len(missing) <= may_be_missing, (missing, may_be_missing)
    crowd.counts["messages"] += len(arrived)
    crowd.counts["taken along"] += len(missing)


def are_in_order(messages: list[int]) -> bool:
    """Whether those of each producer are."""
    last: dict[int, int] = {}
    for each in messages:
        if last.get(each >> 32, -1) >= each:
            return False
        last[each >> 32] = each
    return True


KINDS = (
    Kind(
        "posix.MessageQueue",
        World.name,
        send_to_queue,
        receive_from_queue,
        end_of_queue,
        drain_queue,
    ),
    Kind(
        "sysv.MessageQueue",
        World.key,
        send_to_sysv_queue,
        receive_from_sysv_queue,
        end_of_sysv_queue,
        drain_sysv_queue,
    ),
    Kind(
        "posix.Fifo",
        World.path,
        send_to_fifo,
        receive_from_fifo,
        end_of_fifo,
        drain_fifo,
        prepare=keep,
        frame=FRAME,
    ),
    Kind("Channel", World.name, send_to_channel, receive_from_channel, end_channel, drain_channel),
)


def scenario(kind: Kind) -> Scenario:
    return Scenario(
        f"kill/producers and consumers of {kind.name}/all",
        lambda rng: draw(rng, members=PRODUCERS + CONSUMERS, spares=rng.random() < 0.5),
        lambda world, schedule: run(kind, world, schedule),
        brief=2,
    )


SCENARIOS = tuple(map(scenario, KINDS))
