"""System V shared memory: shmget(2), shmat(2), shmctl(2)."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import sysv_ipc

from aioipc import _limits, _memory
from aioipc._arguments import check_mode, check_range
from aioipc._lifetime import create_or_find
from aioipc._waiting.handle import Handle
from aioipc.errors import AccessError, Error, LimitError, NotFoundError, RemovedError
from aioipc.sysv import _calls, _objects
from aioipc.sysv._objects import Object
from aioipc.sysv.keys import PRIVATE, check_key

if TYPE_CHECKING:
    from typing import Self

_KIND = "shared memory segment"


class SharedMemoryStatistics(NamedTuple):
    """What `SharedMemory.statistics` found, all at one moment."""

    size: int
    """Bytes in the segment."""
    attached: int
    """How often it is attached, in all processes, this one included; also where handles are closed and views remain."""
    creator_pid: int
    """The process that created it."""
    last_pid: int
    """The process that attached or detached it last."""
    attached_at: float
    """When it was last attached: seconds since the epoch, in whole seconds."""
    detached_at: float | None
    """When it was last detached, likewise; None for never."""
    changed_at: float
    """When it was created, or its owner or mode changed, likewise."""
    owner: int
    """User id of the owner."""
    group: int
    """Group id of the owner."""
    creator: int
    """User id of the creator, who keeps the right to change and remove the segment."""
    creator_group: int
    """Group id of the creator."""
    mode: int
    """Permission bits, such as 0o600."""
    removed: bool
    """Whether it is removed, and goes when nobody has it attached."""


class SharedMemory(Object):
    """A handle of a System V shared memory segment.  Make one with `create` or `open`.

    What one process writes to `buffer`, all others see.  Nothing keeps them from doing so at the
    same time: use a semaphore for that.

    A handle belongs to the process that opened it.  It is not thread-safe.
    """

    _kind = _KIND

    size: int
    """Bytes in `buffer`.  It can't be changed."""

    def __init__(self, key: int, id: int, memory: _memory.Memory, *, remove: bool) -> None:
        """Not for use: see `create` and `open`."""
        super().__init__(key, id, remove=remove)
        self.size = memory.size
        self._memory = memory
        self._handle = Handle(self._name)

    # Lifetime

    @classmethod
    def create(
        cls, key: int | None, *, size: int, mode: int = 0o600, exist_ok: bool = False, persist: bool = False
    ) -> Self:
        """Create a segment, of zeros, and attach it for reading and writing: shmget(2) with IPC_CREAT, shmat(2).

        Leaving the `with` block removes the segment from the system again, also one that was taken
        over, unless `persist` is true.  Programs that have it attached go on using it until they detach it.

        :param key: a number that the programs agree on, see `ftok`; None (or `PRIVATE`) for a segment without a key
        :param size: how many bytes, at least 1; the kernel gives whole pages, `buffer` has what is asked for
        :param mode: permission bits: 0o600 means nobody but this user; System V does not look at the umask
        :param exist_ok: take over the segment that exists if it has at least this size, all of it, with its
            contents and mode as they are
        :param persist: leave the segment in the system
        :raises ExistsError: if the key is taken and `exist_ok` is false
        :raises AccessError: if the key is taken and its mode forbids to take it over; or the new one's to attach it
        :raises LimitError: if the system allows no more segments, none so large, or has no memory for it
        :raises ValueError: if an argument can't be right, or the segment to take over is smaller
        """
        number = PRIVATE if key is None else check_key(key)
        check_range("size", size, 1, sys.maxsize)
        check_mode(mode)
        (id, memory), is_new = create_or_find(
            lambda: _create(number, size, mode), lambda: _find(number, read_only=False), exist_ok
        )
        if memory.size < size:
            assert not is_new
            raise ValueError(
                f"{_KIND} ({_objects.label(number, id)}) exists and has {memory.size:,} bytes, fewer than {size:,}"
            )
        return cls._make(number, id, memory, remove=not persist, is_new=is_new)

    @classmethod
    def open(cls, key: int | None = None, *, id: int | None = None, read_only: bool = False) -> Self:
        """Attach a segment that exists, whoever made it, by its key or its id: shmget(2), shmat(2).

        A segment that is removed, but attached somewhere, can be opened by its id still.

        :param key: the number that the segment was created with
        :param id: the id of the segment, instead of its key
        :param read_only: ask for the right to read only; nothing can be written to `buffer`
        :raises NotFoundError: if there is none
        :raises AccessError: if its mode and owner forbid it
        :raises LimitError: if the process has no address space left
        :raises ValueError: if an argument can't be right
        """
        _objects.check_key_or_id(key, id)
        if key is not None:
            number = check_key(key)
            id, memory = _find(number, read_only=read_only)
        else:
            assert id is not None
            memory, status = _attach(id, f"id {id}", read_only=read_only)
            number = status[0]
        return cls._make(number, id, memory, remove=False)

    def close(self) -> None:
        """Close the handle: shmdt(2).

        The segment stays attached until the last view of `buffer` is gone, a memoryview or an array; they can be
        used until then.  It stays in the system, with its contents: leaving the `with` block removes it, and so
        does `remove`.  May be called again.
        """
        if not self._handle.closed:
            self._handle.closed = True
            del self._memory

    def remove(self) -> None:
        """Remove the segment from the system: shmctl(2) with IPC_RMID.  Works on a closed handle too.

        Its key is free at once.  While it is attached anywhere, by this handle as well, the kernel keeps the
        segment, marked as removed, for those who use it, and its id.

        :raises RemovedError: if it has been removed already
        :raises AccessError: if it belongs to another user
        :raises RuntimeError: if it was inherited by a fork
        """
        super().remove()

    @staticmethod
    def _rmid(id: int) -> None:
        with suppress(OSError):  # what may not be looked at may be removed, perhaps
            if _calls.shm_stat(id)[6]:  # to the kernel it is no error to do it again
                raise sysv_ipc.ExistentialError
        sysv_ipc.remove_shared_memory(id)

    def change(
        self, *, owner: int | str | None = None, group: int | str | None = None, mode: int | None = None
    ) -> None:
        """Change who may use the segment: shmctl(2) with IPC_SET.  Those who have attached it keep it.

        :param owner: user id or name
        :param group: group id or name
        :param mode: permission bits
        :raises AccessError: if the segment belongs to another user, or its mode does not let this one read it
        :raises ClosedError: if the handle is closed
        :raises KernelError: if owner or group, given now or before, are unknown in this user namespace (EINVAL)
        :raises NotFoundError: if there is no user or group of that name
        :raises ValueError: if an argument is out of range
        """
        self._handle.check()
        status = self._try(_calls.shm_stat, self.id)
        self._set(
            _calls.shm_set,
            _calls.shm_stat,
            status[1] if owner is None else _objects.user_id(owner),
            status[2] if group is None else _objects.group_id(group),
            status[5] if mode is None else check_mode(mode),
        )

    # Use

    @property
    def buffer(self) -> memoryview:
        """The memory: a new view of all of it, of unsigned bytes.

        A view can be used for as long as there is one, after `close` too.

        :raises ClosedError: if the handle is closed
        :raises RuntimeError: if it was inherited by a fork; views made before go on working
        """
        self._handle.check()
        return memoryview(self._memory)

    # Looking

    def statistics(self) -> SharedMemoryStatistics:
        """What the kernel knows: shmctl(2) with IPC_STAT.

        :raises AccessError: if owner and mode of the segment forbid to read it, by now
        :raises ClosedError: if the handle is closed
        """
        self._handle.check()
        _, uid, gid, cuid, cgid, mode, removed, size, attached, cpid, lpid, attached_at, detached_at, changed_at = (
            self._try(_calls.shm_stat, self.id)
        )
        return SharedMemoryStatistics(
            size=size,
            attached=attached,
            creator_pid=cpid,
            last_pid=lpid,
            attached_at=attached_at,
            detached_at=detached_at or None,
            changed_at=changed_at,
            owner=uid,
            group=gid,
            creator=cuid,
            creator_group=cgid,
            mode=mode,
            removed=removed,
        )


