"""Processes that are killed and stopped while they change what all of them use: memory that they resize, a channel that
they end.
"""

from __future__ import annotations

import fcntl
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio.lowlevel
import posix_ipc
from harness import Scenario, Schedule
from kills_crowd import CLOSING, CREATING, USING, Crowd, Me, Role, draw
from kills_left import doorbells, note_bells, remove
from kills_lives import rest
from world import World

import aioipc
from aioipc import Channel, posix

CHANGERS, OTHERS = 3, 2


@asynccontextmanager
async def turn(path: str) -> AsyncIterator[None]:
    """One at a time; the kernel gives the turn of who is killed to the next."""
    with open(path, "w") as file:  # noqa: ASYNC230 -- it is empty
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await anyio.sleep(0.0005)
        yield


# POSIX shared memory -------------------------------------------------------------------------------------------------

UNIT = 4096
LARGEST = 2000 * UNIT


def resize_memory(world: World, schedule: Schedule) -> Counter[str]:
    """What has grown stays so, whoever is killed: nobody loses memory that he has.

    They take turns, for who asks for a size that it had a moment ago may make smaller what has grown meanwhile.
    """
    name, path = world.name(), world.path()
    posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=UNIT).close_fd()

    def touch(segment: posix.SharedMemory, me: Me) -> None:
        """Each page begins with its number, or with nothing yet."""
        pages = segment.size // UNIT
        with segment.buffer as view:
            for page in (*me.rng.choices(range(pages), k=20), pages - 1):
                assert view[page * UNIT] in (0, 1 + page % 255)
                view[page * UNIT] = 1 + page % 255
        me.notes.did()

    def role(most: int) -> Role:
        async def change(me: Me) -> None:
            while not me.is_ending:
                with posix.SharedMemory.open(name) as segment:
                    for _ in range(me.rng.randrange(1, 10)):
                        touch(segment, me)
                        me.notes.phase = CREATING
                        async with turn(path):
                            size = segment.statistics().size
                            assert size >= segment.size
                            me.notes.phase = USING
                            segment.resize(min(size + UNIT * me.rng.randrange(most + 1), LARGEST))
                            me.notes.phase = CLOSING
                        await anyio.lowlevel.checkpoint()
                await rest(me)

        return change

    crowd = Crowd(world, schedule)
    crowd.add("grower", role(2), CHANGERS)
    crowd.add("follower", role(0), OTHERS)
    crowd.storm()
    crowd.end()
    crowd.counts["looks"] += sum(member.notes.done for member in crowd.all)
    crowd.counts["kills while resizing"] += sum(
        member.role == "grower" and member.notes.phase == USING for member in crowd.killed
    )
    crowd.counts["pages"] += os.stat("/dev/shm" + name).st_size // UNIT
    return crowd.counts


# Channels ------------------------------------------------------------------------------------------------------------


def end_channels(world: World, schedule: Schedule) -> Counter[str]:
    """Who waits at a channel that is ended hears of it, though who has ended it is killed in the middle of that.

    Only one at a time removes it: who is stopped for longer than others wait for him could take the next one's name.
    """
    name, path = world.name(), world.path()

    def channel() -> Channel:
        return Channel.create(name, capacity=1024, exist_ok=True, persist=True)

    async def end(me: Me) -> None:
        note_bells(me)
        while not me.is_ending:
            async with turn(path):
                me.notes.phase = CREATING
                with channel() as ended:
                    me.notes.phase = USING
                    await ended.end()
                    me.notes.phase = CLOSING
                    ended.unlink()
            me.notes.did()
            await rest(me)

    async def wait(me: Me) -> None:
        note_bells(me)
        while not me.is_ending:
            with channel() as waited_for:
                with suppress(aioipc.EndOfStream):
                    raise AssertionError(await waited_for.receive())
                me.notes.did()
            await rest(me)

    def end_what_is_there() -> None:
        with channel() as ended:
            ended.end_nowait()

    crowd = Crowd(world, schedule)
    world.later(lambda: remove(doorbells(crowd)))
    crowd.add("ender", end, CHANGERS)
    crowd.add("waiter", wait, OTHERS)
    crowd.storm()
    crowd.end("ender")
    crowd.end("waiter", nudge=lambda: world.fork(end_what_is_there).result())
    for role, what in (("ender", "ends"), ("waiter", "ends heard of")):
        crowd.counts[what] += sum(member.notes.done for member in crowd.all if member.role == role)
    crowd.counts["kills while ending"] += sum(
        member.role == "ender" and member.notes.phase == USING for member in crowd.killed
    )
    return crowd.counts


# The rounds ----------------------------------------------------------------------------------------------------------


def scenario(what: str, run: Callable[[World, Schedule], Counter[str]]) -> Scenario:
    def draw_one(rng: random.Random) -> Schedule:
        return draw(rng, members=CHANGERS + OTHERS)

    return Scenario(f"kill/{what}/all", draw_one, run)


SCENARIOS = (
    scenario("who resizes posix.SharedMemory", resize_memory),
    scenario("who ends Channel", end_channels),
)
