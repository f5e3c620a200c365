"""The awaitables of the library, as the process in the storm uses them: a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import storm_objects as objects
from storm_objects import Target
from world import World

import aioipc
from aioipc import BrokenError, Channel, EndOfStream, posix, sysv
from aioipc.aiohttp._receiving import Receiver, Stopped


class Attempt(ABC):
    """One time that an operation is tried."""

    @abstractmethod
    def new(self) -> int:
        """A number to send."""

    @abstractmethod
    def note(self, *numbers: int) -> None:
        """These were sent or received."""

    @abstractmethod
    def give_back(self) -> None:
        """What was noted is not held any more."""

    @abstractmethod
    def miss(self) -> None:
        """Another one was quicker."""

    @abstractmethod
    def leave_gap(self) -> None:
        """What was not sent takes up room all the same, until all that was before it is gone."""

    @abstractmethod
    def later(self, act: Callable[[], object]) -> None:
        """Have this done some time, or not."""

    @abstractmethod
    async def hold(self) -> None:
        """Let some time pass inside of a block."""


@dataclass(frozen=True)
class Operation:
    name: str
    make: Callable[[World, int], Target]
    open: Callable[[Target], Any]
    """What gives the handle, or something to await that does."""
    do: Callable[[Any, Attempt], Awaitable[None]]
    """Try it once, with the handle."""
    takes: bool = True
    """It takes what peers give; else they take what it gives."""
    types: int | None = 1
    """The numbers are in order among those that are equal modulo this; 0: in none; None: there are no numbers."""
    room: int = 1
    """How many messages it sends at once."""
    may_lose: bool = False
    """A peer may write to one who leaves, for it can't know; there are no rivals then."""
    is_undone: bool = False
    """What it has taken goes back when the process ends."""
    loops: tuple[str, ...] = ("asyncio", "uvloop", "trio")


def text(number: int, size: int = 16) -> bytes:
    return b"%016d" % number + b" " * (size - 16)


# What gives the handle


class Path:
    """What can be opened, and need not be closed."""

    _handle = None
    """Nobody waits for it."""

    def __init__(self, target: Target) -> None:
        self.path = str(target.where)

    def close(self) -> None:
        pass


def open_mq(target: Target) -> Any:
    return posix.MessageQueue.open(str(target.where))


def open_semaphore(target: Target) -> Any:
    return posix.Semaphore.open(str(target.where))


def open_queue(target: Target) -> Any:
    return sysv.MessageQueue.open(id=int(target.where))


def open_truncating_queue(target: Target) -> Any:
    return sysv.MessageQueue.open(id=int(target.where), max_message_size=16)


def open_set(target: Target) -> Any:
    return sysv.SemaphoreSet.open(id=int(target.where))


def open_undoing_set(target: Target) -> Any:
    return sysv.SemaphoreSet.open(id=int(target.where), undo=True)


def open_channel(target: Target) -> Any:
    return Channel.open(str(target.where))


def open_reader(target: Target) -> Any:
    return posix.Fifo.open_reader(str(target.where))


def open_writer(target: Target) -> Any:
    return posix.Fifo.open_writer(str(target.where))


# What is done with it


async def receive(handle: Any, attempt: Attempt) -> None:
    attempt.note(int((await handle.receive()).data))


def receive_of(**choice: Any) -> Callable[[Any, Attempt], Awaitable[None]]:
    async def receive(handle: Any, attempt: Attempt) -> None:
        attempt.note(int((await handle.receive(**choice)).data))

    return receive


async def iterate(handle: Any, attempt: Attempt) -> None:
    async for message in handle:
        attempt.note(int(message if isinstance(message, bytes) else message.data))
        return
    raise aioipc.ClosedError


async def iterate_messages(handle: Any, attempt: Attempt) -> None:
    await iterate(handle.messages(type=-5), attempt)


async def send(handle: Any, attempt: Attempt) -> None:
    number = attempt.new()
    await handle.send(text(number))
    attempt.note(number)


async def acquire(handle: Any, attempt: Attempt) -> None:
    await handle.acquire()
    attempt.note(0)


