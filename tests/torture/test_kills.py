"""What watches over those that are killed and stopped is tried on faults that are known."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator

import anyio
import kills_crowd
import kills_queues
import pytest
from harness import Schedule
from kills_accounts import Received, Sent, account, are_in_order
from kills_crowd import TASKS, Crowd, Me, Member, Notes, draw
from world import Failed, Hung, World

STOP: dict[str, object] = {
    "who": 0,
    "at": None,
    "after": 0,
    "how": "stop",
    "milliseconds": 0,
    "others": [],
    "stopped": 0,
    "late": False,
    "settle": True,
}
KILL = STOP | {"how": "kill", "late": True}
STOP_AND_KILL = STOP | {"how": "stop, kill", "others": [1]}
STOP_BOTH = STOP | {"others": [1], "stopped": 1}


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


def crowd(world: World, role: Callable[[Me], Awaitable[None]], *steps: dict[str, object], spares: bool = True) -> Crowd:
    made = Crowd(world, Schedule({"seed": 1}, list(steps)), spares=spares)
    made.add("worker", role, 2)
    return made


async def work(me: Me) -> None:
    while not me.is_ending:
        me.notes.did()
        await anyio.sleep(0.001)


@pytest.mark.parametrize("spares", [True, False])
def test_all_steps(world: World, spares: bool) -> None:
    workers = crowd(world, work, STOP, KILL, STOP_AND_KILL, STOP_BOTH, spares=spares)
    gone: list[Member] = []
    workers.storm(gone.append)
    workers.end()
    assert (workers.counts["stops"], workers.counts["kills"], len(gone)) == (4, 3, 3)
    assert workers.counts["ticks"] > 0
    assert gone == workers.killed
    assert len({member.me.number for member in workers.all}) == len(workers.all) == 5 + spares


def test_a_schedule_says_who_and_when() -> None:
    schedule = draw(random.Random(1), members=3, permits=2)
    assert schedule == draw(random.Random(1), members=3, permits=2)
    assert schedule.settings["permits"] == 2
    for step in schedule.steps:
        assert {step["who"], *step["others"]} <= {0, 1, 2}
        assert step.keys() == STOP.keys()


def test_who_blocks_its_loop_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def block(me: Me) -> None:
        me.notes.did()
        await anyio.sleep(0.05)
        while True:
            me.notes.did()
            time.sleep(0.001)  # noqa: ASYNC251 -- that is the fault

    monkeypatch.setattr(kills_crowd, "PATIENCE", 0.5)
    workers = crowd(world, block, STOP)
    with pytest.raises(Hung, match="worker has not gone on"):
        workers.storm()


def test_who_does_not_go_on_when_another_one_is_killed_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def depend(me: Me) -> None:
        while True:
            me.notes.did()
            await anyio.sleep(0.001)
            if me.number == 1 and me.common.words[Notes.FIRST]:
                await anyio.sleep_forever()

    def note(_: Member) -> None:
        workers.common.words[Notes.FIRST] = 1

    monkeypatch.setattr(kills_crowd, "PATIENCE", 0.5)
    workers = crowd(world, depend, KILL)
    with pytest.raises(Hung, match="worker has not gone on"):
        workers.storm(note)


@pytest.mark.parametrize(
    ("fails", "words"),
    [("raises", "ZeroDivisionError"), ("ends", "ended before it was told to"), ("complains", "by the way")],
)
def test_who_fails_is_found(world: World, fails: str, words: str) -> None:
    async def fail(me: Me) -> None:
        me.notes.did()
        await anyio.sleep(0.01)
        if fails == "raises":
            raise ZeroDivisionError
        if fails == "complains":
            os.write(2, b"by the way")
            await work(me)

    workers = crowd(world, fail)
    with pytest.raises(
        Failed, match={"raises": "ZeroDivisionError", "ends": "before", "complains": "by the way"}[fails]
    ):
        workers.storm()
        workers.end()


# The accounts of messages --------------------------------------------------------------------------------------------


@pytest.fixture
def traffic(world: World) -> Crowd:
    """A producer that has sent 3 messages and begun a fourth one; a consumer, and one that was killed."""

    async def end(_: Me) -> None:
        pass

    made = Crowd(world, Schedule({"seed": 1}, []), spares=False)
    made.add("producer", end, 1)
    made.add("consumer", end, 2)
    made.killed.append(made.members.pop())
    sent = Sent(made.members[0].notes, 0)
    sent.begins(3)
    sent.has_sent()
    sent.begins(1)
    return made


def number(number: int) -> int:
    """Of the first task of the first member."""
    return TASKS << 32 | number


def received(member: Member, *numbers: int) -> Received:
    notes = Received(member.notes, 0)
    for each in numbers:
        notes.add(number(each))
    return notes


def test_all_have_arrived(traffic: Crowd) -> None:
    received(traffic.members[1], 0, 2)
    account(traffic, [number(1)])
    received(traffic.members[1], 3)  # what was begun may arrive
    account(traffic, [number(1)])
    assert (traffic.counts["messages"], traffic.counts["taken along"]) == (7, 0)


def test_what_the_dead_have_taken(traffic: Crowd) -> None:
    received(traffic.members[1], 0, 2)
    with pytest.raises(AssertionError):
        account(traffic, [])
    received(traffic.killed[0]).taking = 1
    account(traffic, [])
    assert traffic.counts["taken along"] == 1
    # One that lives has written down all that it has taken.
    received(traffic.killed[0]).taking = 0
    received(traffic.members[1]).taking = 1
    with pytest.raises(AssertionError):
        account(traffic, [])


@pytest.mark.parametrize("kind", kills_queues.KINDS, ids=lambda kind: kind.name)
def test_who_only_waits_takes_nothing_along(world: World, kind: kills_queues.Kind) -> None:
    address = kind.prepare(world, kind.address(world))
    data = bytes([1]) * (kind.frame or 10)

    async def wait_and_receive(me: Me) -> None:
        received = Received(me.notes, 0)
        async with kind.receiver(address, me, received) as receive, anyio.create_task_group() as group:

            async def take() -> None:
                assert await receive() == [data]
                assert received.taking >= 1

            group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            assert received.taking == 0
            async with kind.sender(address, me, 1) as send:
                await send([data])

    def run(seed: int) -> None:
        anyio.run(wait_and_receive, Me(1, Notes(), Notes(), random.Random(seed)))

    for seed in range(5):  # each has several ways to receive
        world.fork(run, seed).result()


def test_doubled_unknown_or_out_of_turn(traffic: Crowd) -> None:
    received(traffic.members[1], 0, 1, 2)
    account(traffic, [])
    with pytest.raises(AssertionError):
        account(traffic, [number(1)])
    with pytest.raises(AssertionError):
        account(traffic, [number(4)])
    received(traffic.killed[0], 3, 2)
    with pytest.raises(AssertionError):
        account(traffic, [])
    assert are_in_order([1, 1 << 32, 2, 1 << 32 | 1])
    assert not are_in_order([1, 1])
