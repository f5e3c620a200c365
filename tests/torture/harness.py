"""Scenarios, their schedules and seeds: what is common to all kinds of torture.

A scenario draws a schedule from random numbers, runs it on real objects in processes of its own, and counts what it
did; an exception is a finding.  A schedule is data: the same seed gives the same one, and steps can be left out, which
is how one that fails is shrunk.  What the kernel and other processes do meanwhile is not repeated by a seed, so a
schedule is run several times before it is taken for a good one.
"""

from __future__ import annotations

import json
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from world import World

TRIES = 5
SHRINK_SECONDS = 60


@dataclass(frozen=True)
class Schedule:
    """What is to happen in one round.  Settings and steps are data that JSON can tell."""

    settings: dict[str, Any]
    steps: list[Any]
    """Any of them can be left out."""

    def __str__(self) -> str:
        return json.dumps({"settings": self.settings, "steps": self.steps})

    @classmethod
    def parse(cls, text: str) -> Schedule:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Scenario:
    """One thing that is done to one part of the library on one kind of loop."""

    name: str
    """Its part, what is tortured, and the loop, such as "storm/posix.MessageQueue.receive/uvloop"."""
    draw: Callable[[random.Random], Schedule]
    run: Callable[[World, Schedule], Counter[str]]
    """Counts what it did, in plural nouns, such as "races"; raises what is found to be wrong."""
    brief: int = 1
    """How many rounds are enough for a short run."""
    tries: int = TRIES
    """How often a smaller schedule is tried before it is taken for one that does not fail."""


@dataclass(frozen=True)
class Finding:
    """A schedule that failed."""

    scenario: Scenario
    seed: str
    schedule: Schedule
    error: str

    def __str__(self) -> str:
        return (
            f"{self.scenario.name} failed\n{self.error}\n"
            f"repeat it: --only {self.scenario.name} --seed {self.seed}\n"
            f"or its shrunk schedule: --only {self.scenario.name} --schedule '{self.schedule}'"
        )


@dataclass
class Outcome:
    """What came of a scenario."""

    rounds: int = 0
    seconds: float = 0
    counts: Counter[str] = field(default_factory=Counter)
    finding: Finding | None = None


def run_once(scenario: Scenario, schedule: Schedule) -> Counter[str]:
    with World() as world:
        return scenario.run(world, schedule)


def failure(scenario: Scenario, schedule: Schedule, tries: int = TRIES) -> Exception | None:
    """How a schedule fails in so many tries, if it does."""
    for _ in range(tries):
        try:
            run_once(scenario, schedule)
        except Exception as error:  # noqa: BLE001 -- whatever is found
            return error
    return None


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], seconds: float = SHRINK_SECONDS) -> Schedule:
    """The schedule without steps that it takes not to fail: halves are left out, then quarters, and so on."""
    deadline = time.monotonic() + seconds
    size = len(schedule.steps) // 2
    while size:
        start = 0
        while start < len(schedule.steps):
            if time.monotonic() > deadline:
                return schedule
            less = Schedule(schedule.settings, schedule.steps[:start] + schedule.steps[start + size :])
            if less.steps and fails(less):
                schedule = less
            else:
                start += size
        size //= 2
    return schedule


def find(scenario: Scenario, seed: str, schedule: Schedule, error: Exception) -> Finding:
    """Shrink what failed, and say how to repeat it."""

    def fails(less: Schedule) -> bool:
        return type(failure(scenario, less, scenario.tries)) is type(error)

    shrunk = shrink(schedule, fails)
    return Finding(scenario, seed, shrunk, "".join(traceback.format_exception(error)))


def rounds_of(scenario: Scenario, seed: str) -> Iterator[tuple[str, Schedule]]:
    """Seeds and their schedules: SEED.0, SEED.1 and so on; of a seed with a dot in it, this one alone, repeated."""
    number = 0
    while True:
        own = seed if "." in seed else f"{seed}.{number}"
        yield own, scenario.draw(random.Random(f"{scenario.name} {own}"))
        number += 1


def torture(
    scenarios: Iterable[Scenario],
    seed: str,
    goes_on: Callable[[Scenario, Outcome], bool],
    show: Callable[[Scenario, Outcome], None] = lambda *_: None,
) -> dict[Scenario, Outcome]:
    """Run rounds of all scenarios in turn, each for as long as it is to go on or until it fails."""
    outcomes = {scenario: Outcome() for scenario in scenarios}
    active = {scenario: rounds_of(scenario, seed) for scenario in outcomes}
    while active:
        for scenario, rounds in list(active.items()):
            outcome = outcomes[scenario]
            if outcome.finding or not goes_on(scenario, outcome):
                del active[scenario]
                continue
            show(scenario, outcome)
            own, schedule = next(rounds)
            began = time.monotonic()
            try:
                outcome.counts += run_once(scenario, schedule)
            except Exception as error:  # noqa: BLE001 -- whatever is found
                outcome.finding = find(scenario, own, schedule, error)
            outcome.rounds += 1
            outcome.seconds += time.monotonic() - began
    return outcomes
