"""Producers and consumers are killed and stopped at random: every message is accounted for.

How many are killed is set by --kills; a run prints its seed.  The moments are random all the same.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import crashing
import pytest
from crashing import BEGUN, GIVEN_UP, SENT, ConsumerNotes, Control, ProducerNotes

import aioipc
from aioipc import Channel

VICTIMS = ["producer", "producer", "producer", "consumer", "consumer", "borrower", "opener"]


def wait_until(condition: Callable[[], bool]) -> None:
    """As conftest.until, where no loop runs."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Crowd:
    """Processes that use a channel: see crashing.py."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
        self._process = process
        self._folder = folder
        self._rng = rng
        self.roles: dict[int, str] = {}
        self.killed: dict[int, str] = {}
        self.producers: dict[int, ProducerNotes] = {}
        self.consumers: dict[int, ConsumerNotes] = {}

    def _tell(self, *words: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def start(self, role: str) -> int:
        number = len(self.roles) + len(self.killed)
        self.roles[number] = role
        path = self._folder / f"{role}-{number}"
        if role == "producer":
            self.producers[number] = ProducerNotes(path)
        elif role != "opener":
            self.consumers[number] = ConsumerNotes(path)
        self._tell("start", number, role, self._rng.randrange(2**32))
        return number

    def signal(self, number: int, signal: signal.Signals) -> None:
        self._tell("signal", number, int(signal))

    def kill(self, numbers: list[int]) -> None:
        """Kill all of them at about the same moment, and start others in their place."""
        for number in numbers:
            self.signal(number, signal.SIGKILL)
        for number in numbers:
            assert self._tell("wait", number) == -signal.SIGKILL
            self.killed[number] = self.roles.pop(number)
        for number in numbers:
            self.start(self.killed[number])

    def wait(self) -> None:
        """Until all have ended well."""
        for number in list(self.roles):
            assert self._tell("wait", number) == 0, self.roles[number]

    def are_at_work(self) -> bool:
        """Whether each has sent or received something."""
        for number in self.roles:
            if number in self.producers and not self.producers[number].has_begun:
                return False
            if number in self.consumers and not self.consumers[number].has_begun:
                return False
        return True

    @property
    def is_sending(self) -> bool:
        return any(notes.is_busy for number, notes in self.producers.items() if number in self.roles)


@contextmanager
def crowd(name: str, folder: Path, rng: random.Random) -> Iterator[Crowd]:
    command = [sys.executable, crashing.__file__, name, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        made = Crowd(process, folder, rng)
        try:
            yield made
        except BaseException:
            for number in made.roles:
                with suppress(Exception):
                    made.signal(number, signal.SIGKILL)
            raise
    assert process.returncode == 0


def account(crowd: Crowd) -> str:
    """Check that each message is where it must be; what was found, in words."""
    arrived: Counter[int] = Counter()
    unknown: set[int] = set()
    window = 0
    for number, notes in crowd.consumers.items():
        received = notes.received()
        arrived.update(received)
        unknown.update(notes.borrowed())
        if number in crowd.killed:
            window += notes.taking()
    assert [message for message, count in arrived.items() if count > 1] == []

    missing = sent = begun = 0
    for producer, written in crowd.producers.items():
        for number, state in enumerate(written.states()):
            message = producer << 32 | number
            is_here = message in arrived
            if state == SENT:
                sent += 1
                missing += not is_here and message not in unknown
            elif state == GIVEN_UP:
                assert not is_here, (producer, number)
            else:
                assert state == BEGUN
                begun += 1
            arrived.pop(message, None)
    assert not arrived  # nobody sent them
    # Taken by a consumer that was killed before it could write that down.
    assert missing <= window
    return (
        f"{len(crowd.killed)} killed; {sent:,} messages sent, {begun} about to be; {missing} taken by consumers that "
        f"were killed while they took up to {window}; {len(unknown)} consumed or delivered again"
    )


@pytest.mark.timeout(3600)
def test_every_message_is_accounted_for(
    name: str, tmp_path: Path, kills: int, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    with Channel.create(name, capacity=2**19) as channel, crowd(name, tmp_path, rng) as peers:
        control = Control(tmp_path)
        peers.start("producer")
        survivor = peers.consumers[peers.start("consumer")]
        spared = set(peers.roles)
        for role in VICTIMS:
            peers.start(role)

        def victims(most: int) -> list[int]:
            return rng.sample(sorted(peers.roles.keys() - spared), rng.randint(1, most))

        def drain() -> None:
            """What is in the channel is received though nobody sends, and so nobody rings."""
            wait_until(lambda: not peers.is_sending and channel.statistics().messages == 0)

        while len(peers.killed) < kills:
            if rng.random() < 0.9:
                wait_until(peers.are_at_work)
            time.sleep(0.015 * rng.random())
            what = rng.random()
            if what < 0.2:
                control.pause = "producer"
                time.sleep(0.003 * rng.random())
                peers.kill(victims(2))
                drain()
                peers.kill(victims(2))  # those that sleep on empty
            elif what < 0.4:
                control.pause = "consumer"
                time.sleep(0.01 * rng.random())
                peers.kill(victims(2))  # those that sleep on full
            elif what < 0.6:
                stopped, *others = victims(3)
                peers.signal(stopped, signal.SIGSTOP)
                time.sleep(0.005 * rng.random())
                if others:
                    peers.kill(others)
                time.sleep(0.005 * rng.random())
                if rng.random() < 0.5:
                    peers.signal(stopped, signal.SIGCONT)
                else:
                    peers.kill([stopped])
            else:
                peers.kill(victims(3))
            control.pause = ""
            # The others go on.
            received = survivor.words[0]
            wait_until(lambda received=received: survivor.words[0] > received + 10)

        control.pause = "producer"
        drain()
        while True:
            with suppress(aioipc.WouldBlock):
                channel.end_nowait()
                break
        control.pause = ""
        peers.wait()
        assert channel.statistics()[:2] == (0, 0)
        dead = channel.statistics().dead_peers
    summary = account(peers)
    with capsys.disabled():
        print(f" {summary}; {dead} dead handles ", end="")
