"""The other side of what is tortured: objects as the harness sees them, without the library."""

from __future__ import annotations

import fcntl
import functools
import os
import select
import termios
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import posix_ipc
import sysv_ipc
from world import World, libc

SENT = b"sent"
GIVEN = b"given"
_ROOM = 2**16
"""For the longest message."""


def brief(message: bytes) -> str:
    """A message in words that can be compared: all of it, or how long it is and its checksum."""
    return message.decode() if len(message) <= 100 else f"{len(message)} bytes {zlib.crc32(message):08x}"


class Peer:
    """The other side of an object, in the harness."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = world.name()
        self.key = world.key()
        self.path = world.path()

    @classmethod
    def length(cls) -> int:
        """How long its messages are at least, in bytes."""
        return 0

    @classmethod
    def sent(cls) -> bytes:
        """What the process under test sends."""
        return SENT.ljust(cls.length(), b"s")

    @classmethod
    def given(cls) -> bytes:
        """What this gives."""
        return GIVEN.ljust(cls.length(), b"g")

    def prepare(self) -> None:
        """Do what must be so before an operation begins."""

    def contents(self) -> Any:
        """What is in the object, and whatever else must not change but by an operation; raises if there is none."""

    def put(self, contents: Any) -> Any:
        """Let there be something to receive; what the contents are then, by those before."""

    def take(self, contents: Any) -> Any:
        """Take something, so that there is room; likewise."""

    def follow(self) -> None:
        """Wait for what must come of an operation that has been done."""

    @staticmethod
    def joined(contents: Any, handles: int = 1) -> Any:
        """The contents once so many handles more are open; most objects don't know that."""
        return contents


class Queue(Peer):
    """Of which the contents are "messages", briefly, and more."""

    def send(self) -> None:
        """Put what it gives there."""

    def receive(self) -> None:
        """Take a message."""

    def put(self, contents: Any) -> Any:
        self.send()
        return {**contents, "messages": [*contents["messages"], brief(self.given())]}

    def take(self, contents: Any) -> Any:
        self.receive()
        return {**contents, "messages": contents["messages"][1:]}


class PosixQueue(Queue):
    @contextmanager
    def _queue(self) -> Iterator[posix_ipc.MessageQueue]:
        queue = posix_ipc.MessageQueue(self.name, posix_ipc.O_NONBLOCK)
        try:
            yield queue
        finally:
            queue.close()

    def contents(self) -> dict[str, Any]:
        with self._queue() as queue:
            messages = [queue.receive() for _ in range(queue.current_messages)]
            for message, priority in messages:
                queue.send(message, priority=priority)
            return {
                "messages": [brief(message) for message, _ in messages],
                "max_messages": queue.max_messages,
                "max_message_size": queue.max_message_size,
                "mode": os.fstat(queue.mqd).st_mode & 0o777,
            }

    def send(self) -> None:
        with self._queue() as queue:
            queue.send(self.given())

    def receive(self) -> None:
        with self._queue() as queue:
            queue.receive()


class LongPosixQueue(PosixQueue):
    """Of messages that are copied without the interpreter's lock, where that is allowed."""

    @classmethod
    def length(cls) -> int:
        return _longest("fs/mqueue/msgsize_max", 300_000)


class PosixSemaphore(Peer):
    def contents(self) -> dict[str, Any]:
        semaphore = posix_ipc.Semaphore(self.name)
        value: int = semaphore.value
        semaphore.close()
        return {"value": value, "mode": mode_of(f"/dev/shm/sem.{self.name[1:]}")}

    def put(self, contents: Any) -> Any:
        semaphore = posix_ipc.Semaphore(self.name)
        semaphore.release()
        semaphore.close()
        return {**contents, "value": contents["value"] + 1}


class PosixSegment(Peer):
    def contents(self) -> dict[str, Any]:
        path = Path(f"/dev/shm{self.name}")
        with path.open("rb") as file:
            return {"begin": brief(file.read(len(SENT))), "size": path.stat().st_size, "mode": mode_of(path)}


class SysvSegment(Peer):
    def contents(self) -> dict[str, Any]:
        segment = sysv_ipc.SharedMemory(self.key)
        try:
            return {"begin": brief(segment.read(len(SENT))), "size": segment.size, "mode": segment.mode}
        finally:
            segment.detach()


