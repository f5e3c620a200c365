"""Neighbours that remove what is there and put something else under its name, all the time: other kinds of files,
objects of other sizes, nothing.  And names that try to escape from where names are.
"""

from __future__ import annotations

import functools
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import posix_ipc
import sysv_ipc
from harness import Scenario, Schedule
from responsive import LOOPS, SECONDS, responsive
from world import Failed, World, remove_keyed, remove_named

import aioipc
from aioipc import Channel, inspect, posix, sysv

# The neighbour ------------------------------------------------------------------------

FILES = ("nothing", "empty", "short", "garbage", "folder", "loop", "link", "fifo", "socket", "channel", "semaphore")
OBJECTS = ("mq", "msg", "semset", "segment")


def _replace(path: str, what: str, models: str) -> None:
    """Have something else at a path."""
    with suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        os.rmdir(path)
    with suppress(FileExistsError):  # whose it is now
        if what in ("empty", "short", "garbage"):
            content = {"empty": b"", "short": b"AIPCRING" + bytes(20), "garbage": os.urandom(70_000)}[what]
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.write(descriptor, content)
            os.close(descriptor)
        elif what == "folder":
            os.mkdir(path)
        elif what in ("loop", "link"):
            os.symlink(path if what == "loop" else models + ".channel", path)
        elif what == "fifo":
            os.mkfifo(path, 0o600)
        elif what == "socket":
            with socket.socket(socket.AF_UNIX) as unix, suppress(OSError):
                unix.bind(path)
        elif what in ("channel", "semaphore"):
            os.link(f"{models}.{what}", path)


def _make_anew(kind: str, name: str, key: int, size: int) -> None:
    """Have another System V object of this key, or queue of this name."""
    with suppress(posix_ipc.Error, sysv_ipc.Error):
        if kind == "mq":
            with suppress(posix_ipc.Error):
                posix_ipc.unlink_message_queue(name)
            posix_ipc.MessageQueue(name, posix_ipc.O_CREX, 0o600, size, 100 * size).close()
        elif kind == "msg":
            with suppress(sysv_ipc.Error):
                sysv_ipc.MessageQueue(key).remove()
            sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, 0o600).max_size = 100 * size
        elif kind == "semset":  # sysv_ipc's sets have one semaphore
            with suppress(sysv_ipc.Error):
                sysv_ipc.Semaphore(key).remove()
            sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX, 0o600, size % 3)
        else:
            with suppress(sysv_ipc.Error):
                sysv_ipc.SharedMemory(key).remove()
            sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, 0o600, 4096 * size)


def _be_a_nuisance(name: str, key: int, models: str, steps: list[Any]) -> None:
    while True:
        for pause, what, number in steps:
            time.sleep(pause / 1e6)
            if what in OBJECTS:
                _make_anew(what, name, key, number)
            else:
                _replace(("/dev/shm" if number % 2 else "/dev/shm/sem.") + name[number % 2 == 0 :], what, models)


def _make_models(name: str, models: str) -> None:
    """Files that are linked to names: they are what they look like."""
    Channel.create(name, capacity=64, persist=True).close()
    os.rename("/dev/shm" + name, models + ".channel")
    posix_ipc.Semaphore(name, posix_ipc.O_CREX, 0o600, initial_value=1).close()
    os.rename("/dev/shm/sem." + name[1:], models + ".semaphore")


def _draw_storm(loop: str) -> Callable[[random.Random], Schedule]:
    def draw(rng: random.Random) -> Schedule:
        steps = [
            [rng.choice((0, 0, 100, 1000)), rng.choice(FILES * 2 + OBJECTS), rng.randrange(1, 8)]
            for _ in range(rng.randrange(1, 30))
        ]
        return Schedule({"loop": loop, "seed": rng.randrange(2**32)}, steps)

    return draw


# The process under test ---------------------------------------------------------------


KINDS = ("channel", "memory", "semaphore", "mq", "msg", "semset", "segment", "fifo")


@dataclass(frozen=True)
class Way:
    """How something is to be used."""

    kind: str
    creates: bool
    exist_ok: bool
    persist: bool

    @classmethod
    def draw(cls, rng: random.Random) -> Way:
        return cls(rng.choice(KINDS), rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.2)


