"""Each kind of thing that a thread waits for: how a task waits for it, and how it comes and goes outside."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import libc
import posix_ipc
import pytest

import aioipc
from aioipc import posix, sysv


class Kind(ABC):
    """Something that tasks wait for.  All that is not `wait` is done without aioipc."""

    handle: Any

    @abstractmethod
    async def wait(self) -> object:
        """Take one, waiting; return anything but None."""

    @abstractmethod
    def give(self) -> None:
        """Let one come."""

    @abstractmethod
    def take(self) -> bool:
        """Take one if there is one."""

    taker: list[str]
    """What makes taker.c take the same."""

    @abstractmethod
    def reopen(self) -> None:
        """Wait with another handle from now on."""

    async def wait_until_closed(self) -> object:
        """Do so, and return None once the handle is closed."""
        try:
            return await self.wait()
        except aioipc.ClosedError:
            return None

    def is_taken(self) -> bool:
        """Whether what has come is gone, if only to a thread."""
        raise NotImplementedError

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many tasks wait."""

    @property
    def busy(self) -> bool:
        """Whether a thread is at it."""
        return bool(self.handle._handle._users - {"handle"})

    def settle(self) -> None:
        """Make it as it was at first, whether something was done or not."""
        self.left()

    def left(self) -> int:
        """Take all that there are."""
        count = 0
        while self.take():
            count += 1
        return count


class PosixSemaphore(Kind):
    def __init__(self, name: str) -> None:
        self.handle = posix.Semaphore.create(name, value=0)
        self._bare = posix_ipc.Semaphore(name)
        self.taker = ["semaphore", name]

    def reopen(self) -> None:
        self.handle = posix.Semaphore.open(self.handle.name)

    async def wait(self) -> object:
        await self.handle.acquire()
        return True

    def give(self) -> None:
        self._bare.release()

    def take(self) -> bool:
        try:
            self._bare.acquire(0)
        except posix_ipc.BusyError:
            return False
        return True

    @property
    def waiting(self) -> int:
        return self.handle.statistics().tasks_waiting_acquire


class Set(Kind):
    """Operations on two semaphores of a set of three; one of each is what comes and goes."""

    def __init__(self, name: str, *numbers: int, undo: bool = False) -> None:
        self.handle = self._first_handle = sysv.SemaphoreSet.create(None, values=[0, 0, 0], undo=undo)
        self._numbers = numbers
        self.taker = ["set", str(self.handle.id), *map(str, numbers)]

    def reopen(self) -> None:
        self.handle = sysv.SemaphoreSet.open(id=self.handle.id, undo=self.handle.undo)

    async def wait(self) -> object:
        if len(self._numbers) == 1:
            await self.handle[self._numbers[0]].acquire()
        else:
            await self.handle.operate(*((number, -1) for number in self._numbers))
        return True

    def give(self) -> None:
        libc.semop(self.handle.id, *((number, 1) for number in self._numbers))

    def take(self) -> bool:
        try:
            libc.semop(self.handle.id, *((number, -1) for number in self._numbers))
        except OSError as error:
            assert error.errno == errno.EAGAIN
            return False
        return True

    @property
    def waiting(self) -> int:
        return self.handle.statistics().tasks_waiting


class Exchange(Set):
    """Take one here and give one there, which can't be taken back."""

    def __init__(self, name: str) -> None:
        super().__init__(name, 0)

    def is_taken(self) -> bool:
        return bool(self._first_handle[1].value)

    async def wait(self) -> object:
        await self.handle.operate((0, -1), (1, 1))
        libc.semop(self.handle.id, (1, -1))
        return True

    def settle(self) -> None:
        self._first_handle.values = [0, 0, 0]

    def left(self) -> int:
        assert self._first_handle[1].value == 0, "it was done for nobody"
        return super().left()


class Queue(Kind):
    """Messages of a System V queue, among some that are not asked for."""

    def __init__(
        self, name: str, type: int = 0, *, comes: int = 1, others: int | None = None, data: bytes = b"data", **how: Any
    ) -> None:
        self._size = 100 if how.get("truncate") else None
        self.handle = sysv.MessageQueue.create(None, max_message_size=self._size)
        self._how = {"type": type} | how
        self._comes = comes
        self._data = data
        self._selector = (how["exclude"], libc.MSG_EXCEPT) if "exclude" in how else (type, 0)
        self.taker = ["queue", str(self.handle.id), str(self._selector[0])]
        if "exclude" in how:
            self.taker.append("except")
        if others is not None:
            libc.msgsnd(self.handle.id, others, b"not this one")

    def reopen(self) -> None:
        self.handle = sysv.MessageQueue.open(id=self.handle.id, max_message_size=self._size)

    async def wait(self) -> object:
        return await self.handle.receive(**self._how)

    def give(self) -> None:
        libc.msgsnd(self.handle.id, self._comes, self._data)

    def take(self) -> bool:
        try:
            data, type = libc.msgrcv(self.handle.id, self._selector[0], self._selector[1] | libc.IPC_NOWAIT)
        except OSError as error:
            assert error.errno == errno.ENOMSG
            return False
        assert (data, type) == (self._data, self._comes)
        return True

    @property
    def waiting(self) -> int:
        return self.handle.statistics().tasks_waiting_receive


class Sending(Kind):
    """Room in a full System V queue."""

    def __init__(self, name: str) -> None:
        self.handle = sysv.MessageQueue.create(None, max_bytes=4)
        libc.msgsnd(self.handle.id, 1, b"full")

    def reopen(self) -> None:
        self.handle = sysv.MessageQueue.open(id=self.handle.id)

    def is_taken(self) -> bool:
        return bool(self.handle.statistics().messages)

    async def wait(self) -> object:
        await self.handle.send(b"sent", type=2)
        return True

    def give(self) -> None:
        assert libc.msgrcv(self.handle.id, 1) == (b"full", 1)

    def take(self) -> bool:
        raise NotImplementedError

    def left(self) -> int:
        """1 if the message was not sent, and then there is room again; else 0."""
        try:
            assert libc.msgrcv(self.handle.id, 2) == (b"sent", 2)
        except OSError as error:
            assert error.errno == errno.ENOMSG
            not_sent = 1
        else:
            not_sent = 0
        libc.msgsnd(self.handle.id, 1, b"full")
        return not_sent

    @property
    def waiting(self) -> int:
        return self.handle.statistics().tasks_waiting_send


KINDS: dict[str, Callable[[str], Kind]] = {
    "POSIX semaphore": PosixSemaphore,
    "set member": lambda name: Set(name, 1),
    "set member with undo": lambda name: Set(name, 1, undo=True),
    "several operations": lambda name: Set(name, 0, 2),
    "queue, any type": lambda name: Queue(name, 0),
    "queue, one type": lambda name: Queue(name, 3, comes=3, others=4),
    "queue, types up to": lambda name: Queue(name, -5, comes=4, others=6),
    "queue, other types": lambda name: Queue(name, exclude=7, comes=8, others=7),
    "queue, truncating": lambda name: Queue(name, 2, comes=2, others=1, truncate=True),
    "queue, no data": lambda name: Queue(name, 3, comes=3, others=4, data=b""),
}
"""Those that a peer can take instead."""

OTHER_KINDS: dict[str, Callable[[str], Kind]] = {"operations with a release": Exchange, "queue, sending": Sending}


@contextmanager
def made(kind: str, name: str) -> Iterator[Kind]:
    it = (KINDS | OTHER_KINDS)[kind](name)
    with it.handle:
        yield it


every_kind = pytest.mark.parametrize("kind", [*KINDS, *OTHER_KINDS])