class SysvQueue(Queue):
    def contents(self) -> dict[str, Any]:
        queue = sysv_ipc.MessageQueue(self.key)
        messages = []
        with suppress(OSError):  # ENOMSG
            while True:
                messages.append(libc.msgrcv(queue.id, size=_ROOM))
        for data, type in messages:
            libc.msgsnd(queue.id, type, data)
        return {"messages": [brief(data) for data, _ in messages], "max_bytes": queue.max_size, "mode": queue.mode}

    def send(self) -> None:
        libc.msgsnd(sysv_ipc.MessageQueue(self.key).id, 1, self.given())

    def receive(self) -> None:
        libc.msgrcv(sysv_ipc.MessageQueue(self.key).id, size=_ROOM)


class LongSysvQueue(SysvQueue):
    """Of messages that are longer than the room that is made for most, where that is allowed."""

    @classmethod
    def length(cls) -> int:
        return _longest("kernel/msgmax", 10_000)


class Set(Peer):
    def contents(self) -> dict[str, Any]:
        found = sysv_ipc.Semaphore(self.key)
        return {"values": tuple(libc.semvalue(found.id, number) for number in range(2)), "mode": found.mode}

    def put(self, contents: Any) -> Any:
        sysv_ipc.Semaphore(self.key).release()
        return self._changed(contents, 1)

    def take(self, contents: Any) -> Any:
        sysv_ipc.Semaphore(self.key).acquire()
        return self._changed(contents, -1)

    @staticmethod
    def _changed(contents: Any, by: int) -> Any:
        """The first alone: that of which sysv_ipc knows."""
        first, second = contents["values"]
        return {**contents, "values": (first + by, second)}


class Pipe(Peer):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._end = -1

    @contextmanager
    def _open(self) -> Iterator[int]:
        end = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        try:
            yield end
        finally:
            os.close(end)

    def contents(self) -> dict[str, Any]:
        """How many bytes are in it."""
        with self._open() as end:
            size = int.from_bytes(fcntl.ioctl(end, termios.FIONREAD, bytes(4)), "little")
            return {"bytes": size, "mode": mode_of(self.path)}

    def put(self, contents: Any) -> Any:
        with self._open() as end:
            return {**contents, "bytes": contents["bytes"] + os.write(end, self.given())}

    def take(self, contents: Any) -> Any:
        with self._open() as end:
            return {**contents, "bytes": contents["bytes"] - len(os.read(end, 4 * select.PIPE_BUF))}

    def open_other_end(self, contents: Any) -> Any:
        """Have both ends open until this is done the next time."""
        if self._end >= 0:
            os.close(self._end)
        self._end = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        return contents


class LongPipe(Pipe):
    """Of more than is sure to be written together."""

    @classmethod
    def length(cls) -> int:
        return 10_000


@functools.cache  # the process under test asks no more when its calls may fail
def _longest(limit: str, wanted: int) -> int:
    """How long a message may be, in bytes; no more than is wanted."""
    return min(wanted, int(Path("/proc/sys", limit).read_text()))


def mode_of(path: str | Path) -> int:
    return os.stat(path).st_mode & 0o777


def doorbells_of(pid: int) -> list[str]:
    """The doorbells that a process has made, which has its number in their names."""
    return sorted(name for name in os.listdir("/dev/shm") if name.startswith(f"aioipc.{pid:08x}"))


def on_system(peer: Peer, pid: int) -> list[str]:
    """What there is of all that may have the name, key or path of a peer, and the doorbells that a process has made."""
    paths = (f"/dev/shm{peer.name}", f"/dev/shm/sem.{peer.name[1:]}", peer.path)
    found = [path for path in paths if os.path.exists(path)]
    found += doorbells_of(pid)
    with suppress(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(peer.name).close()
        found.append("message queue")
    for kind in ("msg", "sem", "shm"):
        for line in Path("/proc/sysvipc", kind).read_text().splitlines()[1:]:
            words = line.split()
            if int(words[0]) == peer.key:
                # The sixth of a segment is how often it is attached.
                found.append(f"{kind} {words[1]} {words[6] if kind == 'shm' else ''}")
    return found
