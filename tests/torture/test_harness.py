"""What tortures the library is tried on programs whose faults are known."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Outcome, Scenario, Schedule, failure, run_once, shrink, torture
from world import Failed, Hung, World, finished, program

import aioipc
from aioipc import Channel, posix, sysv


def numbers(rng: random.Random) -> Schedule:
    return Schedule({"limit": 50}, [rng.randrange(100) for _ in range(40)])


def scenario(run: Callable[[World, Schedule], Counter[str]]) -> Scenario:
    return Scenario("part/what/loop", numbers, run)


def once(_: Scenario, outcome: Outcome) -> bool:
    return outcome.rounds < 1


def fails_on_two_large_numbers(_: World, schedule: Schedule) -> Counter[str]:
    assert sum(number > schedule.settings["limit"] for number in schedule.steps) < 2
    return Counter(numbers=len(schedule.steps))


def test_a_schedule_that_fails_is_shrunk_and_repeated() -> None:
    tortured = scenario(fails_on_two_large_numbers)
    finding = torture([tortured], "1", once)[tortured].finding
    assert finding is not None
    assert (finding.seed, len(finding.schedule.steps)) == ("1.0", 2)
    assert "AssertionError" in str(finding)
    assert Schedule.parse(str(finding.schedule)) == finding.schedule
    again = torture([tortured], finding.seed, once)[tortured].finding
    assert again is not None
    assert again.schedule == finding.schedule


def test_rounds_are_counted_and_seeds_differ() -> None:
    seen = []

    def run(_: World, schedule: Schedule) -> Counter[str]:
        seen.append(schedule.steps)
        return Counter(numbers=len(schedule.steps))

    tortured = scenario(run)
    outcome = torture([tortured], "1", lambda _, outcome: outcome.rounds < 3)[tortured]
    assert (outcome.rounds, outcome.counts, outcome.finding) == (3, {"numbers": 120}, None)
    assert seen[0] != seen[1] != seen[2]
    torture([tortured], "1.2", once)
    assert seen[3] == seen[2]


def test_what_fails_sometimes_is_shrunk_as_far_as_it_goes() -> None:
    rng = random.Random(1)

    def run(_: World, schedule: Schedule) -> Counter[str]:
        assert 7 not in schedule.steps or rng.random() < 0.3
        return Counter()

    whole = Schedule({}, list(range(16)))
    shrunk = shrink(whole, lambda less: failure(scenario(run), less) is not None)
    assert shrunk.steps == [7]


def test_what_a_process_returns_and_raises() -> None:
    with World() as world:
        assert world.fork(lambda: b"x" * 1_000_000).result() == b"x" * 1_000_000
        with pytest.raises(Failed, match="ZeroDivisionError"):
            world.fork(lambda: 1 // 0).result()
        with pytest.raises(Failed, match="ended with -9"):
            world.fork(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()


def test_a_process_that_hangs_says_where() -> None:
    reading, writing = os.pipe()

    def sleep_for_long() -> None:
        os.write(writing, b"x")
        time.sleep(100)

    with World() as world:
        child = world.fork(sleep_for_long)
        os.read(reading, 1)
        with pytest.raises(Hung, match="in sleep_for_long"):
            child.result(0.1)
        stopped = world.fork(sleep_for_long)
        os.read(reading, 1)
        stopped.signal(signal.SIGSTOP)
        with pytest.raises(Hung, match="in sleep_for_long"):
            stopped.wait(0.1)
        killed = world.fork(sleep_for_long)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    os.close(reading)
    os.close(writing)


def test_what_a_process_leaves_ends_with_it() -> None:
    reading, writing = os.pipe()

    def leave_one() -> None:
        subprocess.Popen(["sleep", "100"], pass_fds=[writing])

    with World() as world:
        world.fork(leave_one).result()
        os.close(writing)
        assert select.select([reading], [], [], 10)[0]  # which nobody has open for writing any more
    os.close(reading)


def test_programs() -> None:
    with World() as world:
        name = world.name()
        posix.MessageQueue.create(name, persist=True).close()
        mq = program("peers/mq.c")
        assert finished(world.spawn(mq, "send", name, 3, "text")) is None
        assert finished(world.spawn(mq, "receive", name, 1, stdout=subprocess.PIPE, text=True)) == "3 text\n"
        with pytest.raises(Failed):
            finished(world.spawn(mq, "receive", name + "-not", 1, stderr=subprocess.DEVNULL))
        with pytest.raises(Hung):
            finished(world.spawn(mq, "receive", name, 1), 0.1)


def test_nothing_is_left() -> None:
    with World() as world:
        name, other, key = world.name(), world.name(), world.key()
        posix.MessageQueue.create(name, persist=True).close()
        posix.Semaphore.create(name, persist=True).close()
        Channel.create(name, persist=True).close()
        posix.SharedMemory.create(other, size=10, persist=True).close()
        sysv.MessageQueue.create(key, persist=True).close()
        path = Path(world.path())
        path.touch()
        sleeper = world.fork(time.sleep, 100)
    for kind in (posix.MessageQueue, posix.Semaphore, Channel):
        with pytest.raises(aioipc.NotFoundError):
            kind.open(name)
    with pytest.raises(aioipc.NotFoundError):
        posix.SharedMemory.open(other)
    with pytest.raises(aioipc.NotFoundError):
        sysv.MessageQueue.open(key)
    assert not path.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(sleeper.pid, 0)


def test_a_good_round() -> None:
    schedule = Schedule({"limit": 50}, [1, 2, 3])
    assert run_once(scenario(fails_on_two_large_numbers), schedule) == {"numbers": 3}
