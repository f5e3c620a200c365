"""System V semaphore sets: semget(2), semop(2), semctl(2).

A set has an id, not a descriptor: there is nothing that an event loop could watch.  A task
that must wait has a thread wait for it, which can be got out of semop(2) at once: see
aioipc/_waiting/blocking.py.  All threads of a process share what SEM_UNDO has noted, so that it
makes no difference to the kernel which of them has acquired.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

import sysv_ipc

from aioipc._arguments import check_integer, check_mode, check_range
from aioipc._lifetime import create_or_find
from aioipc._waiting.blocking import CallLine
from aioipc.errors import AccessError
from aioipc.sysv import _calls, _objects
from aioipc.sysv._objects import WaitingObject
from aioipc.sysv._sem import (
    AMOUNT_MAX,
    KIND,
    Operate,
    check_values,
    find_by_id,
    remove_half_made,
    semfind,
    semget,
    set_initial,
    when_made,
)
from aioipc.sysv.keys import PRIVATE, check_key
from aioipc.sysv.set_member import SetMember

if TYPE_CHECKING:
    from typing import Self


class SemaphoreSetStatistics(NamedTuple):
    """What `SemaphoreSet.statistics` found, at about the same moment."""

    values: tuple[int, ...]
    """The value of each semaphore."""
    waiting_for_nonzero: tuple[int, ...]
    """How many threads of the system wait for each to become greater."""
    waiting_for_zero: tuple[int, ...]
    """How many threads of the system wait for each to become zero."""
    last_pids: tuple[int, ...]
    """The process that changed each last, 0 for none."""
    tasks_waiting: int
    """Tasks of this process that wait, on this handle.  Those that wait for the same are one thread to the system."""
    operated_at: float | None
    """When the last operation took place: seconds since the epoch, in whole seconds; None for never."""
    changed_at: float
    """When the set was created, its owner or mode changed, or values set, likewise."""
    owner: int
    """User id of the owner."""
    group: int
    """Group id of the owner."""
    creator: int
    """User id of the creator, who keeps the right to change and remove the set."""
    creator_group: int
    """Group id of the creator."""
    mode: int
    """Permission bits, such as 0o600."""


class SemaphoreSet(WaitingObject, Sequence[SetMember]):
    """A handle of a System V semaphore set.  Make one with `create` or `open`.

    It is a sequence of its semaphores.  `operate` does operations on several of them at once, or none.

    A handle belongs to the first event loop in which a task waits for it, and to the
    process that opened it.  It is not thread-safe; let each loop open its own.
    """

    _kind = KIND
    _rmid = staticmethod(sysv_ipc.remove_semaphore)

    undo: bool
    """Whether the kernel undoes what this process has done by this handle when it ends."""

    def __init__(self, key: int, id: int, size: int, *, undo: bool, remove: bool) -> None:
        """Not for use: see `create` and `open`."""
        super().__init__(key, id, remove=remove)
        self.undo = undo
        self._size = size

    # Lifetime

    @classmethod
    def create(
        cls,
        key: int | None,
        *,
        values: Sequence[int],
        mode: int = 0o600,
        undo: bool = False,
        exist_ok: bool = False,
        persist: bool = False,
    ) -> Self:
        """Create a set and open it: semget(2) with IPC_CREAT; its values are set at once, by semop(2).

        Another program can open a set before its creator has set the values: all are zero then.
        `open` waits for them; programs that do not find nothing to acquire in that moment.

        Leaving the `with` block removes the set from the system again, also one that was
        taken over, unless `persist` is true.  Who waits for it then, in any process, is told.

        :param key: a number that the programs agree on, see `ftok`; None (or `PRIVATE`) for a set without a key
        :param values: the value of each semaphore at first, 0 to 32767
        :param mode: permission bits: 0o600 means nobody but this user; System V does not look at the umask
        :param undo: when this process ends, however it does, the kernel undoes what it did by this handle (SEM_UNDO)
        :param exist_ok: take over the set that exists, with its values and mode as they are; one whose creator died
            before it set the values is made anew
        :param persist: leave the set in the system
        :raises ExistsError: if the key is taken and `exist_ok` is false
        :raises AccessError: if the key is taken and its mode forbids to take it over
        :raises LimitError: if as many sets or semaphores exist as the system allows, or a set can't be that large
        :raises ValueError: if an argument can't be right, or the set to take over is of another size
        """
        number = PRIVATE if key is None else check_key(key)
        check_mode(mode)
        initial = check_values(values)
        if not initial:
            raise ValueError("a set has at least one semaphore: values is empty")

        def create() -> tuple[int, int]:
            id = semget(number, len(initial), sysv_ipc.IPC_CREX | mode)
            try:
                set_initial(id, initial)
            except OSError as error:
                with suppress(sysv_ipc.ExistentialError):
                    sysv_ipc.remove_semaphore(id)
                raise _objects.explain(error, f"{KIND} ({_objects.label(number, id)})") from None
            return id, len(initial)

        def take_over() -> tuple[int, int]:
            id, size, is_made = semfind(number)
            if not is_made and size == len(initial) and any(initial):
                with suppress(AccessError):
                    remove_half_made(id, number, size)
            return id, size

        (id, size), is_new = create_or_find(create, take_over, exist_ok)
        if size != len(initial):
            raise ValueError(f"the set with this key has {size} semaphores, not {len(initial)}")
        return cls._make(number, id, size, undo=undo, remove=not persist, is_new=is_new)

    @classmethod
    def open(cls, key: int | None = None, *, id: int | None = None, undo: bool = False) -> Self:
        """Open a set that exists, whoever made it, by its key or its id: semget(2).

        If its creator is just about to set the initial values, this waits for it, a quarter of a second at most, in
        which the event loop stands still.

        :param key: the number that the set was created with
        :param id: the id of the set, instead of its key
        :param undo: when this process ends, however it does, the kernel undoes what it did by this handle (SEM_UNDO)
        :raises NotFoundError: if there is none
        :raises AccessError: if its mode and owner forbid it; it takes the right to read
        :raises ValueError: if an argument can't be right
        """
        _objects.check_key_or_id(key, id)
        if key is not None:
            number = check_key(key)
            id, size, _ = semfind(number)
        else:
            assert id is not None
            number = find_by_id(id, f"id {id}")[0]
            size, _ = when_made(id, number)
        return cls._make(number, id, size, undo=undo, remove=False)

    def change(
        self, *, owner: int | str | None = None, group: int | str | None = None, mode: int | None = None
    ) -> None:
        """Change who may use the set: semctl(2) with IPC_SET.

        :param owner: user id or name
        :param group: group id or name
        :param mode: permission bits
        :raises AccessError: if the set belongs to another user, or its mode does not let this one read it
        :raises KernelError: if owner or group, given now or before, are unknown in this user namespace (EINVAL)
        :raises NotFoundError: if there is no user or group of that name
        :raises RemovedError: if the set has been removed
        :raises ValueError: if an argument is out of range
        """
        self._handle.check()
        status = self._try(_calls.sem_stat, self.id)
        self._set(
            _calls.sem_set,
            _calls.sem_stat,
            status[1] if owner is None else _objects.user_id(owner),
            status[2] if group is None else _objects.group_id(group),
            status[5] if mode is None else check_mode(mode),
        )

    # Use

    async def operate(self, *operations: tuple[int, int], undo: bool | None = None) -> None:
        """Do all operations at once, waiting until that is possible: semop(2).

        Cancelled, it has done nothing: what was taken at that moment is the next task's that waits for
        the same, or is given back.  Where the operations had been done already when the thread was to be
        stopped, and include a release, this returns, and the cancellation is delivered at the task's next suspension.

        :param operations: pairs of the number of a semaphore and an amount.  (n, -a) takes a, waiting
            until the value is at least that; (n, a) adds a; (n, 0) waits until the value is zero
        :param undo: undo them when this process ends (SEM_UNDO); by default as the handle says
        :raises AccessError: if owner and mode of the set forbid it
        :raises ClosedError: if the handle is closed, now or while it waits
        :raises IndexError: if there is no semaphore of that number
        :raises LimitError: if there are too many operations, a value would pass SEMVMX, or no
            thread can be started to wait
        :raises RemovedError: if the set was removed from the system, now or while it waits
        :raises RuntimeError: if the handle belongs to another event loop, or was inherited by a fork
        :raises TypeError: if an operation is not a tuple of integers
        :raises ValueError: if there is no operation, one is not a pair, or an amount is out of range
        """
        line = self._operating(operations, undo)
        await line.perform(line.call)

    def operate_nowait(self, *operations: tuple[int, int], undo: bool | None = None) -> None:
        """Do all operations at once if that is possible now.  Parameters and exceptions are those of `operate`, and

        :raises WouldBlock: if it is not, or tasks wait for the same already
        """
        line = self._operating(operations, undo)
        line.perform_nowait(line.call)

    def _operating(self, operations: tuple[tuple[int, int], ...], undo: bool | None) -> CallLine:
        """The line of the tasks that want to do these."""
        if undo is None:
            undo = self.undo
        try:
            return self._calls.line((operations, undo), lambda: self._new_operate(operations, undo))
        except TypeError as error:  # such as a list, which is not hashable
            raise TypeError(
                f"operations must be tuples of two integers, (number, amount), each an argument of its own: {error}"
            ) from None

    def _new_operate(self, operations: tuple[tuple[int, int], ...], undo: bool) -> Operate:
        if not operations:
            raise ValueError("at least one operation is needed")
        checked = []
        for operation in operations:
            if len(operation) != 2:
                raise ValueError(f"operation {operation!r} must be a tuple of two integers, (number, amount)")
            number, amount = operation
            if not 0 <= check_integer("number", number) < len(self):
                raise IndexError(f"semaphore {number} of a set of {len(self)}")
            checked.append((number, check_range("amount", amount, -AMOUNT_MAX - 1, AMOUNT_MAX)))
        return Operate(self.id, self._name, checked, undo)

    # Its semaphores

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: SupportsIndex) -> SetMember:  # type: ignore[override]
        number = check_integer("index", index)
        if not -self._size <= number < self._size:
            raise IndexError(f"semaphore {number} of a set of {self._size}")
        return SetMember(self, number % self._size)

    @property
    def values(self) -> tuple[int, ...]:
        """The values of all semaphores at one moment: semctl(2) with GETALL, SETALL.

        Values that are set wake who waits for them; what SEM_UNDO has noted is forgotten.

        :raises AccessError: if owner and mode of the set forbid it
        :raises ClosedError: if the handle is closed
        :raises RemovedError: if the set has been removed
        :raises ValueError: if there are not as many values as semaphores, or one is out of range
        """
        self._handle.check()
        return self._try(_calls.semgetall, self.id)

    @values.setter
    def values(self, values: Sequence[int]) -> None:
        self._handle.check()
        new = check_values(values)
        if len(new) != len(self):
            raise ValueError(f"{len(new)} values for a set of {len(self)} semaphores")
        self._try(_calls.semsetall, self.id, new)

    def statistics(self) -> SemaphoreSetStatistics:
        """The values, who waits, and what the kernel knows: semctl(2) with IPC_STAT.

        :raises AccessError: if owner and mode of the set forbid to read it
        :raises ClosedError: if the handle is closed
        :raises RemovedError: if the set has been removed
        """
        values = self.values
        _, uid, gid, cuid, cgid, mode, _, operated, changed = self._try(_calls.sem_stat, self.id)
        nonzero, zero, pids = (
            tuple(self._try(_calls.semctl, self.id, number, command) for number in range(len(self)))
            for command in (_calls.GETNCNT, _calls.GETZCNT, _calls.GETPID)
        )
        return SemaphoreSetStatistics(
            values=values,
            waiting_for_nonzero=nonzero,
            waiting_for_zero=zero,
            last_pids=pids,
            tasks_waiting=self._calls.waiting,
            operated_at=operated or None,
            changed_at=changed,
            owner=uid,
            group=gid,
            creator=cuid,
            creator_group=cgid,
            mode=mode,
        )

    def _control(self, number: int, command: int, value: int = 0) -> int:
        self._handle.check()
        return self._try(_calls.semctl, self.id, number, command, value)