async def _use(stack: AsyncExitStack, way: Way, name: str, key: int) -> None:
    """Make or open something, and use it until the stack ends."""
    options = {"exist_ok": way.exist_ok, "persist": way.persist}
    if way.kind == "channel":  # one that persists, and is replaced, would leave its doorbells
        create = functools.partial(Channel.create, name, capacity=64, exist_ok=way.exist_ok)
        channel = stack.enter_context(create() if way.creates else Channel.open(name))
        await channel.send(b"")
        channel.statistics()
        await channel.receive()
    elif way.kind == "memory":
        memory = posix.SharedMemory
        segment = stack.enter_context(memory.create(name, size=10, **options) if way.creates else memory.open(name))
        segment.buffer[-1] = 1
        segment.statistics()
    elif way.kind == "semaphore":
        open = posix.Semaphore.open
        semaphore = stack.enter_context(posix.Semaphore.create(name, **options) if way.creates else open(name))
        await semaphore.acquire()
        semaphore.release()
        semaphore.statistics()
    elif way.kind == "mq":
        sizes = {"max_messages": 3, "max_message_size": 10}
        queue = posix.MessageQueue.create(name, **sizes, **options) if way.creates else posix.MessageQueue.open(name)
        stack.enter_context(queue)
        await queue.send(b"")
        await queue.receive()
        queue.statistics()
    elif way.kind == "msg":
        messages = stack.enter_context(
            sysv.MessageQueue.create(key, **options) if way.creates else sysv.MessageQueue.open(key)
        )
        await messages.send(b"x")
        await messages.receive()
        messages.statistics()
    elif way.kind == "semset":
        set = sysv.SemaphoreSet
        numbers = stack.enter_context(set.create(key, values=[1], **options) if way.creates else set.open(key))
        await numbers.operate((0, -1), undo=True)
        await numbers.operate((0, 1), undo=True)
    elif way.kind == "segment":
        memory = sysv.SharedMemory
        area = stack.enter_context(memory.create(key, size=5000, **options) if way.creates else memory.open(key))
        area.buffer[-1] = 1
        area.statistics()
    elif way.creates:
        path = "/dev/shm" + name
        end = posix.Fifo.open_writer(path) if way.persist else posix.Fifo.open_reader(path, keep_open=way.exist_ok)
        stream = await stack.enter_async_context(end)
        await (stream.send(b"x") if way.persist else stream.receive())
    else:
        inspect.look()
        inspect.find(f"channel:{name}")


async def _use_often(name: str, key: int, seed: int, counts: Counter[str]) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        with anyio.move_on_after(rng.choice((0, 0.001, 0.005))) as scope:
            try:
                async with AsyncExitStack() as stack:
                    await _use(stack, Way.draw(rng), name, key)
                    counts["uses"] += 1
            except aioipc.Error as error:
                counts[f"{type(error).__name__}s"] += 1
            except ValueError as error:
                # Of what is to be taken over, but is smaller; of a path where no FIFO is.
                if not any(words in str(error) for words in ("fewer than", "is not a FIFO")):
                    raise
                counts["ValueErrors"] += 1
        counts["cancellations"] += scope.cancelled_caught
        await anyio.lowlevel.checkpoint()  # most of this does not wait


def _use_in_peace(name: str, key: int) -> Counter[str]:
    """Each kind, made anew and opened: no neighbour's deed outlasts him."""
    path = "/dev/shm" + name

    async def exchange() -> None:
        async with (
            posix.Fifo.create(path),
            posix.Fifo.open_reader(path, keep_open=True) as reader,
            posix.Fifo.open_writer(path) as writer,
        ):
            await writer.send(b"x")
            assert await reader.receive() == b"x"

    async def main() -> None:
        for kind in KINDS[:-1]:
            async with AsyncExitStack() as stack:
                await _use(stack, Way(kind, creates=True, exist_ok=False, persist=False), name, key)
                await _use(stack, Way(kind, creates=False, exist_ok=False, persist=False), name, key)
        await exchange()

    anyio.run(main)
    return Counter({"uses in peace": 2 * len(KINDS)})


def _be_used(name: str, key: int, settings: dict[str, Any]) -> Counter[str]:
    async def main(counts: Counter[str]) -> None:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(_use_often, name, key, settings["seed"] + number, counts)

    return responsive(settings["loop"], main)


def _be_replaced(world: World, schedule: Schedule) -> Counter[str]:
    name, key, models = world.name(), world.key(), "/dev/shm" + world.name()
    for kind in ("channel", "semaphore"):
        world.defer(_remove, f"{models}.{kind}")
    world.fork(_make_models, name, models).result()
    world.doorbells(models.removeprefix("/dev/shm") + ".channel")
    paths = ("/dev/shm" + name, "/dev/shm/sem." + name[1:])
    for path in paths:
        world.defer(_replace, path, "nothing", models)
    nuisance = world.fork(_be_a_nuisance, name, key, models, schedule.steps)
    before = _doorbells()
    counts = world.fork(_be_used, name, key, schedule.settings).result(SECONDS)
    if nuisance.errors():
        raise Failed(nuisance.errors())
    nuisance.kill()
    assert _doorbells() <= before
    assert counts["uses"] > 0
    for path in paths:
        _replace(path, "nothing", models)
    remove_named(name)
    remove_keyed(key)
    return Counter(counts) + world.fork(_use_in_peace, name, key).result()


