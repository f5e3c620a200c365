"""News of the death of peers, without polling: inotify(7).

A peer has the doorbells of its channel open for writing.  When it dies, the kernel closes them, and tells
those who watch these files so.  One inotify instance serves the process, for there may be 128 of a
user (fs.inotify.max_user_instances).

The dead are known by a lock that they do not hold any more (fcntl(2), F_OFD_SETLK).  But of a descriptor that it closes
the kernel tells the watchers first, and drops its locks then.  So a peer has its lock on a third descriptor, whose
number is between those of the doorbells: be they closed upwards or downwards, the lock is gone with the last of these.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from threading import RLock
from typing import Protocol
from weakref import ReferenceType, ref

from aioipc import _limits
from aioipc._ring import _binding
from aioipc._waiting._immediate import Gate
from aioipc._waiting._reports import Reports
from aioipc.errors import LimitError, from_errno

_EVENT = struct.Struct("iIII")


class Peer(Protocol):
    """Who wants to know."""

    def reap_dead(self) -> None:
        """Another peer may have died."""


class Watch:
    """The inotify instance of this process, for all of its threads."""

    def __init__(self, name: str) -> None:
        self.birth = Gate()
        # A thread that has it can come here again: a collection at any place closes what was not closed.
        self._lock = RLock()
        self._peers: dict[int, dict[int, ReferenceType[Peer]]] = {}
        """By the number of the watch, then by id()."""
        try:
            self.fileno = _binding.watch_closes()
        except OSError as error:
            raise _explain(error, "fs.inotify.max_user_instances", name) from None
        self.reports = Reports(self.fileno, self.look)

    def add(self, descriptors: Iterable[int], peer: Peer, name: str) -> None:
        """From now on, tell this peer when somebody has closed one of these files."""
        try:
            with self._lock:
                for descriptor in descriptors:
                    number = None
                    # Again if a peer that was collected meanwhile, the last one, has taken the watch along.
                    while (found := _binding.add_watch(self.fileno, descriptor)) != number:
                        number = found
                        self._peers.setdefault(number, {})[id(peer)] = ref(peer)
        except OSError as error:
            self.remove(peer)
            raise _explain(error, "fs.inotify.max_user_watches", name) from None

    def remove(self, peer: Peer) -> None:
        """Do so no more."""
        if self.birth.inherited:  # and the lock perhaps another thread's, which this process has not
            return
        with self._lock:
            for number, peers in list(self._peers.items()):
                peers.pop(id(peer), None)
                if not peers and self._peers.pop(number, None) is not None:
                    _binding.remove_watch(self.fileno, number)

    def look(self) -> None:
        """Pass on what news there is.  Whoever waits for what a dead peer had is woken by its doorbell.

        :raises Error: if it can't be read
        """
        try:
            news = os.read(self.fileno, 4096)
        except BlockingIOError:
            return
        except OSError as error:
            raise from_errno(error.errno or 0, "inotify") from None
        for number in set(_numbers(news)):
            for peer in self._concerned(number):
                peer.reap_dead()

    def _concerned(self, number: int) -> list[Peer]:
        with self._lock:
            # -1: the kernel's list has overflowed.
            watches = list(self._peers.values()) if number < 0 else [self._peers.get(number, {})]
            known = [peer() for peers in watches for peer in list(peers.values())]
        return [peer for peer in known if peer is not None]


def _numbers(news: bytes) -> Iterator[int]:
    place = 0
    while place < len(news):
        number, _, _, length = _EVENT.unpack_from(news, place)
        yield number
        place += _EVENT.size + length


def _explain(error: OSError, limit: str, name: str) -> Exception:
    if error.errno in (errno.EMFILE, errno.ENOSPC) and _limits.no_descriptor_left() is None:
        return LimitError(error.errno, f"no more inotify watches for this user: {_limits.explain_sysctl(limit)}", name)
    return from_errno(error.errno or 0, name)


_watch: Watch | None = None


def _leave_to_parent() -> None:
    """In the child of a fork: it has a descriptor of the parent's instance, and would keep that alive."""
    global _watch
    if _watch is not None:
        os.close(_watch.fileno)
        _watch = None


os.register_at_fork(after_in_child=_leave_to_parent)


def watch(name: str) -> Watch:
    """The watch of this process, made when it is first asked for.

    :raises LimitError: if there can be none
    """
    global _watch
    if _watch is None or _watch.birth.inherited:
        _watch = Watch(name)
    return _watch
