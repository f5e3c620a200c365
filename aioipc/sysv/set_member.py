"""One semaphore of a System V set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioipc._arguments import check_range
from aioipc._lifetime import Acquirable
from aioipc.sysv import _calls
from aioipc.sysv._sem import AMOUNT_MAX, VALUE_MAX

if TYPE_CHECKING:
    from aioipc.sysv.semaphore import SemaphoreSet


class SetMember(Acquirable):
    """One semaphore of a `SemaphoreSet`: `forks[0]`.  `async with` acquires and releases it."""

    set: SemaphoreSet
    """The set that it belongs to."""
    index: int
    """Its number in the set, from 0."""

    def __init__(self, semaphores: SemaphoreSet, index: int) -> None:
        """Not for use: see `SemaphoreSet`."""
        self.set = semaphores
        self.index = index

    def __repr__(self) -> str:
        return f"<{self.index} of {self.set!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetMember) and other.set is self.set and other.index == self.index

    def __hash__(self) -> int:
        return hash((id(self.set), self.index))

    async def acquire(self, amount: int = 1, *, undo: bool | None = None) -> None:
        """Take an amount of 1 or more, waiting until there is as much: semop(2).

        `undo` and exceptions are those of `SemaphoreSet.operate`.
        """
        await self.set.operate((self.index, -check_range("amount", amount, 1, AMOUNT_MAX)), undo=undo)

    def acquire_nowait(self, amount: int = 1, *, undo: bool | None = None) -> None:
        """Take an amount of 1 or more if there is as much.

        `undo` and exceptions are those of `SemaphoreSet.operate_nowait`.
        """
        self.set.operate_nowait((self.index, -check_range("amount", amount, 1, AMOUNT_MAX)), undo=undo)

    def release(self, amount: int = 1, *, undo: bool | None = None) -> None:
        """Give back an amount of 1 or more: semop(2).

        `undo` and exceptions are those of `SemaphoreSet.operate`, which needs no waiting here, and

        :raises LimitError: if the value would pass SEMVMX (32767)
        """
        self.set.operate_nowait((self.index, check_range("amount", amount, 1, AMOUNT_MAX)), undo=undo)

    async def wait_for_zero(self) -> None:
        """Wait until the value is zero: semop(2).  Exceptions are those of `SemaphoreSet.operate`."""
        await self.set.operate((self.index, 0))

    def wait_for_zero_nowait(self) -> None:
        """Make sure that the value is zero.  Exceptions are those of `SemaphoreSet.operate`, and

        :raises WouldBlock: if it is not
        """
        self.set.operate_nowait((self.index, 0))

    @property
    def value(self) -> int:
        """The value, 0 to 32767: semctl(2) with GETVAL, SETVAL.

        To set it wakes who waits for it; what SEM_UNDO has noted is forgotten.  Exceptions are those of
        `SemaphoreSet.values`.
        """
        return self.set._control(self.index, _calls.GETVAL)  # noqa: SLF001

    @value.setter
    def value(self, value: int) -> None:
        self.set._control(self.index, _calls.SETVAL, check_range("value", value, 0, VALUE_MAX))  # noqa: SLF001

    @property
    def waiting_for_nonzero(self) -> int:
        """How many threads of the system wait for the value to become greater: semctl(2) with GETNCNT."""
        return self.set._control(self.index, _calls.GETNCNT)  # noqa: SLF001

    @property
    def waiting_for_zero(self) -> int:
        """How many threads of the system wait for the value to become zero: semctl(2) with GETZCNT."""
        return self.set._control(self.index, _calls.GETZCNT)  # noqa: SLF001

    @property
    def last_pid(self) -> int:
        """The process that changed it last, 0 for none: semctl(2) with GETPID."""
        return self.set._control(self.index, _calls.GETPID)  # noqa: SLF001
