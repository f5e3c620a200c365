"""A candidate: what can carry messages between processes.  And what several of them stand on."""

from __future__ import annotations

import importlib.util
import itertools
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from multiprocessing.context import BaseContext

COUNTER = itertools.count()
BATCH = 100
"""How many messages go at once, where a row says "many"."""
LARGEST = 2**20
HEAD = 16
"""How much of a message is looked at that is read where it is."""


def unique() -> str:
    """A name that nothing else has."""
    return f"/aioipc-benchmark-{os.getpid()}-{next(COUNTER)}"


def read_limit(name: str) -> int:
    """What sysctl(8) says."""
    return int(Path("/proc/sys", name).read_text())


def depth(size: int) -> int:
    """How many messages a link has room for, where one can say: 4 MiB of them, at most 1,000."""
    return max(4, min(1000, 2**22 // size))


class Candidate:
    """One row of the tables.

    `sender` and `receiver` are asynchronous context managers, in the process at that end.  They yield what sends a
    message, and what receives one or is iterated over: coroutine functions, or plain ones where `loop` is None.
    """

    title: str
    own = False
    """Whether it is this library."""
    loop: str | None = "asyncio"
    needs: str | None = None
    """A package that may be missing."""
    batch = 1
    """More than 1: lists of up to this many messages are sent, and lists are received."""
    many_senders = True
    """Whether several processes can open the sending end of one link."""
    many_receivers = True
    """Whether several can open the receiving end, and each message goes to one of them."""

    def __init__(self, loop: str | None = None) -> None:
        self.loop = loop or self.loop

    @property
    def name(self) -> str:
        return f"{self.title} ({self.loop})" if self.loop else self.title

    @property
    def largest(self) -> int:
        """Bytes in the largest message that it takes here."""
        return LARGEST

    def batch_of(self, size: int) -> int:
        """How many messages of this size go at once."""
        return max(1, min(self.batch, LARGEST // 2 // size))

    def missing(self) -> str | None:
        """Why it can't be measured here."""
        for package in (self.needs, self.loop if self.loop != "asyncio" else None):
            if package and importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return None

    def expected(self, data: bytes) -> Any:
        """What is received when this was sent."""
        return data

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[Any]:
        """Make what both ends open."""
        return folder_link()

    def sender(self, link: Any, size: int) -> Any:
        raise NotImplementedError

    def receiver(self, link: Any, size: int) -> Any:
        raise NotImplementedError


@contextmanager
def folder_link() -> Iterator[str]:
    """A path where nothing is yet."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder + "/link"


def queue_bytes() -> int:
    """How much one POSIX queue may hold: RLIMIT_MSGQUEUE counts all queues of a user, and not only their data."""
    limit = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0]
    return LARGEST if limit == resource.RLIM_INFINITY else limit // 4


def largest_in_posix_queue() -> int:
    """Bytes in the largest message, if there is to be room for two."""
    return min(LARGEST, read_limit("fs/mqueue/msgsize_max"), queue_bytes() // 2)


@contextmanager
def posix_queue(size: int) -> Iterator[str]:
    """The name of a POSIX queue, as deep as the limits of this machine have it."""
    import posix_ipc

    name = unique()
    messages = min(read_limit("fs/mqueue/msg_max"), depth(size), queue_bytes() // size)
    posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_messages=messages, max_message_size=size).close()
    try:
        yield name
    finally:
        posix_ipc.unlink_message_queue(name)


@contextmanager
def system_v_queue(size: int) -> Iterator[int]:
    """The key of a System V queue."""
    import sysv_ipc

    key = (os.getpid() << 8) + next(COUNTER) % 256
    queue = sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, max_message_size=size)
    try:
        yield key
    finally:
        queue.remove()
