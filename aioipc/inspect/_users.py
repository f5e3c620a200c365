"""Which processes use an object, as far as /proc tells: proc_pid_fd(5), proc_pid_maps(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from aioipc.errors import from_errno
from aioipc.inspect._records import Channel, Keyed, Named, Object, SysvMessageQueue, SysvSemaphoreSet, SysvSharedMemory

# "7f0c5a000000-7f0c5a001000 rw-s 00000000 00:17 42   /dev/shm/table", "... /SYSV00000014 (deleted)".
_MAPPING = re.compile(rb"\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) +(/.*)")

_OTHERS = 0o077

_WAITING = {"do_msgrcv", "do_msgsnd"}
"""Where in the kernel a thread is that waits for a System V queue: proc_pid_wchan(5)."""


class Users(NamedTuple):
    """Who uses an object."""

    pids: tuple[int, ...]
    """The processes that have it open or attached.  A System V queue or set is not opened: of those it has noted
    itself, and of those that wait for a queue, those that there still are."""
    is_complete: bool
    """Whether there are no others, as far as that can be told: see `users`."""

    @property
    def none(self) -> bool:
        """Whether nobody uses it."""
        return self.is_complete and not self.pids


def users(objects: Iterable[Object]) -> dict[str, Users]:
    """Which processes use these objects, by their addresses.

    It looks at every process once.  Those of other users can only be looked at by root: where the mode lets others
    use an object, it is not known whether such a process does.  Nor is it of a System V queue or set that no process
    has used so far, of a set that somebody waits for, and of a queue that was used from another PID namespace.
    Processes of root, and those of other containers, do not count where they can't be seen.
    """
    listed = list(objects)
    seen = _Seen()
    return {found.address: _users_of(found, seen) for found in listed}


class _Seen:
    """What all processes have open."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], set[int]] = {}
        """Processes by device and inode."""
        self.segments: dict[int, set[int]] = {}
        """Processes of this IPC namespace by the id of a System V segment."""
        self.waiting: dict[int, set[int]] = {}
        """Those that wait for a System V queue, by its id."""
        self.hides_some = not _is_there(1)  # hidepid: those of others are not even listed
        """Whether there are processes of other users than root that may not be looked at."""
        own_namespace = os.stat("/proc/self/ns/ipc")
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    self._look_at(int(name), own_namespace)

    def _look_at(self, pid: int, own_namespace: os.stat_result) -> None:
        try:
            opened = set(_descriptors(pid))
            mapped = list(_mappings(pid))
            is_own = os.path.samestat(os.stat(f"/proc/{pid}/ns/ipc"), own_namespace)
        except PermissionError:
            self.hides_some |= os.stat(f"/proc/{pid}").st_uid != 0
            return
        for id in _queues_waited_for(pid) if is_own else ():
            self.waiting.setdefault(id, set()).add(pid)
        for device, inode, path in mapped:
            if path.startswith(b"/SYSV"):
                if is_own:
                    self.segments.setdefault(inode, set()).add(pid)
            else:
                opened.add((device, inode))
        for file in opened:
            self.files.setdefault(file, set()).add(pid)


def _is_there(pid: int) -> bool:
    path = f"/proc/{pid}"
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:  # what can't be looked at may be there
        raise from_errno(error.errno or 0, path) from None
    return True


def _descriptors(pid: int) -> Iterator[tuple[int, int]]:
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            status = os.stat(f"/proc/{pid}/fd/{number}")
            yield status.st_dev, status.st_ino


def _mappings(pid: int) -> Iterator[tuple[int, int, bytes]]:
    with open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            match = _MAPPING.match(line)
            if match is not None:
                major, minor, inode, path = match.groups()
                yield os.makedev(int(major, 16), int(minor, 16)), int(inode), path


def _queues_waited_for(pid: int) -> Iterator[int]:
    """The ids of System V queues that threads of a process wait for."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError):  # it has just ended, or may not be looked at
            if _read(f"/proc/{pid}/task/{thread}/wchan") in _WAITING:
                # The number of the call, which depends on the machine, and its arguments: msgop(2).
                yield int(_read(f"/proc/{pid}/task/{thread}/syscall").split()[1], 16)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _users_of(found: Object, seen: _Seen) -> Users:
    is_complete = not (seen.hides_some and found.mode & _OTHERS)
    if isinstance(found, Named):
        pids = seen.files.get(found.identity, set())
        # A channel knows its peers by their locks: also those that can't be seen here.
        return _sorted(pids, is_complete and not (isinstance(found, Channel) and found.peers and not pids))
    assert isinstance(found, Keyed)
    if isinstance(found, SysvSharedMemory):
        pids = seen.segments.get(found.id, set())
        return _sorted(pids, found.attached == 0 or (is_complete and bool(pids)))
    alive = {pid for pid in found.pids if _is_there(pid)}
    if isinstance(found, SysvSemaphoreSet):
        return _sorted(alive, bool(found.pids) and found.waiting == 0)
    assert isinstance(found, SysvMessageQueue)
    # A process of another PID namespace is noted as 0.
    uses = (found.sent_at, found.last_send_pid), (found.received_at, found.last_receive_pid)
    is_complete &= bool(found.pids) and not any(at is not None and pid == 0 for at, pid in uses)
    return _sorted(alive | seen.waiting.get(found.id, set()), is_complete)


def _sorted(pids: set[int], is_complete: bool) -> Users:
    return Users(tuple(sorted(pids)), is_complete)
