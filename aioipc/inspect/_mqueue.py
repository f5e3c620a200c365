"""POSIX message queues: the mqueue file system, where it is mounted, and mq_open(3) for what a file does not say."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from aioipc.errors import AccessError, Error, NotFoundError
from aioipc.inspect._records import FileIdentity, PosixMessageQueue
from aioipc.posix.message_queue import MessageQueue

MOUNT_COMMAND = "mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue"


def mount_points() -> list[str]:
    """Where mqueue file systems are mounted: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = [line.split() for line in file]
    # "25 24 0:20 / /dev/mqueue rw - mqueue none rw": what stands before the dash varies in number.
    return [_decode(mount[4]) for mount in mounts if mount[mount.index(b"-") + 1] == b"mqueue"]


def _decode(path: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path))


def message_queues() -> Iterator[PosixMessageQueue]:
    """All queues.

    :raises NotFoundError: if there is no mqueue file system where they could be listed
    """
    folders = mount_points()
    if not folders:
        raise _not_listed("no mqueue file system is mounted, which lists the queues")
    foreign = 0
    seen = set()
    for folder in folders:
        for name in _listdir(folder):
            path = f"{folder}/{name}"
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                found = _find(f"/{name}", status)
                if found is None and os.path.samestat(os.lstat(path), status):
                    foreign += 1
                    break
                if found is not None and found.identity not in seen:
                    seen.add(found.identity)
                    yield found
    if foreign == len(folders):
        raise _not_listed(f"the mqueue file system at {folders[0]} lists the queues of another IPC namespace")


def _not_listed(reason: str) -> NotFoundError:
    return NotFoundError(errno.ENOENT, f"{reason}: `{MOUNT_COMMAND}` as root", "mqueue")


def _listdir(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (PermissionError, FileNotFoundError, NotADirectoryError):  # it may not be read, or another mount hides it
        return []


def find_message_queue(name: str) -> PosixMessageQueue:
    """The queue of this name.

    :raises NotFoundError: if there is none
    :raises AccessError: if it can't be opened, and no mqueue file system is mounted
    """
    found = None
    for folder in mount_points():
        with suppress(OSError):
            found = found or _find(name, os.lstat(folder + name))
    found = found or _find(name, None)
    if found is None:
        raise NotFoundError(errno.ENOENT, "no queue has this name here (a container has its own queues)", name)
    return found


def _find(name: str, status: os.stat_result | None) -> PosixMessageQueue | None:
    """What is known of a queue; None if the name does not stand for it.

    :param status: what lstat(2) says of its file, where there is one
    """
    try:
        queue = _open(name)
    except NotFoundError:
        return None
    except Error:
        if status is None:
            raise
        return _record(name, status)
    with queue:
        opened = os.fstat(queue.fileno())
        if status is not None and not os.path.samestat(status, opened):
            return None
        found = queue.statistics()
    return _record(
        name, opened, found.messages, found.bytes, found.max_messages, found.max_message_size, found.notify_pid
    )


def _open(name: str) -> MessageQueue:
    try:
        return MessageQueue.open(name, write=False)
    except AccessError:
        return MessageQueue.open(name, read=False)


def _record(
    name: str,
    status: os.stat_result,
    messages: int | None = None,
    size: int | None = None,
    max_messages: int | None = None,
    max_message_size: int | None = None,
    notify_pid: int | None = None,
) -> PosixMessageQueue:
    return PosixMessageQueue(
        owner=status.st_uid,
        group=status.st_gid,
        mode=status.st_mode & 0o777,
        changed_at=status.st_mtime,
        identity=FileIdentity(status.st_dev, status.st_ino),
        name=name,
        messages=messages,
        bytes=size,
        max_messages=max_messages,
        max_message_size=max_message_size,
        notify_pid=notify_pid,
    )
