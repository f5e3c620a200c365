"""The queues between producers and consumers that are killed: of each kind, how messages go in and come out."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import posix_ipc
import sysv_ipc
from kills_accounts import Received
from kills_crowd import Me
from world import World

import aioipc
from aioipc import Channel, posix, sysv

END = b""
"""A message after which a consumer ends."""
FRAME = 64
"""The size of what goes through a FIFO, so that it is read in one piece."""

Send = Callable[[list[bytes]], Awaitable[None]]
Receive = Callable[[], Awaitable[list[bytes]]]


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


def told(received: Received, count: int, attempt: Callable[..., Any], *args: object) -> Any:
    """Make an attempt to take so many, and note that: who only waits, for the next attempt, takes none."""
    received.taking = count
    try:
        return attempt(*args)
    except BaseException:
        received.taking = 0
        raise


# POSIX message queues ------------------------------------------------------------------------------------------------


class ToldQueue(posix.MessageQueue):
    received: Received

    def _attempt_receive(self) -> Any:
        return told(self.received, 1, super()._attempt_receive)


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


class ToldSysvQueue(sysv.MessageQueue):
    received: Received

    def _new_receive(self, *args: Any) -> Any:
        call: Any = super()._new_receive(*args)
        call.attempt = functools.partial(told, self.received, 1, call.attempt)
        return call


def create_sysv_queue(key: int) -> Any:
    return ToldSysvQueue.create(key, exist_ok=True, persist=True)


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
        queue.received = received

        async def receive() -> list[bytes]:
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


class ToldReader(posix.FifoReader):
    received: Received

    def _read(self, max_bytes: int) -> Any:
        return told(self.received, max_bytes // FRAME, super()._read, max_bytes)


@asynccontextmanager
async def receive_from_fifo(path: str, me: Me, received: Received) -> AsyncIterator[Receive]:
    opening: Any = posix.Fifo.open_reader(path, keep_open=me.rng.random() < 0.5)
    async with opening as reader:
        reader.__class__ = ToldReader
        reader.received = received

        async def receive() -> list[bytes]:
            data = await reader.receive(me.rng.randrange(1, 5) * FRAME)
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
    received: Received
    most = 1

    def _attempt_receiving(self, attempt: Any, *args: object) -> Any:
        return told(self.received, self.most, super()._attempt_receiving, attempt, *args)


def create_channel(name: str) -> Any:
    return ToldChannel.create(name, capacity=20_000, exist_ok=True, persist=True)


@asynccontextmanager
async def send_to_channel(name: str, me: Me, _: int) -> AsyncIterator[Send]:
    async with create_channel(name) as channel:

        async def send(messages: list[bytes]) -> None:
            if len(messages) > 1:
                await channel.send_many(messages)
            elif me.rng.random() < 0.5:
                await channel.send(*messages)
            else:
                async with channel.reserve(len(messages[0])) as buffer:
                    buffer[:] = messages[0]
                    await anyio.sleep(0.001 * me.rng.random() if me.rng.random() < 0.5 else 0)

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