def _create(key: int, size: int, mode: int) -> tuple[int, _memory.Memory]:
    name = _objects.label(key)
    try:
        id = _calls.shmget(key, size, sysv_ipc.IPC_CREX | mode)
    except OSError as error:
        raise _explain_shmget(error, size, name) from None
    name = _objects.label(key, id)
    try:
        return id, _attach(id, name, read_only=False)[0]
    except NotFoundError:
        raise RemovedError(errno.EIDRM, "it was removed just now", name) from None
    except BaseException:
        with suppress(sysv_ipc.ExistentialError):
            sysv_ipc.remove_shared_memory(id)
        raise


def _find(key: int, *, read_only: bool) -> tuple[int, _memory.Memory]:
    name = _objects.label(key)
    try:
        id = _calls.shmget(key, 0, 0)
    except OSError as error:
        raise _explain_shmget(error, 0, name) from None
    memory, status = _attach(id, name, read_only=read_only)
    if status[6]:  # removed just now
        raise _objects.missing(_KIND, name)
    return id, memory


def _attach(id: int, name: str, *, read_only: bool) -> tuple[_memory.Memory, tuple[int, ...]]:
    """The memory of a segment, and what `shm_stat` says about it then."""
    try:
        return _memory.attach(id, read_only), _calls.shm_stat(id)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EIDRM):
            raise _objects.missing(_KIND, name) from None
        if error.errno == errno.EACCES:
            wanted = "read it" if read_only else "read and write it (read_only=True asks for less)"
            raise AccessError(
                errno.EACCES, f"owner and mode of the segment do not let user {os.geteuid()} {wanted}", name
            ) from None
        if error.errno == errno.ENOMEM:
            limit = _limits.explain_address_space()
            raise LimitError(errno.ENOMEM, f"no address space left: {limit}", name) from None
        raise _objects.explain(error, name) from None


def _explain_shmget(error: OSError, size: int, name: str) -> Error:
    if error.errno == errno.EEXIST:
        return _objects.exists(_KIND, name)
    if error.errno == errno.ENOENT:
        return _objects.missing(_KIND, name)
    if error.errno == errno.EINVAL:
        limit = _limits.explain_sysctl("kernel.shmmax")
        return LimitError(errno.EINVAL, f"a segment of {size:,} bytes is over {limit}", name)
    if error.errno == errno.ENOSPC:
        return LimitError(errno.ENOSPC, f"no room for {size:,} bytes: {_limits.explain_shm_segments()}", name)
    if error.errno == errno.ENOMEM:
        limit = _limits.explain_overcommit()
        return LimitError(errno.ENOMEM, f"the system does not promise {size:,} bytes under {limit}", name)
    return _objects.explain(error, name)