def _doorbells() -> set[str]:
    return {file for file in os.listdir("/dev/shm") if file.startswith("aioipc.")}


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


# What several remove at once --------------------------------------------------------------


def _remove_often(name: str, times: int) -> list[int]:
    """The objects that this process has removed, it says, by their inode numbers."""
    removed = []
    for _ in range(times):
        segment = posix.SharedMemory.create(name, size=1, exist_ok=True, persist=True)
        with closing(segment), suppress(aioipc.NotFoundError):
            number = os.stat(f"/proc/self/fd/{segment._descriptor}").st_ino
            segment.unlink()
            removed.append(number)
    return removed


def _be_removed(world: World, schedule: Schedule) -> Counter[str]:
    """Each is removed by one only: who came too late has not taken the next one's name instead."""
    name = world.name()
    children = [world.fork(_remove_often, name, times) for times in schedule.steps]
    removals = Counter(number for child in children for number in child.result(SECONDS))
    assert [number for number, count in removals.items() if count > 1] == []
    return Counter(removals=removals.total())


def _draw_removals(rng: random.Random) -> Schedule:
    return Schedule({}, [rng.randrange(100, 500) for _ in range(rng.randrange(2, 5))])


# Names that try to escape ---------------------------------------------------------------

_PIECES = ("/", "/", "..", ".", "\0", "a", "é", "\udc80", "\ud800", "\n", "%n", "sem.", "~", " ", "x" * 100, "-", "../")


def _draw_names(rng: random.Random) -> Schedule:
    names = ["".join(rng.choices(_PIECES, k=rng.randrange(6))) for _ in range(20)]
    # Lone surrogates are no UTF-8; JSON has a way to write them.
    return Schedule({}, [name if rng.random() < 0.2 else "/" + name for name in names])


def _use_names(steps: list[str], prefix: str) -> Counter[str]:
    """Make one of each kind; what is made must be a name of this folder, and nothing else may change."""
    counts: Counter[str] = Counter()
    for step in steps:
        name = step if len(step) < 2 or step[1:2] in "./" else f"/{prefix}{step[1:]}"
        kinds: list[Callable[[], Any]] = [
            lambda name=name: posix.SharedMemory.create(name, size=1),
            lambda name=name: posix.Semaphore.create(name),
            lambda name=name: posix.MessageQueue.create(name, max_messages=1, max_message_size=1),
            lambda name=name: Channel.create(name, capacity=64),
        ]
        for kind in kinds:
            before = set(os.listdir("/dev/shm"))
            try:
                handle = kind()
            except (ValueError, aioipc.Error):
                counts["refusals"] += 1
                assert set(os.listdir("/dev/shm")) == before, repr(name)
                continue
            with handle:
                rest = name[1:]
                assert name[0] == "/"
                assert rest not in ("", ".", "..")
                assert not {"/", "\0"} & set(rest), repr(name)
                made = set(os.listdir("/dev/shm")) - before
                assert all(file in (rest, f"sem.{rest}") or file.startswith("aioipc.") for file in made), made
            assert set(os.listdir("/dev/shm")) == before, repr(name)
            counts["objects"] += 1
    return counts


def _escape(world: World, schedule: Schedule) -> Counter[str]:
    folders = ("/", "/dev", "/tmp", str(world.folder), ".")
    before = [sorted(os.listdir(folder)) for folder in folders]
    child = world.fork(_use_names, schedule.steps, world.name()[1:])
    counts = child.result(SECONDS)
    # /tmp is everybody's: others may make files there meanwhile, but not of these names.
    for folder, files in zip(folders, before, strict=True):
        new = set(os.listdir(folder)) - set(files)
        assert not any(str(child.pid) in file for file in new), new
    return Counter(counts)


SCENARIOS = (
    *(Scenario(f"neighbours/names.storm/{loop}", _draw_storm(loop), _be_replaced, brief=4) for loop in LOOPS),
    Scenario("neighbours/names.removed/none", _draw_removals, _be_removed),
    Scenario("neighbours/names.escape/none", _draw_names, _escape, brief=10),
)
