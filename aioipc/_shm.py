"""Files in /dev/shm: what POSIX shared memory, and a channel in it, is to the kernel (shm_overview(7)).

A file is made there without a name (O_TMPFILE), and gets one when it is complete.  shm_open(3) names
it first: others can open it before it has any memory, and what a killed creator leaves is half an object.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Protocol

from aioipc import _limits
from aioipc.errors import AccessError, Error, ExistsError, KernelError, LimitError, NotFoundError, from_errno
from aioipc.posix._names import check_name
from aioipc.posix._removal import turn

DIRECTORY = _limits.SHM
SEMAPHORE_PREFIX = "sem."
"""What the C library puts before the name of a semaphore: sem_overview(7)."""
SEMAPHORE_SIZE = 32 if sys.maxsize > 2**32 else 16
"""What sizeof(sem_t) is, in glibc and musl."""
_LONGEST_NAME = 255  # bytes after the slash: NAME_MAX

_STEP = 16 * 2**20
"""How much memory is reserved at once."""


def path_of(name: str, prefix: str = "") -> str:
    """Where the object of this name is.

    :param prefix: what its file has before the name
    """
    return f"{DIRECTORY}/{prefix}{check_name(name, _LONGEST_NAME - len(prefix))[1:]}"


def make(name: str, size: int, mode: int) -> int:
    """A descriptor of a new object that has its size and its memory, but no name."""
    try:
        descriptor = os.open(DIRECTORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise no_file_system(name) from None
        if error.errno == errno.EACCES:
            raise may_not_create(name) from None
        raise explain(error, name) from None
    try:
        reserve(descriptor, 0, size, name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def no_file_system(name: str) -> KernelError:
    """There is no such directory."""
    return KernelError(errno.ENOENT, f"there is no shared-memory file system at {DIRECTORY}", name)


def may_not_create(name: str) -> AccessError:
    """The mode of the directory forbids it."""
    return AccessError(
        errno.EACCES, f"user {os.geteuid()} may not create anything in {DIRECTORY}: see `ls -ld {DIRECTORY}`", name
    )


def check_free(name: str, what: str) -> None:
    """Look whether a name is free, before an object is made for it.

    :raises ExistsError: if it is not
    """
    if os.path.lexists(path_of(name)):
        raise _exists(name, what)


def give_name(descriptor: int, name: str, what: str) -> None:
    """Give an object its name: as open(2) has it under O_TMPFILE.

    :raises ExistsError: if something has it
    """
    try:
        # The path is absolute and src_dir_fd not used; but without it os.link() does not follow the link.
        os.link(f"/proc/self/fd/{descriptor}", path_of(name), src_dir_fd=descriptor)
    except FileExistsError:
        raise _exists(name, what) from None
    except OSError as error:
        raise explain(error, name) from None


def _exists(name: str, what: str) -> ExistsError:
    return ExistsError(
        errno.EEXIST,
        f"something in shared memory has this name, perhaps a {what} left by a program that was killed: open() it, "
        "or pass exist_ok=True to take it over",
        name,
    )


def find(name: str, what: str, *, read_only: bool = False, hint: str = "") -> int:
    """A descriptor of an object that exists.

    :param what: what it is to be in the words of an error message
    :param hint: what else the caller could ask for
    """
    # As shm_open(3) does; and no waiting for the other end if somebody has put a FIFO there.
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path_of(name), flags)
    except FileNotFoundError:
        raise NotFoundError(
            errno.ENOENT, f"no {what} has this name here (a container has its own); create() makes it", name
        ) from None
    except PermissionError:
        wanted = "read it" if read_only else f"read and write it{hint}"
        raise AccessError(
            errno.EACCES, f"owner and mode of the {what} do not let user {os.geteuid()} {wanted}", name
        ) from None
    except OSError as error:
        raise explain(error, name) from None


class FileIdentity(Protocol):
    """What tells a file from all others that there are: a part of what fstat(2) tells."""

    @property
    def st_dev(self) -> int: ...
    @property
    def st_ino(self) -> int: ...


def unlink(name: str, what: str, identity: FileIdentity, *, prefix: str = "") -> None:
    """Take the name from an object.

    :param identity: that of the object
    :param prefix: what its file has before the name
    :raises NotFoundError: if it does not have the name
    :raises AccessError: if it belongs to another user
    """
    path = path_of(name, prefix)
    descriptor = _open_to_lock(path)
    try:
        with turn(descriptor):
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) != (identity.st_dev, identity.st_ino):
                raise FileNotFoundError
            os.unlink(path)
    except FileNotFoundError:
        raise NotFoundError(errno.ENOENT, f"the {what} has been removed already", name) from None
    except PermissionError as error:
        raise AccessError(error.errno or errno.EACCES, f"only its owner may remove this {what}", name) from None
    except OSError as error:
        raise explain(error, name) from None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_to_lock(path: str) -> int | None:
    """A descriptor of what is to be removed; None if it may not be read, or no descriptor is left: neither takes it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None


def reserve(descriptor: int, begin: int, end: int, name: str) -> None:
    """Let an object reach this far, and have the memory: else a write could end the process (SIGBUS)."""
    room = _limits.room_of(descriptor)
    # Else it would be filled in vain.
    if room is not None and room.f_blocks > 0 and end - begin > room.f_bavail * room.f_frsize:
        raise _no_room(end, name)
    try:
        # In steps, between which Ctrl-C is heard.  Older kernels undo a whole call for a signal: beside a
        # timer a long one would never end.
        for place in range(begin, end, _STEP):
            os.posix_fallocate(descriptor, place, min(_STEP, end - place))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            cut_back(descriptor, begin, end)
            raise _no_room(end, name) from None
        raise explain(error, name) from None


def cut_back(descriptor: int, begin: int, end: int) -> None:
    """Undo `reserve`, also one that came to no end; not if the size is another's, who has changed it meanwhile."""
    added = os.fstat(descriptor).st_size - begin
    if added == end - begin or (0 < added < end - begin and added % _STEP == 0):
        os.ftruncate(descriptor, begin)


def _no_room(size: int, name: str) -> LimitError:
    return LimitError(errno.ENOSPC, f"no room for {size:,} bytes in {_limits.explain_shm_room()}", name)


def explain(error: OSError, name: str) -> Error:
    number = error.errno or 0
    if number == errno.ENOSPC:
        return LimitError(number, _limits.explain_new_shm_file(), name)
    if number == errno.EFBIG:
        return LimitError(number, f"larger than a file may be: {_limits.explain_file_size()}", name)
    return from_errno(number, name)
