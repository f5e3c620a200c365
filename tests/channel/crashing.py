"""Processes that use a channel in all ways until they are killed, and write down what they do: see test_killing.py.

    python crashing.py NAME FOLDER

takes commands from standard input, and answers each with a line:

    start NUMBER ROLE SEED      a new process, forked; it has no handle yet
    signal NUMBER SIGNAL
    wait NUMBER                 until it is no more; the answer is its status, as of a shell

What they write down is in memory mapped from files, which outlives them.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import trio  # noqa: F401
import uvloop  # noqa: F401

import aioipc
from aioipc import Channel

HEAD = struct.Struct("=IIII")
"""Of a message: its producer, its number, its size and a checksum."""
NOISE = random.Random(1).randbytes(2**20)
BEGUN, SENT, GIVEN_UP = 1, 2, 3
SIZE = 2**23
"""Of the files: how many messages a producer sends at most, and eight times those that a consumer receives."""
TASKS = 2
"""Tasks of each process."""


class Notes:
    """What one process has written down."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(SIZE)
            self.bytes = memoryview(mmap.mmap(file.fileno(), SIZE))
        self.words = self.bytes.cast("Q")


class Control:
    """What the test tells all of them."""

    def __init__(self, folder: Path) -> None:
        self._notes = Notes(folder / "control").bytes

    @property
    def pause(self) -> str:
        """The roles that are to do nothing for a while."""
        return {0: "", 1: "producer", 2: "consumer"}[self._notes[0]]

    @pause.setter
    def pause(self, role: str) -> None:
        self._notes[0] = {"": 0, "producer": 1, "consumer": 2}[role]


class ProducerNotes(Notes):
    """A byte for each message, by its number, and how many tasks are not at rest."""

    FIRST = 64

    def busy(self, task: int, is_busy: bool) -> None:
        self.bytes[task] = is_busy

    @property
    def is_busy(self) -> bool:
        return any(self.bytes[:TASKS])

    @property
    def has_begun(self) -> bool:
        return self.bytes[self.FIRST] != 0

    def set(self, number: int, state: int) -> None:
        self.bytes[self.FIRST + number] = state

    def states(self) -> bytes:
        return self.bytes[self.FIRST :].tobytes().rstrip(b"\0")


class ConsumerNotes(Notes):
    """What was received, and for each task what it is just about to receive.

    For each task: at most so many messages are being taken, and the one that it has borrowed.
    """

    FIRST = 1 + 2 * TASKS

    @property
    def has_begun(self) -> bool:
        return self.words[0] != 0

    def add(self, messages: list[int]) -> None:
        count = self.words[0]
        for place, message in enumerate(messages, self.FIRST + count):
            self.words[place] = message
        self.words[0] = count + len(messages)

    def takes(self, task: int, most: int) -> None:
        self.words[1 + task] = most

    def borrows(self, task: int, message: int) -> None:
        self.words[1 + TASKS + task] = message

    def received(self) -> list[int]:
        return self.words[self.FIRST : self.FIRST + self.words[0]].tolist()

    def taking(self) -> int:
        return sum(self.words[1 : 1 + TASKS])

    def borrowed(self) -> list[int]:
        return [message for message in self.words[1 + TASKS : 1 + 2 * TASKS] if message != 0]


def fill(buffer: memoryview, producer: int, number: int) -> None:
    body = buffer[HEAD.size :]
    body[:] = NOISE[number % 1000 : number % 1000 + len(body)]
    check = zlib.crc32(body, producer ^ number)
    HEAD.pack_into(buffer, 0, producer, number, len(buffer), check)


def check(message: bytes | memoryview) -> int:
    """Producer and number of a message, as one number that is not 0."""
    producer, number, size, check = HEAD.unpack_from(message)
    assert size == len(message)
    assert check == zlib.crc32(message[HEAD.size :], producer ^ number)
    return producer << 32 | number


class Told(Channel):
    """A handle that tells when it is about to take messages: not while it waits for them."""

    takes: Callable[[bool], None]

    def _attempt_receiving(self, attempt, *args):  # type: ignore[no-untyped-def]
        self.takes(True)
        try:
            return super()._attempt_receiving(attempt, *args)
        except BaseException:
            self.takes(False)
            raise


