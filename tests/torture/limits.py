"""Limits that are really reached: as faults.py, but what fails is the kernel's to say."""

from __future__ import annotations

import functools
import os
import random
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from faults import OPERATIONS
from harness import Scenario, Schedule
from interposing import Fault
from judging import Judge
from operations import Operation
from outside import PosixQueue
from world import World

_MANY = 12
"""How many operations are done in one round."""


@contextmanager
def _limited(limit: int, value: int) -> Iterator[None]:
    before, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (before, hard))


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """So many descriptors can be opened."""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(spare + 1)]
    for descriptor in opened:
        os.close(descriptor)
    with _limited(resource.RLIMIT_NOFILE, opened[-1]):
        yield


@contextmanager
def little_memory(spare: int) -> Iterator[None]:
    """So many pages can be mapped."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    with _limited(resource.RLIMIT_AS, (pages + spare) * resource.getpagesize()):
        yield


@contextmanager
def no_queues(_: int) -> Iterator[None]:
    """This user can have no POSIX queues."""
    with _limited(resource.RLIMIT_MSGQUEUE, 0):
        yield


class Scarcity(NamedTuple):
    """A limit."""

    name: str
    impose: Callable[[int], AbstractContextManager[None]]
    spare: int
    """How much of it there is at most; each time with none, one, and so on up to that."""
    errors: tuple[str, ...]
    concerns: Callable[[Operation], bool]


SCARCITIES = (
    Scarcity("RLIMIT_NOFILE", few_descriptors, 4, ("EMFILE",), lambda _: True),
    # Without memory a thread of Python may end before it has begun.
    Scarcity("RLIMIT_AS", little_memory, 12, ("ENOMEM",), lambda operation: not operation.waits),
    Scarcity("RLIMIT_MSGQUEUE", no_queues, 0, ("EMFILE",), lambda operation: operation.peer is PosixQueue),
)


def _draw(scarcity: Scarcity, rng: random.Random) -> Schedule:
    concerned = [number for number, operation in enumerate(OPERATIONS) if scarcity.concerns(operation)]
    numbers = rng.sample(concerned, min(_MANY, len(concerned)))
    return Schedule({}, [OPERATIONS[number].name for number in numbers])


def _run(scarcity: Scarcity, world: World, schedule: Schedule) -> Counter[str]:
    counts: Counter[str] = Counter()
    named = {operation.name: operation for operation in OPERATIONS}
    for name in schedule.steps:
        steps: list[list[Fault]] = [[] for _ in range(scarcity.spare + 1)]
        judge = Judge(named[name], world, "asyncio", steps, scarcity.impose, scarcity.errors)
        judge.run()
        counts += judge.counts
    return counts


SCENARIOS = tuple(
    Scenario(
        f"faults/{scarcity.name}/asyncio",
        functools.partial(_draw, scarcity),
        functools.partial(_run, scarcity),
        brief=2,
    )
    for scarcity in SCARCITIES
)