async def enter(handle: Any, attempt: Attempt) -> None:
    is_held = False
    try:
        async with handle:
            attempt.note(0)
            is_held = True
            await attempt.hold()
    except aioipc.ClosedError:
        is_held = False  # or for ever
        raise
    finally:
        if is_held:
            attempt.give_back()


def operate(*operations: tuple[int, int]) -> Callable[[Any, Attempt], Awaitable[None]]:
    async def operate(handle: Any, attempt: Attempt) -> None:
        await handle.operate(*operations)
        attempt.note(0)

    return operate


async def acquire_member(handle: Any, attempt: Attempt) -> None:
    await acquire(handle[1], attempt)


async def acquire_two(handle: Any, attempt: Attempt) -> None:
    await handle[1].acquire(2, undo=True)
    attempt.note(0)


async def wait_for_zero(handle: Any, attempt: Attempt) -> None:
    """Who finds it zero makes it one again."""
    await handle[0].wait_for_zero()
    try:
        handle.operate_nowait((0, 0), (0, 1))
    except aioipc.WouldBlock:
        attempt.miss()
    else:
        attempt.note(0)


async def enter_member(handle: Any, attempt: Attempt) -> None:
    await enter(handle[1], attempt)


async def receive_bytes(handle: Any, attempt: Attempt) -> None:
    attempt.note(int(await handle.receive(16)))


async def iterate_bytes(handle: Any, attempt: Attempt) -> None:
    async for data in handle:
        attempt.note(*(int(data[start : start + 16]) for start in range(0, len(data), 16)))
        return
    raise aioipc.ClosedError


async def send_page(handle: Any, attempt: Attempt) -> None:
    number = attempt.new()
    await handle.send(text(number, 4096))
    attempt.note(number)


async def open_and_receive(fifo: Path, attempt: Attempt) -> None:
    async with posix.Fifo.open_reader(fifo.path) as stream:
        with suppress(EndOfStream):  # another one had the message
            attempt.note(int(await stream.receive(16)))


async def open_and_send(fifo: Path, attempt: Attempt) -> None:
    async with posix.Fifo.open_writer(fifo.path) as stream:
        number = attempt.new()
        with suppress(BrokenError):  # the peer had met another one, and has left
            stream.send_nowait(text(number))
            attempt.note(number)


async def receive_message(handle: Any, attempt: Attempt) -> None:
    attempt.note(int(await handle.receive()))


async def receive_many(handle: Any, attempt: Attempt) -> None:
    attempt.note(*map(int, await handle.receive_many(2)))


async def send_many(handle: Any, attempt: Attempt) -> None:
    numbers = [attempt.new(), attempt.new()]
    await handle.send_many(map(text, numbers))
    attempt.note(*numbers)


async def borrow(handle: Any, attempt: Attempt) -> None:
    async with handle.borrow() as view:
        number = int(bytes(view))
        await attempt.hold()
    attempt.note(number)


async def reserve(handle: Any, attempt: Attempt) -> None:
    number = attempt.new()
    try:
        async with handle.reserve(16) as buffer:
            buffer[:] = text(number)
            await attempt.hold()
    except BaseException:
        attempt.leave_gap()  # it may have been given up just as it came
        raise
    attempt.note(number)


def take(*, borrow: bool) -> Callable[[Any, Attempt], Awaitable[None]]:
    """As consumers and streams of aioipc.aiohttp do, which are told to stop."""

    async def take(handle: Any, attempt: Attempt) -> None:
        receiver = Receiver(handle, borrow=borrow)
        attempt.later(receiver.stop)
        try:
            async with receiver.take() as message:
                number = int(getattr(message, "data", message))
                if not borrow:
                    attempt.note(number)
                await attempt.hold()
        except Stopped:
            raise aioipc.ClosedError from None
        if borrow:
            attempt.note(number)

    return take


