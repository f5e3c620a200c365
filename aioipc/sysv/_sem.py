"""The calls of System V semaphore sets: semget(2), semop(2), and what their errors mean."""

from __future__ import annotations

import errno
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from struct import Struct

import sysv_ipc

from aioipc import _limits
from aioipc._arguments import check_range
from aioipc._waiting.workers import Call
from aioipc.errors import Error, LimitError, RemovedError, WouldBlock
from aioipc.sysv import _calls, _objects

VALUE_MAX: int = sysv_ipc.SEMAPHORE_VALUE_MAX
AMOUNT_MAX = 2**15 - 1
_SEMBUF = Struct("Hhh")
KIND = "semaphore set"

_HALF_MADE_SECONDS = 0.25
"""How long an opener waits for a creator to set the initial values.  That takes it some microseconds."""


class Operate(Call[None]):
    """semop(2)."""

    def __init__(self, id: int, name: str, operations: list[tuple[int, int]], undo: bool) -> None:
        self._id = id
        self._name = name
        self._is_revocable = all(amount <= 0 for _, amount in operations)
        self.is_momentary = any(amount == 0 for _, amount in operations)
        flags = _calls.SEM_UNDO if undo else 0
        self._now = pack(operations, flags | _calls.IPC_NOWAIT)
        self._waiting = pack(operations, flags)
        taken = [(number, -amount) for number, amount in operations if amount < 0]
        self._back = pack(taken, flags | _calls.IPC_NOWAIT)

    def __call__(self) -> None:
        try:
            _calls.semop(self._id, self._now)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise WouldBlock(f"{self._name} does not allow these operations now") from None
            raise self._explain(error) from None

    def block(self) -> None:
        try:
            _calls.semop(self._id, self._waiting)
        except OSError as error:
            if error.errno == errno.EINTR:
                raise
            raise self._explain(error) from None

    def revoke(self, result: None) -> bool:
        if not self._is_revocable:
            return False  # somebody may have acquired what was released
        if self._back:
            try:
                _calls.semop(self._id, self._back)
            except OSError as error:
                # If the set is gone, so is what was taken from it.
                return error.errno in (errno.EIDRM, errno.EINVAL)
        return True

    def _explain(self, error: OSError) -> Error:
        if error.errno == errno.E2BIG:
            return LimitError(
                errno.E2BIG,
                f"{len(self._now) // _SEMBUF.size} operations at once are over {_limits.explain_kernel_sem('SEMOPM')}",
                self._name,
            )
        if error.errno == errno.ERANGE:
            return LimitError(
                errno.ERANGE,
                f"a value, or what undo has to note, would pass SEMVMX ({VALUE_MAX:,}), which is fixed",
                self._name,
            )
        return _objects.explain(error, self._name)


def pack(operations: Iterable[tuple[int, int]], flags: int) -> bytes:
    """An array of struct sembuf."""
    return b"".join(_SEMBUF.pack(number, amount, flags) for number, amount in operations)


def check_values(values: Sequence[int]) -> array[int]:
    """Values as the kernel takes them: an array of unsigned short."""
    try:
        each = iter(values)
    except TypeError:
        raise TypeError(f"values must be a sequence of integers, not {type(values).__name__}") from None
    return array("H", [check_range("value", value, 0, VALUE_MAX) for value in each])


def set_initial(id: int, values: array[int]) -> None:
    """Give a new set its values, all at once, so that nobody sees some of them.

    They are added to the zeros that it begins with: what somebody may have released by now is not
    lost.  A set with more than SEMOPM of them gets them by SETALL.
    """
    added = list(enumerate(values))
    try:
        _calls.semop(id, pack(added, _calls.IPC_NOWAIT))
    except OSError as error:
        if error.errno == errno.E2BIG:
            _calls.semsetall(id, values)
        elif error.errno != errno.EAGAIN:
            raise
        # Else somebody has released one that is to be zero: an operation of 0 waits for zero.
        elif any(values):
            _calls.semop(id, pack([each for each in added if each[1]], _calls.IPC_NOWAIT))


def when_made(id: int, key: int) -> tuple[int, bool]:
    """The size of a set, once its creator has set the values; and whether it has.

    A set to which nobody has done anything is a new one that has not got its values yet,
    or one whose creator has died meanwhile, or never meant to set any: who can tell?

    :raises NotFoundError: if it is removed meanwhile
    """
    name = f"{KIND} ({_objects.label(key, id)})"
    deadline = time.monotonic() + _HALF_MADE_SECONDS
    while True:
        status = find_by_id(id, name)
        size, operated, changed = status[6:9]
        try:
            touched = operated > 0 or any(_calls.semctl(id, number, _calls.GETPID) for number in (0, size - 1))
        except OSError:
            raise _objects.missing(KIND, name) from None  # removed just now
        if touched or changed < time.time() - 2 or time.monotonic() > deadline:
            return size, touched
        time.sleep(0.0002)


def find_by_id(id: int, name: str) -> tuple[int, ...]:
    try:
        return _calls.sem_stat(id)
    except OSError as error:
        if error.errno == errno.EACCES:
            raise _objects.denied(KIND, name) from None
        raise _objects.missing(KIND, name) from None


def semfind(key: int) -> tuple[int, int, bool]:
    """The id of a set, and what `when_made` says of it."""
    id = semget(key, 0, 0o400)
    return id, *when_made(id, key)


def remove_half_made(id: int, key: int, size: int) -> None:
    """Remove a set whose creator has not set the values: it has died, or is late, and will then make another one.

    Not one for which somebody waits, who may want it as it is.

    :raises AccessError: if it belongs to another user
    :raises NotFoundError: if it is gone, now or before
    """
    name = f"{KIND} ({_objects.label(key, id)})"
    commands = (_calls.GETNCNT, _calls.GETZCNT)
    with suppress(OSError):
        if any(_calls.semctl(id, number, command) for number in range(size) for command in commands):
            return
    with suppress(RemovedError):
        _objects.remove_by_id(sysv_ipc.remove_semaphore, id, name)
    raise _objects.missing(KIND, name)


def semget(key: int, size: int, flags: int) -> int:
    name = _objects.label(key)
    try:
        return _calls.semget(key, size, flags)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise _objects.exists(KIND, name) from None
        if error.errno == errno.ENOENT:
            raise _objects.missing(KIND, name) from None
        if error.errno == errno.EACCES:
            raise _objects.denied(KIND, name) from None
        if error.errno == errno.EINVAL:
            limit = _limits.explain_kernel_sem("SEMMSL")
            raise LimitError(errno.EINVAL, f"a set of {size:,} semaphores is over {limit}", name) from None
        if error.errno == errno.ENOSPC:
            sets, semaphores = map(_limits.explain_kernel_sem, ("SEMMNI", "SEMMNS"))
            raise LimitError(
                errno.ENOSPC,
                f"as many sets exist as {sets} allows, or semaphores as {semaphores}; or remove some",
                name,
            ) from None
        raise _objects.explain(error, name) from None
