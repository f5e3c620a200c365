"""The soak is tried on processes that leak, and its judgement on figures that are known."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from soak import Soak
from soak_activities import ACTIVITIES, Activity
from soak_drift import BOUNDS, drifts
from soak_place import Place
from world import Failed, World

from aioipc import posix

KEPT: list[object] = []


def soak(activity: Any, monkeypatch: pytest.MonkeyPatch, seconds: float) -> dict[str, Any]:
    monkeypatch.setitem(ACTIVITIES, "one", Activity(activity, 0.05))
    with World() as world:
        return Soak(world, ["one"], seconds, random.Random(1)).run(["asyncio"])


async def lose_a_descriptor(_: Place) -> None:
    KEPT.append(os.dup(0))


async def keep_memory(_: Place) -> None:
    KEPT.append(b"x" * 5_000_000)


async def keep_a_mapping(place: Place) -> None:
    with place.some("names", 1) as (name,), posix.SharedMemory.create(name, size=100) as segment:
        KEPT.append(segment.buffer)


async def leave_an_object(place: Place) -> None:
    if place.names:
        os.close(os.open("/dev/shm" + place.names.pop(), os.O_CREAT))


def test_a_descriptor_that_is_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="descriptors are left"):
        soak(lose_a_descriptor, monkeypatch, 1)


def test_a_mapping_that_is_kept_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="mappings are left"):
        soak(keep_a_mapping, monkeypatch, 1)


def test_memory_that_is_kept_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    record = soak(keep_memory, monkeypatch, 4)
    assert {drift.what for drift in drifts(record) if not drift.is_flat} == {"memory"}


def test_an_object_that_is_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="in /dev/shm"):
        soak(leave_an_object, monkeypatch, 1)


def record(descriptors: list[int], latency: list[float], control: list[float]) -> dict[str, Any]:
    """A run of so many seconds, in which nothing else happens."""
    times = list(range(len(descriptors)))
    return {
        "seconds": len(times),
        "times": times,
        "processes": {"loop": {what: [0] * len(times) for what in BOUNDS} | {"descriptors": descriptors}},
        "system": {},
        "latency": {
            "loop": {"object": {"times": times, "seconds": latency}, "control": {"times": times, "seconds": control}}
        },
    }


def grown(*found: list[Any]) -> set[str]:
    return {drift.what for drift in drifts(record(*found)) if not drift.is_flat}


def test_what_goes_up_and_down_is_flat() -> None:
    rng = random.Random(1)
    descriptors = [rng.randrange(10, 100) for _ in range(4000)]
    latency = [rng.expovariate(1) for _ in descriptors]
    assert grown(descriptors, latency, latency) == set()


def test_what_grows_after_the_warm_up_is_not() -> None:
    constant = [1.0] * 4000
    slowly = [10 + time // 200 for time in range(4000)]
    assert grown(slowly, constant, constant) == {"descriptors"}
    at_first = [min(10 + time, 1000) for time in range(4000)]
    assert grown(at_first, constant, constant) == set()


def test_a_latency_may_grow_with_that_of_the_control() -> None:
    flat, rising = [1] * 4000, [1 + time / 1000 for time in range(4000)]
    assert grown(flat, rising, rising) == set()
    assert grown(flat, rising, [1.0] * 4000) == {"latency p10, object", "latency p50, object"}
    rarely = [rise**3 if time % 50 == 0 else 1.0 for time, rise in enumerate(rising)]
    assert grown(flat, rarely, [1.0] * 4000) == {"latency p99, object"}
