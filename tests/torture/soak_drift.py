"""Whether what a soak has found is flat.

After a warm-up, in which caches fill, the first third is compared with the last.  Each is cut into parts; what counts
is the median of the parts' medians, so that neither a moment of much load nor one of none does, and how much the parts
differ from their neighbours says how sure it is.  What has certainly grown by more than its bound has grown, what
certainly has not is flat; of what goes up and down too much to say, it is not known.

The bounds are absolute, since what the load itself makes go up and down does not grow with time, while what leaks
does.  A short run has begun only just before: there they are wider, with the square root of what it lacks of LONG.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from enum import StrEnum
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
PERCENTILES = {"p10": (10, 1.5, 20), "p50": (50, 1.5, 20), "p99": (99, 2, 101)}
"""The percentile, how many times as long it may become, and how many probes of a part are enough for it.

The tenth is what other work on the machine changes least.  Of a hundred probes the 99th percentile would be the slowest
one, whatever that was; of one more it is not.
"""
PARTS = 10
"""Of a third, at most."""
FEWEST_PARTS = 5
"""Of a third, for what takes many probes: how much fewer differ from their neighbours says little."""
CERTAIN = 3
"""Standard errors."""
CONTROL = "control"
ALONE = 10, 2
"""Likewise, of what the control takes alone, before all else is done and after it."""

Record = dict[str, Any]
Thirds = tuple[Sequence[Any], Sequence[Any]]


class Verdict(StrEnum):
    FLAT = "flat"
    GROWN = "grown"
    NOT_KNOWN = "not known"


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
    def noise(self) -> float:
        """By how much it may differ without a reason."""
        return CERTAIN * math.hypot(self.first.error, self.last.error)

    @property
    def verdict(self) -> Verdict:
        growth = self.last.value - self.first.value
        if growth - self.noise > self.bound:
            return Verdict.GROWN
        # Noise that is larger than the bound would hide what grows also if it has become less.
        return Verdict.NOT_KNOWN if max(0, growth) + self.noise > self.bound else Verdict.FLAT

    def shown(self, value: float) -> str:
        """A value, or the bound, for people."""
        if self.is_latency:
            return f"{math.exp(value):.2f}"
        return f"{value / 2**20:.2f} MiB" if "memory" in self.what else f"{round(value, 1):g}"

    def change(self, value: float) -> str:
        """A difference between two values, for people."""
        return f"{self.shown(value)} times" if self.is_latency else f"by {self.shown(value)}"

    def __str__(self) -> str:
        text = f"{self.whose}: {self.what}: {self.shown(self.first.value)}, then {self.shown(self.last.value)}"
        if self.verdict is Verdict.FLAT:
            return text
        noise, bound = self.change(self.noise), self.change(self.bound)
        return f"{text}: {self.verdict.upper()}, may grow {bound}, goes up and down {noise}"


def level(values: Sequence[float]) -> Level:
    """Of the parts of a third.  Its error is from the steps between them: a trend is not one."""
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    spread = 1.4826 * statistics.median(steps or [0]) / math.sqrt(2)  # a standard deviation
    return Level(statistics.median(values), 1.2533 * spread / math.sqrt(len(values)))  # of a median


def parts(values: Sequence[float], count: int) -> Iterator[Sequence[float]]:
    for number in range(count):
        yield values[number * len(values) // count : (number + 1) * len(values) // count]


def ends(record: Record, times: Sequence[float], values: Sequence[Any]) -> Thirds:
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
            level([statistics.median(part) for part in parts(third, min(PARTS, len(third)))])
            for third in ends(record, record["times"], values)
        )
        return Drift(what, whose, first, last, width * bound)

    for loop, found in record["processes"].items():
        for what, bound in BOUNDS.items():
            yield drift(what, loop, found[what], bound)
    for what, counts in record["system"].items():
        yield drift(what, "system", counts, OBJECTS)
    for loop, found in record["latency"].items():
        yield from _latency_drifts(record, loop, found)
    rank, bound = ALONE
    for loop, alone in record.get("alone", {}).items():
        first, last = (level([math.log(percentile(part, rank)) for part in parts(found, PARTS)]) for found in alone)
        yield Drift(f"latency p{rank}, {CONTROL} alone", loop, first, last, math.log(bound))


def _latency_drifts(record: Record, loop: str, found: dict[str, Any]) -> Iterator[Drift]:
    thirds = {name: ends(record, probes["times"], probes["seconds"]) for name, probes in found.items()}
    beside = thirds.pop(CONTROL, ([], []))
    for name, own in thirds.items():
        for text, (rank, bound, enough) in PERCENTILES.items():
            count = min(PARTS, *(len(third) // enough for third in (*own, *beside)))
            if count >= FEWEST_PARTS:
                first, last = (level(_ratios(*both, rank, count)) for both in zip(own, beside, strict=True))
                yield Drift(f"latency {text}, {name}", loop, first, last, math.log(bound))


def _ratios(own: Sequence[float], beside: Sequence[float], rank: int, count: int) -> list[float]:
    """Logarithms of the quotients of the parts' percentiles."""
    pairs = zip(parts(own, count), parts(beside, count), strict=True)
    return [math.log(percentile(part, rank) / percentile(other, rank)) for part, other in pairs]


def percentile(values: Sequence[float], rank: int) -> float:
    return sorted(values)[min(len(values) * rank // 100, len(values) - 1)]
