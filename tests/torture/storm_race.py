"""A race: some tasks that wait for the same, cancelled in one of the ways, while it comes, or ends."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import anyio
import trio
from harness import Schedule
from storm_ways import Way, cancellations, is_cancelled, on_trio, pause, way, ways_of
from world import worker_threads

import aioipc
from aioipc._ring import _deaths
from aioipc._waiting import workers
from aioipc._waiting.blocking import Calls
from aioipc._waiting.readiness import Direction

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio", "backend_options": {"use_uvloop": False}},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


def draw(loop: str, races: int, room: int, rng: random.Random) -> Schedule:
    """A schedule of so many races.

    :param room: how many messages must fit
    """
    settings = {"tasks": rng.choice((1, 1, 2, 4)), "capacity": rng.randint(room, 3)}
    return Schedule(settings, [_draw_race(ways_of(loop), settings["tasks"], rng) for _ in range(races)])


def _draw_race(ways: list[str], most: int, rng: random.Random) -> dict[str, Any]:
    tasks = rng.randint(1, most)
    return {
        "way": rng.choice(ways),
        "tasks": tasks,
        "before": _draw_pause(rng),
        "gift": rng.choice(("none", "told", "told", "done", "done")),
        "after": _draw_pause(rng),
        "cancelled": 0 if rng.random() < 0.05 else rng.randint(1, tasks),
        "twice": _draw_pause(rng) if rng.random() < 0.3 else None,
        "again": rng.choice(("plain", "shielded")) if rng.random() < 0.15 else None,
        "closes": rng.random() < 0.06,
        "rival": rng.random() < 0.1,
        "microseconds": rng.randrange(400),
        "hold": rng.randrange(3),
    }


def _draw_pause(rng: random.Random) -> tuple[str, int]:
    kind = rng.choice(("passes", "passes", "passes", "spin", "sleep"))
    return kind, rng.randrange(7 if kind == "passes" else 150)


class Storm(ABC):
    """What the process in the storm does."""

    handle: Any = None
    """What the next race is about; None if it must be opened first."""
    ends: tuple[type[Exception], ...] = (aioipc.ClosedError,)
    """How an operation may end, without effect, but for a cancellation."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @property
    def ended(self) -> int:
        """How many attempts have ended."""
        return self.counts.total() - self.counts["races"]

    @abstractmethod
    async def open(self) -> None:
        """Make the handle."""

    @abstractmethod
    async def do(self, step: dict[str, Any]) -> None:
        """Do what the tasks of this race do, once."""

    @abstractmethod
    def give(self, step: dict[str, Any]) -> None:
        """Let what they wait for come, or not, as the step says."""

    @abstractmethod
    async def insist(self, count: int) -> None:
        """Some tasks go on waiting: let it come now, in any case."""

    async def settle(self) -> None:  # noqa: B027 -- for those that have something to do then
        """The race is over."""

    async def run(self, schedule: Schedule) -> None:
        for step in schedule.steps:
            await self._race(step)
        if self.handle is not None:
            self.handle.close()

    async def _race(self, step: dict[str, Any]) -> None:
        if self.handle is None:
            await self.open()
        kind = way(step["way"])
        racers = [kind(partial(self._act, step), step["microseconds"] / 1e6) for _ in range(step["tasks"])]
        self.counts["races"] += len(racers)
        async with trio.open_nursery() if on_trio() else nullcontext() as nursery:
            for racer in racers:
                racer.start(nursery)
            await pause(*step["before"])
            self.give(step)
            await pause(*step["after"])
            for stroke in range(kind.strokes + (step["twice"] is not None)):
                if stroke:
                    await pause(*step["twice"] or ("passes", 1))
                for racer in racers[: step["cancelled"]]:
                    racer.cancel()
            if step["closes"]:
                self.handle.close()
            await self._finish(racers)
        for racer in racers:
            if racer.error is not None:
                raise racer.error
        if not step["closes"]:
            await self._check_idle()
        await self.settle()
        if step["closes"]:
            self.handle = None

    async def _finish(self, racers: list[Way]) -> None:
        for _ in range(5000):
            waiting = [racer for racer in racers if not racer.done.is_set()]
            if not waiting:
                return
            await self.insist(len(waiting))
            with anyio.move_on_after(0.002):
                for racer in waiting:
                    await racer.done.wait()
        raise AssertionError(f"{len(waiting)} tasks do not end: what they wait for must be there")

    async def _act(self, step: dict[str, Any]) -> None:
        try:
            await self._attempt(step)
        finally:
            if step["again"] is not None:
                with anyio.CancelScope(shield=step["again"] == "shielded"):
                    await self._attempt(step, cancellations())

    async def _attempt(self, step: dict[str, Any], known: int = 0) -> None:
        """Do it once.

        :param known: how many requests for cancellation this task has been told of
        """
        try:
            await self.do(step)
        except self.ends:
            self.counts["ended otherwise"] += 1
            return
        except anyio.get_cancelled_exc_class():
            self.counts["cancelled"] += 1
            raise
        if not is_cancelled(known):
            self.counts["done"] += 1
            return
        self.counts["done although cancelled"] += 1
        await anyio.sleep(20)
        raise AssertionError("a cancellation was lost: it did not come with the next suspension")

    async def _check_idle(self) -> None:
        """Nobody waits: no thread, no place in line, no registration."""
        assert workers.in_the_kernel() == 0, "a thread is left in the kernel"
        await pause("passes", 2)  # a registration may stay to the end of a pass
        for line in lines_of(self.handle):
            assert line.waiting == 0, "a task is in line that has ended"
            assert not line.gate.held, "the gate is closed, and nobody is in line"
            if isinstance(line, Direction) and line.places is not None and not on_trio():
                assert not line.places._watched, "the descriptor is watched"


def lines_of(handle: Any) -> list[Any]:
    """Where tasks wait for it."""
    inner = handle._handle
    if inner is None:
        return []
    return [*inner._lines.values()] if isinstance(inner, Calls) else [inner.reading, inner.writing]


def in_the_storm(make: Callable[[], Storm], loop: str, schedule: Schedule) -> Storm:
    """Run a process's part to its end, after which nothing may be left."""
    errors: list[str] = []
    sys.unraisablehook = lambda what: errors.append(f"{what.err_msg}: {what.exc_value!r} of {what.object!r}")
    storm = make()

    async def main() -> None:
        if not on_trio():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
        await storm.run(schedule)

    _deaths.watch("")  # which stays, as does what the first loop opens
    anyio.run(anyio.sleep, 0, **LOOPS[loop])
    before = descriptors()
    anyio.run(main, **LOOPS[loop])
    assert descriptors() <= before, f"left: {descriptors() - before}"
    while worker_threads():  # if they go on, this hangs, and that is reported
        pass
    assert not errors, errors
    return storm


def descriptors() -> set[str]:
    """Those of this process, and what they are of."""
    return {f"{number} {os.path.realpath(f'/proc/self/fd/{number}')}" for number in os.listdir("/proc/self/fd")}
