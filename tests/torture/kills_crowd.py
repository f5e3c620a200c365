"""Processes that are killed and stopped while they use the library, and others come in their place.

Each writes down what it does in memory that it shares with the harness and that outlives it.  A schedule says who is
killed or stopped, and when: so many microseconds after a process has said what it is about to do.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio._backends._asyncio  # here, not in each process
import anyio._backends._trio
import uvloop  # noqa: F401
from harness import Schedule
from world import Child, Failed, Hung, World

LOOPS = ({"backend": "asyncio"}, {"backend": "asyncio", "backend_options": {"use_uvloop": True}}, {"backend": "trio"})

RESTING, CREATING, USING, CLOSING = range(4)
"""What a process is about to do."""

_AT_WORK, _PAUSED, _ENDING = range(3)
"""What all of them are told."""

TASKS = 2
"""Of each process that works in several."""
STEPS = 10
"""Of a schedule."""
PATIENCE = 30
"""Who does not go on for so many seconds has hung."""
_TICK = 0.001
_TICKS = 3


class Notes:
    """What one process has written down: numbers."""

    SIZE = 2**15
    _PHASE, _TICKS, _DONE, FIRST = range(4)

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, self.SIZE * 8)).cast("Q")

    @property
    def phase(self) -> int:
        """What it is about to do."""
        return self.words[self._PHASE]

    @phase.setter
    def phase(self, phase: int) -> None:
        self.words[self._PHASE] = phase

    @property
    def ticks(self) -> int:
        """How often its loop has run a ticker."""
        return self.words[self._TICKS]

    def tick(self) -> None:
        self.words[self._TICKS] += 1

    @property
    def done(self) -> int:
        """How often it has done what it is there for."""
        return self.words[self._DONE]

    def did(self) -> None:
        """Note that something came of what it does: who never gets so far has not gone on."""
        self.words[self._DONE] += 1


@dataclass(frozen=True)
class Me:
    """What a process of a crowd is told."""

    number: int
    notes: Notes
    common: Notes
    """Of the whole crowd."""
    rng: random.Random

    @property
    def is_ending(self) -> bool:
        """Whether it is to come to an end."""
        return self.common.phase == _ENDING

    @property
    def is_paused(self) -> bool:
        """Whether it is to stay as it is for a while."""
        return self.common.phase == _PAUSED


Role = Callable[[Me], Awaitable[None]]
"""What a process does until it is killed or `is_ending`."""


@dataclass(eq=False)
class Member:
    """A process, and what it is."""

    role: str
    me: Me
    child: Child

    @property
    def notes(self) -> Notes:
        return self.me.notes


def draw(rng: random.Random, *, members: int, **settings: object) -> Schedule:
    """A schedule for so many processes that may be killed."""

    def step() -> dict[str, object]:
        others = rng.sample(range(members), rng.choice((1, 1, 2, 2, members)))
        return {
            "who": others.pop(),
            "at": rng.choice((None, CREATING, CREATING, USING, CLOSING)),
            "after": rng.randrange(rng.choice((30, 300, 3000))),
            "how": rng.choice(("kill", "stop", "stop, kill")),
            "milliseconds": rng.choice((0, 0, round(50 * rng.random(), 3))),
            "others": others,
            "stopped": rng.randrange(len(others) + 1),
            "late": rng.random() < 0.5,
            "settle": rng.random() < 0.6,
        }

    return Schedule({"seed": rng.randrange(2**32), **settings}, [step() for _ in range(STEPS)])


class Crowd:
    """Members that use one object in their roles, each on a loop of its own choice.

    The first of each role is spared unless all may be killed.
    """

    def __init__(self, world: World, schedule: Schedule, *, spares: bool = True) -> None:
        self._world = world
        self._schedule = schedule
        self._spares = spares
        self._rng = random.Random(schedule.settings["seed"])
        self._roles: dict[str, Role] = {}
        self._numbers = itertools.count(1)
        self.began = time.time()
        self.common = Notes()
        self.counts: Counter[str] = Counter()
        self.spared: list[Member] = []
        self.members: list[Member] = []
        """Those that may be killed."""
        self.killed: list[Member] = []

    @property
    def living(self) -> list[Member]:
        return self.spared + self.members

    @property
    def all(self) -> list[Member]:
        return self.living + self.killed

    def add(self, role: str, main: Role, count: int) -> None:
        """Start so many that may be killed, and one that is spared."""
        self._roles[role] = main
        if self._spares:
            self.spared.append(self._start(role))
        self.members += [self._start(role) for _ in range(count)]

    def _start(self, role: str) -> Member:
        me = Me(next(self._numbers), Notes(), self.common, random.Random(self._rng.randrange(2**32)))
        return Member(role, me, self._world.fork(_live, self._roles[role], me, self._rng.choice(LOOPS)))

    def storm(self, after_kill: Callable[[Member], None] = lambda _: None) -> None:
        """Do what the schedule says.

        :param after_kill: is told of each member that was killed, when it is gone
        """
        self.settle()
        for step in self._schedule.steps:
            self._perform(step, after_kill)
            if step["settle"]:
                self.settle()
        self.settle()

    def _perform(self, step: dict[str, object], after_kill: Callable[[Member], None]) -> None:
        who, *others = (self.members[number] for number in (step["who"], *step["others"]))
        if step["at"] is not None:
            give_up = time.monotonic() + 0.02
            while who.notes.phase != step["at"] and time.monotonic() < give_up:
                pass
        time.sleep(step["after"] / 1e6)
        if step["how"] == "kill":
            self.kill([who, *others], after_kill, late=step["late"])
            return
        stopped = [who, *others[: step["stopped"]]]
        for member in stopped:
            member.child.signal(signal.SIGSTOP)
        for member in stopped:
            os.waitid(os.P_PID, member.child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self.counts["stops"] += 1
        self.kill(others[step["stopped"] :], after_kill)
        time.sleep(step["milliseconds"] / 1000)
        self._wait_for_ticks([member for member in self.living if member not in stopped])
        if step["how"] == "stop":
            for member in stopped:
                member.child.signal(signal.SIGCONT)
        else:
            self.kill(stopped, after_kill)

    def kill(
        self,
        members: list[Member],
        after_kill: Callable[[Member], None] = lambda _: None,
        *,
        late: bool = False,
    ) -> None:
        """Kill them at about the same moment, and start others in their place.

        :param late: these come when all that are spared have done something without them
        """
        for member in members:
            member.child.signal(signal.SIGKILL)
        for member in members:
            status = member.child.wait()
            if status != -signal.SIGKILL:
                raise Failed(f"{member.role} ended with {status}:\n{member.child.errors()}")
            self.counts["kills"] += 1
            self.killed.append(member)
            after_kill(member)
        if late:
            _wait_for(self.spared)
        for member in members:
            self.members[self.members.index(member)] = self._start(member.role)

    def settle(self) -> None:
        """Wait until all have done something."""
        _wait_for(self.living)

    def pause(self, is_ready: Callable[[Member], bool]) -> None:
        """Have all of them stay as they are, and wait until they do."""
        self.common.phase = _PAUSED
        for member in self.living:
            _wait_until(lambda member=member: is_ready(member), member)

    def _wait_for_ticks(self, members: list[Member]) -> None:
        """The loops of these go on."""
        before = [member.notes.ticks for member in members]
        for member, ticks in zip(members, before, strict=True):
            _wait_until(lambda member=member, ticks=ticks: member.notes.ticks > ticks + _TICKS, member)
            self.counts["ticks"] += member.notes.ticks - ticks

    def end(self, *roles: str, nudge: Callable[[], None] = lambda: None) -> None:
        """Have the members of these roles, or all, come to an end; none may have failed.

        :param nudge: is called again and again until they have
        """
        self.common.phase = _ENDING
        for member in self.living:
            if not roles or member.role in roles:
                deadline = time.monotonic() + PATIENCE
                while not member.child.has_ended and time.monotonic() < deadline:
                    nudge()
                    time.sleep(0.0005)
                member.child.result(0)
        for member in self.all:
            if words := member.child.errors():
                raise Failed(f"{member.role} wrote:\n{words}")


def in_tasks(function: Callable[[Me, int], Awaitable[None]]) -> Role:
    """A role that is this function in each of its tasks, which have numbers."""

    async def role(me: Me) -> None:
        async with anyio.create_task_group() as group:
            for task in range(TASKS):
                group.start_soon(function, me, task)

    return role


def _live(role: Role, me: Me, loop: dict[str, Any]) -> None:
    anyio.run(_tick_beside, role, me, **loop)


async def _tick_beside(role: Role, me: Me) -> None:
    async def tick() -> None:
        while True:
            await anyio.sleep(_TICK)
            me.notes.tick()

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await role(me)
        group.cancel_scope.cancel()


def _wait_for(members: list[Member]) -> None:
    before = [member.notes.done for member in members]
    for member, done in zip(members, before, strict=True):
        _wait_until(lambda member=member, done=done: member.notes.done > done, member)


def _wait_until(condition: Callable[[], bool], member: Member) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if member.child.has_ended:
            member.child.result()
            raise Failed(f"{member.role} has ended before it was told to")
        if time.monotonic() > deadline:
            try:
                member.child.wait(0)
            except Hung as hung:
                raise Hung(f"{member.role} has not gone on for {PATIENCE} s") from hung
        time.sleep(0.0002)
