"""Whether what a soak has found is flat.

After a warm-up, in which caches fill, the median of the first third is compared with that of the last: medians, so
that neither a moment of much load nor one of none counts.  The bounds are absolute, since what the load itself makes go
up and down does not grow with time, while what leaks does.  In a short run there are too few ups and downs for the
medians to be near each other: there the bounds are wider, with the square root of what it lacks of LONG.
"""

from __future__ import annotations

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
PERCENTILES = {"p50": (50, 1.5, 100), "p99": (99, 2, 1000)}
"""The percentile, how many times as long it may become, and how many probes in a third make it worth looking at."""
CONTROL = "control"

Record = dict[str, Any]


class Drift(NamedTuple):
    """What something was at first, and in the end."""

    what: str
    whose: str
    """A loop's, or the system's."""
    first: float
    last: float
    bound: float
    """How much more the last may be; of latencies, which are given as multiples of the control's, how many times."""

    @property
    def change(self) -> float:
        return self.last / self.first if self.is_ratio else self.last - self.first

    @property
    def is_ratio(self) -> bool:
        return self.what.startswith("latency")

    @property
    def is_flat(self) -> bool:
        return self.change <= self.bound

    def __str__(self) -> str:
        verdict = "" if self.is_flat else "  GROWS"
        return f"{self.whose}: {self.what}: {self.first:,.2f}, then {self.last:,.2f} ({self.change:+,.2f}){verdict}"


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
    times = record["times"]
    width = max(1, (LONG / record["seconds"]) ** 0.5)
    for loop, found in record["processes"].items():
        for what, bound in BOUNDS.items():
            first, last = ends(record, times, found[what])
            yield Drift(what, loop, statistics.median(first), statistics.median(last), width * bound)
    for what, counts in record["system"].items():
        first, last = ends(record, times, counts)
        yield Drift(what, "system", statistics.median(first), statistics.median(last), width * OBJECTS)
    for loop, found in record["latency"].items():
        yield from _latency_drifts(record, loop, found)


def _latency_drifts(record: Record, loop: str, found: dict[str, Any]) -> Iterator[Drift]:
    thirds = {name: ends(record, probes["times"], probes["seconds"]) for name, probes in found.items()}
    for name, (first, last) in thirds.items():
        for text, (rank, bound, enough) in PERCENTILES.items():
            if name != CONTROL and min(len(first), len(last)) >= enough:
                ratios = [
                    percentile(own, rank) / percentile(control, rank)
                    for own, control in zip((first, last), thirds[CONTROL], strict=True)
                ]
                yield Drift(f"latency {text}, {name}", loop, *ratios, bound)


def percentile(values: Sequence[float], rank: int) -> float:
    return sorted(values)[min(len(values) * rank // 100, len(values) - 1)]
