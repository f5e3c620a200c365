"""POSIX named semaphores: sem_open(3), sem_wait(3), sem_post(3), sem_overview(7).

A semaphore is a number in shared memory that the C library waits for with a futex: there is
nothing that an event loop could watch.  A task that must wait has a thread wait for it, which can
be got out of sem_wait(3) at once: see aioipc/_waiting/blocking.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import posix_ipc

from aioipc._arguments import check_mode, check_range
from aioipc._lifetime import Acquirable, Lifetime, create_or_find
from aioipc._waiting.blocking import Calls
from aioipc._waiting.workers import Call
from aioipc.errors import WouldBlock
from aioipc.posix._sem import explain, sem_create, sem_file, sem_open, sem_unlink, too_great

if TYPE_CHECKING:
    from typing import Self

_VALUE_MAX: int = posix_ipc.SEMAPHORE_VALUE_MAX


class SemaphoreStatistics(NamedTuple):
    """What `Semaphore.statistics` found."""

    value: int
    """How many times it could be acquired now."""
    tasks_waiting_acquire: int
    """Tasks of this process that wait, on this handle, for a permit."""
    owner: int | None
    """User id of the owner; this and the following are None once the name stands for another semaphore, or none."""
    group: int | None
    """Group id of the owner."""
    mode: int | None
    """Permission bits, such as 0o600."""


class Semaphore(Acquirable, Lifetime):
    """A handle of a POSIX named semaphore.  Make one with `create` or `open`.

    A semaphore counts permits.  `async with` takes one for the length of a block; `with` is the
    lifetime of the handle.  A process that dies gives nothing back of what it has acquired; a
    member of a `sysv.SemaphoreSet` with undo does.

    A handle belongs to the first event loop in which a task waits for it, and to the
    process that opened it.  It is not thread-safe; let each loop open its own.
    """

    name: str
    """With its leading slash."""

    def __init__(self, name: str, semaphore: posix_ipc.Semaphore, file: os.stat_result | None, *, remove: bool) -> None:
        """Not for use: see `create` and `open`."""
        self.name = name  # semaphore.name fails where that is no text
        self._semaphore = semaphore
        self._label = repr(self.name)
        self._removes = remove
        self._file = file
        self._calls = Calls(f"semaphore {self.name}", semaphore.close)
        self._line = self._calls.line("permit", lambda: _Acquire(name, semaphore))
        self._handle = self._calls

    # Lifetime

    @classmethod
    def create(
        cls, name: str, *, value: int = 1, mode: int = 0o600, exist_ok: bool = False, persist: bool = False
    ) -> Self:
        """Create a semaphore and open it: sem_open(3) with O_CREAT.

        Leaving the `with` block removes the semaphore from the system again, also one that
        was taken over, unless `persist` is true.  Programs that have it open go on using it until they close it.

        :param name: a slash and 1 to 251 bytes without another slash
        :param value: how many permits there are at first, 0 to SEM_VALUE_MAX (2,147,483,647)
        :param mode: permission bits, less those of the process's umask: 0o600 means nobody but this user
        :param exist_ok: take over the semaphore that exists, with its value and mode as they are
        :param persist: leave the semaphore in the system
        :raises ExistsError: if the name is taken and `exist_ok` is false
        :raises AccessError: if the name is taken and its mode forbids to take it over, or that of /dev/shm to create it
        :raises CorruptError: if what has the name is no semaphore
        :raises LimitError: if the process has no descriptor left, or the shared-memory file system no room
        :raises ValueError: if an argument can't be right
        """
        check_range("value", value, 0, _VALUE_MAX)
        check_mode(mode)
        opened, is_new = create_or_find(lambda: sem_create(name, mode, value), lambda: sem_open(name), exist_ok)
        return cls._make(name, *opened, remove=not persist, is_new=is_new)

    @classmethod
    def open(cls, name: str) -> Self:
        """Open a semaphore that exists, whoever made it: sem_open(3).

        :param name: a slash and 1 to 251 bytes without another slash
        :raises NotFoundError: if there is none of that name
        :raises AccessError: if its mode and owner forbid it; it takes the right to read and to write
        :raises CorruptError: if what has the name is no semaphore
        :raises LimitError: if the process has no descriptor left
        :raises ValueError: if the name can't be right
        """
        return cls._make(name, *sem_open(name), remove=False)

    def close(self) -> None:
        """Close the handle: sem_close(3).

        Tasks that wait get `ClosedError`.  The semaphore stays in the system, with its value:
        leaving the `with` block removes it, and so does `unlink`.  A permit that is held can't be
        released with this handle any more.
        May be called again, and from a callback of the loop.
        """
        self._calls.close()

    def unlink(self) -> None:
        """Remove the semaphore from the system: sem_unlink(3).  Works on a closed handle too.

        Its name is free at once; those that have it open, this handle as well, go on.  A
        semaphore that somebody else has made under the name in the meantime is left alone.

        While some program keeps a lock of its file (flock(2)), this waits for it, 0.25 s at most, in which the event
        loop stands still.

        :raises NotFoundError: if this semaphore is not to be found under its name any more
        :raises AccessError: if it belongs to another user
        :raises RuntimeError: if it was inherited by a fork
        """
        self._handle.check_process()
        sem_unlink(self.name, self._file)

    _remove_object = unlink

    def _find_own(self) -> os.stat_result | None:
        """The semaphore's file, if its name still stands for it."""
        found = sem_file(self.name)
        is_own = found is not None and self._file is not None and os.path.samestat(found, self._file)
        return found if is_own else None

    # Use

    async def acquire(self) -> None:
        """Take a permit, waiting for one: sem_wait(3).

        Cancelled, it has taken nothing: a permit that arrived at that moment is the next task's in
        line, or is given back with sem_post(3).

        :raises ClosedError: if the handle is closed, now or while it waits
        :raises LimitError: if no thread can be started to wait for it
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        """
        await self._line.perform(self._line.call)

    def acquire_nowait(self) -> None:
        """Take a permit if there is one: sem_trywait(3).  Exceptions are those of `acquire`, and

        :raises WouldBlock: if there is none, or tasks wait for one already
        """
        self._line.perform_nowait(self._line.call)

    def release(self, n: int = 1) -> None:
        """Give permits back: sem_post(3).

        :param n: how many, with a call for each
        :raises ClosedError: if the handle is closed
        :raises LimitError: if the value would pass SEM_VALUE_MAX; it is as it was
        :raises ValueError: if n is less than 1
        """
        check_range("n", n, 1, _VALUE_MAX)
        self._handle.check()
        if self._semaphore.value > _VALUE_MAX - n:
            raise too_great(self.name)
        for _ in range(n):
            try:
                self._semaphore.release()
            except OSError as error:  # the last permits were given by others meanwhile
                raise explain(error, self.name) from None

    # Looking

    @property
    def value(self) -> int:
        """How many times it could be acquired now: sem_getvalue(3).

        :raises ClosedError: if the handle is closed
        """
        self._handle.check()
        return int(self._semaphore.value)

    def statistics(self) -> SemaphoreStatistics:
        """The value, who waits, and what the file system knows: sem_getvalue(3), stat(2).

        :raises ClosedError: if the handle is closed
        """
        status = self._find_own()
        return SemaphoreStatistics(
            value=self.value,
            tasks_waiting_acquire=self._line.waiting,
            owner=None if status is None else status.st_uid,
            group=None if status is None else status.st_gid,
            mode=None if status is None else status.st_mode & 0o777,
        )


class _Acquire(Call[None]):
    """sem_wait(3), through posix_ipc."""

    def __init__(self, name: str, semaphore: posix_ipc.Semaphore) -> None:
        self._name = name
        self._semaphore = semaphore
        self._acquire = semaphore.acquire

    def __call__(self) -> None:
        try:
            self._acquire(0)
        except posix_ipc.BusyError:
            raise WouldBlock(f"semaphore {self._name} has no permit left") from None
        except posix_ipc.SignalError:  # sem_trywait(3) does not say that it may be interrupted, but posix_ipc can
            self()

    def block(self) -> None:
        try:
            self._acquire()
        except posix_ipc.SignalError:
            raise InterruptedError from None

    def revoke(self, result: None) -> bool:
        try:
            self._semaphore.release()
        except (OSError, posix_ipc.Error):  # others have raised the value to SEM_VALUE_MAX
            return False
        return True
