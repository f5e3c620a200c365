"""The files of a channel: the shared memory, and two FIFOs beside it that are its doorbells."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from typing import NamedTuple

from aioipc import _shm
from aioipc._lifetime import create_or_find
from aioipc._ring import _binding
from aioipc._shm import DIRECTORY, FileIdentity, check_free, explain, find, give_name, make, path_of
from aioipc.errors import AccessError, CorruptError, Error, KernelError, NotFoundError, from_errno

_KIND = "channel"

_OTHER_KIND = "it is not a channel, but another kind of file"
_OTHER_KINDS = {errno.EISDIR, errno.ELOOP, errno.ENXIO}
"""What open(2) says, as it is called here, of a directory, a symbolic link, a socket."""


class Files(NamedTuple):
    """The open files of a channel."""

    memory: int
    messages: int
    locks: int
    """The memory, opened once more: a mapping would keep its locks alive in a child of a fork."""
    room: int
    bell_id: int
    """That by which the doorbells are named."""

    @property
    def descriptors(self) -> tuple[int, int, int, int]:
        return self[:4]


def create(name: str, capacity: int, mode: int, exist_ok: bool) -> tuple[Files, bool]:
    """Open a new channel, or the one of this name; also whether it is new."""
    return create_or_find(lambda: _create(name, capacity, mode), lambda: find_files(name), exist_ok)


def _create(name: str, capacity: int, mode: int) -> Files:
    check_free(name, _KIND)
    memory = make(name, _binding.file_size(capacity), mode)
    try:
        return _complete(name, memory, capacity, mode)
    except BaseException:
        os.close(memory)
        raise


def _complete(name: str, memory: int, capacity: int, mode: int) -> Files:
    bell_id = secrets.randbits(64)
    paths = _doorbells(bell_id)
    files: Files | None = None
    try:
        _binding.make_ring(memory, capacity, bell_id)
        # First what nobody knows of: who finds the channel finds it complete.
        for path in paths:
            os.mkfifo(path, mode)
        files = _open_all(name, memory, bell_id)
        give_name(memory, name, _KIND)
    except BaseException as error:
        if files is not None:
            close(files.descriptors[1:])
        _unlink(paths)
        if isinstance(error, OSError) and not isinstance(error, Error):
            raise explain(error, name) from None
        raise
    return files


def find_files(name: str) -> Files:
    """Open the files of a channel that exists."""
    try:
        memory = find(name, _KIND)
    except KernelError as error:
        if error.errno in _OTHER_KINDS:
            raise _corrupt(name, _OTHER_KIND) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(memory).st_mode):
            raise _corrupt(name, _OTHER_KIND)
        bell_id = _identify(name, memory)
        try:
            return _open_all(name, memory, bell_id)
        except FileNotFoundError:
            if os.fstat(memory).st_nlink == 0:
                raise NotFoundError(errno.ENOENT, "the channel was removed just now", name) from None
            raise _corrupt(name, "its doorbells, two FIFOs, have been removed") from None
    except BaseException:
        os.close(memory)
        raise


def _identify(name: str, memory: int) -> int:
    try:
        result, bell_id, version = _binding.identify(memory)
    except OSError as error:
        raise explain(error, name) from None
    if result == _binding.OK:
        return bell_id
    size = os.fstat(memory).st_size
    reasons = {
        _binding.SHORT: f"it is too short, {size:,} bytes: it was truncated, or is no channel",
        _binding.FOREIGN: "it is not a channel",
        _binding.OTHER_VERSION: f"it has version {version} of the format; this aioipc reads version 1",
        _binding.OTHER_ABI: "it was made for another byte order or ABI",
        _binding.CORRUPT: "what its header says can't be right",
    }
    raise _corrupt(name, reasons[result])


def _corrupt(name: str, reason: str) -> CorruptError:
    return CorruptError(errno.EUCLEAN, f"{reason}; to remove it: `rm {path_of(name)}`", name)


def _open_all(name: str, memory: int, bell_id: int) -> Files:
    """Open what is beside the memory, with descriptors in rising order: see _deaths.py."""
    paths = _doorbells(bell_id)
    opened: list[int] = []
    try:
        opened.append(_open_fifo(name, memory, paths[0]))
        for path in (f"/proc/self/fd/{memory}", paths[1]):
            is_fifo = path is paths[1]
            descriptor = _open_fifo(name, memory, path) if is_fifo else os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                opened.append(_above(descriptor, opened[-1]))
            finally:
                os.close(descriptor)
    except OSError as error:
        close(opened)
        raise error if isinstance(error, (Error, FileNotFoundError)) else explain(error, name) from None
    messages, locks, room = opened
    return Files(memory, messages, locks, room, bell_id)


def _above(descriptor: int, lowest: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest + 1)
    except OSError as error:
        if error.errno == errno.EINVAL:  # there can't be one
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
        raise


def _open_fifo(name: str, memory: int, path: str) -> int:
    # For both: it never lacks an other end.
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:
        text = f"owner and mode of a doorbell of the channel, {path}, do not let user {os.geteuid()} use it"
        raise AccessError(errno.EACCES, text, name) from None
    except OSError as error:
        if error.errno not in _OTHER_KINDS:
            raise
    else:
        found = os.fstat(descriptor)
        if stat.S_ISFIFO(found.st_mode) and found.st_uid == os.fstat(memory).st_uid:
            return descriptor
        os.close(descriptor)
    raise _corrupt(name, f"a doorbell, {path}, is no FIFO of its owner's")


def close(descriptors: tuple[int, ...] | list[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def unlink(name: str, identity: FileIdentity, bell_id: int, owner: int) -> None:
    """Remove the files of a channel, if this is the one of that name.

    :param bell_id: what the channel says that its doorbells are called
    :raises NotFoundError: if it is not
    :raises AccessError: if it belongs to another user
    """
    try:
        _shm.unlink(name, _KIND, identity)
    except NotFoundError:
        # Somebody has removed the name alone, as `rm` does: nobody can find the channel any more.
        _unlink(_doorbells(bell_id), owner)
        raise
    for error in _unlink(_doorbells(bell_id), owner):
        if not isinstance(error, FileNotFoundError):
            raise from_errno(error.errno or 0, error.filename) from None


def _unlink(paths: tuple[str, str], owner: int | None = None) -> list[OSError]:
    """Remove doorbells; the errors of those that stay.

    :param owner: leave alone those of others than this user: who has written the channel may have named them
    """
    errors = []
    for path in paths:
        try:
            if owner is None or os.lstat(path).st_uid == owner:
                os.unlink(path)
        except OSError as error:
            errors.append(error)
    return errors


def _doorbells(bell_id: int) -> tuple[str, str]:
    return f"{DIRECTORY}/aioipc.{bell_id:016x}.messages", f"{DIRECTORY}/aioipc.{bell_id:016x}.room"
