"""The limits of the system and of this user, and how much of them is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from aioipc import _limits
from aioipc._shm import DIRECTORY
from aioipc.inspect._addresses import Kind
from aioipc.inspect._finding import Listing, look
from aioipc.inspect._records import Object, PosixMessageQueue, SysvMessageQueue, SysvSemaphoreSet, SysvSharedMemory

_Object = TypeVar("_Object", bound=Object)

_INT_MAX = 2**31 - 1
_LONG_MAX = 2**63 - 1
_OBJECTS_MAX = 2**15
"""How many System V objects of a kind there can be, whatever the parameters say: IPCMNI."""


class Limit(NamedTuple):
    """A limit, and how near it is."""

    name: str
    """What it is called, such as fs.mqueue.queues_max."""
    bounds: str
    """What it bounds, in words."""
    value: int | None
    """Its value now; None for no limit."""
    used: int | None
    """How much of it is used; None where it bounds each object by itself, or nobody tells."""
    command: str | None
    """What doubles it, or takes it to the most that the kernel allows; None if it is that already."""


def limits() -> list[Limit]:
    """The limits of IPC objects, and their use.

    Those that can't be read here are left out.  What is used counts the objects that can be listed.
    """
    found = look()
    return [*_of_posix_queues(found), *_of_sysv_objects(found), *_of_shared_memory()]


def _of_posix_queues(found: Listing) -> Iterator[Limit]:
    queues = _only(PosixMessageQueue, found)
    used = _if_listed(len(queues), "mq", found)
    yield from _sysctl("fs.mqueue.queues_max", "POSIX message queues", _INT_MAX, used)
    yield from _sysctl("fs.mqueue.msg_max", "messages in a POSIX queue", 65536)
    yield from _sysctl("fs.mqueue.msgsize_max", "bytes in a message of a POSIX queue", 16 * 2**20)
    user = os.getuid()
    own = [(queue.max_messages, queue.max_message_size) for queue in queues if queue.owner == user]
    sizes = [_limits.message_queue_bytes(count, size) for count, size in own if count is not None and size is not None]
    yield _limit(
        "RLIMIT_MSGQUEUE",
        "bytes of all POSIX queues that this user created, full or not",
        _limits.rlimit_msgqueue(),
        _LONG_MAX,
        _limits.set_rlimit_msgqueue,
        _if_listed(sum(sizes), "mq", found) if len(sizes) == len(own) else None,
    )


def _of_sysv_objects(found: Listing) -> Iterator[Limit]:
    queues = _if_listed(len(_only(SysvMessageQueue, found)), "msg", found)
    yield from _sysctl("kernel.msgmni", "System V message queues", _OBJECTS_MAX, queues)
    yield from _sysctl("kernel.msgmnb", "bytes in a new System V queue", _INT_MAX)
    yield from _sysctl("kernel.msgmax", "bytes in a message of a System V queue", _INT_MAX)
    yield from _kernel_sem(found)
    segments = _only(SysvSharedMemory, found)
    used = _if_listed(len(segments), "segment", found)
    yield from _sysctl("kernel.shmmni", "System V segments", _OBJECTS_MAX, used)
    yield from _sysctl("kernel.shmmax", "bytes in a System V segment", _LONG_MAX)
    page = os.sysconf("SC_PAGE_SIZE")
    pages = _if_listed(sum(-(-segment.size // page) for segment in segments), "segment", found)
    yield from _sysctl("kernel.shmall", f"pages of {page:,} bytes in all System V segments", _LONG_MAX, pages)


def _kernel_sem(found: Listing) -> Iterator[Limit]:
    values = _limits.kernel_sem()
    if values is None:
        return
    sets = _only(SysvSemaphoreSet, found)
    bounds = (
        ("semaphores in a System V set", 65536, None),
        ("semaphores in all System V sets", _INT_MAX, _if_listed(sum(each.size for each in sets), "semset", found)),
        ("operations on a System V set at once", _INT_MAX, None),
        ("System V semaphore sets", _OBJECTS_MAX, _if_listed(len(sets), "semset", found)),
    )
    for place, (what, highest, used) in enumerate(bounds):

        def command(value: int, place: int = place) -> str:
            return _limits.set_kernel_sem([*values[:place], value, *values[place + 1 :]])

        yield _limit(f"kernel.sem {_limits.KERNEL_SEM[place]}", what, values[place], highest, command, used)


def _of_shared_memory() -> Iterator[Limit]:
    room = _limits.room_of(DIRECTORY)
    if room is None:
        return
    yield _limit(
        f"{DIRECTORY} size",
        "bytes of channels, POSIX semaphores and shared memory",
        room.f_blocks * room.f_frsize or None,
        _LONG_MAX,
        lambda value: _limits.remount_shm("size", value),
        (room.f_blocks - room.f_bfree) * room.f_frsize,
    )
    yield _limit(
        f"{DIRECTORY} files",
        "files of these; a channel has three",
        room.f_files or None,
        _LONG_MAX,
        lambda value: _limits.remount_shm("nr_inodes", value),
        room.f_files - room.f_ffree,
    )


def _sysctl(name: str, bounds: str, highest: int, used: int | None = None) -> Iterator[Limit]:
    value = _limits.sysctl(name)
    if value is not None:
        yield _limit(name, bounds, value, highest, lambda number: _limits.set_sysctl(name, number), used)


def _limit(
    name: str, bounds: str, value: int | None, highest: int, command: Callable[[int], str], used: int | None
) -> Limit:
    if value is not None and value >= _LONG_MAX:  # as good as none
        value = None
    doubled = None if value is None or value >= highest else command(min(2 * value, highest))
    return Limit(name, bounds, value, used, doubled)


def _if_listed(used: int, kind: Kind, found: Listing) -> int | None:
    """How much is used by the objects of a kind, if they could be listed."""
    return None if any(gap.kind == kind for gap in found.gaps) else used


def _only(kind: type[_Object], found: Listing) -> list[_Object]:
    return [each for each in found.objects if isinstance(each, kind)]
