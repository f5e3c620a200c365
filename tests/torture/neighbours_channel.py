"""Hostile neighbours of a channel: they write over its memory, cut it, and play with its doorbells.

What they may bring about is an error of the library, wrong messages, or that nothing comes; never a crash, a read out
of bounds, a loop that does not go on, an operation that can't be cancelled.

Reads out of bounds show under the sanitizers: install as .ci/run does for its tests under them, and run with the same
LD_PRELOAD and PYTHONMALLOC, and ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0, for SIGBUS is allowed where a file is cut.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
from harness import Scenario, Schedule
from responsive import LOOPS, SECONDS, responsive
from world import AS_NOBODY, Failed, World, finished, program

import aioipc
from aioipc import Channel, inspect

REFUSALS = (
    aioipc.BrokenError,
    aioipc.CorruptError,
    aioipc.EndOfStream,
    aioipc.LimitError,  # as many handles as there can be
    aioipc.WouldBlock,
)
"""What the library may say when somebody writes over its memory."""

Step = list[Any]
"""PAUSE WHAT BASE OFFSET WIDTH VALUE TIMES HOLD: see vandal.c."""

# Places in the header, and their width: see docs/ring.md.
_SEND_LOCK, _TAIL, _RECEIVE_LOCK, _NEXT, _HEAD, _REWIND = (128, 4), (192, 8), (256, 4), (264, 8), (320, 8), (384, 8)
_WORDS = (_SEND_LOCK, _TAIL, _RECEIVE_LOCK, _NEXT, _HEAD, _REWIND, (448, 4), (512, 4), (576, 4), (580, 4))
_CONSTANTS = ((0, 8), (8, 4), (12, 4), (16, 8), (24, 8), (32, 8), (40, 8), (48, 4), (52, 4), (56, 8), (64, 8))
_PEERS, _DATA = 640, 65536


# Scripts --------------------------------------------------------------------------


def _value(rng: random.Random) -> int:
    """A number that could be right, or nearly, or not at all."""
    return rng.choice(
        (
            0,
            1,
            rng.randrange(1, 258) | rng.choice((0, 2**31)),  # the holder of a lock
            64 * rng.randrange(2**12),
            (-64 * rng.randrange(1, 100)) % 2**64,
            rng.randrange(2 ** rng.randrange(1, 65)),
            2**64 - 1,
        )
    )


def _place(rng: random.Random) -> tuple[str, int, int]:
    """Base, offset, width."""
    kind = rng.choices(("word", "constant", "peer", "record", "anywhere"), (8, 2, 3, 8, 1))[0]
    if kind == "word":
        return "f", *rng.choice(_WORDS)
    if kind == "constant":
        return "f", *rng.choice(_CONSTANTS)
    if kind == "peer":  # mostly one that there is
        slot = rng.randrange(8 if rng.random() < 0.7 else 256)
        return "f", _PEERS + 64 * slot + 4 * rng.randrange(4), 4
    if kind == "record":
        return rng.choice("hhtn"), 64 * rng.randrange(-2, 6) + 8 * rng.randrange(5), 8
    return "f", rng.randrange(2 * _DATA), rng.choice((1, 4, 8))


def _overwriting(rng: random.Random) -> Step:
    if rng.random() < 0.08:
        return [0, "p", "f", _PEERS + 4 * rng.randrange(3), 4, 1, rng.choice((1, 1000)), 0]
    base, offset, width = _place(rng)
    value = _value(rng)
    what = rng.choices("saxc", (4, 2, 2, 1))[0]
    if what == "c":
        value = rng.choice(_WORDS)[0]
    if base != "f" and offset % 64 == 0 and rng.random() < 0.7:
        what, value = "m", rng.randrange(6) | rng.choice((0, 1, 2, 255, 256)) << 8
    times, hold = rng.choice(((2, 0), (2, 100), (2, 1000), (20, 0), (2000, 0), (200_000, 0)))
    # What is constant for good, once it is wrong, leaves nothing to try; nor does what is wrong for long.
    for_good = base != "f" or offset >= _PEERS or rng.random() < 0.1
    if for_good and (base, offset) != ("f", 576) and offset >= 128:
        times -= 1
    return [rng.choice((0, 0, 0, 50, 500)), what, base, offset, width, value, times, hold]


def _cut(rng: random.Random) -> Step:
    size = rng.choice((0, 64, 4096, _DATA, _DATA + 4096, _DATA + rng.randrange(_DATA)))
    return [rng.choice((100, 2000, 10_000)), "t", "f", size, 1, 0, rng.randrange(1, 4), rng.choice((0, 50, 500))]


def _bell(rng: random.Random, whats: str) -> Step:
    count = rng.choice((1, 4095, 65536))
    times = rng.choice((1, 2, 100, 2000))
    return [rng.choice((0, 0, 100)), rng.choice(whats), rng.choice("mo"), 0, 1, count, times, 0]


def _draw_bells(loop: str) -> Callable[[random.Random], Schedule]:
    def draw(rng: random.Random) -> Schedule:
        whats = rng.choice(("w", "wrk"))  # bells that are only filled are silent once they are full
        return Schedule(_settings(rng, loop), [_bell(rng, whats) for _ in range(rng.randrange(1, 20))])

    return draw


def _settings(rng: random.Random, loop: str) -> dict[str, Any]:
    return {
        "loop": loop,
        "seed": rng.randrange(2**32),
        "capacity": rng.choice((64, 1024, 4096, 65536, 2**20, 2**24)),
        "messages": rng.choice((0, 0, 10, 2**18)),
        "as_nobody": rng.random() < 0.5 and os.geteuid() == 0,
    }


def _draw(step: Callable[[random.Random], Step], least: int, most: int, loop: str) -> Callable[..., Schedule]:
    def draw(rng: random.Random) -> Schedule:
        return Schedule(_settings(rng, loop), [step(rng) for _ in range(rng.randrange(least, most))])

    return draw


# Neighbours -----------------------------------------------------------------------


def _make(name: str, capacity: int, messages: int) -> None:
    """Make a channel that all may use, with so many messages in it, or as many as fit."""
    os.umask(0)
    with suppress(aioipc.WouldBlock), Channel.create(name, capacity=capacity, mode=0o666, persist=True) as channel:
        at_once = max(1, min(messages, 1024, capacity // 64))
        for _ in range(0, messages, at_once):
            channel.send_many_nowait([b""] * at_once)


def channel(world: World, capacity: int, messages: int = 0) -> tuple[str, list[str]]:
    """The name of a new channel, and its doorbells."""
    name = world.name()
    world.fork(_make, name, capacity, messages).result()
    return name, world.doorbells(name)


def vandal(
    world: World, settings: dict[str, Any], name: str, bells: list[str], steps: list[Step]
) -> subprocess.Popen[str]:
    rights = AS_NOBODY if settings["as_nobody"] else {}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = world.spawn(program("torture/vandal.c"), "/dev/shm" + name, *bells, **pipes, **rights)
    process.stdin.write("".join(" ".join(map(str, step)) + "\n" for step in steps))
    process.stdin.close()
    process.stdin = None  # or it would be closed once more
    if process.stdout.readline() != "ready\n":
        raise Failed("the neighbour has not begun")
    return process


def steps_done(process: subprocess.Popen[str]) -> int:
    process.terminate()
    return int(finished(process))


# The process under test -------------------------------------------------------------


async def _tried(rng: random.Random, counts: Counter[str], operation: Callable[[], Awaitable[object]]) -> None:
    """An operation that is cancelled if it takes long, or at once."""
    with anyio.move_on_after(rng.choice((0, 0.0005, 0.005))) as scope:
        try:
            await operation()
            counts["operations"] += 1
        except REFUSALS as error:
            counts[f"{type(error).__name__}s"] += 1
    counts["cancellations"] += scope.cancelled_caught


def _operations(rng: random.Random, handle: Channel) -> list[Callable[[], Awaitable[object]]]:
    longest = handle.max_message_size
    size = rng.choice((0, 1, min(100, longest), min(5000, longest), rng.randrange(longest + 1), longest))

    async def reserve() -> None:
        async with handle.reserve(size) as buffer:
            buffer[:] = bytes(size)
            await anyio.lowlevel.checkpoint()

    async def borrow() -> None:
        async with handle.borrow() as view:
            assert view.nbytes <= longest
            bytes(view)
            await anyio.lowlevel.checkpoint()

    async def receive() -> None:
        assert len(await handle.receive()) <= longest

    async def receive_many() -> None:
        assert all(len(message) <= longest for message in await handle.receive_many(rng.randrange(1, 100)))

    async def at_once() -> None:
        with handle.reserve_nowait(size) as buffer, handle.borrow_nowait() as view:
            buffer[: view.nbytes] = view[: len(buffer)] if view.nbytes <= len(buffer) else bytes(len(buffer))
        handle.send_nowait(bytes(size))
        handle.receive_nowait()

    async def look() -> None:
        handle.statistics()
        with suppress(aioipc.NotFoundError):  # it does not look like one
            inspect.find(f"channel:{handle.name}")

    return [
        lambda: handle.send(bytes(size)),
        lambda: handle.send_many([bytes(min(size, 64))] * min(5, handle.capacity // 128)),
        reserve,
        receive,
        receive_many,
        borrow,
        at_once,
        look,
    ]


async def _use_all(name: str, seed: int, sessions: int, counts: Counter[str]) -> None:
    rng = random.Random(seed)

    async def work(handle: Channel) -> None:
        for _ in range(rng.randrange(1, 30)):
            await _tried(rng, counts, rng.choice(_operations(rng, handle)))

    for _ in range(sessions):
        try:
            handle = Channel.open(name)
        except REFUSALS as error:
            counts[f"{type(error).__name__}s"] += 1
            await anyio.sleep(0.0005)
            continue
        with handle:
            async with anyio.create_task_group() as group:
                for _ in range(rng.randrange(1, 5)):
                    group.start_soon(work, handle)
        counts["sessions"] += 1


def _be_used(name: str, settings: dict[str, Any]) -> Counter[str]:
    async def main(counts: Counter[str]) -> None:
        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(_use_all, name, settings["seed"] + number, 15, counts)

    return responsive(settings["loop"], main)


def _be_overwritten(world: World, schedule: Schedule) -> Counter[str]:
    name, bells = channel(world, schedule.settings["capacity"], schedule.settings["messages"])
    neighbour = vandal(world, schedule.settings, name, bells, schedule.steps)
    counts = world.fork(_be_used, name, schedule.settings).result(SECONDS)
    return Counter(counts) + Counter(steps=steps_done(neighbour))


def _be_cut(world: World, schedule: Schedule) -> Counter[str]:
    """SIGBUS is not an error then: docs/channels.md says that it comes, and that nothing can be done about it."""
    name, bells = channel(world, schedule.settings["capacity"])
    neighbour = vandal(world, schedule.settings, name, bells, schedule.steps)
    child = world.fork(_be_used, name, schedule.settings)
    counts = Counter(steps=0)
    try:
        counts += child.result(SECONDS)
    except Failed:
        if child.wait() != -signal.SIGBUS:
            raise
        counts["deaths by SIGBUS"] += 1
    return counts + Counter(steps=steps_done(neighbour))


# Doorbells: nothing of the memory is touched, so nothing may be lost ---------------------

_MESSAGES = 300


def _send_numbers(name: str, settings: dict[str, Any]) -> Counter[str]:
    rng = random.Random(settings["seed"])

    async def main(counts: Counter[str]) -> None:
        with Channel.open(name) as channel:
            while counts["messages"] < _MESSAGES:
                number = counts["messages"].to_bytes(4)
                with anyio.move_on_after(rng.choice((0, 0.001, None))):
                    await channel.send(number)
                    counts["messages"] += 1
                if rng.random() < 0.1:
                    await anyio.sleep(0.001)
            await channel.end()

    return responsive(settings["loop"], main)


def _receive_numbers(name: str, settings: dict[str, Any]) -> tuple[list[int], Counter[str]]:
    rng = random.Random(settings["seed"] + 1)
    numbers: list[int] = []

    async def main(_: Counter[str]) -> None:
        with Channel.open(name) as channel:
            while True:
                with anyio.move_on_after(rng.choice((0, 0.001, None))):
                    try:
                        numbers.append(int.from_bytes(await channel.receive()))
                    except aioipc.EndOfStream:
                        return

    counts = responsive(settings["loop"], main)
    return numbers, counts


def _be_rung(world: World, schedule: Schedule) -> Counter[str]:
    name, bells = channel(world, schedule.settings["capacity"])
    steps = list(schedule.steps)
    if any(step[1] == "r" for step in steps):
        # Who takes the ring that was meant for another makes that one wait for the next.  Here is one.
        steps += [[0, "w", bell, 0, 1, 1, 1, 5000] for bell in "mo"]
    neighbour = vandal(world, schedule.settings, name, bells, steps)
    sender = world.fork(_send_numbers, name, schedule.settings)
    numbers, counts = world.fork(_receive_numbers, name, schedule.settings).result(SECONDS)
    counts += sender.result(SECONDS)
    assert numbers == list(range(_MESSAGES)), numbers
    return counts + Counter(steps=steps_done(neighbour))


SCENARIOS = tuple(
    scenario
    for loop in LOOPS
    for scenario in (
        Scenario(f"neighbours/channel.garbage/{loop}", _draw(_overwriting, 5, 60, loop), _be_overwritten, brief=8),
        Scenario(f"neighbours/channel.cut/{loop}", _draw(_cut, 1, 4, loop), _be_cut, brief=3),
        Scenario(f"neighbours/channel.bells/{loop}", _draw_bells(loop), _be_rung, brief=3),
    )
)
