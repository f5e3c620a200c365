"""The files of a channel: the shared memory, and two FIFOs beside it that are its doorbells."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import suppress
from typing import NamedTuple

from aioipc._ring import _binding
from aioipc._shm import DIRECTORY, explain, find, give_name, make, path_of
from aioipc.errors import AccessError, CorruptError, Error, ExistsError, NotFoundError


class Files(NamedTuple):
    """The open files of a channel."""

    memory: int
    messages: int
    locks: int
    """The memory, opened once more: a mapping would keep its locks alive in a child of a fork."""
    room: int


def create(name: str, capacity: int, mode: int, exist_ok: bool) -> tuple[Files, bool]:
    """Open a new channel, or the one of this name; and whether it is new."""
    path = path_of(name)
    while True:
        if not os.path.lexists(path):
            memory = make(name, _binding.file_size(capacity), mode)
            try:
                files = _name(name, memory, capacity, mode)
            except BaseException:
                os.close(memory)
                raise
            if files is not None:
                return files, True
            os.close(memory)  # the name was taken meanwhile
        elif exist_ok:
            with suppress(NotFoundError):  # removed just now
                return find_files(name), False
        else:
            raise ExistsError(
                errno.EEXIST,
                "something in shared memory has this name, perhaps a channel left by a program that was killed: "
                "open() it, or pass exist_ok=True to take it over",
                name,
            )


def _name(name: str, memory: int, capacity: int, mode: int) -> Files | None:
    """The files of a new channel with its name; None if something else has that."""
    bell_id = secrets.randbits(64)
    _binding.make_ring(memory, capacity, bell_id)
    paths = _doorbells(bell_id)
    files: Files | None = None
    try:
        # First what nobody knows of: who finds the channel finds it complete.
        for path in paths:
            os.mkfifo(path, mode)
        files = _open_all(name, memory, paths)
        if give_name(memory, name):
            return files
    except BaseException as error:
        _give_up(files, paths)
        if isinstance(error, OSError) and not isinstance(error, Error):
            raise explain(error, name) from None
        raise
    _give_up(files, paths)
    return None


def _give_up(files: Files | None, paths: tuple[str, str]) -> None:
    if files is not None:
        close(files[1:])
    _unlink(paths)


def find_files(name: str) -> Files:
    """Open the files of a channel that exists."""
    memory = find(name, "channel")
    try:
        bell_id = _identify(name, memory)
        try:
            return _open_all(name, memory, _doorbells(bell_id))
        except FileNotFoundError:
            if os.fstat(memory).st_nlink == 0:
                raise NotFoundError(errno.ENOENT, "the channel was removed just now", name) from None
            raise _corrupt(name, "its doorbells, two FIFOs, have been removed") from None
    except BaseException:
        os.close(memory)
        raise


def _identify(name: str, memory: int) -> int:
    if not stat.S_ISREG(os.fstat(memory).st_mode):
        raise _corrupt(name, "it is not a channel")
    result, bell_id, version = _binding.identify(memory)
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


def _open_all(name: str, memory: int, paths: tuple[str, str]) -> Files:
    """Open what is beside the memory, with descriptors in rising order: see _deaths.py."""
    opened: list[int] = []
    try:
        opened.append(_open_fifo(name, memory, paths[0]))
        for path in (f"/proc/self/fd/{memory}", paths[1]):
            is_fifo = path is paths[1]
            descriptor = _open_fifo(name, memory, path) if is_fifo else os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                opened.append(_duplicate(descriptor, opened[-1] + 1))
            finally:
                os.close(descriptor)
    except BaseException as error:
        close(opened)
        if isinstance(error, OSError) and not isinstance(error, (Error, FileNotFoundError)):
            raise explain(error, name) from None
        raise
    return Files(memory, *opened)


def _duplicate(descriptor: int, least: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError as error:
        if error.errno == errno.EINVAL:  # least is RLIMIT_NOFILE already
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
        raise


def _open_fifo(name: str, memory: int, path: str) -> int:
    # For both: it never lacks an other end.
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:
        text = f"owner and mode of a doorbell of the channel, {path}, do not let user {os.geteuid()} use it"
        raise AccessError(errno.EACCES, text, name) from None
    found = os.fstat(descriptor)
    if stat.S_ISFIFO(found.st_mode) and found.st_uid == os.fstat(memory).st_uid:
        return descriptor
    os.close(descriptor)
    raise _corrupt(name, f"a doorbell, {path}, is no FIFO of its owner's")


def close(descriptors: tuple[int, ...] | list[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


def unlink(name: str, identity: os.stat_result, bell_id: int) -> None:
    """Remove the files of a channel, if this is the one of that name.

    :raises NotFoundError: if it is not
    :raises AccessError: if it belongs to another user
    """
    path = path_of(name)
    try:
        if not os.path.samestat(os.lstat(path), identity):
            raise FileNotFoundError
        os.unlink(path)
    except FileNotFoundError:
        raise NotFoundError(errno.ENOENT, "the channel has been removed already", name) from None
    except PermissionError as error:
        raise AccessError(error.errno or errno.EACCES, "only its owner may remove this channel", name) from None
    _unlink(_doorbells(bell_id))


def _unlink(paths: tuple[str, str]) -> None:
    for path in paths:
        with suppress(OSError):
            os.unlink(path)


def _doorbells(bell_id: int) -> tuple[str, str]:
    return f"{DIRECTORY}/aioipc.{bell_id:016x}.messages", f"{DIRECTORY}/aioipc.{bell_id:016x}.room"
