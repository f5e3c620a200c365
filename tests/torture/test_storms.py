"""What the storm itself could do wrong: not to cancel, not to hit, not to see what is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import anyio
import pytest
import storms
import trio
from harness import MANY, Outcome, Schedule, never_done, run_once
from storm_objects import Peer, Target, mq
from storm_operations import OPERATIONS, Operation
from storm_race import LOOPS
from storm_ways import on_trio, pause, way, ways_of
from world import Failed, World

from aioipc import Channel, EndOfStream, posix

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
    report = storms.Report(noted, given_back)
    account = partial(storms.account, operation(name), Schedule({"tasks": 1}, []), given, taken, report)
    if fault is None:
        account()
    else:
        with pytest.raises(AssertionError, match=fault):
            account()


@pytest.mark.parametrize(
    ("name", "given", "taken", "noted"),
    [("posix.Fifo.open_reader", 3, [], [1]), ("posix.Fifo.open_writer", 0, [1], [0, 1])],
)
def test_what_an_opening_may_lose(name: str, given: int, taken: list[int], noted: list[int]) -> None:
    account = partial(storms.account, operation(name), Schedule({}, []), given, taken)
    account(storms.Report(noted, certain=[[1], [0, 1]]))
    with pytest.raises(AssertionError, match=r"lost, though nobody was cancelled: .0, 2"):
        account(storms.Report(noted, certain=[[1], [0, 2]]))


@pytest.mark.parametrize("end", ["reader", "writer"])
def test_an_opening_that_loses_all_is_seen(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(reader: posix.FifoReader, size: int) -> bytes:
        await receive(reader, size)
        raise EndOfStream

    receive = posix.FifoReader.receive
    monkeypatch.setattr(posix.FifoReader, "receive", lose)
    monkeypatch.setattr(posix.FifoWriter, "send_nowait", lambda *_: None)
    scenario = next(each for each in storms.SCENARIOS if each.name == f"storm/posix.Fifo.open_{end}/asyncio")
    with pytest.raises(AssertionError, match="lost, though nobody was cancelled"):
        run_once(scenario, scenario.draw(random.Random(1)))


class Asked:
    """A peer that does nothing yet."""

    asked = answered = 0

    def ask(self) -> None:
        self.asked += 1

    def wait(self, seconds: float = 0) -> None:
        pass


@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_no_more_is_asked_for_than_must_be_enough(name: str) -> None:
    """Or the next gift would make up for a wake-up that was lost."""
    peer: Any = Asked()
    tortured = operation(name)
    exchange = storms.Exchange(tortured, Target([], ""), peer, None)

    async def insist() -> int:
        for _ in range(3):
            await exchange.insist(1)
        return int(peer.asked)

    enough = tortured.room
    assert asyncio.run(insist()) == enough
    peer.answered = peer.asked
    assert asyncio.run(insist()) == enough
    if tortured.may_lose:
        exchange.counts["cancelled"] += 1  # who may have had it
        assert asyncio.run(insist()) == 2 * enough


def test_a_gap_is_counted_until_nothing_is_before_it(name: str) -> None:
    peer: Any = Asked()
    exchange = storms.Exchange(operation("Channel.reserve"), Target([], "", capacity=2), peer, None)
    with Channel.create(name, capacity=128) as exchange.handle:
        exchange.handle.send_nowait(b"not yet noted")
        exchange.report.noted = [1]
        exchange.gaps = 1
        asyncio.run(exchange.insist(1))
        assert (peer.asked, exchange.gaps) == (1, 1)
        exchange.handle.receive_nowait()
        asyncio.run(exchange.insist(1))
        assert exchange.gaps == 1  # the peer has it to do yet
        peer.answered = peer.asked
        asyncio.run(exchange.insist(1))
        assert (peer.asked, exchange.gaps) == (1, 0)


def test_what_comes_without_an_end_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive(channel: Channel) -> bytes:
        raise EndOfStream

    monkeypatch.setattr(Channel, "receive", receive)
    scenario = next(each for each in storms.SCENARIOS if each.name == "storm/Channel.receive-ended/asyncio")
    with pytest.raises(Failed, match="it has not ended"):
        run_once(scenario, scenario.draw(random.Random(1)))


@pytest.mark.parametrize(("rounds", "never"), [(MANY, ["done"]), (MANY - 1, [])])
def test_a_long_run_in_which_something_never_happened(rounds: int, never: list[str]) -> None:
    scenario = next(each for each in storms.SCENARIOS if each.name == "storm/posix.Semaphore.acquire/asyncio")
    assert never_done(scenario, Outcome(rounds, counts=Counter({"cancelled": 1}))) == never
