"""Processes that are killed and stopped while they hold something: permits, semaphores of a set, attached segments.

What the kernel gives back is there again, and what it can't give back is no more than what the dead had.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress

import anyio
import posix_ipc
from harness import Scenario, Schedule
from kills_crowd import CLOSING, CREATING, RESTING, TASKS, USING, Crowd, Me, Member, Notes, draw, in_tasks
from kills_left import rows_of
from world import World, finished, program

import aioipc
from aioipc import Channel, posix, sysv

HOLDERS = 5
SIZE = 5000

NOTHING, TAKING, HOLDING, GIVING_BACK = range(4)
"""What a task has of a semaphore."""


async def hold(me: Me) -> None:
    me.notes.phase = USING
    await anyio.sleep(0.001 * me.rng.random() if me.rng.random() < 0.5 else 0)
    me.notes.did()
    me.notes.phase = CLOSING


async def rest(me: Me) -> None:
    me.notes.phase = RESTING
    await anyio.sleep(0.002 * me.rng.random() if me.rng.random() < 0.5 else 0)


# POSIX semaphores ----------------------------------------------------------------------------------------------------


def hold_semaphore(world: World, schedule: Schedule) -> Counter[str]:
    """Who is killed takes its permits along, and no others."""
    name, permits = world.name(), schedule.settings["permits"]
    semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=permits)
    world.later(semaphore.close)

    async def work(me: Me, task: int) -> None:
        place = Notes.FIRST + task
        while not me.is_ending:
            with posix.Semaphore.open(name) as opened:
                for _ in range(me.rng.randrange(1, 30)):
                    me.notes.phase = CREATING
                    me.notes.words[place] = TAKING
                    async with opened:
                        me.notes.words[place] = HOLDING
                        await hold(me)
                        me.notes.words[place] = GIVING_BACK
                    me.notes.words[place] = NOTHING
                    await rest(me)

    replaced = sure = 0

    def replace(member: Member) -> None:
        """Give back what it may have had, so that the others do not wait for ever."""
        nonlocal replaced, sure
        for state in member.notes.words[Notes.FIRST : Notes.FIRST + TASKS]:
            sure += state == HOLDING
            if state != NOTHING:
                replaced += 1
                semaphore.release()

    crowd = Crowd(world, schedule)
    crowd.add("holder", in_tasks(work), HOLDERS)
    crowd.storm(replace)
    crowd.end()
    taken_along = permits + replaced - semaphore.value
    assert sure <= taken_along <= replaced
    crowd.counts["acquired"] += sum(member.notes.done for member in crowd.all)
    crowd.counts["kills while holding"] += sure
    crowd.counts["taken along"] += taken_along
    return crowd.counts


# System V semaphore sets ---------------------------------------------------------------------------------------------

VALUES = (1, 3, 1)
OPERATIONS = (((0, -1),), ((1, -1),), ((0, -1), (1, -1)), ((0, -1), (2, -1)), ((1, -2), (2, -1)))


def hold_set(world: World, schedule: Schedule) -> Counter[str]:
    """The kernel gives back what those that are killed have, and nobody has what another one has."""
    key = world.key()
    sysv_peer = program("peers/sysv.c")
    id = finished(world.spawn(sysv_peer, "semget", key, "0600", *VALUES, stdout=subprocess.PIPE, text=True)).strip()

    async def work(me: Me, task: int) -> None:
        own = me.number * TASKS + task
        owners = me.common.words[Notes.FIRST :]
        while not me.is_ending:
            with sysv.SemaphoreSet.open(key, undo=True) as semaphores:
                for _ in range(me.rng.randrange(1, 30)):
                    operations = me.rng.choice(OPERATIONS)
                    me.notes.phase = CREATING
                    await semaphores.operate(*operations)
                    for number, _ in operations:
                        owners[number] = own
                    await hold(me)
                    for number, _ in operations:
                        assert VALUES[number] > 1 or owners[number] == own
                    semaphores.operate_nowait(*((number, -amount) for number, amount in operations))
                    await rest(me)

    crowd = Crowd(world, schedule)
    crowd.add("holder", in_tasks(work), HOLDERS)
    crowd.storm()
    crowd.end()
    values = finished(world.spawn(sysv_peer, "getall", id, len(VALUES), stdout=subprocess.PIPE, text=True))
    assert tuple(map(int, values.split())) == VALUES
    crowd.counts["acquired"] += sum(member.notes.done for member in crowd.all)
    return crowd.counts


# Channels ------------------------------------------------------------------------------------------------------------


class GiveBackError(Exception):
    """Ends a block that has borrowed a message, or reserved room for one."""


def in_blocks(
    name: str, enter: Callable[[Channel], AbstractAsyncContextManager[memoryview]], which: Callable[[memoryview], int]
) -> Callable[[Me, int], Awaitable[None]]:
    """Hold what a block of a channel lends, which nobody else has meanwhile, and give it back.

    :param which: the number of what was lent
    """

    async def work(me: Me, task: int) -> None:
        own = me.number * TASKS + task
        owners = me.common.words[Notes.FIRST :]
        while not me.is_ending:
            with Channel.open(name) as channel:
                for _ in range(me.rng.randrange(1, 30)):
                    me.notes.phase = CREATING
                    with suppress(GiveBackError):
                        async with enter(channel) as view:
                            number = which(view)
                            owners[number] = own
                            await hold(me)
                            assert owners[number] == own
                            raise GiveBackError
                    await rest(me)

    return work


def hold_messages(world: World, schedule: Schedule) -> Counter[str]:
    """What somebody has borrowed when he is killed is the others' again, though nothing else wakes them."""
    name, permits = world.name(), schedule.settings["permits"]

    def send() -> None:
        with Channel.create(name, capacity=4096, persist=True) as channel:
            channel.send_many_nowait([bytes([number]) for number in range(permits)])

    def drain() -> list[int]:
        with Channel.open(name) as channel:
            return [message[0] for message in channel.receive_many_nowait(100)]

    world.fork(send).result()
    crowd = Crowd(world, schedule)
    work = in_blocks(name, lambda channel: channel.borrow(), lambda message: message[0])
    crowd.add("holder", in_tasks(work), HOLDERS)
    crowd.storm()
    crowd.end()
    assert sorted(world.fork(drain).result()) == list(range(permits))
    crowd.counts["borrowed"] += sum(member.notes.done for member in crowd.all)
    return crowd.counts


