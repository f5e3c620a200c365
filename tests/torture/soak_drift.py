"""Whether what a soak has found is flat.

After a warm-up, in which caches fill, the first third is compared with the last.  Each is cut into parts; what counts
is the median of the parts' medians, so that neither a moment of much load nor one of none does, and how much the parts
differ from their neighbours says how sure it is.  Something has grown if it certainly has, by more than its bound.

The bounds are absolute, since what the load itself makes go up and down does not grow with time, while what leaks
does.  A short run has begun only just before: there they are wider, with the square root of what it lacks of LONG.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

WARM_UP = 0.25
"""This part of a run does not count."""
LONG = 600
"""Seconds of a run for which the bounds are meant."""
BOUNDS = {
    "descriptors": 8,
    "threads": 4,
    "mappings": 16,
    "memory": 4 * 2**20,
    "shared memory": 2**20,
}
OBJECTS = 6
"""The bound for objects of each kind."""
PERCENTILES = {"p10": (10, 1.5, 100), "p50": (50, 1.5, 100), "p99": (99, 2, 1000)}
"""The percentile, how many times as long it may become, and how many probes in a third make it worth looking at.

The tenth is what other work on the machine changes least.
"""
PARTS = 10
"""Of a third."""
CERTAIN = 3
"""Standard errors."""
CONTROL = "control"

Record = dict[str, Any]


class Level(NamedTuple):
    """What something was for a while."""

    value: float
    error: float
    """The standard error of that."""


class Drift(NamedTuple):
    """How something has changed."""

    what: str
    whose: str
    """A loop's, or the system's."""
    first: Level
    last: Level
    bound: float
    """How much more the last may be; of latencies, which are logarithms of multiples of the control's, too."""

    @property
    def is_latency(self) -> bool:
        return self.what.startswith("latency")

    @property
    def is_flat(self) -> bool:
        error = math.hypot(self.first.error, self.last.error)
        return self.last.value - self.first.value - CERTAIN * error <= self.bound

    def shown(self, value: float) -> str:
        """A value, or the bound, for people."""
        if self.is_latency:
            return f"{math.exp(value):.2f}"
        return f"{value / 2**20:.2f} MiB" if "memory" in self.what else f"{value:g}"

    def __str__(self) -> str:
        verdict = "" if self.is_flat else "  GROWS"
        return f"{self.whose}: {self.what}: {self.shown(self.first.value)}, then {self.shown(self.last.value)}{verdict}"


def level(values: Sequence[float]) -> Level:
    """Of the parts of a third.  Its error is from the steps between them: a trend is not one."""
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    spread = 1.4826 * statistics.median(steps or [0]) / math.sqrt(2)  # a standard deviation
    return Level(statistics.median(values), 1.2533 * spread / math.sqrt(len(values)))  # of a median


def parts(values: Sequence[float]) -> Iterator[Sequence[float]]:
    count = min(PARTS, len(values))
    for number in range(count):
        yield values[number * len(values) // count : (number + 1) * len(values) // count]


def ends(record: Record, times: Sequence[float], values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The first and the last third of the values, after the warm-up."""
    begin, end = record["seconds"] * WARM_UP, record["seconds"]
    third = (end - begin) / 3
    pairs = list(zip(times, values, strict=True))
    return (
        [value for time, value in pairs if begin <= time < begin + third],
        [value for time, value in pairs if end - third <= time < end],
    )


def drifts(record: Record) -> Iterator[Drift]:
    """All that was measured, and how it has changed."""
    width = max(1, (LONG / record["seconds"]) ** 0.5)

    def drift(what: str, whose: str, values: Sequence[int], bound: float) -> Drift:
        first, last = (
            level([statistics.median(part) for part in parts(third)]) for third in ends(record, record["times"], values)
        )
        return Drift(what, whose, first, last, width * bound)

    for loop, found in record["processes"].items():
        for what, bound in BOUNDS.items():
            yield drift(what, loop, found[what], bound)
    for what, counts in record["system"].items():
        yield drift(what, "system", counts, OBJECTS)
    for loop, found in record["latency"].items():
        yield from _latency_drifts(record, loop, found)


def _latency_drifts(record: Record, loop: str, found: dict[str, Any]) -> Iterator[Drift]:
    thirds = {name: ends(record, probes["times"], probes["seconds"]) for name, probes in found.items()}
    for name, (first, last) in thirds.items():
        for text, (rank, bound, enough) in PERCENTILES.items():
            if name != CONTROL and min(len(first), len(last)) >= enough:
                levels = [
                    level(
                        [
                            math.log(percentile(part, rank) / percentile(beside, rank))
                            for part, beside in zip(parts(own), parts(control), strict=True)
                        ]
                    )
                    for own, control in zip((first, last), thirds[CONTROL], strict=True)
                ]
                yield Drift(f"latency {text}, {name}", loop, *levels, math.log(bound))


def percentile(values: Sequence[float], rank: int) -> float:
    return sorted(values)[min(len(values) * rank // 100, len(values) - 1)]
