"""What tasks wait for ends while they are cancelled: it is removed, its other end is closed, it is ended."""

from __future__ import annotations

import fcntl
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import posix_ipc
import sysv_ipc
from harness import Scenario, Schedule
from storm_objects import Companion
from storm_race import LOOPS, Storm, draw, in_the_storm
from world import World, libc

import aioipc
from aioipc import Channel, posix, sysv

Use = Callable[[Any, dict[str, Any]], Awaitable[object]]
"""What tasks do with a handle, once, in a race."""


class Ending(Storm):
    """Each race is about an object of its own."""

    is_in_vain = True
    """What the tasks wait for never comes."""

    def __init__(self, use: Use, place: Any, companion: Companion) -> None:
        """
        :param place: a key, a path or a name, as is needed
        """
        super().__init__()
        self._use = use
        self._place = place
        self._companion = companion
        self._is_over = False

    @staticmethod
    @abstractmethod
    def place(world: World) -> Any: ...

    @abstractmethod
    def _strike(self) -> None:
        """Have the companion end it."""

    def check(self) -> None:
        """It is over: see whether all is right."""

    async def do(self, step: dict[str, Any]) -> None:
        handle = self.handle
        try:
            await self._use(handle, step)
        except self.ends as error:
            assert handle._handle.closed if isinstance(error, aioipc.ClosedError) else self._is_over, "it has not ended"
            raise
        assert not self.is_in_vain, "there was nothing to wait for"

    def give(self, step: dict[str, Any]) -> None:
        if step["gift"] != "none":
            self._end(0.001 if step["gift"] == "done" else 0)

    async def insist(self, count: int) -> None:
        self._end(0)

    def _end(self, patience: float) -> None:
        if not self._is_over:
            self._is_over = True
            self._strike()
            self._companion.wait(patience)

    async def settle(self) -> None:
        self._end(10)
        self._companion.wait(10)
        self.check()
        self.handle.close()
        self.handle = None
        self._is_over = False


class Removed(Ending):
    """A System V object, by another process."""

    ends = (aioipc.ClosedError, aioipc.RemovedError)
    kind: str

    @staticmethod
    def place(world: World) -> int:
        return world.key()

    def _strike(self) -> None:
        self._companion.ask(f"{self.kind} {self.handle.id}\n")


class RemovedQueue(Removed):
    kind = "queue"

    async def open(self) -> None:
        self.handle = sysv.MessageQueue.open(id=sysv_ipc.MessageQueue(self._place, sysv_ipc.IPC_CREX).id)


class RemovedFullQueue(Removed):
    kind = "queue"

    async def open(self) -> None:
        made = sysv_ipc.MessageQueue(self._place, sysv_ipc.IPC_CREX)
        made.max_size = 1
        libc.msgsnd(made.id, 1, b"x")
        self.handle = sysv.MessageQueue.open(id=made.id)


class RemovedSet(Removed):
    kind = "set"

    async def open(self) -> None:
        id = libc.semget(self._place, 2)
        libc.semop(id, (0, 1))
        self.handle = sysv.SemaphoreSet.open(id=id)


class HungUp(Ending):
    """A FIFO of which the other end is closed."""

    @staticmethod
    def place(world: World) -> str:
        path = world.path()
        os.mkfifo(path)
        return path

    def _strike(self) -> None:
        self._companion.ask("close -\n")


class HungUpReader(HungUp):
    ends = (aioipc.ClosedError, aioipc.EndOfStream)

    async def open(self) -> None:
        self._companion.ask(f"writer {self._place}\n")
        self.handle = await posix.Fifo.open_reader(self._place)
        self._companion.wait(10)


