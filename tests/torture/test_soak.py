"""The soak is tried on processes that leak, and its judgement on figures that are known."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import soak_place
from figures import judgement
from soak import Soak
from soak_activities import ACTIVITIES, Activity
from soak_drift import BOUNDS, Verdict, drifts
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
    assert {drift.what for drift in drifts(record) if drift.verdict is Verdict.GROWN} == {"memory"}


def test_an_object_that_is_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="in /dev/shm"):
        soak(leave_an_object, monkeypatch, 1)


async def lose_a_message(place: Place) -> None:
    async def send(_: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    await place.exchange(1, send, anyio.sleep_forever)  # type: ignore[arg-type]


def test_what_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_place, "HANGS", 0.1)
    with pytest.raises(Failed, match=r"(?s)of 1 have come: \[\].*TimeoutError"):
        soak(lose_a_message, monkeypatch, 1)


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


def verdicts(record: dict[str, Any]) -> dict[str, str]:
    """Of what is not flat."""
    return {drift.what: drift.verdict for drift in drifts(record) if drift.verdict is not Verdict.FLAT}


def test_what_goes_up_and_down_is_flat() -> None:
    rng = random.Random(1)
    descriptors = [rng.randrange(10, 60) for _ in range(4000)]
    latency = [rng.expovariate(1) for _ in descriptors]
    assert verdicts(record(descriptors, latency, latency)) == {}


def test_what_grows_after_the_warm_up_is_not() -> None:
    constant = [1.0] * 4000
    slowly = [10 + time // 200 for time in range(4000)]
    assert verdicts(record(slowly, constant, constant)) == {"descriptors": "grown"}
    at_first = [min(10 + time, 1000) for time in range(4000)]
    assert verdicts(record(at_first, constant, constant)) == {}


def test_a_latency_may_grow_with_that_of_the_control() -> None:
    flat, rising = [1] * 4000, [1 + time / 1000 for time in range(4000)]
    assert verdicts(record(flat, rising, rising)) == {}
    both = {"latency p10, object": "grown", "latency p50, object": "grown"}
    assert verdicts(record(flat, rising, [1.0] * 4000)) == both
    rarely = [rise**3 if time % 50 == 0 else 1.0 for time, rise in enumerate(rising)]
    assert verdicts(record(flat, rarely, [1.0] * 4000)) == {"latency p99, object": "grown"}


def test_of_what_the_noise_hides_it_is_not_known() -> None:
    rng = random.Random(1)
    flat = [1] * 4000
    for growth in (0.5, 1, 2):  # from the middle of the run
        noisy = [rng.lognormvariate(0, 4) * (growth if time > 2500 else 1) for time in range(4000)]
        found = verdicts(record(flat, noisy, [1.0] * 4000))
        assert found.items() >= {"latency p50, object": "not known", "latency p99, object": "not known"}.items()
    descriptors = [int(rng.lognormvariate(5, 1)) for _ in flat]
    assert verdicts(record(descriptors, [1.0] * 4000, [1.0] * 4000)) == {"descriptors": "not known"}


def test_a_percentile_takes_probes_beyond_it() -> None:
    for seconds, compared in ((1600, {"p10", "p50"}), (2100, {"p10", "p50", "p99"})):
        same = [1.0] * seconds
        found = drifts(record([1] * seconds, same, same))
        assert {drift.what.split()[1].strip(",") for drift in found if drift.is_latency} == compared


async def do_nothing(_: Place) -> None:
    await anyio.lowlevel.checkpoint()


async def leave_callbacks(_: Place) -> None:
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    for _number in range(50):
        again()


def test_what_is_left_in_the_loop_slows_down_the_control(monkeypatch: pytest.MonkeyPatch) -> None:
    def grown(activity: Any) -> set[str]:
        found = drifts(soak(activity, monkeypatch, 1))
        return {drift.what for drift in found if drift.verdict is Verdict.GROWN}

    assert "latency p10, control alone" in grown(leave_callbacks)
    assert grown(do_nothing) == set()


def test_the_page_tells_what_is_not_known() -> None:
    rng = random.Random(1)
    latency = [rng.lognormvariate(0, 4) for _ in range(1600)]
    found = record([time // 20 for time in range(1600)], latency, [1.0] * 1600)
    for told in ({}, {"alone": {"loop": ([1.0], [1.0])}}):
        compared, rest, control = judgement(found | told, list(drifts(found)))
        assert compared == (
            "Of the 7 that were compared, 4 are flat. Grown: descriptors (loop). Not known, because it goes up and "
            "down too much to say: latency p10, object (loop); latency p50, object (loop)."
        )
        assert rest == "Not compared, for too few probes: latency p99 of anything."
        assert control.startswith("The control itself took 1000.00, then 1000.00 ms on loop")
        assert ("it takes alone" in control) == ("alone" in told)
