"""What the activities of the soak share: names that are free, peers that come and go, cancellations."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio

from aioipc import inspect

_T = TypeVar("_T")

HANGS = 180
"""Seconds; what has come no further for as long has hung, also on a machine with much else to do."""
PYTHON_PEER = Path(__file__).with_name("soak_peer.py")
_limit: ContextVar[anyio.CancelScope] = ContextVar("_limit")


@contextmanager
def hangs() -> Iterator[None]:
    """Fail if what is done in this block hangs.

    :raises TimeoutError: if it has come no further for `HANGS` seconds
    """
    with anyio.fail_after(HANGS) as scope:
        _limit.set(scope)
        yield


def has_come_further() -> None:
    """Begin to count those seconds anew."""
    _limit.get().deadline = anyio.current_time() + HANGS


class Programs(NamedTuple):
    """The peers in C: see tests/peers."""

    mq: str
    sem: str
    shm: str
    sysv: str


@dataclass
class Place:
    rng: random.Random
    programs: Programs
    names: list[str]
    """Those that are free.  What an object had that was removed, another soon has again."""
    keys: list[int]
    paths: list[str]
    counts: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def some(self, kind: str, count: int) -> Iterator[list[Any]]:
        """So many names, keys or paths, that nothing has, before and after."""
        free = getattr(self, kind)
        taken = [free.pop(0) for _ in range(count)]
        yield taken
        free += taken

    async def insist(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        """Do something once, after it has been cancelled now and then."""
        while self.rng.random() < 0.3:
            with anyio.move_on_after(self.rng.expovariate(2000)):
                return await operation()
            self.counts["cancelled"] += 1
        return await operation()

    async def exchange(
        self, count: int, send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes]]
    ) -> None:
        """Send so many numbers, some tasks at once, and receive them."""
        going, coming = iter(range(count)), iter(range(count))
        came = []

        async def sender() -> None:
            for number in going:
                await self.insist(lambda data=b"%d" % number: send(data))

        async def receiver() -> None:
            for _ in coming:
                came.append(int(await self.insist(receive)))
                has_come_further()

        try:
            async with anyio.create_task_group() as group:
                for _ in range(self.rng.randint(1, 3)):
                    group.start_soon(sender)
                    group.start_soon(receiver)
        except BaseException as error:
            objects = "\n".join(map(str, inspect.look()))
            error.add_note(f"of {count} have come: {came}\n{objects}")
            raise
        assert sorted(came) == list(range(count))
        self.counts["operations"] += 2 * count

    @asynccontextmanager
    async def visitor(self, *command: object, count: int | None = None) -> AsyncIterator[bool]:
        """A peer that leaves when it has sent back so many; or is to send back one more, and is killed.

        :returns: whether it is going to be killed
        """
        is_killed = self.rng.random() < 0.2
        todo = () if count is None else (count + is_killed,)
        async with running(*command, *todo) as process, anyio.create_task_group() as group:
            group.start_soon(_end_well, process)
            yield is_killed
            if is_killed:
                group.cancel_scope.cancel()
        if is_killed:
            assert process.returncode == -signal.SIGKILL
        self.counts["killed peers" if is_killed else "peers"] += 1

    def either(self, in_c: Sequence[object], in_python: Sequence[object]) -> Sequence[object]:
        """The one command or the other; that in Python seldom, because it takes much more time to start."""
        return in_c if self.rng.random() < 0.9 else (sys.executable, PYTHON_PEER, *in_python)


def numbered(acquire: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[bytes]]:
    """Let permits, which have no contents, count themselves."""
    number = -1

    async def receive() -> bytes:
        nonlocal number
        await acquire()
        number += 1
        return b"%d" % number

    return receive


@asynccontextmanager
async def running(*command: object, **options: Any) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process that is gone when the block ends."""
    process = subprocess.Popen(list(map(str, command)), **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def ended(pid: int) -> None:
    """Wait for the end of a process."""
    pidfd = os.pidfd_open(pid)
    try:
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _end_well(process: subprocess.Popen[bytes]) -> None:
    """Who dies does not send back what others wait for."""
    assert await status(process) == 0


async def status(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        await ended(process.pid)
    return process.wait()


async def output_of(*command: object) -> bytes:
    """What a program prints, which fits a pipe."""
    async with running(*command, stdout=subprocess.PIPE) as process:
        assert await status(process) == 0
        assert process.stdout is not None
        return process.stdout.read()