class HungUpWriter(HungUp):
    ends = (aioipc.ClosedError, aioipc.BrokenError)

    async def open(self) -> None:
        self._companion.ask(f"reader {self._place}\n")
        self._companion.wait(10)
        self.handle = await posix.Fifo.open_writer(self._place)
        fcntl.fcntl(self.handle.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        self.handle.send_nowait(bytes(4096))


class Named(Ending):
    @staticmethod
    def place(world: World) -> str:
        return world.name()


class Ended(Named):
    """A channel that is ended by another process."""

    ends = (aioipc.ClosedError, aioipc.EndOfStream)

    async def open(self) -> None:
        self.handle = Channel.create(self._place, capacity=64)

    def _strike(self) -> None:
        self._companion.ask(f"finish {self._place}\n")

    def check(self) -> None:
        self.handle.unlink()


class FullEnded(Ended):
    ends = (aioipc.ClosedError, aioipc.BrokenError)

    async def open(self) -> None:
        await super().open()
        self.handle.send_nowait(b"x")


class ToBeEnded(Ended):
    """A channel that the tasks end, while another process is just about to send."""

    ends = (aioipc.ClosedError,)
    is_in_vain = False
    _returned = False

    async def open(self) -> None:
        await super().open()
        self._returned = False
        self._companion.ask(f"lock {self._place}\n")
        self._companion.wait(10)

    async def do(self, step: dict[str, Any]) -> None:
        await super().do(step)
        self._returned = True

    def _strike(self) -> None:
        self._companion.ask("unlock -\n")

    def check(self) -> None:
        self._companion.ask(f"ended {self._place}\n")
        self._companion.wait(10)
        assert (self._companion.last == b"+") == self._returned, "it was ended for nobody, or not at all"
        super().check()


class Unlinked(Named):
    """Something with a name, which another process takes away, and which goes on as before for who has it open."""

    is_in_vain = False
    kind: str

    async def open(self) -> None:
        self._make()
        self._companion.ask(f"{self.kind} {self._place}\n")
        self._companion.wait(10)
        self._served = self._given = 0

    @abstractmethod
    def _make(self) -> None:
        """Make it, and the handle."""

    async def do(self, step: dict[str, Any]) -> None:
        await super().do(step)
        self._served += 1

    def _strike(self) -> None:
        self._companion.ask(f"unlink {self._place}\n")

    def give(self, step: dict[str, Any]) -> None:
        super().give(step)
        if step["gift"] != "none":
            self._give()

    async def insist(self, count: int) -> None:
        await super().insist(count)
        for _ in range(self._served + count - self._given):
            self._give()

    def _give(self) -> None:
        self._given += 1
        self._companion.ask("give -\n")

    def check(self) -> None:
        self._companion.ask("left -\n")
        self._companion.wait(10)
        left = self._companion.last[0] - ord("0")
        assert self._served + left == self._given, f"{self._served} served and {left} left, of {self._given}"


class UnlinkedQueue(Unlinked):
    kind = "mq"

    def _make(self) -> None:
        posix_ipc.MessageQueue(self._place, posix_ipc.O_CREX, max_messages=8, max_message_size=32).close()
        self.handle = posix.MessageQueue.open(self._place)


class UnlinkedSemaphore(Unlinked):
    kind = "semaphore"

    def _make(self) -> None:
        posix_ipc.Semaphore(self._place, posix_ipc.O_CREX).close()
        self.handle = posix.Semaphore.open(self._place)


class UnlinkedChannel(Unlinked):
    kind = "channel"

    def _make(self) -> None:
        self.handle = Channel.create(self._place)


async def _iterate(handle: Any, messages: Any) -> None:
    async for _ in messages:
        return
    raise aioipc.ClosedError if handle._handle.closed else aioipc.EndOfStream  # which it does not say


def _next(handle: Any, step: dict[str, Any]) -> Awaitable[object]:
    return _iterate(handle, handle)


async def _enter(block: Any) -> None:
    async with block:
        pass


def _receive(handle: Any, step: dict[str, Any]) -> Awaitable[object]:
    return handle.receive()  # type: ignore[no-any-return]


def _send(handle: Any, step: dict[str, Any]) -> Awaitable[object]:
    return handle.send(b"x")  # type: ignore[no-any-return]


ENDINGS: dict[str, tuple[type[Ending], Use]] = {
    "sysv.MessageQueue.receive-removed": (RemovedQueue, lambda queue, step: queue.receive(type=step["hold"])),
    "sysv.MessageQueue.iterate-removed": (RemovedQueue, _next),
    "sysv.MessageQueue.messages-removed": (
        RemovedQueue,
        lambda queue, step: _iterate(queue, queue.messages(type=-step["hold"])),
    ),
    "sysv.MessageQueue.send-removed": (RemovedFullQueue, _send),
    "sysv.SemaphoreSet.operate-removed": (RemovedSet, lambda semaphores, _: semaphores.operate((0, -1), (1, -1))),
    "sysv.SetMember.enter-removed": (RemovedSet, lambda semaphores, _: _enter(semaphores[1])),
    "sysv.SetMember.wait_for_zero-removed": (RemovedSet, lambda semaphores, _: semaphores[0].wait_for_zero()),
    "posix.FifoReader.receive-hung-up": (HungUpReader, _receive),
    "posix.FifoReader.iterate-hung-up": (HungUpReader, _next),
    "posix.FifoWriter.send-hung-up": (HungUpWriter, _send),
    "posix.MessageQueue.receive-unlinked": (UnlinkedQueue, _receive),
    "posix.Semaphore.acquire-unlinked": (UnlinkedSemaphore, lambda semaphore, _: semaphore.acquire()),
    "Channel.receive-unlinked": (UnlinkedChannel, _receive),
    "Channel.receive-ended": (Ended, _receive),
    "Channel.iterate-ended": (Ended, _next),
    "Channel.receive_many-ended": (Ended, lambda channel, _: channel.receive_many(2)),
    "Channel.borrow-ended": (Ended, lambda channel, _: _enter(channel.borrow())),
    "Channel.send-ended": (FullEnded, _send),
    "Channel.send_many-ended": (FullEnded, lambda channel, _: channel.send_many([b"x"])),
    "Channel.reserve-ended": (FullEnded, lambda channel, _: _enter(channel.reserve(1))),
    "Channel.end": (ToBeEnded, lambda channel, _: channel.end()),
}


def _in_the_process(
    kind: type[Ending], use: Use, place: Any, companion: Companion, loop: str, schedule: Schedule
) -> Counter[str]:
    return in_the_storm(lambda: kind(use, place, companion), loop, schedule).counts


def _run(kind: type[Ending], use: Use, loop: str, world: World, schedule: Schedule) -> Counter[str]:
    companion = Companion(world, "end")
    child = world.fork(_in_the_process, kind, use, kind.place(world), companion, loop, schedule)
    counts: Counter[str] = child.result()
    companion.end()
    return counts


SCENARIOS = tuple(
    Scenario(
        f"storm/{name}/{loop}",
        partial(draw, loop, 100, 1),
        partial(_run, kind, use, loop),
        does=("cancelled", "ended otherwise" if kind.is_in_vain else "done"),
    )
    for name, (kind, use) in ENDINGS.items()
    for loop in LOOPS
)
