"""Objects of another user: one may do with them what their modes say, and never remove them."""

from __future__ import annotations

import functools
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import anyio
import anyio._backends._asyncio  # while this user may read it
import posix_ipc
import sysv_ipc
from harness import Scenario, Schedule
from responsive import SECONDS
from world import World, become_nobody

import aioipc
from aioipc import Channel, posix, sysv

READ, WRITE, OWN = 4, 2, 8
BOTH = READ | WRITE

Way = tuple[tuple[int, ...], Callable[[Any], object]]

WAYS: dict[tuple[str, str], Way] = {
    ("mq", "open"): ((BOTH,), lambda name: posix.MessageQueue.open(name).close()),
    ("mq", "read"): ((READ,), lambda name: posix.MessageQueue.open(name, write=False).close()),
    ("mq", "write"): ((WRITE,), lambda name: posix.MessageQueue.open(name, read=False).close()),
    ("mq", "take over"): ((BOTH,), lambda name: posix.MessageQueue.create(name, **_QUEUE, exist_ok=True).close()),
    ("mq", "remove"): ((OWN,), lambda name: posix.MessageQueue.open(name).unlink()),
    ("sem", "open"): ((BOTH,), lambda name: posix.Semaphore.open(name).close()),
    ("sem", "look"): ((BOTH,), lambda name: posix.Semaphore.open(name).statistics()),
    ("sem", "take over"): ((BOTH,), lambda name: posix.Semaphore.create(name, exist_ok=True).close()),
    ("sem", "remove"): ((OWN,), lambda name: posix.Semaphore.open(name).unlink()),
    ("shm", "open"): ((BOTH,), lambda name: posix.SharedMemory.open(name).close()),
    ("shm", "read"): ((READ,), lambda name: posix.SharedMemory.open(name, read_only=True).close()),
    ("shm", "resize"): ((BOTH,), lambda name: posix.SharedMemory.open(name).resize(20)),
    ("shm", "take over"): ((BOTH,), lambda name: posix.SharedMemory.create(name, size=10, exist_ok=True).close()),
    ("shm", "remove"): ((OWN,), lambda name: posix.SharedMemory.open(name, read_only=True).unlink()),
    ("fifo", "read"): ((READ,), lambda path: anyio.run(_open, posix.Fifo.open_reader(path))),
    ("fifo", "keep open"): ((BOTH,), lambda path: anyio.run(_open, posix.Fifo.open_reader(path, keep_open=True))),
    ("fifo", "write"): ((WRITE,), lambda path: anyio.run(_open, posix.Fifo.open_writer(path))),
    ("fifo", "take over"): ((0,), lambda path: posix.Fifo.create(path, exist_ok=True).close()),
    ("fifo", "remove"): ((OWN,), lambda path: posix.Fifo.create(path, exist_ok=True).unlink()),
    ("channel", "open"): ((BOTH,), lambda name: Channel.open(name).close()),
    ("channel", "look"): ((BOTH,), lambda name: Channel.open(name).statistics()),
    ("channel", "take over"): ((BOTH,), lambda name: Channel.create(name, exist_ok=True).close()),
    ("channel", "remove"): ((OWN,), lambda name: Channel.open(name).unlink()),
    ("msg", "read"): ((READ,), lambda key: _would_block(sysv.MessageQueue.open(key).receive_nowait)),
    ("msg", "write"): ((WRITE,), lambda key: sysv.MessageQueue.open(key).send_nowait(b"x")),
    ("msg", "look"): ((READ,), lambda key: sysv.MessageQueue.open(key).statistics()),
    ("msg", "change"): ((OWN,), lambda key: sysv.MessageQueue.open(key).change(mode=0o666)),
    ("msg", "take over"): ((READ, WRITE), lambda key: sysv.MessageQueue.create(key, exist_ok=True).close()),
    ("msg", "remove"): ((OWN,), lambda key: sysv.MessageQueue.open(key).remove()),
    ("semset", "write"): ((BOTH,), lambda key: sysv.SemaphoreSet.open(key).operate_nowait((0, 1))),
    ("semset", "change"): ((OWN,), lambda key: sysv.SemaphoreSet.open(key).change(mode=0o666)),
    ("semset", "take over"): ((READ,), lambda key: sysv.SemaphoreSet.create(key, values=[1], exist_ok=True).close()),
    ("semset", "remove"): ((OWN,), lambda key: sysv.SemaphoreSet.open(key).remove()),
    ("segment", "open"): ((BOTH,), lambda key: sysv.SharedMemory.open(key).close()),
    ("segment", "change"): ((OWN,), lambda key: sysv.SharedMemory.open(key).change(mode=0o666)),
    ("segment", "take over"): ((BOTH,), lambda key: sysv.SharedMemory.create(key, size=10, exist_ok=True).close()),
    ("segment", "remove"): ((OWN,), lambda key: sysv.SharedMemory.open(key).remove()),
}
"""Which rights it takes, one of these, where only the owner has OWN; and how it is done, by name, path or key."""

_QUEUE = {"max_messages": 10, "max_message_size": 100}


async def _open(opening: posix.fifo.Opening[Any]) -> None:
    (await opening).close()


