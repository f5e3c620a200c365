"""The other side of what is tortured: objects as the harness sees them, without the library."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import posix_ipc
import sysv_ipc
from world import TESTS, World, finished, libc, program

GIVEN = b"given"
PEERS = b"p" * 10
"""What peers/channel.c sends."""


class Peer:
    """The other side of an object, in the harness."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = world.name()
        self.key = world.key()
        self.path = world.path()

    def contents(self) -> Any:
        """What is in the object, with whatever must not change but by an operation."""

    def put(self, contents: Any) -> Any:
        """Let there be something to receive; what the contents are then, by those before."""

    def take(self, contents: Any) -> Any:
        """Take something, so that there is room; likewise."""


class PosixQueue(Peer):
    @contextmanager
    def _queue(self) -> Iterator[posix_ipc.MessageQueue]:
        queue = posix_ipc.MessageQueue(self.name, posix_ipc.O_NONBLOCK)
        try:
            yield queue
        finally:
            queue.close()

    def contents(self) -> list[str]:
        with self._queue() as queue:
            messages = [queue.receive() for _ in range(queue.current_messages)]
            for message, priority in messages:
                queue.send(message, priority=priority)
        return [message.decode() for message, _ in messages]

    def put(self, contents: Any) -> Any:
        with self._queue() as queue:
            queue.send(GIVEN)
        return [*contents, GIVEN.decode()]

    def take(self, contents: Any) -> Any:
        with self._queue() as queue:
            queue.receive()
        return contents[1:]


class PosixSemaphore(Peer):
    def contents(self) -> int:
        semaphore = posix_ipc.Semaphore(self.name)
        value: int = semaphore.value
        semaphore.close()
        return value

    def put(self, contents: Any) -> Any:
        semaphore = posix_ipc.Semaphore(self.name)
        semaphore.release()
        semaphore.close()
        return contents + 1


class SysvQueue(Peer):
    @property
    def _id(self) -> int:
        return int(sysv_ipc.MessageQueue(self.key).id)

    def contents(self) -> list[str]:
        id = self._id
        messages = []
        with suppress(OSError):  # ENOMSG
            while True:
                messages.append(libc.msgrcv(id))
        for data, type in messages:
            libc.msgsnd(id, type, data)
        return [data.decode() for data, _ in messages]

    def put(self, contents: Any) -> Any:
        libc.msgsnd(self._id, 1, GIVEN)
        return [*contents, GIVEN.decode()]

    def take(self, contents: Any) -> Any:
        libc.msgrcv(self._id)
        return contents[1:]


class Set(Peer):
    def contents(self) -> int:
        """The value of its first semaphore."""
        return int(sysv_ipc.Semaphore(self.key).value)

    def put(self, contents: Any) -> Any:
        sysv_ipc.Semaphore(self.key).release()
        return contents + 1


class Ring(Peer):
    """Reads the memory of a channel as docs/ring.md says."""

    def contents(self) -> dict[str, Any]:
        with open(f"/dev/shm{self.name}", "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

        def number(place: int) -> int:
            return int(struct.unpack_from("Q", memory, place)[0])

        data, room, tail, position = number(24), number(32), number(192), number(320)
        messages = []
        while position < tail:
            place = data + position % room
            size = number(place + 8)
            if number(place) & 0xFF in (2, 3):
                messages.append(memory[place + 32 : place + 32 + size].decode())
            position += (32 + size + 63) // 64 * 64
        peers = sum(memory[place] for place in range(640, 640 + 256 * 64, 64))
        return {"messages": messages, "peers": peers}

    def _do(self, *words: str) -> None:
        sources = (TESTS.parent / "aioipc/_ring" / name for name in ("bells", "file", "peers", "ring"))
        peer = program("peers/channel.c", *(source.with_suffix(".c") for source in sources))
        finished(self.world.spawn(peer, self.name, "-", "join", *words, "leave", stdout=subprocess.DEVNULL))

    def put(self, contents: Any) -> Any:
        self._do("send")
        return {**contents, "messages": [*contents["messages"], PEERS.decode()]}

    def take(self, contents: Any) -> Any:
        self._do("receive")
        return {**contents, "messages": contents["messages"][1:]}


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

    def contents(self) -> int:
        """How many bytes are in it."""
        if not os.path.exists(self.path):
            return 0
        with self._open() as end:
            return int.from_bytes(fcntl.ioctl(end, termios.FIONREAD, bytes(4)), "little")

    def put(self, contents: Any) -> Any:
        with self._open() as end:
            return contents + os.write(end, GIVEN)

    def take(self, contents: Any) -> Any:
        with self._open() as end:
            return contents - len(os.read(end, 4096))

    def open_other_end(self, contents: Any) -> Any:
        """Have both ends open until this is done the next time."""
        if self._end >= 0:
            os.close(self._end)
        self._end = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        return contents


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
