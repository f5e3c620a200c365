"""What tasks wait for ends while they are cancelled: it is removed, its other end is closed, it is ended."""

from __future__ import annotations

import fcntl
import os
from abc import abstractmethod
from collections import Counter
from functools import partial
from typing import Any

import sysv_ipc
from harness import Scenario, Schedule
from storm_objects import Companion
from storm_race import LOOPS, Storm, draw, in_the_storm
from world import World, libc

import aioipc
from aioipc import Channel, posix, sysv


class Ending(Storm):
    """Each race is about an object of its own."""

    def __init__(self, place: Any, companion: Companion) -> None:
        """
        :param place: a key, a path or a name, as is needed
        """
        super().__init__()
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

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.receive(type=step["hold"])


class RemovedFullQueue(Removed):
    kind = "queue"

    async def open(self) -> None:
        made = sysv_ipc.MessageQueue(self._place, sysv_ipc.IPC_CREX)
        made.max_size = 1
        libc.msgsnd(made.id, 1, b"x")
        self.handle = sysv.MessageQueue.open(id=made.id)

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.send(b"x")


class RemovedSet(Removed):
    kind = "set"

    async def open(self) -> None:
        id = libc.semget(self._place, 2)
        libc.semop(id, (0, 1))
        self.handle = sysv.SemaphoreSet.open(id=id)

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.operate((0, -1), (1, -1))


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

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.receive()


class HungUpWriter(HungUp):
    ends = (aioipc.ClosedError, aioipc.BrokenError)

    async def open(self) -> None:
        self._companion.ask(f"reader {self._place}\n")
        self._companion.wait(10)
        self.handle = await posix.Fifo.open_writer(self._place)
        fcntl.fcntl(self.handle.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        self.handle.send_nowait(bytes(4096))

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.send(b"x")


class Ended(Ending):
    """A channel that is ended by another process."""

    ends = (aioipc.ClosedError, aioipc.EndOfStream)

    @staticmethod
    def place(world: World) -> str:
        return world.name()

    async def open(self) -> None:
        self.handle = Channel.create(self._place, capacity=64)

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.receive()

    def _strike(self) -> None:
        self._companion.ask(f"finish {self._place}\n")

    def check(self) -> None:
        self.handle.unlink()


class FullEnded(Ended):
    ends = (aioipc.ClosedError, aioipc.BrokenError)

    async def open(self) -> None:
        await super().open()
        self.handle.send_nowait(b"x")

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.send(b"x")


class ToBeEnded(Ended):
    """A channel that the tasks end, while another process is just about to send."""

    ends = (aioipc.ClosedError,)
    _returned = False

    async def open(self) -> None:
        await super().open()
        self._returned = False
        self._companion.ask(f"lock {self._place}\n")
        self._companion.wait(10)

    async def do(self, step: dict[str, Any]) -> None:
        await self.handle.end()
        self._returned = True

    def _strike(self) -> None:
        self._companion.ask("unlock -\n")

    def check(self) -> None:
        self._companion.ask(f"ended {self._place}\n")
        self._companion.wait(10)
        assert (self._companion.last == b"+") == self._returned, "it was ended for nobody, or not at all"
        super().check()


ENDINGS: dict[str, type[Ending]] = {
    "sysv.MessageQueue.receive-removed": RemovedQueue,
    "sysv.MessageQueue.send-removed": RemovedFullQueue,
    "sysv.SemaphoreSet.operate-removed": RemovedSet,
    "posix.FifoReader.receive-hung-up": HungUpReader,
    "posix.FifoWriter.send-hung-up": HungUpWriter,
    "Channel.receive-ended": Ended,
    "Channel.send-ended": FullEnded,
    "Channel.end": ToBeEnded,
}


def _in_the_process(kind: type[Ending], place: Any, companion: Companion, loop: str, schedule: Schedule) -> Any:
    return in_the_storm(lambda: kind(place, companion), loop, schedule).counts


def _run(kind: type[Ending], loop: str, world: World, schedule: Schedule) -> Counter[str]:
    companion = Companion(world, "end")
    place = kind.place(world)
    counts: Counter[str] = world.fork(_in_the_process, kind, place, companion, loop, schedule).result()
    companion.end()
    return counts


SCENARIOS = tuple(
    Scenario(f"storm/{name}/{loop}", partial(draw, loop, 100, 1), partial(_run, kind, loop))
    for name, kind in ENDINGS.items()
    for loop in LOOPS
)
