"""POSIX shared memory: shm_open(3), shm_unlink(3), mmap(2), shm_overview(7).

An object is a file of the memory file system at /dev/shm: see aioipc/_shm.py.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from aioipc import _limits, _memory
from aioipc._arguments import check_mode, check_range
from aioipc._lifetime import Lifetime, create_or_find
from aioipc._shm import check_free, cut_back, explain, find, give_name, make, path_of, reserve, unlink
from aioipc._waiting.handle import Handle
from aioipc.errors import AccessError, KernelError, LimitError

if TYPE_CHECKING:
    from typing import Self

_KIND = "shared memory segment"

_HALF_MADE_SECONDS = 0.1
"""How long an opener waits for a creator to set the size.  That takes a C program some microseconds."""


class SharedMemoryStatistics(NamedTuple):
    """What `SharedMemory.statistics` found, all at one moment."""

    size: int
    """Bytes that the object has now; not those of `buffer` if another program has changed it."""
    reserved: int
    """Bytes of memory that it takes up, whole pages; less than the size where nobody has written to what was not
    reserved."""
    owner: int
    """User id of the owner."""
    group: int
    """Group id of the owner."""
    mode: int
    """Permission bits, such as 0o600."""
    changed_at: float
    """When it was created, or its size, name, owner or mode changed: seconds since the epoch."""
    removed: bool
    """Whether it has no name any more, and goes when nobody has it open."""


class SharedMemory(Lifetime):
    """A handle of a POSIX shared memory object.  Make one with `create` or `open`.

    What one process writes to `buffer`, all others see.  Nothing keeps them from doing so at the
    same time: use a semaphore for that.

    A handle belongs to the process that opened it.  It is not thread-safe.
    """

    name: str
    """With its leading slash."""
    size: int
    """Bytes in `buffer`."""

    def __init__(self, name: str, descriptor: int, memory: _memory.Memory, *, read_only: bool, remove: bool) -> None:
        """Not for use: see `create` and `open`."""
        self.name = name
        self.size = memory.size
        self._label = repr(name)
        self._removes = remove
        self._read_only = read_only
        self._descriptor = descriptor
        self._identity = os.fstat(descriptor)
        self._memory = memory
        self._mapped = WeakSet([memory])
        """All that is mapped: this, and what was before a `resize` and has views still."""
        self._handle = Handle(f"shared memory {name}")

    # Lifetime

    @classmethod
    def create(cls, name: str, *, size: int, mode: int = 0o600, exist_ok: bool = False, persist: bool = False) -> Self:
        """Create an object, of zeros, and open it for reading and writing: as shm_open(3) with O_CREAT, and mmap(2).

        It gets a name when it is complete: who can open it sees its whole size.  All of its memory is
        reserved now, which takes about a third of a second for each GiB.

        Leaving the `with` block removes the object from the system again, also one that
        was taken over, unless `persist` is true.  Programs that have it open go on using it until they close it.

        :param name: a slash and 1 to 255 bytes without another slash
        :param size: how many bytes, at least 1; the kernel gives whole pages, `buffer` has what is asked for
        :param mode: permission bits, less those of the process's umask: 0o600 means nobody but this user
        :param exist_ok: take over the object that exists if it has at least this size, all of it, with its
            contents and mode as they are
        :param persist: leave the object in the system
        :raises ExistsError: if the name is taken and `exist_ok` is false
        :raises AccessError: if the name is taken and its mode forbids to take it over, or that of /dev/shm to create it
        :raises LimitError: if the shared-memory file system, or the process, has no room for it
        :raises ValueError: if an argument can't be right, or the object to take over is smaller
        """
        check_range("size", size, 1, sys.maxsize)
        check_mode(mode)
        (descriptor, memory), is_new = create_or_find(
            lambda: _create(name, size, mode),
            lambda: _find(name, read_only=False, at_least=size),
            exist_ok,
        )
        return cls._make(name, descriptor, memory, read_only=False, remove=not persist, is_new=is_new)

    @classmethod
    def open(cls, name: str, *, read_only: bool = False) -> Self:
        """Open an object that exists, whoever made it: shm_open(3), mmap(2).

        If its creator is another program and just about to set its size, this waits for it, 0.1 s at most, in
        which the event loop stands still.

        :param name: a slash and 1 to 255 bytes without another slash
        :param read_only: ask for the right to read only; nothing can be written to `buffer`
        :raises NotFoundError: if there is none of that name
        :raises AccessError: if its mode and owner forbid it
        :raises KernelError: if it has no memory, as its creator did not set its size (EINVAL)
        :raises LimitError: if the process has no descriptor or address space left
        :raises ValueError: if the name can't be right
        """
        descriptor, memory = _find(name, read_only=read_only)
        return cls._make(name, descriptor, memory, read_only=read_only, remove=False)

    def close(self) -> None:
        """Close the handle: close(2), munmap(2).

        The memory stays in this process until the last view of `buffer` is gone, a memoryview or an array; they
        can be used until then.  The object stays in the system, with its contents: leaving the
        `with` block removes it, and so does `unlink`.  May be called again.
        """
        if not self._handle.closed:
            self._handle.closed = True
            del self._memory
            os.close(self._descriptor)

    def unlink(self) -> None:
        """Remove the object from the system: shm_unlink(3).  Works on a closed handle too.

        Its name is free at once; those that have it open, this handle as well, go on.  An
        object that somebody else has made under the name in the meantime is left alone.

        While some program keeps a lock of it (flock(2)), this waits for it, 0.25 s at most, in which the event
        loop stands still.

        :raises NotFoundError: if this object is not to be found under its name any more
        :raises AccessError: if it belongs to another user
        :raises RuntimeError: if it was inherited by a fork
        """
        self._handle.check_process()
        unlink(self.name, _KIND, self._identity)

    _remove_object = unlink

    # Use

    @property
    def buffer(self) -> memoryview:
        """The memory: a new view of all of it, of unsigned bytes.

        A view can be used for as long as there is one, after `resize` and `close` too.

        :raises ClosedError: if the handle is closed
        :raises RuntimeError: if it was inherited by a fork; views made before go on working
        """
        self._handle.check()
        return memoryview(self._memory)

    def resize(self, size: int) -> None:
        """Change the size of the object, keeping its contents: ftruncate(2), posix_fallocate(3), mmap(2).

        New memory is zeros, and reserved as by `create`.  Views that are out stay as they are and show the
        same memory; `buffer` makes new ones of the new size.  Other handles, in this process and others, keep the
        size that they had when they were opened; `resize(statistics().size)` follows a change that another has made.
        That is for when nobody resizes it at that moment: else the size can be old, and cut what another has added.
        Whoever touches memory that a smaller size has taken away is killed by the kernel (SIGBUS), so make it smaller
        only if nobody else has it open.

        :raises AccessError: if the handle is read-only
        :raises BufferError: if views of this handle are out that would lose memory
        :raises ClosedError: if the handle is closed
        :raises LimitError: if the shared-memory file system, or the process, has no room for it; the size is as it was
        :raises ValueError: if the size is less than 1 or more than an address can be
        """
        check_range("size", size, 1, sys.maxsize)
        self._handle.check()
        if self._read_only:
            raise AccessError(errno.EBADF, "the handle was opened with read_only=True", self.name)
        before = os.fstat(self._descriptor).st_size
        if size < before and any(memory.views and memory.size > size for memory in self._mapped):
            raise BufferError(
                f"views of shared memory {self.name} are out, and would lose what is beyond {size:,} bytes: release "
                "memoryviews and drop arrays made of them first"
            )
        if size > before:
            try:
                reserve(self._descriptor, before, size, self.name)
                memory = _map(self._descriptor, size, False, self.name)
            except BaseException:
                cut_back(self._descriptor, before, size)
                raise
        else:
            memory = _map(self._descriptor, size, False, self.name)
            if size < before:  # else it may be larger by now, by another's doing
                os.ftruncate(self._descriptor, size)
        self._memory = memory
        self._mapped.add(memory)
        self.size = size

    # Looking

    def statistics(self) -> SharedMemoryStatistics:
        """What the kernel knows: fstat(2).

        :raises ClosedError: if the handle is closed
        """
        self._handle.check()
        status = os.fstat(self._descriptor)
        return SharedMemoryStatistics(
            size=status.st_size,
            reserved=status.st_blocks * 512,
            owner=status.st_uid,
            group=status.st_gid,
            mode=status.st_mode & 0o777,
            changed_at=status.st_ctime,
            removed=status.st_nlink == 0,
        )


def _create(name: str, size: int, mode: int) -> tuple[int, _memory.Memory]:
    check_free(name, _KIND)
    descriptor = make(name, size, mode)
    try:
        memory = _map(descriptor, size, False, name)
        give_name(descriptor, name, _KIND)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, memory


def _find(name: str, *, read_only: bool, at_least: int = 0) -> tuple[int, _memory.Memory]:
    descriptor = find(name, _KIND, read_only=read_only, hint=" (read_only=True asks for less)")
    try:
        size = _size_when_made(descriptor)
        if size < at_least:
            raise ValueError(f"shared memory {name} exists and has {size:,} bytes, fewer than {at_least:,}")
        return descriptor, _map(descriptor, size, read_only, name)
    except BaseException:
        os.close(descriptor)
        raise


def _size_when_made(descriptor: int) -> int:
    """The size of an object, once its creator has set it; 0 if it does not."""
    deadline = time.monotonic() + _HALF_MADE_SECONDS
    while True:
        status = os.fstat(descriptor)
        if status.st_size or status.st_ctime < time.time() - 2 or time.monotonic() > deadline:
            return status.st_size
        time.sleep(0.0002)


def _map(descriptor: int, size: int, read_only: bool, name: str) -> _memory.Memory:
    if size == 0:
        raise KernelError(
            errno.EINVAL,
            "it has no memory: who created it has not set its size, and may have been killed; to remove it: "
            f"`rm {path_of(name)}`",
            name,
        )
    try:
        return _memory.map(descriptor, size, read_only)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise LimitError(
                errno.ENOMEM, f"no address space for {size:,} bytes: {_limits.explain_address_space()}", name
            ) from None
        raise explain(error, name) from None
