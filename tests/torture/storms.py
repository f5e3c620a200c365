"""The cancellation storm: each awaitable of the library, cancelled in any way at any moment, while peers give and take.

A step of the schedule is a race of some tasks with a cancellation and with what they wait for.  What was cancelled
must have done nothing, what returned must have been done once: the peers, programs in C, have written down what they
gave and took, and what was left.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import Any

import anyio
import trio
from conftest import worker_threads
from harness import Scenario, Schedule
from storm_objects import Peer, Target
from storm_operations import OPERATIONS, Attempt, Operation
from storm_ways import Way, cancellations, is_cancelled, on_trio, pause, way, ways_of
from world import World

import aioipc
import libc
from aioipc._ring import _deaths
from aioipc._waiting import workers

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio", "backend_options": {"use_uvloop": False}},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
RIVALS = 1_000_000
"""Where the numbers begin that others send."""


# The schedule ----------------------------------------------------------------------


def draw(operation: Operation, loop: str, rng: random.Random) -> Schedule:
    settings = {"tasks": rng.choice((1, 1, 2, 4)), "capacity": rng.randint(operation.room, 3)}
    return Schedule(settings, [draw_race(ways_of(loop), settings["tasks"], rng) for _ in range(200)])


def draw_race(ways: list[str], most: int, rng: random.Random) -> dict[str, Any]:
    tasks = rng.randint(1, most)
    return {
        "way": rng.choice(ways),
        "tasks": tasks,
        "before": draw_pause(rng),
        "gift": rng.choice(("none", "told", "told", "done", "done")),
        "after": draw_pause(rng),
        "cancelled": 0 if rng.random() < 0.05 else rng.randint(1, tasks),
        "twice": draw_pause(rng) if rng.random() < 0.3 else None,
        "again": rng.choice(("plain", "shielded")) if rng.random() < 0.15 else None,
        "closes": rng.random() < 0.06,
        "rival": rng.random() < 0.1,
        "microseconds": rng.randrange(400),
        "hold": rng.randrange(3),
    }


def draw_pause(rng: random.Random) -> tuple[str, int]:
    kind = rng.choice(("passes", "passes", "passes", "spin", "sleep"))
    return kind, rng.randrange(7 if kind == "passes" else 150)


# In the process in the storm ----------------------------------------------------------


class Storm:
    """A handle, the peers, and what has been done."""

    def __init__(self, operation: Operation, target: Target, peer: Peer, rival: Peer | None) -> None:
        self.operation = operation
        self.counts: Counter[str] = Counter()
        self.noted: list[int] = []
        self.given_back = 0
        self.next = 0
        self._target = target
        self._peer = peer
        self._rival = rival
        self._handle: Any = None

    async def run(self, schedule: Schedule) -> None:
        async with anyio.create_task_group() as group:  # trio's nursery is its own
            await self._open()
            for step in schedule.steps:
                await self._race(step)
            group.cancel_scope.cancel()
        if self._handle is not None:
            self._handle.close()

    async def _open(self) -> None:
        if self.operation.open is not None:
            opened = self.operation.open(self._target)
            self._handle = await opened if isinstance(opened, Awaitable) else opened

    async def attempt(self, known: int, hold: int) -> None:
        """Do it once.

        :param known: how many requests for cancellation have been delivered to this task before
        """
        operation = self.operation
        try:
            await operation.do(self._target.where if operation.open is None else self._handle, Once(self, hold))
        except aioipc.ClosedError:
            self.counts["closed"] += 1
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

    async def _act(self, step: dict[str, Any]) -> None:
        try:
            await self.attempt(0, step["hold"])
        finally:
            if step["again"] is not None:
                with anyio.CancelScope(shield=step["again"] == "shielded"):
                    await self.attempt(cancellations(), step["hold"])

    async def _race(self, step: dict[str, Any]) -> None:
        kind = way(step["way"])
        racers = [kind(partial(self._act, step), step["microseconds"] / 1e6) for _ in range(step["tasks"])]
        self.counts["races"] += len(racers)
        async with trio.open_nursery() if on_trio() else anyio.create_task_group() as nursery:
            for racer in racers:
                racer.start(nursery if on_trio() else None)
            if step["rival"] and self._rival is not None:
                self._rival.ask()
            await pause(*step["before"])
            self._give(step["gift"])
            await pause(*step["after"])
            strokes = kind.strokes + (step["twice"] is not None)
            for stroke in range(strokes):
                if stroke:
                    await pause(*step["twice"] or ("passes", 1))
                for racer in racers[: step["cancelled"]]:
                    racer.cancel()
            if step["closes"] and self._handle is not None:
                self._handle.close()
            await self._finish(racers)
        for racer in racers:
            if racer.error is not None:
                raise racer.error
        if step["closes"]:
            await self._open()
        else:
            await self._check_idle()

    # What they wait for

    def _credit(self) -> int:
        """How many could be served without a gift."""
        if self.operation.may_lose:
            return self._peer.asked - self._peer.answered
        rivals = 0 if self._rival is None else self._rival.asked
        room = 0 if self.operation.takes else self._target.capacity
        return room + self._peer.asked + self.given_back - rivals - len(self.noted)

    def _give(self, gift: str) -> None:
        self._peer.wait()
        if gift == "none" or self._credit() >= max(self._target.capacity, 1):
            return
        self._peer.ask()
        if gift == "done":
            self._peer.wait(0.001)

    async def _finish(self, racers: list[Way]) -> None:
        """Wait for their end; give those that were not cancelled what they wait for."""
        for _ in range(5000):
            waiting = [racer for racer in racers if not racer.done.is_set()]
            if not waiting:
                return
            for _ in waiting:
                if self._credit() < len(waiting):
                    self._give("told")
            with anyio.move_on_after(0.002):
                for racer in waiting:
                    await racer.done.wait()
                return
            if self._credit() > 0 or self.operation.may_lose:  # somebody else has it
                self._peer.wait()
                self._peer.ask()
        raise AssertionError(f"{len(waiting)} tasks do not end: what they wait for must be there")

    # Afterwards

    async def _check_idle(self) -> None:
        """Nobody waits: no thread, no place in line, no registration."""
        assert workers.in_the_kernel() == 0, "a thread is left in the kernel"
        if self._handle is None:
            return
        await pause("passes", 2)  # a registration may stay to the end of a pass
        for line in lines_of(self._handle):
            assert line.waiting == 0, "a task is in line that has ended"
            assert not line.gate.held, "the gate is closed, and nobody in line"
            assert not getattr(getattr(line, "places", None), "_watched", False), "the descriptor is watched"


def lines_of(handle: Any) -> Iterator[Any]:
    inner = handle._handle
    yield from inner._lines.values() if hasattr(inner, "_lines") else (inner.reading, inner.writing)


class Once(Attempt):
    def __init__(self, storm: Storm, hold: int) -> None:
        self._storm = storm
        self._hold = hold

    def new(self) -> int:
        self._storm.next += 1
        return self._storm.next

    def note(self, *numbers: int) -> None:
        self._storm.noted += numbers

    def give_back(self) -> None:
        self._storm.given_back += 1

    async def hold(self) -> None:
        await pause("passes", self._hold)


def in_the_storm(operation: Operation, target: Target, peers: tuple[Peer, Peer | None], loop: str, schedule: Schedule) -> Any:
    """What the process in the storm does; what it noted, gave back and counted."""
    errors: list[str] = []
    sys.unraisablehook = lambda what: errors.append(f"{what.err_msg}: {what.exc_value!r} of {what.object!r}")
    _deaths.watch("")  # which stays
    storm = Storm(operation, target, *peers)

    async def main() -> None:
        if not on_trio():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
        await storm.run(schedule)

    anyio.run(anyio.sleep, 0, **LOOPS[loop])  # what is opened by the first loop may stay
    before = descriptors()
    anyio.run(main, **LOOPS[loop])
    assert descriptors() <= before, f"left: {descriptors() - before}"
    while worker_threads():
        pass
    assert not errors, errors
    return storm.noted, storm.given_back, storm.counts


def descriptors() -> set[str]:
    return {f"{number} {os.path.realpath(f'/proc/self/fd/{number}')}" for number in os.listdir("/proc/self/fd")}


# Outside ------------------------------------------------------------------------------


def run(operation: Operation, loop: str, world: World, schedule: Schedule) -> Counter[str]:
    target = operation.make(world, schedule.settings["capacity"])
    verbs = ("give", "take") if operation.takes else ("take", "give")
    peer = Peer(world, verbs[0], target)
    rival = Peer(world, verbs[1], target, RIVALS)
    child = world.fork(in_the_storm, operation, target, (peer, None if operation.may_lose else rival), loop, schedule)
    noted, given_back, counts = child.result()
    # Who takes ends last, and takes what is left.
    results = dict(zip(verbs, (peer, rival), strict=True))
    given, taken = results["give"].finish()[0], results["take"].finish()
    account(operation, schedule, given, taken, noted, given_back, counts)
    if target.extra is not None:
        assert libc.semvalue(int(target.where), target.extra) == len(noted)
    return Counter(counts)


def account(
    operation: Operation,
    schedule: Schedule,
    given: int,
    taken: list[int],
    noted: list[int],
    given_back: int,
    counts: Counter[str],
) -> None:
    """Compare what the process in the storm says with what its peers say."""
    if operation.may_lose:
        sent, received = (range(given), noted) if operation.takes else (noted, taken)
        assert_part(received, sent)
        lost = len(set(sent)) - len(received)
        assert lost <= counts["races"] + counts["cancelled"] - counts["done"], f"{lost} were lost"
    elif not operation.takes:
        rivals = list(range(RIVALS, RIVALS + given))
        assert_same(taken, noted + rivals)
        assert_order([number for number in taken if number >= RIVALS], operation.types)
        if schedule.settings["tasks"] == 1:
            assert_order([number for number in taken if number < RIVALS], operation.types)
    elif isinstance(operation.types, int) and operation.types:
        assert_same(noted + taken, range(given))
        assert_order(noted, operation.types)
        assert_order(taken, operation.types)
    else:
        held = 0 if operation.is_undone else len(noted) - given_back
        assert held + len(taken) == given, f"{held} held and {len(taken)} taken elsewhere, of {given}"


def assert_same(found: Any, expected: Any) -> None:
    found, expected = Counter(found), Counter(expected)
    doubled, lost = sorted(found - expected), sorted(expected - found)
    assert not doubled, f"doubled, or of nobody: {doubled}; lost: {lost}"
    assert not lost, f"lost: {lost}"


def assert_part(found: Any, whole: Any) -> None:
    more = sorted(Counter(found) - Counter(whole))
    assert not more, f"doubled, or of nobody: {more}"


def assert_order(numbers: list[int], types: int) -> None:
    for rest in range(types):
        own = [number for number in numbers if number % types == rest]
        assert own == sorted(own), f"out of order: {own}"


SCENARIOS = (
    *(
        Scenario(f"storm/{operation.name}/{loop}", partial(draw, operation, loop), partial(run, operation, loop))
        for operation in OPERATIONS
        for loop in LOOPS
    ),
)
