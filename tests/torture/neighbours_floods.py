"""Neighbours that send without end, so that what we receive from never runs empty, or take all there is.

The loop goes on beside that, every task of it can be cancelled, and nothing is lost: what was sent has been received,
or is still there.  The neighbour counts for itself, and the kernel says what is left.  Meanwhile others change what
attributes the object has.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import signal
import subprocess
import termios
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import Any

import anyio
import posix_ipc
import sysv_ipc
from harness import Scenario, Schedule
from responsive import LOOPS, SECONDS, responsive
from world import AS_NOBODY, TESTS, Failed, World, die_with_parent, doorbells, finished, program

import aioipc
from aioipc import Channel, posix, sysv

_RING = [TESTS.parent / f"aioipc/_ring/{name}.c" for name in ("ring", "file", "peers", "bells")]

KINDS = {"mq": "sr", "msg": "sr", "sem": "r", "semset": "r", "fifo": "sr", "channel": "sr"}
"""What can be made to wait: sending, receiving."""


def make(kind: str, name: str, key: int) -> int:
    """Make an object that all may use; its id, if it has one."""
    os.umask(0)
    if kind == "mq":
        posix_ipc.MessageQueue(name, posix_ipc.O_CREX, 0o666, 10, 8192)
    elif kind == "sem":
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, 0o666)
    elif kind == "fifo":
        os.mkfifo("/dev/shm" + name, 0o666)
    elif kind == "channel":
        Channel.create(name, capacity=4096, mode=0o666, persist=True).close()
    elif kind == "msg":
        return int(sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, 0o666).id)
    else:
        return int(sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX, 0o666).id)
    return 0


def left(world: World, kind: str, name: str, key: int) -> int:
    """How many messages, or permits, are there."""
    if kind == "mq":
        with closing(posix_ipc.MessageQueue(name)) as queue:
            return int(queue.current_messages)
    if kind == "sem":
        with closing(posix_ipc.Semaphore(name)) as semaphore:
            return int(semaphore.value)
    if kind == "msg":
        return int(sysv_ipc.MessageQueue(key).current_messages)
    if kind == "semset":
        return int(sysv_ipc.Semaphore(key).value)
    return int(world.fork(_drain, name).result())


def _drain(name: str) -> int:
    count = 0
    with Channel.open(name) as channel:
        while True:
            try:
                channel.receive_nowait()
            except aioipc.WouldBlock:
                return count
            count += 1


def _change_attributes(kind: str, name: str, key: int) -> None:
    """Until it is killed: how much fits, or who may, also of a channel's doorbells."""
    queue = posix_ipc.MessageQueue(name) if kind == "mq" else None
    path = f"/dev/shm/{'sem.' if kind == 'sem' else ''}{name[1:]}"
    pipes = [path] if kind == "fifo" else list(map(str, doorbells(name)))
    ends = [os.open(pipe, os.O_RDWR | os.O_NONBLOCK) for pipe in pipes]
    changed = sysv_ipc.MessageQueue(key) if kind == "msg" else sysv_ipc.Semaphore(key) if kind == "semset" else None
    for number in itertools.count():
        if kind == "msg":
            changed.max_size = (1, 2, 100, 16384)[number % 4]
        elif kind == "semset":
            changed.mode = (0o666, 0o667)[number % 2]
        else:
            for file in (path, *pipes) if queue is None else (queue.mqd,):
                os.chmod(file, (0o666, 0o600)[number % 2])
        for end in ends:
            with suppress(OSError):  # more is in it
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, (4096, 65536, 8192)[number % 3])
        time.sleep(0.0002)


def _in_fifo(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), "little")


# The process under test -------------------------------------------------------------


def _share(number: int) -> int:
    """A child that shares the description of a queue, and has calls wait, and not wait; its pid."""
    pid = os.fork()
    if pid == 0:
        die_with_parent()
    while pid == 0:
        os.set_blocking(number, True)
        time.sleep(0.002)
        os.set_blocking(number, False)
        time.sleep(0.0002)
    return pid


def _end(child: int | None) -> None:
    if child is not None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


async def opened(kind: str, name: str, id: int, sends: bool) -> Any:
    if kind == "fifo":
        return await (posix.Fifo.open_writer if sends else posix.Fifo.open_reader)("/dev/shm" + name)
    return {
        "mq": lambda: posix.MessageQueue.open(name),
        "sem": lambda: posix.Semaphore.open(name),
        "channel": lambda: Channel.open(name),
        "msg": lambda: sysv.MessageQueue.open(id=id),
        "semset": lambda: sysv.SemaphoreSet.open(id=id),
    }[kind]()