def _would_block(operation: Callable[[], object]) -> None:
    with suppress(aioipc.WouldBlock):
        operation()


def _make(kind: str, name: str, key: int, mode: int) -> None:
    """Make an object of this user's."""
    os.umask(0)
    if kind == "mq":
        posix_ipc.MessageQueue(name, posix_ipc.O_CREX, mode, 10, 100)
    elif kind == "sem":
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode)
    elif kind == "shm":
        posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode, 10)
    elif kind == "fifo":
        os.mkfifo("/dev/shm" + name, mode)
    elif kind == "channel":
        Channel.create(name, capacity=64, mode=mode, persist=True).close()
    elif kind == "msg":
        sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, mode)
    elif kind == "semset":
        sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX, mode).release()
    else:
        sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, mode, 10)


def _exists(kind: str, name: str, key: int) -> bool:
    if kind == "mq":
        try:
            with closing(posix_ipc.MessageQueue(name)):
                return True
        except posix_ipc.ExistentialError:
            return False
    if kind in ("msg", "semset", "segment"):
        try:
            {"msg": sysv_ipc.MessageQueue, "semset": sysv_ipc.Semaphore, "segment": sysv_ipc.SharedMemory}[kind](key)
        except sysv_ipc.ExistentialError:
            return False
        return True
    return os.path.exists(f"/dev/shm/{'sem.' if kind == 'sem' else ''}{name[1:]}")


def become_another() -> None:
    """Become another user, if that is possible."""
    for module in (posix, sysv):  # what is imported when it is first used may be where nobody may read
        for name in module.__all__:
            getattr(module, name)
    if os.geteuid() == 0:
        become_nobody()


def _try(kind: str, way: str, where: str | int, mode: int) -> Counter[str]:
    become_another()
    rights, use = WAYS[kind, way]
    may = any(mode & each == each for each in rights)
    try:
        use(where)
    except aioipc.AccessError:
        assert not may, f"{kind} {way} was denied"
        return Counter(denials=1)
    assert may, f"{kind} {way} was allowed"
    return Counter(uses=1)


def _be_another(world: World, schedule: Schedule) -> Counter[str]:
    if os.geteuid() != 0:
        return Counter({"steps skipped for want of root": len(schedule.steps)})
    counts: Counter[str] = Counter()
    for kind, way, rights in schedule.steps:
        name, key = world.name(), world.key()
        mode = 0o600 | rights
        world.fork(_make, kind, name, key, mode).result()
        where: str | int = name
        if kind in ("msg", "semset", "segment"):
            where = key
        elif kind == "fifo":  # whose other end is open
            where = "/dev/shm" + name
            world.later(os.close, os.open(where, os.O_RDWR | os.O_NONBLOCK))
            world.later(os.unlink, where)
        counts += world.fork(_try, kind, way, where, mode & 7).result(SECONDS)
        assert _exists(kind, name, key)
    return counts


def _draw(rng: random.Random) -> Schedule:
    ways = rng.sample(sorted(WAYS), 6)
    return Schedule({}, [[*way, rights] for way in ways for rights in (6, rng.choice((0, 2, 4, 0o60)))])


# Doorbells of another user ------------------------------------------------------------

PLANTS = ("fifo", "link", "file", "folder")


def _plant(what: str, bell: str, target: str) -> None:
    become_nobody()
    os.umask(0)
    if what == "fifo":
        os.mkfifo(bell, 0o666)
    elif what == "link":
        os.symlink(target, bell)
    elif what == "file":
        os.close(os.open(bell, os.O_CREAT | os.O_EXCL, 0o666))
    else:
        os.mkdir(bell, 0o777)


def _refuse(name: str) -> None:
    for open in (Channel.open, functools.partial(Channel.create, exist_ok=True)):
        try:
            open(name)
        except aioipc.CorruptError:
            continue
        raise AssertionError(f"{open} took a doorbell of another user")


def _be_deceived(world: World, schedule: Schedule) -> Counter[str]:
    """In the place of a doorbell that was removed is one of another user's, or what stands for one of one's own."""
    if os.geteuid() != 0:
        return Counter({"steps skipped for want of root": len(schedule.steps)})
    counts: Counter[str] = Counter()
    for what, number in schedule.steps:
        name, target = world.name(), "/dev/shm" + world.name()
        os.mkfifo(target)
        world.later(os.unlink, target)
        world.fork(_make, "channel", name, 0, 0o666).result()
        bell = world.doorbells(name)[number]
        os.unlink(bell)
        world.fork(_plant, what, bell, target).result()
        if what == "folder":
            world.later(os.rmdir, bell)
        planted = os.lstat(bell)
        world.fork(_refuse, name).result(SECONDS)
        assert os.path.samestat(os.lstat(bell), planted)
        counts["doorbells refused"] += 1
    return counts


def _draw_plants(rng: random.Random) -> Schedule:
    return Schedule({}, [[what, rng.randrange(2)] for what in rng.sample(PLANTS, len(PLANTS))])


SCENARIOS = (
    Scenario("neighbours/users/none", _draw, _be_another, brief=3),
    Scenario("neighbours/users.doorbells/none", _draw_plants, _be_deceived),
)
