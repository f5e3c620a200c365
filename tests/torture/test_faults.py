"""Faults come where they are wanted, and what a faulty library would do about them is found."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import Schedule
from interposing import Fault, Voice, Watcher
from judging import Judge
from operations import Operation, at_once, bare, made
from outside import Peer, PosixQueue
from world import World

import aioipc
from aioipc import posix


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
            if self._fault == "it has another errno":
                raise aioipc.LimitError(1, "no") from error
            if self._fault == "it warns":
                os.write(2, b"oh")
            raise aioipc.errors.from_errno(error.errno or 0, "work") from error
        os.close(first)


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

    operation = Operation("lose", PosixQueue, queue, receive_and_fail, effect=lambda messages: messages[1:])
    with pytest.raises(AssertionError, match="became"):
        judged(operation, Fault("openat", 1, "EMFILE", lasts=False))


def test_faults_are_data() -> None:
    schedule = Schedule({}, [[Fault("openat", 2, "EMFILE", lasts=False)]])
    assert [Fault(*fault) for fault in Schedule.parse(str(schedule)).steps[0]] == schedule.steps[0]