async def produce(name: str, control: Control, notes: ProducerNotes, producer: int, rng: random.Random) -> None:
    numbers = itertools.count()

    def message(longest: int = SIZE) -> tuple[int, int]:
        number = next(numbers)
        size = rng.choice((HEAD.size, 100, 1000, 4000, 5000, 20000))
        if rng.random() < 0.01:
            size = 300_000  # is copied without the GIL
        notes.set(number, BEGUN)
        return number, min(size, longest)

    def new(longest: int = SIZE) -> tuple[int, bytearray]:
        number, size = message(longest)
        data = bytearray(size)
        with memoryview(data) as view:
            fill(view, producer, number)
        return number, data

    async def send(channel: Channel) -> None:
        number, data = new()
        await channel.send(data)
        notes.set(number, SENT)

    async def send_many(channel: Channel) -> None:
        made = [new(20000) for _ in range(rng.randrange(1, 8))]
        await channel.send_many([data for _, data in made])
        for number, _ in made:
            notes.set(number, SENT)

    async def reserve(channel: Channel) -> None:
        number, size = message()
        async with channel.reserve(size) as view:
            if rng.random() < 0.5:
                await anyio.sleep(0.001 * rng.random())
            fill(view, producer, number)
        notes.set(number, SENT)

    async def give_up(channel: Channel) -> None:
        number, size = message()
        with suppress(ZeroDivisionError):
            async with channel.reserve(size) as view:
                fill(view, producer, number)
                raise ZeroDivisionError
        notes.set(number, GIVEN_UP)

    async def run(task: int) -> None:
        with Channel.open(name) as channel:
            for _ in range(rng.randrange(1, 200)):
                if control.pause == "producer":
                    notes.busy(task, False)
                    await anyio.sleep(0.002)
                    continue
                notes.busy(task, True)
                await rng.choice((send, send, send, send_many, reserve, reserve, give_up))(channel)
                if rng.random() < 0.05:
                    await anyio.sleep(0.005 * rng.random())

    async def forever(task: int) -> None:
        try:
            while True:
                await run(task)
        except aioipc.BrokenError:
            pass
        finally:
            notes.busy(task, False)

    async with anyio.create_task_group() as group:
        for task in range(TASKS):
            group.start_soon(forever, task)


async def consume(name: str, control: Control, notes: ConsumerNotes, rng: random.Random, only_borrow: bool) -> None:
    async def receive(channel: Told, task: int) -> None:
        channel.takes = lambda is_taking: notes.takes(task, is_taking)
        channel.takes(True)
        message = await channel.receive()
        notes.add([check(message)])
        channel.takes(False)

    async def iterate(channel: Told, task: int) -> None:
        channel.takes = lambda is_taking: notes.takes(task, is_taking)
        channel.takes(True)
        async for message in channel:
            notes.add([check(message)])
            channel.takes(False)
            if rng.random() < 0.05 or control.pause == "consumer":
                return
            channel.takes(True)
        raise aioipc.EndOfStream

    async def receive_many(channel: Told, task: int) -> None:
        count = rng.randrange(1, 10)
        channel.takes = lambda is_taking: notes.takes(task, is_taking * count)
        channel.takes(True)
        notes.add([check(message) for message in await channel.receive_many(count)])
        channel.takes(False)

    async def borrow(channel: Told, task: int) -> None:
        channel.takes = lambda is_taking: None
        async with channel.borrow() as view:
            message = check(view)
            if rng.random() < 0.5:
                await anyio.sleep(0.001 * rng.random())
            assert check(view) == message
            notes.borrows(task, message)
        notes.add([message])
        notes.borrows(task, 0)

    ways = (borrow,) if only_borrow else (receive, receive, iterate, receive_many, borrow)

    async def run(task: int) -> None:
        with Told.open(name) as channel:
            for _ in range(rng.randrange(1, 200)):
                if control.pause == "consumer":
                    await anyio.sleep(0.002)
                    continue
                await rng.choice(ways)(channel, task)
                if rng.random() < 0.05:
                    await anyio.sleep(0.005 * rng.random())

    async def forever(task: int) -> None:
        with suppress(aioipc.EndOfStream):
            while True:
                await run(task)
        notes.takes(task, 0)

    async with anyio.create_task_group() as group:
        for task in range(TASKS):
            group.start_soon(forever, task)


async def open_and_close(name: str, control: Control) -> None:
    while True:
        with Channel.open(name) as channel:
            if channel.statistics().ended:
                return
            if not control.pause:
                with suppress(aioipc.WouldBlock, aioipc.BrokenError), channel.reserve_nowait(100):
                    await anyio.lowlevel.checkpoint()
                    raise aioipc.WouldBlock


def start(name: str, folder: Path, number: int, role: str, seed: int) -> None:
    rng = random.Random(seed)
    control = Control(folder)
    path = folder / f"{role}-{number}"
    loop = rng.choice((("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})))
    if role == "producer":
        notes = ProducerNotes(path)
        main = lambda: produce(name, control, notes, number, rng)  # noqa: E731
    elif role == "opener":
        main = lambda: open_and_close(name, control)  # noqa: E731
    else:
        main = lambda: consume(name, control, ConsumerNotes(path), rng, role == "borrower")  # noqa: E731
    anyio.run(main, backend=loop[0], backend_options=loop[1])


def command(name: str, folder: Path) -> None:
    pids: dict[int, int] = {}
    for line in sys.stdin:
        what, number, *rest = line.split()
        answer = 0
        if what == "start":
            pid = os.fork()
            if pid == 0:
                start(name, folder, int(number), rest[0], int(rest[1]))
                return
            pids[int(number)] = pid
        elif what == "signal":
            os.kill(pids[int(number)], int(rest[0]))
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(pids.pop(int(number)), 0)[1])
        print(answer, flush=True)


if __name__ == "__main__":
    command(sys.argv[1], Path(sys.argv[2]))
