"""A process under test of the soak: all activities and probes in one event loop, until its time is up."""

from __future__ import annotations

import gc
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
from soak_activities import ACTIVITIES
from soak_place import Place, hangs
from soak_probes import probing

from aioipc._ring import _deaths

LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

Alone = tuple[list[float], list[float]]


def soaked(
    loop: str, place: Place, activities: Sequence[str], pace: float, seconds: float, interval: float, news: int
) -> tuple[Counter[str], Alone]:
    """Do all this, and write to a descriptor what the probes have found.

    :returns: what it did, and what the control has taken alone, before and after that
    :raises AssertionError: if something is left in the end
    """
    warnings.simplefilter("ignore", ResourceWarning)  # it drops handles
    warnings.simplefilter("ignore", DeprecationWarning)  # it forks beside threads
    backend, options = LOOPS[loop]
    run = partial(anyio.run, backend=backend, backend_options=options)
    _deaths.watch("")  # which a process keeps; and libuv keeps some, too
    run(anyio.lowlevel.checkpoint)
    before, mapped_before = open_descriptors(), shared_mappings()
    alone = run(_live, place, activities, pace, seconds, interval, news)
    gc.collect()
    _await(lambda: len(os.listdir("/proc/self/task")) == 1, "threads")
    opened = open_descriptors().items() - before.items()
    assert not opened, f"descriptors are left: {sorted(opened)}"
    mapped = shared_mappings() - mapped_before
    assert not mapped, f"mappings are left: {sorted(mapped)}"
    return place.counts, alone


def open_descriptors() -> dict[int, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # by which they were listed
            continue
    return found


def shared_mappings() -> set[str]:
    """Also those of the process that has forked this one."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if "/dev/shm/" in line or "/SYSV" in line}


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, f"{what} are left"
        time.sleep(0.01)


async def _live(
    place: Place, activities: Sequence[str], pace: float, seconds: float, interval: float, news: int
) -> Alone:
    ended = anyio.Event()

    async def report() -> None:
        while True:
            await anyio.sleep(interval)
            os.write(news, json.dumps(probes.found).encode() + b"\n")
            probes.found.clear()

    async with probing(place) as probes:
        first = await probes.alone()
        async with anyio.create_task_group() as probing_group:
            probing_group.start_soon(probes.run, place)
            probing_group.start_soon(report)
            async with anyio.create_task_group() as group:
                for name in activities:
                    group.start_soon(_repeat, name, place, pace, ended)
                await anyio.sleep(seconds)
                ended.set()
            probing_group.cancel_scope.cancel()
        return first, await probes.alone()


async def _repeat(name: str, place: Place, pace: float, ended: anyio.Event) -> None:
    activity = ACTIVITIES[name]
    while not ended.is_set():
        with hangs():
            await activity.do(place)
        place.counts[name] += 1
        with anyio.move_on_after(place.rng.expovariate(1 / (pace * activity.pause))):
            await ended.wait()
