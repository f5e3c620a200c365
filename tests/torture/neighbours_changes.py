"""Neighbours that change what an object is while it is used: how much memory it has, who may use it, a set's values.

Who touches memory that was cut off gets SIGBUS, who has no rights any more AccessError; nothing else may come of it.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio._backends._asyncio  # while this user may read it
import anyio._backends._trio
import anyio.lowlevel
import posix_ipc
import sysv_ipc
import uvloop  # noqa: F401
from harness import Scenario, Schedule
from neighbours_users import become_another
from responsive import LOOPS, SECONDS, responsive
from world import Child, Failed, World, libc

import aioipc
from aioipc import posix, sysv

SETALL = 17
PAGE = 4096


def in_turn(child: Child, steps: list[list[int]], change: Callable[..., object]) -> int:
    """Be the neighbour until the child has ended: after so many microseconds, make a change, which is what follows."""
    done = 0
    while True:
        for pause, *what in steps:
            if child.has_ended:
                return done
            time.sleep(pause / 1e6)
            change(*what)
            done += 1


# Memory that others resize ------------------------------------------------------------


def _use_memory(name: str, settings: dict[str, Any]) -> Counter[str]:
    rng = random.Random(settings["seed"])

    async def use(counts: Counter[str]) -> None:
        for _ in range(100):
            with suppress(aioipc.KernelError):  # it had no memory just then
                with posix.SharedMemory.open(name) as segment:
                    assert segment.statistics().size >= 0
                    if rng.random() < 0.7:
                        segment.resize(rng.choice((1, PAGE, 5 * PAGE, 300 * PAGE)))
                    if settings["touches"]:
                        segment.buffer[rng.randrange(segment.size)] = 1
                counts["uses"] += 1
            await anyio.lowlevel.checkpoint()

    async def main(counts: Counter[str]) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(use, counts)

    return responsive(settings["loop"], main)


def _be_resized(world: World, schedule: Schedule) -> Counter[str]:
    name = world.name()
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=PAGE)
    world.later(memory.close_fd)
    child = world.fork(_use_memory, name, schedule.settings)
    counts = Counter(changes=in_turn(child, schedule.steps, lambda size: os.ftruncate(memory.fd, size)))
    try:
        counts += child.result(SECONDS)
    except Failed:
        if child.wait() != -signal.SIGBUS or not schedule.settings["touches"]:
            raise
        counts["deaths by SIGBUS"] += 1
    return counts


def _draw_sizes(loop: str) -> Callable[[random.Random], Schedule]:
    def draw(rng: random.Random) -> Schedule:
        settings = {"loop": loop, "seed": rng.randrange(2**32), "touches": rng.random() < 0.3}
        sizes = (0, 1, PAGE - 1, PAGE, 3 * PAGE, 500 * PAGE)
        return Schedule(settings, [[rng.choice((0, 50, 500)), rng.choice(sizes)] for _ in range(rng.randrange(1, 20))])

    return draw


# Rights that are taken away -----------------------------------------------------------


def _use_while_allowed(key: int, settings: dict[str, Any]) -> Counter[str]:
    become_another()
    rng = random.Random(settings["seed"])
    kind: Any = sysv.SemaphoreSet if settings["use"] == "acquire" else sysv.MessageQueue

    async def use(handle: Any) -> None:
        if settings["use"] == "acquire":
            await handle[0].acquire(undo=False)
        elif settings["use"] == "send":
            await handle.send(b"x")
        else:
            await handle.receive()

    async def use_often(handle: Any, counts: Counter[str]) -> None:
        for _ in range(60):
            with anyio.move_on_after(rng.choice((0.001, 0.005, 0.02))) as scope:
                try:
                    await use(handle)
                    counts["transfers"] += 1
                except aioipc.AccessError:
                    counts["denials"] += 1
                    await anyio.sleep(0.001)
            counts["cancellations"] += scope.cancelled_caught

    async def main(counts: Counter[str]) -> None:
        while True:
            try:
                handle = kind.open(key)
                break
            except aioipc.AccessError:
                await anyio.sleep(0.001)
        with handle:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(use_often, handle, counts)

    return responsive(settings["loop"], main)


def _be_denied(world: World, schedule: Schedule) -> Counter[str]:
    """Nothing is lost: what the neighbour has given and the process has not taken is there, and the other way round."""
    key, use = world.key(), schedule.settings["use"]
    changed: Any = (sysv_ipc.Semaphore if use == "acquire" else sysv_ipc.MessageQueue)(key, sysv_ipc.IPC_CREX, 0o666)
    if use != "acquire":
        changed.max_size = 10
    given = 0
    exchange: Callable[[], object] = {
        "acquire": lambda: changed.release(),
        "send": lambda: changed.receive(False),
        "receive": lambda: changed.send(b"x", False),
    }[use]

    def change(mode: int, exchanges: int) -> None:
        nonlocal given
        changed.mode = 0o666  # who is not root may not exchange anything else
        with suppress(sysv_ipc.BusyError):
            if exchanges:
                exchange()
                given += -1 if use == "send" else 1
        changed.mode = mode

    child = world.fork(_use_while_allowed, key, schedule.settings)
    changes = in_turn(child, schedule.steps, change)
    counts: Counter[str] = child.result(SECONDS)
    changed.mode = 0o666
    left = changed.value if use == "acquire" else changed.current_messages
    assert left == given + (counts["transfers"] if use == "send" else -counts["transfers"])
    return counts + Counter(changes=changes)


def _draw_rights(loop: str) -> Callable[[random.Random], Schedule]:
    def draw(rng: random.Random) -> Schedule:
        use = rng.choice(("receive", "send", "acquire"))
        settings = {"loop": loop, "seed": rng.randrange(2**32), "use": use}
        steps = [
            [rng.choice((100, 1000, 5000)), rng.choice((0, 0o666)), int(rng.random() < 0.7)]
            for _ in range(rng.randrange(1, 20))
        ]
        return Schedule(settings, [*steps, [100, 0o666, 1]])

    return draw


# Values that are set ------------------------------------------------------------------


def _wait_for_values(key: int, settings: dict[str, Any]) -> Counter[str]:
    rng = random.Random(settings["seed"])

    async def main(counts: Counter[str]) -> None:
        with sysv.SemaphoreSet.open(key) as semaphores:
            ways: list[Callable[[], Awaitable[None]]] = [
                lambda: semaphores[0].acquire(undo=False),
                lambda: semaphores.operate((0, -1), (1, -2)),
                lambda: semaphores[1].wait_for_zero(),
            ]

            async def wait(way: Callable[[], Awaitable[None]]) -> None:
                for _ in range(20):
                    with anyio.move_on_after(rng.choice((0.001, None, None))):
                        await way()
                        counts["waits"] += 1

            async with anyio.create_task_group() as group:
                for way in ways * 2:
                    group.start_soon(wait, way)

    return responsive(settings["loop"], main)


def _have_values_set(world: World, schedule: Schedule) -> Counter[str]:
    """Who waits for a value goes on when somebody sets it: nobody waits for ever."""
    key = world.key()
    id = libc.semget(key, 2)
    first = sysv_ipc.Semaphore(key)
    semctl = ctypes.CDLL(None, use_errno=True).semctl
    values = (ctypes.c_ushort * 2)()

    def change(sets_all: int, *new: int) -> None:
        if sets_all:
            values[:] = list(new)
            assert semctl(id, 0, SETALL, values) == 0
        else:
            first.value = new[0]

    child = world.fork(_wait_for_values, key, schedule.settings)
    # Whatever is left out, there is something for everybody from time to time.
    changes = in_turn(child, [*schedule.steps, [100, 1, 1, 2], [100, 1, 1, 0]], change)
    return Counter(child.result(SECONDS)) + Counter(changes=changes)


def _draw_values(loop: str) -> Callable[[random.Random], Schedule]:
    def draw(rng: random.Random) -> Schedule:
        steps = [
            [rng.choice((0, 100, 1000)), rng.randrange(2), rng.randrange(4), rng.randrange(4)]
            for _ in range(rng.randrange(1, 10))
        ]
        return Schedule({"loop": loop, "seed": rng.randrange(2**32)}, steps)

    return draw


SCENARIOS = tuple(
    scenario
    for loop in LOOPS
    for scenario in (
        Scenario(f"neighbours/changes.memory/{loop}", _draw_sizes(loop), _be_resized, brief=2),
        Scenario(f"neighbours/changes.rights/{loop}", _draw_rights(loop), _be_denied, brief=2),
        Scenario(f"neighbours/changes.values/{loop}", _draw_values(loop), _have_values_set),
    )
)