def use_of(kind: str, handle: Any, sends: bool) -> Callable[[], Awaitable[int]]:
    """What sends one, or takes one: how many it was."""

    async def send() -> int:
        await handle.send(b"x")
        return 1

    async def receive() -> int:
        return len(await handle.receive() if kind in ("fifo", "channel") else (await handle.receive()).data)

    async def acquire() -> int:
        await (handle.acquire() if kind == "sem" else handle[0].acquire(undo=False))
        return 1

    return acquire if kind in ("sem", "semset") else send if sends else receive


def _go_on(kind: str, name: str, id: int, settings: dict[str, Any], steps: list[list[int]]) -> Counter[str]:
    """Tasks that never end by themselves: each of STEPS is how many ticks after one another some are cancelled."""

    async def main(counts: Counter[str]) -> None:
        with closing(await opened(kind, name, id, settings["sends"])) as handle:
            use = use_of(kind, handle, settings["sends"])
            sharing = _share(handle.fileno()) if kind == "mq" else None

            async def for_ever() -> None:
                while True:
                    done = await use()
                    counts["transfers"] += done

            async def one_after_the_other(ticks: list[int]) -> None:
                for each in ticks:
                    async with anyio.create_task_group() as group:
                        group.start_soon(for_ever)
                        for _ in range(each):
                            await anyio.sleep(0.001)
                        group.cancel_scope.cancel()
                    counts["cancellations"] += 1

            async with anyio.create_task_group() as group:
                for ticks in steps:
                    group.start_soon(one_after_the_other, ticks)
            _end(sharing)

    return responsive(settings["loop"], main)


def flood(world: World, kind: str, direction: str, *where: object) -> subprocess.Popen[str]:
    """A neighbour that floods, as another user if that is possible."""
    rights = AS_NOBODY if os.geteuid() == 0 else {}
    path = program("torture/flood.c", *_RING)
    process = world.spawn(path, kind, direction, *where, stdout=subprocess.PIPE, text=True, **rights)
    if process.stdout.readline() != "ready\n":
        raise Failed("the neighbour has not begun")
    return process


def _be_flooded(world: World, schedule: Schedule) -> Counter[str]:
    settings = schedule.settings
    kind, sends = settings["kind"], settings["sends"]
    name, key = world.name(), world.key()
    id = world.fork(make, kind, name, key).result()
    where: list[object] = [id or name]
    if kind in ("channel", "fifo"):
        where = ["/dev/shm" + name, *world.doorbells(name)]
    fifo = -1
    if kind == "fifo":  # which has both ends all the time
        fifo = os.open("/dev/shm" + name, os.O_RDWR | os.O_NONBLOCK)
        world.defer(os.close, fifo)
    floods = [flood(world, kind, direction, *where) for direction in settings["floods"]]
    changing = world.fork(_change_attributes, kind, name, key)
    counts = world.fork(_go_on, kind, name, id, settings, schedule.steps).result(SECONDS)
    if changing.errors():
        raise Failed(changing.errors())
    changing.kill()
    balance = counts["transfers"] if sends else -counts["transfers"]
    for direction, process in zip(settings["floods"], floods, strict=True):
        process.terminate()
        done = int(finished(process))
        counts["neighbours' transfers"] += done
        balance += done if direction == "send" else -done
    assert balance == (_in_fifo(fifo) if kind == "fifo" else left(world, kind, name, key))
    return counts


def _draw(kind: str, loop: str) -> Callable[[random.Random], Schedule]:
    def draw(rng: random.Random) -> Schedule:
        sends = rng.choice(KINDS[kind]) == "s"
        # Those who do the opposite, or the same: then it is full, or empty, all the time.
        floods = rng.choice((["receive"], ["send"], ["receive", "send"]))
        settings = {"loop": loop, "kind": kind, "sends": sends, "floods": floods}
        tasks = rng.randrange(1, 4)
        return Schedule(settings, [[rng.randrange(6) for _ in range(rng.randrange(1, 12))] for _ in range(tasks)])

    return draw


SCENARIOS = tuple(
    Scenario(f"neighbours/flood.{kind}/{loop}", _draw(kind, loop), _be_flooded) for kind in KINDS for loop in LOOPS
)
