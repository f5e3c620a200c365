"""The cancellation storm: each awaitable of the library, cancelled in any way at any moment, while peers give and take.

A step of the schedule is a race of some tasks with a cancellation and with what they wait for.  What was cancelled
must have done nothing, what returned must have been done once: the peers, programs in C, have written down what they
gave and took, and what was left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import storm_endings
from harness import Scenario, Schedule
from storm_objects import Peer, Target
from storm_operations import OPERATIONS, Attempt, Operation
from storm_race import Storm, draw, in_the_storm
from storm_ways import pause
from world import World, libc

import aioipc

RIVALS = 1_000_000
"""Where the numbers begin that others send."""


@dataclass
class Report:
    """What the process in the storm says that it did."""

    noted: list[int] = field(default_factory=list)
    """The numbers that it sent or received."""
    given_back: int = 0
    certain: list[list[int]] = field(default_factory=list)
    """Of each of these lists, where numbers may be lost, one must have arrived all the same."""


class Exchange(Storm):
    """It takes what peers give, or gives what they take."""

    def __init__(self, operation: Operation, target: Target, peer: Peer, rival: Peer | None) -> None:
        super().__init__()
        self.report = Report()
        self.gaps = 0
        """An upper bound of what takes up room, and will not be received."""
        self.last = 0
        self.postponed: list[Callable[[], object]] = []
        """To be done as something is given, or a little later."""
        self._operation = operation
        self._target = target
        self._peer = peer
        self._rival = rival
        self._ended_before_gift = -1
        self._at_rest = (0, 0, 0)

    async def open(self) -> None:
        opened = self._operation.open(self._target)
        self.handle = await opened if isinstance(opened, Awaitable) else opened

    async def do(self, step: dict[str, Any]) -> None:
        await self._operation.do(self.handle, Once(self, step))

    def give(self, step: dict[str, Any]) -> None:
        if step["rival"] and self._rival is not None:
            self._rival.ask()
        self._peer.wait()
        if step["gift"] != "none" and self._credit() < max(self._target.capacity, 1):
            self._ask()
            if step["gift"] == "done":
                self._peer.wait(0.001)
        while self.postponed:
            act = self.postponed.pop()
            if step["hold"]:
                asyncio.get_running_loop().call_later(step["microseconds"] * (step["hold"] - 1) / 1e6, act)
            else:
                act()

    async def insist(self, count: int) -> None:
        # No more than must be enough, or a wake-up that is lost would not be missed.
        self._peer.wait()
        if self._operation.may_lose:
            # Who had the last gift, or lost it, ends by itself.
            if self._credit() == 0 and self.ended > self._ended_before_gift:
                self._ask()
            return
        if self.gaps and self._is_empty():
            self.gaps = 0  # there is nothing before them
        for _ in range(count * self._operation.room - self._credit() + self.gaps):
            self._ask()

    def _is_empty(self) -> bool:
        """Whether nothing is there to be taken, or about to be.  What was sent may not have been noted yet."""
        for other in (self._peer, self._rival):
            if other is not None:
                other.wait()
                if other.answered < other.asked:
                    return False
        try:
            return bool(self.handle.statistics().messages == 0)
        except aioipc.ClosedError:
            return False

    def _ask(self) -> None:
        self._ended_before_gift = self.ended
        self._peer.ask()

    def takers(self, *, least: bool = False) -> int:
        """How many may have taken one by now, this process and rivals; or how many have certainly."""
        if self._rival is None or not least:
            return len(self.report.noted) + self._rivals()
        self._rival.wait()
        return len(self.report.noted) + self._rival.answered

    def _rivals(self) -> int:
        return 0 if self._rival is None else self._rival.asked

    def _credit(self) -> int:
        """How many could be served without a gift, as far as is known."""
        if self._operation.may_lose:
            return self._peer.asked - self._peer.answered
        room = 0 if self._operation.takes else self._target.capacity
        return room + self._peer.asked + self.report.given_back - self.takers()

    async def settle(self) -> None:
        if not self._operation.may_lose:
            return
        self._peer.wait(0.001)
        if self._peer.answered < self._peer.asked:
            return
        # Nobody has anything open.  If nobody was cancelled since the last time, then what came first met somebody.
        given, noted, cancelled = self._at_rest
        self._at_rest = (self._peer.answered, len(self.report.noted), self.counts["cancelled"])
        numbers = [*range(given, self._at_rest[0])] if self._operation.takes else self.report.noted[noted:]
        if numbers and cancelled == self.counts["cancelled"]:
            self.report.certain.append(numbers)


class Once(Attempt):
    def __init__(self, exchange: Exchange, step: dict[str, Any]) -> None:
        self._exchange = exchange
        self._step = step
        self._before = exchange.takers(least=True)

    def new(self) -> int:
        self._exchange.last += 1
        return self._exchange.last

    def note(self, *numbers: int) -> None:
        self._exchange.report.noted += numbers

    def give_back(self) -> None:
        self._exchange.report.given_back += 1

    def miss(self) -> None:
        assert self._exchange.takers() > self._before, "nobody was quicker"

    def leave_gap(self) -> None:
        self._exchange.gaps += 1

    def later(self, act: Callable[[], object]) -> None:
        if self._step["microseconds"] % 2:
            self._exchange.postponed.append(act)

    async def hold(self) -> None:
        await pause("passes", self._step["hold"])


def in_the_process(
    operation: Operation, target: Target, peer: Peer, rival: Peer | None, loop: str, schedule: Schedule
) -> tuple[Report, Counter[str]]:
    """What the process in the storm says, and what it counted."""
    storm = in_the_storm(lambda: Exchange(operation, target, peer, rival), loop, schedule)
    assert isinstance(storm, Exchange)
    return storm.report, storm.counts


# Outside ------------------------------------------------------------------------------


def run(operation: Operation, loop: str, world: World, schedule: Schedule) -> Counter[str]:
    target = operation.make(world, schedule.settings["capacity"])
    verbs = ("give", "take") if operation.takes else ("take", "give")
    peer = Peer(world, verbs[0], target)
    rival = Peer(world, verbs[1], target, RIVALS)
    rivals = None if operation.may_lose else rival
    child = world.fork(in_the_process, operation, target, peer, rivals, loop, schedule)
    report, counts = child.result()
    # Who takes ends last, and takes what is left.
    results = dict(zip(verbs, (peer, rival), strict=True))
    given, taken = results["give"].finish()[0], results["take"].finish()
    account(operation, schedule, given, taken, report)
    if target.extra is not None:
        assert libc.semvalue(int(target.where), target.extra) == len(report.noted)
    if operation.may_lose:
        counts["certain"] = len(report.certain)
    return Counter(counts)


def account(operation: Operation, schedule: Schedule, given: int, taken: list[int], report: Report) -> None:
    """Compare what the process in the storm says with what its peers say."""
    noted = report.noted
    if operation.may_lose:
        sent, received = (range(given), noted) if operation.takes else (noted, taken)
        more = sorted(Counter(received) - Counter(sent))
        assert not more, f"doubled, or of nobody: {more}"
        arrived = set(received)
        for numbers in report.certain:
            assert not arrived.isdisjoint(numbers), f"lost, though nobody was cancelled: {numbers}"
    elif not operation.takes:
        rivals = list(range(RIVALS, RIVALS + given))
        assert_same(taken, noted + rivals)
        assert_order([number for number in taken if number >= RIVALS], operation.types or 0)
        if schedule.settings["tasks"] == 1:
            assert_order([number for number in taken if number < RIVALS], operation.types or 0)
    elif operation.types is not None:
        assert_same(noted + taken, range(given))
        assert_order(noted, operation.types)
        assert_order(taken, operation.types)
    else:
        held = 0 if operation.is_undone else len(noted) - report.given_back
        assert held + len(taken) == given, f"{held} held and {len(taken)} taken elsewhere, of {given}"


def assert_same(found: Any, expected: Any) -> None:
    found, expected = Counter(found), Counter(expected)
    doubled, lost = sorted(found - expected), sorted(expected - found)
    assert not doubled, f"doubled, or of nobody: {doubled}; lost: {lost}"
    assert not lost, f"lost: {lost}"


def assert_order(numbers: list[int], types: int) -> None:
    for rest in range(types):
        own = [number for number in numbers if number % types == rest]
        assert own == sorted(own), f"out of order: {own}"


SCENARIOS = (
    *(
        Scenario(
            f"storm/{operation.name}/{loop}",
            partial(draw, loop, 200, operation.room),
            partial(run, operation, loop),
            does=("cancelled", "done", *(["certain"] if operation.may_lose else [])),
        )
        for operation in OPERATIONS
        for loop in operation.loops
    ),
    *storm_endings.SCENARIOS,
)
