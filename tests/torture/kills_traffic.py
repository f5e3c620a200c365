"""Producers and consumers, killed and stopped: every message arrives once, whole and in its turn.

Any of them may be killed, all at once as well.  Each takes the queue over from whoever was there before, or creates
it.  What is missing in the end may only be what those that were killed had taken.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from harness import Scenario, Schedule
from kills_accounts import Received, Sent, account
from kills_crowd import CREATING, RESTING, TASKS, USING, Crowd, Me, draw, in_tasks
from kills_queues import END, KINDS, Kind
from world import TESTS, World

sys.path.append(str(TESTS / "channel"))

from crashing import HEAD, check, fill

PRODUCERS, CONSUMERS = 3, 3


def producer(kind: Kind, address: Any) -> Callable[[Me], Awaitable[None]]:
    async def produce(me: Me, task: int) -> None:
        number = me.number * TASKS + task
        sent = Sent(me.notes, task)
        while not me.is_ending:
            me.notes.phase = CREATING
            async with kind.sender(address, me, number) as send:
                for _ in range(me.rng.randrange(1, 30)):
                    count = me.rng.choice((1, 1, 1, 3))
                    first = sent.begun
                    sent.begins(count)
                    me.notes.phase = USING
                    size = kind.frame or me.rng.choice((HEAD.size, 100, 3000))
                    await send([message(number, first + place, size) for place in range(count)])
                    sent.has_sent()
                    me.notes.phase = RESTING
                    me.notes.did()
                    if me.rng.random() < 0.5:
                        await anyio.sleep(0.003 * me.rng.random())
                    if me.is_ending:
                        return

    return in_tasks(produce)


def consumer(kind: Kind, address: Any) -> Callable[[Me], Awaitable[None]]:
    async def consume(me: Me, task: int) -> None:
        received = Received(me.notes, task)
        while True:
            me.notes.phase = CREATING
            async with kind.receiver(address, me, received) as receive:
                for _ in range(me.rng.randrange(1, 30)):
                    me.notes.phase = USING
                    found = await receive()
                    for data in found:
                        if data != END:
                            received.add(check(data))
                    received.taking = 0
                    if END in found:
                        return
                    me.notes.did()
                    if me.rng.random() < 0.1:
                        await anyio.sleep(0.003 * me.rng.random())

    return in_tasks(consume)


def message(producer: int, number: int, size: int) -> bytes:
    data = bytearray(size)
    with memoryview(data) as view:
        fill(view, producer, number)
    return bytes(data)


def run(kind: Kind, world: World, schedule: Schedule) -> Counter[str]:
    address = kind.prepare(world, kind.address(world))
    crowd = Crowd(world, schedule, spares=schedule.settings["spares"])
    crowd.add("producer", producer(kind, address), PRODUCERS)
    crowd.add("consumer", consumer(kind, address), CONSUMERS)
    crowd.storm()
    crowd.end("producer")
    crowd.end("consumer", nudge=lambda: kind.end(world, address))
    account(crowd, [check(data) for data in kind.drain(world, address) if data != END])
    return crowd.counts


def scenario(kind: Kind) -> Scenario:
    return Scenario(
        f"kill/producers and consumers of {kind.name}/all",
        lambda rng: draw(rng, members=PRODUCERS + CONSUMERS, spares=rng.random() < 0.5),
        lambda world, schedule: run(kind, world, schedule),
        brief=2,
    )


SCENARIOS = tuple(map(scenario, KINDS))
