"""The objects of the storm as others see them: made, used and accounted for without the library.

What a task takes was given, and what it sends is taken, by a program in C that blocks in the kernel: see
peers/storm.c.  In the end that program says what it gave or took.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import posix_ipc
import sysv_ipc
from world import SECONDS, TESTS, Failed, Hung, World, libc, program

from aioipc import Channel

_RING = TESTS.parent / "aioipc/_ring"
_SOURCES = [_RING / name for name in ("bells.c", "file.c", "peers.c", "ring.c")]
_UNIT = 64
"""What a message takes up in a channel."""


@dataclass(frozen=True)
class Target:
    """An object, made for one round."""

    words: list[object]
    """What it is to peers/storm.c."""
    where: str | int
    """What opens it: a name, a path or an id."""
    capacity: int = 0
    """How many messages fit, when it has been made; 0 if they always do."""
    extra: int | None = None
    """The number of a semaphore that counts what was done, if there is one."""


class Companion:
    """A run of peers/storm.c, which does what it is asked for."""

    def __init__(self, world: World, *words: object, start: int = 0) -> None:
        pipe = subprocess.PIPE
        self._process = world.spawn(
            program("peers/storm.c", *_SOURCES),
            *words,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            env=os.environ | {"START": str(start)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asking = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()
        self.asked = self.answered = 0
        self.last = b""
        """The last answer."""

    def ask(self, what: str = ".") -> None:
        self.asked += 1
        os.write(self._asking, what.encode())

    def wait(self, seconds: float = 0) -> None:
        """Wait until it has done all that it was asked for, but not for long."""
        while self.answered < self.asked and select.select([self._answers], [], [], seconds)[0]:
            answers = os.read(self._answers, 4096)
            if not answers:
                return  # it has failed, and will say so
            self.answered += len(answers)
            self.last = answers[-1:]

    def end(self) -> None:
        """Have it end, and not wait any more.

        :raises Failed: if it has failed
        :raises Hung: if it does not end
        """
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        for _ in range(SECONDS * 1000):
            try:
                self._process.wait(0.001)
                break
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGUSR1)  # the one before may have come just before the wait
        else:
            raise Hung("a peer does not end")
        if self._process.returncode != 0:
            raise Failed(f"a peer: {self._process.stderr.read().decode()}")


class Peer(Companion):
    """One that gives or takes one each time it is asked."""

    def __init__(self, world: World, verb: str, target: Target, start: int = 0) -> None:
        self._record = Path(world.path())
        super().__init__(world, verb, *target.words, self._record, start=start)

    def finish(self) -> list[int]:
        """End it; the numbers that it wrote down."""
        self.end()
        return [int(line) for line in self._record.read_text().split()]


# Each of them makes an object for a world, with this capacity.


def mq(world: World, capacity: int) -> Target:
    name = world.name()
    posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_messages=capacity, max_message_size=32).close()
    return Target(["mq", name], name, capacity)


def semaphore(world: World, _: int) -> Target:
    name = world.name()
    posix_ipc.Semaphore(name, posix_ipc.O_CREX).close()
    return Target(["semaphore", name], name)


@dataclass(frozen=True)
class queue:  # noqa: N801 -- it stands for a function, as the others
    """A System V queue, to which messages of these types are given in turn; there is one of another type."""

    first: int = 1
    types: int = 1
    choice: str = "0"
    excludes: bool = False
    other: int | None = None
    size: int = 24

    def __call__(self, world: World, capacity: int) -> Target:
        made = sysv_ipc.MessageQueue(world.key(), sysv_ipc.IPC_CREX)
        made.max_size = self.size * capacity
        if self.other is not None:
            libc.msgsnd(made.id, self.other, b"")
        words = ["queue", made.id, self.first, self.types, self.choice, "e" if self.excludes else "-", self.size]
        return Target(words, made.id, capacity)


def long_queue(world: World, capacity: int) -> Target:
    """One with messages that it takes two calls to receive, if they can be as long: in an own IPC namespace."""
    message, all_of_them = (Path("/proc/sys/kernel", name) for name in ("msgmax", "msgmnb"))
    with suppress(PermissionError):
        if os.readlink("/proc/self/ns/ipc") != os.readlink("/proc/1/ns/ipc"):
            for limit, size in ((message, 12_000), (all_of_them, 36_000)):
                world.defer(limit.write_text, limit.read_text())
                limit.write_text(str(size))
    return queue(size=min(int(message.read_text()), int(all_of_them.read_text()) // 3))(world, capacity)


@dataclass(frozen=True)
class semaphores:  # noqa: N801
    """A set of three, of which these are given and taken; or those that "swing"."""

    numbers: tuple[int, ...] = ()
    extra: int | None = None

    def __call__(self, world: World, _: int) -> Target:
        id = libc.semget(world.key(), 3)
        words = ["set", id, *self.numbers] if self.numbers else ["swing", id]
        return Target(words, id, extra=self.extra)


def latch(world: World, _: int) -> Target:
    """A set of one, which is given when it becomes zero, and taken when it becomes one again."""
    id = libc.semget(world.key(), 1)
    libc.semop(id, (0, 1))
    return Target(["latch", id], id)


@dataclass(frozen=True)
class fifo:  # noqa: N801
    """A FIFO with messages of this many bytes."""

    size: int = 16

    def __call__(self, world: World, capacity: int) -> Target:
        path = world.path()
        os.mkfifo(path)
        keeper = os.open(path, os.O_RDWR)
        world.defer(os.close, keeper)
        room = fcntl.fcntl(keeper, fcntl.F_SETPIPE_SZ, 4096 * capacity)
        return Target(["fifo", path, self.size], path, room // 4096)


def unopened_fifo(world: World, _: int) -> Target:
    path = world.path()
    os.mkfifo(path)
    return Target(["opening", path], path)


def channel(world: World, capacity: int) -> Target:
    name = world.name()
    world.fork(_make_channel, name, capacity * _UNIT).result()
    return Target(["channel", name], name, capacity)


def _make_channel(name: str, capacity: int) -> None:
    Channel.create(name, capacity=capacity, persist=True).close()
