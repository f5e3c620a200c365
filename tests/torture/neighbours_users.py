"""Objects of another user: one may do with them what their modes say, and never remove them."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import posix_ipc
import sysv_ipc
from harness import Scenario, Schedule
from responsive import SECONDS
from world import World, become_nobody

import aioipc
from aioipc import Channel, posix, sysv

READ, WRITE = 4, 2

KINDS = ("mq", "sem", "shm", "channel", "msg", "semset", "segment")
WAYS: dict[tuple[str, str], tuple[int, Callable[[Any], object]]] = {
    ("mq", "open"): (READ | WRITE, lambda name: posix.MessageQueue.open(name).close()),
    ("mq", "read"): (READ, lambda name: posix.MessageQueue.open(name, write=False).close()),
    ("mq", "write"): (WRITE, lambda name: posix.MessageQueue.open(name, read=False).close()),
    ("mq", "remove"): (8, lambda name: posix.MessageQueue.open(name).unlink()),
    ("sem", "open"): (READ | WRITE, lambda name: posix.Semaphore.open(name).close()),
    ("sem", "remove"): (8, lambda name: posix.Semaphore.open(name).unlink()),
    ("shm", "open"): (READ | WRITE, lambda name: posix.SharedMemory.open(name).close()),
    ("shm", "read"): (READ, lambda name: posix.SharedMemory.open(name, read_only=True).close()),
    ("shm", "remove"): (8, lambda name: posix.SharedMemory.open(name, read_only=True).unlink()),
    ("channel", "open"): (READ | WRITE, lambda name: Channel.open(name).close()),
    ("channel", "remove"): (8, lambda name: Channel.open(name).unlink()),
    ("msg", "read"): (READ, lambda key: _would_block(sysv.MessageQueue.open(key).receive_nowait)),
    ("msg", "write"): (WRITE, lambda key: sysv.MessageQueue.open(key).send_nowait(b"x")),
    ("msg", "remove"): (8, lambda key: sysv.MessageQueue.open(key).remove()),
    ("semset", "write"): (READ | WRITE, lambda key: sysv.SemaphoreSet.open(key).operate_nowait((0, 1))),
    ("semset", "remove"): (8, lambda key: sysv.SemaphoreSet.open(key).remove()),
    ("segment", "open"): (READ | WRITE, lambda key: sysv.SharedMemory.open(key).close()),
    ("segment", "remove"): (8, lambda key: sysv.SharedMemory.open(key).remove()),
}
"""Which rights it takes, 8 for those that nobody but the owner has, and how it is done, by name or key."""


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


def _try(kind: str, way: str, where: str | int, mode: int) -> Counter[str]:
    for module in (posix, sysv):  # what is imported when it is first used may be where nobody may read
        for name in module.__all__:
            getattr(module, name)
    become_nobody()
    rights, use = WAYS[kind, way]
    try:
        use(where)
    except aioipc.AccessError:
        assert mode & rights != rights, f"{kind} {way} was denied"
        return Counter(denials=1)
    assert mode & rights == rights, f"{kind} {way} was allowed"
    return Counter(uses=1)


def _be_another(world: World, schedule: Schedule) -> Counter[str]:
    counts: Counter[str] = Counter()
    if os.geteuid() != 0:
        return counts  # it takes root to be somebody else
    for kind, way, rights in schedule.steps:
        name, key = world.name(), world.key()
        mode = 0o600 | rights
        world.fork(_make, kind, name, key, mode).result()
        where = key if kind in ("msg", "semset", "segment") else name
        counts += world.fork(_try, kind, way, where, mode & 7).result(SECONDS)
        assert _exists(kind, name, key)
    return counts


def _draw(rng: random.Random) -> Schedule:
    return Schedule({}, [[*rng.choice(sorted(WAYS)), rng.choice((0, 2, 4, 6, 0o60))] for _ in range(6)])


SCENARIOS = (Scenario("neighbours/users/none", _draw, _be_another, brief=3),)
