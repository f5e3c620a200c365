"""Faults come where they are wanted, and what a faulty library would do about them is found."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import outside_channels
import pytest
from faults import ERRORS, NEVER_FAIL, OPERATIONS, SCENARIOS, Missed
from harness import Schedule, run_once
from interposing import Fault, Voice, Watcher, calls
from judging import LOOPS, Judge
from limits import few_descriptors
from operations import Operation, at_once, bare, made, without_first
from outside import Peer, PosixQueue
from world import Failed, Hung, World, finished

import aioipc
from aioipc import inspect, posix, sysv
from aioipc.inspect import _shm
from aioipc.sysv import semaphore


def opened(path: str = "/dev/null") -> str:
    """How it ends to open something."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return os.strerror(error.errno)
    return "opened"


def watched(*faults: Fault) -> tuple[list[str], Watcher]:
    """What becomes of three openings in the main thread and one in another, between and after faults."""
    found: list[str] = []

    def open_all(voice: Voice) -> None:
        voice.say("begin")
        found = [opened() for _ in range(3)]
        thread = threading.Thread(target=lambda: found.append(opened()))
        thread.start()
        thread.join()
        voice.say("end")
        voice.say("found", all=[*found, opened()])

    def hear(word: str, **more: Any) -> None:
        if word == "begin":
            watcher.expect(*faults)
        elif word == "found":
            found.extend(more["all"])
        elif word == "end":
            hits.extend(watcher.hits)
            watcher.expect()

    hits: list[Fault] = []
    with World() as world:
        watcher = Watcher(world, open_all)
        watcher.watch(hear)
    watcher.hits = hits
    return found, watcher


@pytest.mark.parametrize(
    ("call", "number", "lasts", "which"),
    [
        ("openat", 2, False, [1]),
        ("openat", 2, True, [1, 2]),
        ("openat in a thread", 1, False, [3]),
        ("openat", 9, True, []),
        ("read", 1, True, []),
    ],
)
def test_calls_fail_as_they_are_told(call: str, number: int, lasts: bool, which: list[int]) -> None:
    fault = Fault(call, number, "EMFILE", lasts)
    found, watcher = watched(fault)
    assert found == ["Too many open files" if n in which else "opened" for n in range(5)]
    assert watcher.hits == ([fault] if which else [])


class Faulty:
    """An object with one fault."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._kept: list[int] = []

    def __exit__(self, *_: object) -> None:
        """What was left is left for ever."""

    def work(self) -> None:
        first = os.open("/dev/null", os.O_RDONLY)
        try:
            os.close(os.open("/dev/zero", os.O_RDONLY))
        except OSError as error:
            if self._fault != "it leaks":
                os.close(first)
            if self._fault == "it raises something else":
                raise ValueError from error
            if self._fault == "it is vague":
                raise aioipc.LimitError(error.errno, "no") from error
            if self._fault == "it stays so":
                self.work = functools.partial(self._refuse, error.errno)  # type: ignore[method-assign]
            if self._fault == "it has another errno":
                raise aioipc.LimitError(1, "no") from error
            if self._fault == "it warns":
                os.write(2, b"oh")
            raise aioipc.errors.from_errno(error.errno or 0, "work") from error
        os.close(first)

    def _refuse(self, number: int) -> None:
        raise aioipc.errors.from_errno(number, "work")


def judged(operation: Operation, fault: Fault) -> None:
    with World() as world:
        Judge(operation, world, "asyncio", [[fault]]).run()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("it leaks", "descriptors were"),
        ("it raises something else", "errno is None"),
        ("it is vague", "no limit"),
        ("it has another errno", "errno is EPERM"),
        ("it warns", "it wrote"),
        ("it stays so", "without any fault"),
    ],
)
def test_what_is_wrong_is_found(fault: str, words: str) -> None:
    operation = Operation("work", Peer, made(lambda _: Faulty(fault)), at_once(lambda faulty: faulty.work()))
    with pytest.raises(AssertionError, match=words):
        judged(operation, Fault("openat", 2, "EMFILE", lasts=False))


def test_what_is_right_is_not() -> None:
    operation = Operation("work", Peer, made(lambda _: Faulty("")), at_once(lambda faulty: faulty.work()))
    judged(operation, Fault("openat", 2, "EMFILE", lasts=False))


def test_an_interruption_that_shows_is_found() -> None:
    operation = Operation("list", Peer, made(lambda _: Faulty("")), at_once(lambda _: os.listdir("/dev")))
    with pytest.raises(AssertionError, match="an interruption shows"):
        judged(operation, Fault("openat", 1, "EINTR", lasts=False))


def test_a_mapping_that_is_left_is_found() -> None:
    kept: list[Any] = []

    async def map_and_fail(peer: Peer, _: Any) -> None:
        with posix.SharedMemory.create(peer.name, size=1) as segment:
            kept.append(segment.buffer)
        os.listdir("/dev")

    with pytest.raises(AssertionError, match="mappings were"):
        judged(Operation("map", Peer, bare, map_and_fail), Fault("openat", 2, "EMFILE", lasts=False))


def test_a_message_that_is_lost_is_found() -> None:
    @asynccontextmanager
    async def queue(peer: Peer) -> AsyncIterator[Any]:
        with posix.MessageQueue.create(peer.name, max_messages=2, max_message_size=10) as queue:
            await queue.send(b"x")
            yield queue

    async def receive_and_fail(queue: Any, _: Any) -> None:
        queue.receive_nowait()
        try:
            os.close(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            raise aioipc.errors.from_errno(error.errno or 0, queue.name) from error

    operation = Operation("lose", PosixQueue, queue, receive_and_fail, effect=without_first)
    with pytest.raises(AssertionError, match="became"):
        judged(operation, Fault("openat", 1, "EMFILE", lasts=False))


def test_what_fails_when_a_limit_is_lifted_is_found() -> None:
    operation = Operation("work", Peer, made(lambda _: Faulty("it stays so")), at_once(lambda faulty: faulty.work()))
    with World() as world, pytest.raises(AssertionError, match="without any fault"):
        Judge(operation, world, "asyncio", [[]], lambda _: few_descriptors(1), ("EMFILE",)).run()


def run(name: str, *steps: list[Fault], loop: str = "asyncio") -> Counter[str]:
    """Run a scenario; without any step it does its operation twice all the same."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == f"faults/{name}/{loop}")
    return run_once(scenario, Schedule({}, list(steps)))


