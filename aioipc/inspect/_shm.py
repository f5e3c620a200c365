"""What lies in /dev/shm: semaphores, shared memory, channels, and the doorbells that channels have left."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aioipc._ring import _binding
from aioipc._shm import DIRECTORY, SEMAPHORE_PREFIX, SEMAPHORE_SIZE
from aioipc.errors import NotFoundError, from_errno
from aioipc.inspect._records import Channel, Doorbell, FileIdentity, Named, PosixSemaphore, PosixSharedMemory

MOUNT_COMMAND = f"mkdir -p {DIRECTORY} && mount -t tmpfs -o mode=1777 none {DIRECTORY}"

_DOORBELL = re.compile(r"aioipc\.([0-9a-f]{16})\.(?:messages|room)")

_HAS_WIDE_SEMAPHORES = sys.maxsize > 2**32

_SECONDS_TO_CREATE = 60
"""Younger doorbells may belong to a channel that is being created.  That takes it some microseconds."""

_FAULTS = {
    _binding.SHORT: "it was truncated",
    _binding.OTHER_VERSION: "it has another version of the format",
    _binding.OTHER_ABI: "it was made for another byte order or ABI",
    _binding.CORRUPT: "what its header or its records say can't be right",
}

_INSIDE = ("capacity", "messages", "bytes", "sent", "senders", "receivers", "peers", "dead_peers", "ended")
"""The fields of a channel that are known if nothing is wrong with it."""


def shared_memory_objects() -> Iterator[Named]:
    """All semaphores, shared memory objects and channels.

    :raises NotFoundError: if there is no /dev/shm
    """
    for name in sorted(_listdir()):
        with suppress(FileNotFoundError):
            found = _find(name)
            if found is not None:
                yield found


def find_semaphore(name: str) -> PosixSemaphore:
    """The semaphore of this name.

    :raises NotFoundError: if there is none
    """
    found = _find_named(SEMAPHORE_PREFIX + name[1:])
    if not isinstance(found, PosixSemaphore):
        raise _missing("semaphore", name)
    return found


def find_shared_memory(name: str) -> PosixSharedMemory:
    """The shared memory or the channel of this name.

    :raises NotFoundError: if there is none
    """
    found = _find_named(name[1:])
    if not isinstance(found, PosixSharedMemory):
        raise _missing("shared memory", name)
    return found


def orphans() -> list[Doorbell]:
    """See orphans() of _finding.py."""
    # The doorbells first: of a channel that is created meanwhile, both or none are seen.
    with suppress(NotFoundError):
        bells = [bell for name in sorted(_listdir()) if (bell := _find_doorbell(name)) is not None]
        owners = {bell.owner for _, bell in bells}
        known, doubtful = _channel_ids(owners)
        return [bell for id, bell in bells if id not in known and bell.owner not in doubtful and _is_abandoned(bell)]
    return []


def find_doorbell(name: str) -> Doorbell:
    """The doorbell of this name, if its channel is gone.

    :raises NotFoundError: if it is not, or there is none
    """
    for bell in orphans():
        if bell.name == name:
            return bell
    raise NotFoundError(errno.ENOENT, "there is no such doorbell, or it may be in use", name)


def _listdir() -> list[str]:
    try:
        return os.listdir(DIRECTORY)
    except FileNotFoundError:
        raise NotFoundError(errno.ENOENT, "there is no shared-memory file system", DIRECTORY) from None


def _missing(what: str, name: str) -> NotFoundError:
    return NotFoundError(errno.ENOENT, f"no {what} has this name here (a container has its own)", name)


def _find_named(file: str) -> Named | None:
    try:
        return _find(file)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
            raise
    return None


def _find(file: str) -> Named | None:
    """What is known of the object that is this file; None if it is none.

    :raises FileNotFoundError: if it was removed
    :raises Error: if it can't be opened or read for a reason of the system: it might be anything
    """
    path = f"{DIRECTORY}/{file}"
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    try:
        # It may be another one by now, also a FIFO, whose other end is not to be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise from_errno(error.errno, "/" + file) from None
        return _record(file, status, None)
    try:
        status = os.fstat(descriptor)
        return _record(file, status, descriptor) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise from_errno(error.errno or 0, "/" + file) from None
    finally:
        os.close(descriptor)


def _record(file: str, status: os.stat_result, descriptor: int | None) -> Named:
    common = _common(status)
    if file.startswith(SEMAPHORE_PREFIX) and file != SEMAPHORE_PREFIX:
        value, waiting = _look_at_semaphore(status, descriptor)
        return PosixSemaphore(**common, name="/" + file.removeprefix(SEMAPHORE_PREFIX), value=value, waiting=waiting)
    common |= {"name": "/" + file, "size": status.st_size, "reserved": status.st_blocks * 512}
    channel = None if descriptor is None else _look_at_channel(descriptor)
    return PosixSharedMemory(**common) if channel is None else Channel(**common, **channel)


def _common(status: os.stat_result) -> dict[str, Any]:
    return {
        "owner": status.st_uid,
        "group": status.st_gid,
        "mode": status.st_mode & 0o777,
        "changed_at": status.st_ctime,
        "identity": FileIdentity(status.st_dev, status.st_ino),
    }


def _look_at_semaphore(status: os.stat_result, descriptor: int | None) -> tuple[int | None, int | None]:
    """Its value, and how many threads wait: the two halves of what a sem_t of the C library begins with."""
    if descriptor is None or status.st_size != SEMAPHORE_SIZE or not _HAS_WIDE_SEMAPHORES:
        return None, None
    begin = os.pread(descriptor, 8, 0)
    if len(begin) < 8:
        return None, None
    (number,) = struct.unpack("=Q", begin)
    return number & 0xFFFFFFFF, number >> 32


def _look_at_channel(descriptor: int) -> dict[str, Any] | None:
    """What is known of a channel; None if it is none."""
    result, bell_id, capacity, messages, size, sent, senders, receivers, peers, dead, ended = _binding.peek(descriptor)
    if result == _binding.FOREIGN:
        return None
    if result not in (_binding.OK, _binding.BUSY):
        return {"fault": _FAULTS[result], "bell_id": bell_id or None, **dict.fromkeys(_INSIDE)}
    is_counted = result == _binding.OK
    inside = (
        capacity,
        messages if is_counted else None,
        size if is_counted else None,
        sent if is_counted else None,
        senders,
        receivers,
        peers,
        dead,
        ended,
    )
    return {"fault": None, "bell_id": bell_id, **dict(zip(_INSIDE, inside, strict=True))}


def _find_doorbell(file: str) -> tuple[int, Doorbell] | None:
    match = _DOORBELL.fullmatch(file)
    if match is None:
        return None
    try:
        status = os.lstat(f"{DIRECTORY}/{file}")
    except FileNotFoundError:
        return None
    if not stat.S_ISFIFO(status.st_mode):
        return None
    return int(match[1], 16), Doorbell(**_common(status), name="/" + file)


def _channel_ids(owners: set[int]) -> tuple[set[int], set[int]]:
    """The ids of all channels, and those of these owners who have something that might be one."""
    known, doubtful = set(), set()
    for name in _listdir():
        path = f"{DIRECTORY}/{name}"
        with suppress(FileNotFoundError):
            status = os.lstat(path)
            if status.st_uid not in owners or not stat.S_ISREG(status.st_mode):
                continue
            found = _find(name)
            if isinstance(found, Channel) and found.bell_id is not None:
                known.add(found.bell_id)
            elif isinstance(found, Channel) or not os.access(path, os.R_OK, effective_ids=True):
                doubtful.add(status.st_uid)
    return known, doubtful


def _is_abandoned(bell: Doorbell) -> bool:
    if bell.changed_at > time.time() - _SECONDS_TO_CREATE:
        return False
    try:
        # As a writer alone: that is refused where nobody has it open for reading, as every peer has.
        os.close(os.open(DIRECTORY + bell.name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False
