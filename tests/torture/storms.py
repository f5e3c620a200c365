"""The cancellation storm: each awaitable of the library, cancelled in any way at any moment, while peers give and take.

A step of the schedule is a race of some tasks with a cancellation and with what they wait for.  What was cancelled
must have done nothing, what returned must have been done once: the peers, programs in C, have written down what they
gave and took, and what was left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from functools import partial
from typing import Any

import storm_endings
from harness import Scenario, Schedule
from storm_objects import Peer, Target
from storm_operations import OPERATIONS, Attempt, Operation
from storm_race import LOOPS, Storm, draw, in_the_storm
from storm_ways import pause
from world import World, libc

RIVALS = 1_000_000
"""Where the numbers begin that others send."""


class Exchange(Storm):
    """It takes what peers give, or gives what they take."""

    def __init__(self, operation: Operation, target: Target, peer: Peer, rival: Peer | None) -> None:
        super().__init__()
        self.noted: list[int] = []
        self.given_back = 0
        self.last = 0
        self._operation = operation
        self._target = target
        self._peer = peer
        self._rival = rival

    async def open(self) -> None:
        opened = self._operation.open(self._target)
        self.handle = await opened if isinstance(opened, Awaitable) else opened

    async def do(self, step: dict[str, Any]) -> None:
        await self._operation.do(self.handle, Once(self, step["hold"]))

    def give(self, step: dict[str, Any]) -> None:
        if step["rival"] and self._rival is not None:
            self._rival.ask()
        self._peer.wait()
        if step["gift"] != "none" and self._credit() < max(self._target.capacity, 1):
            self._peer.ask()
            if step["gift"] == "done":
                self._peer.wait(0.001)

    async def insist(self, count: int) -> None:
        # If possible no more than must be enough, or a wake-up that is lost would not be missed.
        self._peer.wait()
        missing = count * self._operation.room - self._credit()
        for _ in range(max(missing, self._operation.may_lose or self._operation.leaves_gaps)):
            self._peer.ask()

    def _credit(self) -> int:
        """How many could be served without a gift, as far as is known."""
        if self._operation.may_lose:
            return self._peer.asked - self._peer.answered
        rivals = 0 if self._rival is None else self._rival.asked
        room = 0 if self._operation.takes else self._target.capacity
        return room + self._peer.asked + self.given_back - rivals - len(self.noted)


class Once(Attempt):
    def __init__(self, exchange: Exchange, hold: int) -> None:
        self._exchange = exchange
        self._hold = hold

    def new(self) -> int:
        self._exchange.last += 1
        return self._exchange.last

    def note(self, *numbers: int) -> None:
        self._exchange.noted += numbers

    def give_back(self) -> None:
        self._exchange.given_back += 1

    async def hold(self) -> None:
        await pause("passes", self._hold)


def in_the_process(
    operation: Operation, target: Target, peer: Peer, rival: Peer | None, loop: str, schedule: Schedule
) -> tuple[list[int], int, Counter[str]]:
    """What the process in the storm noted, gave back and counted."""
    storm = in_the_storm(lambda: Exchange(operation, target, peer, rival), loop, schedule)
    assert isinstance(storm, Exchange)
    return storm.noted, storm.given_back, storm.counts


# Outside ------------------------------------------------------------------------------


def run(operation: Operation, loop: str, world: World, schedule: Schedule) -> Counter[str]:
    target = operation.make(world, schedule.settings["capacity"])
    verbs = ("give", "take") if operation.takes else ("take", "give")
    peer = Peer(world, verbs[0], target)
    rival = Peer(world, verbs[1], target, RIVALS)
    rivals = None if operation.may_lose else rival
    child = world.fork(in_the_process, operation, target, peer, rivals, loop, schedule)
    noted, given_back, counts = child.result()
    # Who takes ends last, and takes what is left.
    results = dict(zip(verbs, (peer, rival), strict=True))
    given, taken = results["give"].finish()[0], results["take"].finish()
    account(operation, schedule, given, taken, noted, given_back)
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
) -> None:
    """Compare what the process in the storm says with what its peers say."""
    if operation.may_lose:
        sent, received = (range(given), noted) if operation.takes else (noted, taken)
        more = sorted(Counter(received) - Counter(sent))
        assert not more, f"doubled, or of nobody: {more}"
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
        held = 0 if operation.is_undone else len(noted) - given_back
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
        )
        for operation in OPERATIONS
        for loop in LOOPS
    ),
    *storm_endings.SCENARIOS,
)