def test_no_fault_is_not_taken_for_a_fault_that_does_no_harm() -> None:
    hit, missed = (Fault("openat", number, "EMFILE", lasts=False) for number in (1, 99))
    assert run("posix.SharedMemory.open", [hit], [missed])["faults that did not come"] == 1
    with pytest.raises(Missed):
        run("posix.SharedMemory.open", [missed])


def test_each_call_can_fail_or_there_is_a_reason() -> None:
    told = set(calls())
    older = {"clone", "epoll_wait", "link", "lstat", "mknod", "open", "stat", "unlink"}  # not on every machine
    assert told | older == ERRORS.keys() | NEVER_FAIL.keys()
    assert not ERRORS.keys() & NEVER_FAIL.keys()


def test_what_waits_is_tried_on_all_loops() -> None:
    names = {scenario.name for scenario in SCENARIOS}
    waiting = [operation.name for operation in OPERATIONS if operation.waits]
    assert "posix.Fifo.open_reader waiting" in waiting
    assert {f"faults/{name}/{loop}" for name in waiting for loop in LOOPS} <= names


def spoil_values(patch: pytest.MonkeyPatch) -> None:
    real = semaphore.set_initial
    patch.setattr(semaphore, "set_initial", lambda name, values: real(name, array(values.typecode, [1] * len(values))))


def spoil_limit(patch: pytest.MonkeyPatch) -> None:
    real = posix.MessageQueue.create
    patch.setattr(posix.MessageQueue, "create", lambda name, max_messages, **more: real(name, max_messages=1, **more))


def spoil_close(patch: pytest.MonkeyPatch) -> None:
    real = posix.SharedMemory.close

    def close(segment: posix.SharedMemory) -> None:
        segment.unlink()
        real(segment)

    patch.setattr(posix.SharedMemory, "close", close)


def spoil_resize(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(posix.SharedMemory, "resize", lambda segment, size: None)


def spoil_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sysv.MessageQueue, "change", lambda queue, **_: None)


def spoil_value(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(posix.Semaphore, "value", 1)


def spoil_look(patch: pytest.MonkeyPatch) -> None:
    real = inspect.look
    looks = itertools.cycle((lambda: inspect.Listing([], []), real))  # the second is to tell what there is
    patch.setattr(inspect, "look", lambda: next(looks)())


def spoil_orphans(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_shm, "_channel_ids", lambda _: (set(), set()))


def spoil_orphans_found(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(inspect, "orphans", list)


def spoil_users(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(inspect, "users", lambda objects: {each.address: inspect.Users((), True) for each in objects})


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("sysv.SemaphoreSet.create", spoil_values, r"\(1, 1\).* not .*\(1, 5\)"),
        ("posix.MessageQueue.create", spoil_limit, "'max_messages': 1.* not .*'max_messages': 2"),
        ("posix.SharedMemory.close", spoil_close, "became None"),
        ("posix.SharedMemory.resize to 5000", spoil_resize, "not .*'size': 5000"),
        ("sysv.MessageQueue.change", spoil_change, "not .*'max_bytes': 100"),
        ("posix.Semaphore.value", spoil_value, "1, not 7"),
        ("inspect.look", spoil_look, "are not among"),
        ("inspect.orphans", spoil_orphans, "are not orphans"),
        ("inspect.orphans of a channel", spoil_orphans_found, "are orphans, too"),
        ("inspect.users", spoil_users, r"Users\(pids=\(\)"),
    ],
)
def test_what_is_not_as_it_should_be_is_found(
    name: str, spoil: Callable[[pytest.MonkeyPatch], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(name)
    spoil(monkeypatch)
    with pytest.raises((AssertionError, Failed), match=words):
        run(name)


def test_a_doorbell_that_is_not_heard_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_channels, "finished", functools.partial(finished, seconds=1))
    with pytest.raises(Hung):
        run("Channel.send to one asleep", [Fault("write", 1, "ENOMEM", lasts=True)])


def test_faults_are_data() -> None:
    schedule = Schedule({}, [[Fault("openat", 2, "EMFILE", lasts=False)]])
    assert [Fault(*fault) for fault in Schedule.parse(str(schedule)).steps[0]] == schedule.steps[0]
