"""Processes that are killed and stopped while they use the library, and others come in their place.

Each writes down what it does in memory that it shares with the harness and that outlives it.  A schedule says who is
killed or stopped, and when: so many microseconds after a process has said what it is about to do.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import anyio
import anyio._backends._asyncio  # here, not in each process
import anyio._backends._trio
import uvloop  # noqa: F401
from harness import Schedule
from world import SECONDS, Child, Failed, World

LOOPS = {"asyncio": ("asyncio", {}), "uvloop": ("asyncio", {"use_uvloop": True}), "trio": ("trio", {})}

RESTING, CREATING, USING, CLOSING = range(4)
"""What a process is about to do."""

STEPS = 8
"""Of a schedule."""
PATIENCE = 30
"""Who does not go on for so many seconds has hung."""
_TICK = 0.0005
_TICKS = 3


class Notes:
    """What one process has written down: numbers."""

    SIZE = 2**13
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
        return self.common.phase != RESTING


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


def draw(rng: random.Random, *, members: int, steps: int = STEPS) -> Schedule:
    """A schedule for so many processes that may be killed."""

    def step() -> dict[str, object]:
        others = rng.sample(range(members), rng.choice((1, 1, 1, 2, 2, members)))
        return {
            "who": others.pop(),
            "at": rng.choice((None, CREATING, CREATING, USING, CLOSING)),
            "after": rng.randrange(rng.choice((30, 300, 3000))),
            "how": rng.choice(("kill", "stop", "stop, kill")),
            "milliseconds": rng.choice((0, 0, round(50 * rng.random(), 3))),
            "others": others,
            "settle": rng.random() < 0.6,
        }

    return Schedule({"seed": rng.randrange(2**32)}, [step() for _ in range(steps)])


class Crowd:
    """Members that use one object in their roles; the first of each role is spared unless all may be killed."""

    def __init__(self, world: World, loop: str, schedule: Schedule, *, spares: bool = True) -> None:
        self._world = world
        self._loop = loop
        self._schedule = schedule
        self._spares = spares
        self._rng = random.Random(schedule.settings["seed"])
        self._roles: dict[str, Role] = {}
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
        number = len(self.all) + 1
        me = Me(number, Notes(), self.common, random.Random(self._rng.randrange(2**32)))
        return Member(role, me, self._world.fork(_live, self._roles[role], me, self._loop))

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
            self._kill([who, *others], after_kill)
            return
        who.child.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, who.child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.counts["stops"] += 1
        self._kill(others, after_kill)
        time.sleep(step["milliseconds"] / 1000)
        self._wait_for_ticks([member for member in self.living if member is not who])
        if step["how"] == "stop":
            who.child.signal(signal.SIGCONT)
        else:
            self._kill([who], after_kill)

    def _kill(self, members: list[Member], after_kill: Callable[[Member], None]) -> None:
        for member in members:
            member.child.signal(signal.SIGKILL)
        for member in members:
            status = member.child.wait()
            if status != -signal.SIGKILL:
                raise Failed(f"{member.role} ended with {status}:\n{member.child.errors()}")
            self.counts["kills"] += 1
            self.members[self.members.index(member)] = self._start(member.role)
            self.killed.append(member)
            after_kill(member)

    def settle(self) -> None:
        """Wait until all have done something."""
        before = [member.notes.done for member in self.living]
        for member, done in zip(self.living, before, strict=True):
            _wait_until(lambda member=member, done=done: member.notes.done > done, member)

    def _wait_for_ticks(self, members: list[Member]) -> None:
        """The loops of these go on."""
        started = [member for member in members if member.notes.ticks]
        before = [member.notes.ticks for member in started]
        for member, ticks in zip(started, before, strict=True):
            _wait_until(lambda member=member, ticks=ticks: member.notes.ticks > ticks + _TICKS, member)
            self.counts["ticks"] += member.notes.ticks - ticks

    def end(self, *roles: str, nudge: Callable[[], None] = lambda: None) -> None:
        """Have the members of these roles, or all, come to an end; none may have failed.

        :param nudge: is called again and again until they have
        """
        self.common.phase = USING
        deadline = time.monotonic() + SECONDS
        for member in self.living:
            if not roles or member.role in roles:
                while not member.child.has_ended and time.monotonic() < deadline:
                    nudge()
                    time.sleep(0.0005)
                member.child.result(5)
        for member in self.all:
            if words := member.child.errors():
                raise Failed(f"{member.role} wrote:\n{words}")


def _live(role: Role, me: Me, loop: str) -> None:
    backend, options = LOOPS[loop]
    anyio.run(partial(_tick_beside, role, me), backend=backend, backend_options=options)


async def _tick_beside(role: Role, me: Me) -> None:
    async def tick() -> None:
        while True:
            await anyio.sleep(_TICK)
            me.notes.tick()

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await role(me)
        group.cancel_scope.cancel()


def _wait_until(condition: Callable[[], bool], member: Member) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if member.child.has_ended:
            member.child.result()
            raise Failed(f"{member.role} has ended before it was told to")
        if time.monotonic() > deadline:
            member.child.wait(0)
        time.sleep(0.0002)