def hold_reservations(world: World, schedule: Schedule) -> Counter[str]:
    """Room that somebody has reserved when he is killed is the others' again: each takes all there is."""
    name = world.name()

    def create() -> None:
        Channel.create(name, capacity=4096, persist=True).close()

    def look() -> None:
        with Channel.open(name) as channel:
            assert channel.statistics().messages == 0
            channel.send_nowait(bytes(channel.max_message_size))

    def write(buffer: memoryview) -> int:
        """There is but one."""
        buffer[:] = bytes(len(buffer))
        return 0

    world.fork(create).result()
    crowd = Crowd(world, schedule)
    work = in_blocks(name, lambda channel: channel.reserve(channel.max_message_size), write)
    crowd.add("holder", in_tasks(work), HOLDERS)
    crowd.storm()
    crowd.end()
    world.fork(look).result()
    crowd.counts["reserved"] += sum(member.notes.done for member in crowd.all)
    return crowd.counts


# System V segments ---------------------------------------------------------------------------------------------------


def hold_segment(world: World, schedule: Schedule) -> Counter[str]:
    """A segment is attached as often as those that live have attached it."""
    key = world.key()
    finished(world.spawn(program("peers/shm.c"), "create", key, SIZE, "0600", stdout=subprocess.DEVNULL))

    async def work(me: Me) -> None:
        while not me.is_ending:
            me.notes.phase = CREATING
            segments, views = [], []
            for _ in range(me.rng.randrange(1, 5)):
                segment = sysv.SharedMemory.open(key)
                segment.buffer[me.rng.randrange(SIZE)] = 1
                if me.rng.random() < 0.5:
                    segments.append(segment)
                else:  # it is attached for as long as there is a view
                    views.append(segment.buffer)
                    segment.close()
            await hold(me)
            while me.is_paused:
                me.notes.words[Notes.FIRST] = len(segments) + len(views)
                await anyio.sleep(0.001)
            me.notes.words[Notes.FIRST] = 0
            for segment in segments:
                segment.close()
            del segment, views
            await rest(me)

    crowd = Crowd(world, schedule)
    crowd.add("holder", work, HOLDERS)
    crowd.storm()
    for _ in range(3):
        crowd.pause(lambda member: member.notes.words[Notes.FIRST] > 0)
        assert attached(key) == sum(member.notes.words[Notes.FIRST] for member in crowd.living)
        crowd.kill(crowd.members[:2])
    crowd.end()
    assert attached(key) == 0
    crowd.counts["attached"] += sum(member.notes.done for member in crowd.all)
    return crowd.counts


def attached(key: int) -> int:
    return next(int(row[6]) for row in rows_of("shm") if int(row[0]) == key)


# FIFOs ---------------------------------------------------------------------------------------------------------------


def open_fifo(world: World, schedule: Schedule) -> Counter[str]:
    """Who waits for the other end is not left behind when another one that did so is killed."""
    path = world.path()
    os.mkfifo(path)

    async def read(me: Me) -> None:
        while not me.is_ending:
            me.notes.phase = CREATING
            async with posix.Fifo.open_reader(path) as reader:
                me.notes.phase = USING
                for _ in range(me.rng.randrange(5)):
                    with suppress(aioipc.EndOfStream):
                        assert set(await reader.receive(me.rng.randrange(1, 300))) == set(b"x")
                        me.notes.did()
                me.notes.phase = CLOSING
            await rest(me)

    async def write(me: Me) -> None:
        while not me.is_ending:
            me.notes.phase = CREATING
            async with posix.Fifo.open_writer(path) as writer:
                me.notes.phase = USING
                with suppress(aioipc.BrokenError):
                    for _ in range(me.rng.randrange(5)):
                        await writer.send(b"x" * 100)
                        me.notes.did()
                me.notes.phase = CLOSING
            await rest(me)

    def meet() -> None:
        os.close(os.open(path, os.O_RDWR))

    crowd = Crowd(world, schedule)
    crowd.add("reader", read, 2)
    crowd.add("writer", write, 3)
    crowd.storm()
    crowd.end(nudge=meet)
    crowd.counts["transfers"] += sum(member.notes.done for member in crowd.all)
    return crowd.counts


# The rounds ----------------------------------------------------------------------------------------------------------


def scenario(what: str, run: Callable[[World, Schedule], Counter[str]]) -> Scenario:
    def draw_one(rng: random.Random) -> Schedule:
        return draw(rng, members=HOLDERS, permits=rng.choice((1, 1, 1, 2, 4)))

    return Scenario(f"kill/{what}/all", draw_one, run)


SCENARIOS = (
    scenario("holders of posix.Semaphore", hold_semaphore),
    scenario("holders of sysv.SemaphoreSet", hold_set),
    scenario("holders of messages of Channel", hold_messages),
    scenario("holders of room of Channel", hold_reservations),
    scenario("holders of sysv.SharedMemory", hold_segment),
    scenario("both ends of posix.Fifo", open_fifo),
)