OPERATIONS = (
    Operation("posix.MessageQueue.receive", objects.mq, open_mq, receive),
    Operation("posix.MessageQueue.iterate", objects.mq, open_mq, iterate),
    Operation("posix.MessageQueue.send", objects.mq, open_mq, send, takes=False),
    Operation("posix.Semaphore.acquire", objects.semaphore, open_semaphore, acquire, types=None),
    Operation("posix.Semaphore.enter", objects.semaphore, open_semaphore, enter, types=None),
    Operation("posix.Fifo.open_reader", objects.unopened_fifo, Path, open_and_receive, types=0, may_lose=True),
    Operation(
        "posix.Fifo.open_writer", objects.unopened_fifo, Path, open_and_send, takes=False, types=0, may_lose=True
    ),
    Operation("posix.FifoReader.receive", objects.fifo(16), open_reader, receive_bytes),
    Operation("posix.FifoReader.iterate", objects.fifo(16), open_reader, iterate_bytes),
    Operation("posix.FifoWriter.send", objects.fifo(4096), open_writer, send_page, takes=False),
    Operation("sysv.MessageQueue.receive", objects.queue(), open_queue, receive),
    Operation("sysv.MessageQueue.receive-long", objects.long_queue, open_queue, receive),
    Operation("sysv.MessageQueue.receive-type", objects.queue(3, choice="3", other=4), open_queue, receive_of(type=3)),
    Operation(
        "sysv.MessageQueue.receive-exclude",
        objects.queue(8, 2, choice="7", excludes=True, other=7),
        open_queue,
        receive_of(exclude=7),
    ),
    Operation("sysv.MessageQueue.receive-truncate", objects.queue(), open_truncating_queue, receive_of(truncate=True)),
    Operation("sysv.MessageQueue.iterate", objects.queue(), open_queue, iterate),
    Operation(
        "sysv.MessageQueue.messages", objects.queue(4, 2, choice="-5", other=6), open_queue, iterate_messages, types=2
    ),
    Operation("sysv.MessageQueue.send", objects.queue(), open_queue, send, takes=False),
    Operation("sysv.SemaphoreSet.operate", objects.semaphores((0, 2)), open_set, operate((0, -1), (2, -1)), types=None),
    Operation("sysv.SemaphoreSet.operate-zero", objects.semaphores(), open_set, operate((0, 0), (1, -1)), types=None),
    Operation(
        "sysv.SemaphoreSet.operate-release",
        objects.semaphores((0,), extra=1),
        open_set,
        operate((0, -1), (1, 1)),
        types=None,
    ),
    Operation(
        "sysv.SemaphoreSet.operate-undo",
        objects.semaphores((0, 2)),
        open_undoing_set,
        operate((0, -1), (2, -1)),
        types=None,
        is_undone=True,
    ),
    Operation("sysv.SetMember.acquire", objects.semaphores((1,)), open_set, acquire_member, types=None),
    Operation(
        "sysv.SetMember.acquire-undo", objects.semaphores((1, 1)), open_set, acquire_two, types=None, is_undone=True
    ),
    Operation("sysv.SetMember.wait_for_zero", objects.latch, open_set, wait_for_zero, types=None),
    Operation("sysv.SetMember.enter", objects.semaphores((1,)), open_set, enter_member, types=None),
    Operation("Channel.receive", objects.channel, open_channel, receive_message),
    Operation("Channel.iterate", objects.channel, open_channel, iterate),
    Operation("Channel.receive_many", objects.channel, open_channel, receive_many),
    Operation("Channel.borrow", objects.channel, open_channel, borrow, types=0),
    Operation("Channel.send", objects.channel, open_channel, send, takes=False),
    Operation("Channel.send_many", objects.channel, open_channel, send_many, takes=False, room=2),
    Operation("Channel.reserve", objects.channel, open_channel, reserve, takes=False, types=0),
    *(
        Operation(f"aiohttp.Receiver.{name}", make, open, take(borrow=borrow), types=types, loops=("asyncio", "uvloop"))
        for name, make, open, borrow, types in (
            ("take-posix", objects.mq, open_mq, False, 1),
            ("take-sysv", objects.queue(), open_queue, False, 1),
            ("take-channel", objects.channel, open_channel, False, 1),
            ("borrow", objects.channel, open_channel, True, 0),
        )
    ),
)
