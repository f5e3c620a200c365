"""Scenarios, their schedules and seeds: what is common to all kinds of torture.

A scenario draws a schedule from random numbers, runs it on real objects in processes of its own, and counts what it
did; an exception is a finding.  A schedule is data: the same seed gives the same one, and steps can be left out, which
is how one that fails is shrunk.  (In faults a seed counts only for as long as the library makes the same system calls,
which are looked at first.)  What the kernel and other processes do meanwhile is not repeated by a seed, so a schedule
is run several times before it is taken for a good one.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from world import World

TRIES = 5
SHRINK_SECONDS = 60
MANY = 20
"""Rounds in which a scenario does all that it does."""
_RAISED = re.compile(r"^[ |]*([\w.]+(?:Error|Exception)(?:: .*)?)$", re.MULTILINE)
"""The line of a traceback that tells the exception, also within a group of them."""


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
    does: tuple[str, ...] = ()
    """What it counts in many rounds, each of them, or it does not torture what it is meant to."""


@dataclass(frozen=True)
class Finding:
    """A schedule that failed."""

    scenario: Scenario
    seed: str
    schedule: Schedule
    error: str

    def __str__(self) -> str:
        command = [sys.executable, sys.argv[0], "--only", self.scenario.name]
        return (
            f"{self.scenario.name} failed\n{self.error}\n"
            f"repeat it: {shlex.join([*command, '--seed', self.seed])}\n"
            f"or its shrunk schedule: {shlex.join([*command, '--schedule', str(self.schedule)])}"
        )


@dataclass
class Outcome:
    """What came of a scenario."""

    rounds: int = 0
    seconds: float = 0
    counts: Counter[str] = field(default_factory=Counter)
    finding: Finding | None = None


def never_done(scenario: Scenario, outcome: Outcome) -> list[str]:
    """What a scenario should have done in as many rounds, and has not, as its counts say."""
    return [what for what in scenario.does if outcome.rounds >= MANY and not outcome.counts[what]]


def run_once(scenario: Scenario, schedule: Schedule) -> Counter[str]:
    with World() as world:
        return scenario.run(world, schedule)


def failures(scenario: Scenario, schedule: Schedule, tries: int = TRIES) -> Iterator[Exception]:
    """How a schedule fails in so many tries, each time that it does."""
    for _ in range(tries):
        try:
            run_once(scenario, schedule)
        except Exception as error:  # noqa: BLE001 -- whatever is found
            yield error


def likeness(error: Exception) -> tuple[type[Exception], str]:
    """What is common to failures that are the same: the type, and what is said, but for numbers.

    That is the first line, and the exception that a process ended with, if the rest is its traceback.
    """
    first, _, rest = str(error).partition("\n")
    return type(error), re.sub(r"\d+", "", " ".join([first, *_RAISED.findall(rest)[:1]]))


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], seconds: float = SHRINK_SECONDS) -> Schedule:
    """The schedule without steps that it takes not to fail; the settings stay as they are.

    Halves are left out, then quarters, and so on; in the end single steps, until it takes each that is left.
    """
    deadline = time.monotonic() + seconds
    size = max(1, len(schedule.steps) // 2)
    while True:
        before = schedule
        start = 0
        while start < len(schedule.steps):
            if time.monotonic() > deadline:
                return schedule
            less = Schedule(schedule.settings, schedule.steps[:start] + schedule.steps[start + size :])
            if less.steps and fails(less):
                schedule = less
            else:
                start += size
        if size == 1 and schedule is before:
            return schedule
        size = max(1, size // 2)


def find(scenario: Scenario, seed: str, schedule: Schedule, error: Exception, seconds: float) -> Finding:
    """Shrink what failed, for so long, and say how to repeat it."""
    like = likeness(error)

    def fails(less: Schedule) -> bool:
        return any(likeness(other) == like for other in failures(scenario, less, scenario.tries))

    shrunk = shrink(schedule, fails, seconds)
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
    shrink_seconds: float = SHRINK_SECONDS,
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
                outcome.finding = find(scenario, own, schedule, error, shrink_seconds)
            outcome.rounds += 1
            outcome.seconds += time.monotonic() - began
    return outcomes


def circumstances() -> dict[str, Any]:
    """When and where it runs, for those who read the figures."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "linux": platform.release().partition("-")[0],
        "processors": len(os.sched_getaffinity(0)),
    }
