"""What the storm itself could do wrong: not to cancel, not to hit, not to see what is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import anyio
import pytest
import storms
import trio
from harness import Schedule, run_once
from storm_objects import Peer, mq
from storm_operations import OPERATIONS, Operation
from storm_race import LOOPS
from storm_ways import on_trio, pause, way, ways_of
from world import World

EVERY_WAY = [(loop, name) for loop in LOOPS for name in ways_of(loop)]
every_way = pytest.mark.parametrize(("loop", "name"), EVERY_WAY)


def operation(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.name == name)


async def race(name: str, act: Callable[[], object]) -> BaseException | None:
    """What comes of a task that is cancelled in this way while it does this."""
    tortured = way(name)(act, 0.01)
    async with trio.open_nursery() if on_trio() else nullcontext() as nursery:
        tortured.start(nursery)
        await pause("passes", 3)
        for _ in range(tortured.strokes):
            tortured.cancel()
        with anyio.fail_after(30):
            await tortured.done.wait()
    return tortured.error


@every_way
def test_every_way_cancels(loop: str, name: str) -> None:
    ends = []

    async def act() -> None:
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():
            ends.append("cancelled")
            raise

    assert anyio.run(race, name, act, **LOOPS[loop]) is None
    assert ends == ["cancelled"]


@every_way
def test_every_way_reports_errors(loop: str, name: str) -> None:
    async def act() -> None:
        raise ZeroDivisionError

    error = anyio.run(race, name, act, **LOOPS[loop])
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("name", ["Scope", "Deadline", "Timeout", "WaitFor"])
def test_a_cancellation_too_many_is_seen(name: str) -> None:
    async def act() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    assert isinstance(anyio.run(race, name, act, **LOOPS["asyncio"]), AssertionError)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_storm_hits(loop: str) -> None:
    """Some tasks are cancelled, some are not, and some are cancelled too late."""
    scenario = next(each for each in storms.SCENARIOS if each.name == f"storm/posix.Semaphore.acquire/{loop}")
    counts = run_once(scenario, scenario.draw(random.Random(1)))
    assert min(counts[what] for what in ("cancelled", "done", "done although cancelled")) > 5, counts


def test_what_a_peer_says() -> None:
    with World() as world:
        target = mq(world, 2)
        giver, taker = Peer(world, "give", target, 7), Peer(world, "take", target)
        for _ in range(3):
            giver.ask()
        giver.wait(0.1)
        assert giver.answered == 2
        taker.ask()
        taker.wait(30)
        giver.wait(30)
        for _ in range(2):
            giver.ask()  # for which there is no room
        assert giver.finish() == [3]
        assert taker.finish() == [7, 8, 9]


@pytest.mark.parametrize(
    ("name", "given", "taken", "noted", "given_back", "fault"),
    [
        ("posix.MessageQueue.receive", 4, [1], [0, 2, 3], 0, None),
        ("posix.MessageQueue.receive", 4, [1], [0, 2], 0, "lost: .3"),
        ("posix.MessageQueue.receive", 4, [1, 2], [0, 2, 3], 0, "doubled, or of nobody: .2"),
        ("posix.MessageQueue.receive", 3, [], [0, 2, 1], 0, "out of order"),
        ("sysv.MessageQueue.messages", 4, [], [1, 3, 0, 2], 0, None),
        ("sysv.MessageQueue.messages", 4, [], [3, 1, 0, 2], 0, "out of order"),
        ("Channel.borrow", 3, [0], [2, 1], 0, None),
        ("Channel.borrow", 3, [0], [2, 2], 0, "doubled"),
        ("posix.MessageQueue.send", 1, [1, storms.RIVALS, 2], [1, 2], 0, None),
        ("posix.MessageQueue.send", 0, [1, 2], [1], 0, "of nobody: .2"),
        ("posix.MessageQueue.send", 0, [1], [1, 2], 0, "lost: .2"),
        ("posix.MessageQueue.send", 0, [2, 1], [1, 2], 0, "out of order"),
        ("posix.Semaphore.enter", 5, [0, 0], [0, 0, 0, 0], 1, None),
        ("posix.Semaphore.enter", 5, [0, 0], [0, 0, 0, 0], 0, "4 held and 2 taken elsewhere, of 5"),
        ("sysv.SemaphoreSet.operate-undo", 5, [0] * 5, [0, 0], 0, None),
        ("posix.Fifo.open_reader", 3, [], [2], 0, None),
        ("posix.Fifo.open_reader", 3, [], [2, 2], 0, "doubled"),
    ],
)
def test_accounts(
    name: str, given: int, taken: list[int], noted: list[int], given_back: int, fault: str | None
) -> None:
    account = partial(storms.account, operation(name), Schedule({"tasks": 1}, []), given, taken, noted, given_back)
    if fault is None:
        account()
    else:
        with pytest.raises(AssertionError, match=fault):
            account()
