"""What tortures the library is tried on programs whose faults are known."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from figures import runs_text
from harness import Outcome, Scenario, Schedule, failures, likeness, run_once, shrink, torture
from run import SCENARIOS, as_json, mount
from world import Failed, Hung, World, finished, program

import aioipc
from aioipc import Channel, posix, sysv


def numbers(rng: random.Random) -> Schedule:
    return Schedule({"limit": 50}, [rng.randrange(100) for _ in range(40)])


def scenario(run: Callable[[World, Schedule], Counter[str]]) -> Scenario:
    return Scenario("part/what/loop", numbers, run)


def passes(_: World, __: Schedule) -> Counter[str]:
    return Counter()


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
    shrunk = shrink(whole, lambda less: any(failures(scenario(run), less)))
    assert shrunk.steps == [7]


def test_single_steps_are_left_out_until_it_takes_each() -> None:
    """What only the last step asks for can be left out when that is."""

    def fails(less: Schedule) -> bool:
        needed = {number - 1 for number in less.steps if number > 1}
        return 0 in less.steps and needed <= set(less.steps)

    assert shrink(Schedule({}, list(range(10))), fails).steps == [0]


def test_what_fails_otherwise_is_not_the_same() -> None:
    def run(_: World, schedule: Schedule) -> Counter[str]:
        assert len(schedule.steps) < 5, f"the {len(schedule.steps)} are too many\nfor what it is"
        raise AssertionError("too few")

    finding = torture([scenario(run)], "1", once, shrink_seconds=10)[scenario(run)].finding
    assert finding is not None
    assert len(finding.schedule.steps) == 5


def test_a_process_fails_as_its_exception_says() -> None:
    def fail(words: str) -> Exception:
        with World() as world, pytest.raises(Failed) as caught:
            world.fork(exec, words).result()
        return caught.value

    assert likeness(fail("assert 0, 'of 17'")) == likeness(fail("pass\nassert 0, 'of 4'"))
    assert likeness(fail("assert 0, 'of 17'")) != likeness(fail("assert 0, 'at 17'"))
    grouped = "raise ExceptionGroup('of 17', [{}])"
    assert likeness(fail(grouped.format("ValueError(17)"))) == likeness(fail(grouped.format("ValueError(4)")))
    assert likeness(fail(grouped.format("ValueError(17)"))) != likeness(fail(grouped.format("OSError(17)")))


FAULTY = """
import sys
from collections import Counter

sys.path[:0] = [{folder!r}]
import run
from harness import Scenario, Schedule

def fails(_, schedule):
    assert "it's" not in schedule.steps, "this one"
    return Counter()

run.SCENARIOS = tuple(
    Scenario(name, lambda _: Schedule({{"$HOME": 1}}, ["a", "it's", "b"]), does)
    for name, does in {{"kill/its 'peers' and $HOME/all": fails, "kill/other/all": lambda *_: Counter()}}.items()
)
run.main()
"""


def test_what_is_printed_repeats_it(tmp_path: Path) -> None:
    script = tmp_path / "run it.py"
    script.write_text(FAULTY.format(folder=str(Path(__file__).parent)))

    def output_of(*command: object) -> str:
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 1
        assert "AssertionError: this one" in done.stdout
        return done.stdout

    lines = output_of(sys.executable, script).splitlines()
    by_seed, shrunk = (line.partition(": ")[2] for line in lines if line.startswith(("repeat it: ", "or its shrunk")))
    again = output_of("sh", "-c", by_seed)
    assert "kill/other" not in again
    assert shrunk in again
    assert shrunk.endswith("""'{"settings": {"$HOME": 1}, "steps": ["it'"'"'s"]}'""")
    output_of("sh", "-c", shrunk)
    assert '"steps": ["a", ' in output_of(sys.executable, script, "--shrink", 0)


def test_a_name_chooses_one_scenario() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert [sum(name in other for other in names) for name in names] == [1] * len(names)
    assert "," not in "".join(names)


def test_a_mount_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mount"):
        mount(str(tmp_path / "not"), "tmpfs")


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


def test_the_page_tells_what_had_the_least_of_it() -> None:
    def run(races: int, kills: int) -> dict[str, Any]:
        counts = {"storm/often/trio": races, "storm/seldom/trio": 1, "storm/seldom/uvloop": 2, "storm/never/trio": 0}
        outcomes = {name: Outcome(1, 60, Counter(races=count)) for name, count in counts.items()}
        outcomes["kill/it/all"] = Outcome(2, 60, Counter(kills=kills, stops=4))
        outcomes["neighbours/it/all"] = Outcome(5, 60, Counter(uses=3))
        return as_json("1", {Scenario(name, numbers, passes): outcome for name, outcome in outcomes.items()})

    old = run(500, 40)
    for what in ("date", "python", "linux", "processors"):
        del old[what]
    runs = [run(1000, 7), run(500, 40), old]
    where, sums, _ = runs_text(runs)
    assert where.startswith(f"2 runs on {runs[0]['date']}, Python 3.")
    assert where.endswith(" processors; 1 run of which it is not recorded when and where.")
    assert sums.splitlines()[2:] == [
        "| storm | 3 | 2,009 races | 9 | seldom | never |",
        "| kill | 1 | 87 kills | 87 | it |  |",
        "| kill | 1 | 12 stops | 12 | it |  |",
        "| neighbours | 1 | 15 rounds | 15 | it |  |",
    ]
