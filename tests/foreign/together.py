"""What the tests of several kinds of objects have in common."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from conftest import in_child, until

import aioipc

PROCESSES = 4
ROUNDS = 50


def winners(create: Callable[[int], object]) -> list[int]:
    """How many of four processes succeed that create the same thing at the same moment, in each of fifty rounds.

    :param create: gets the number of the round, and raises ExistsError if another process was the first
    """
    return in_child(lambda: _winners(create))  # which has no other threads: it can fork


def _winners(create: Callable[[int], object]) -> list[int]:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES, timeout=60)
    results = context.SimpleQueue()

    def compete() -> None:
        made = []  # kept until the end of the process: nobody is to find a name free again
        won = []
        for number in range(ROUNDS):
            barrier.wait()
            try:
                made.append(create(number))
            except aioipc.ExistsError:
                continue
            won.append(number)
        results.put(won)
        os._exit(0)  # without a word about what is not closed

    processes = [context.Process(target=compete) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    won = [number for _ in processes for number in results.get()]
    return [won.count(number) for number in range(ROUNDS)]


def outcome(attempt: Callable[[], object]) -> object:
    """What an attempt returns, or the class of the library's error that it ends with."""
    try:
        return attempt()
    except aioipc.Error as error:
        return type(error)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def signalled(*handlers: Callable[[], object]) -> Iterator[Callable[[], Any]]:
    """Yields what sends this process a signal, and waits until its handler, which calls these, has run."""

    async def interrupt() -> None:
        count = len(handled)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: len(handled) > count)

    def handle(number: int, frame: object) -> None:
        for handler in handlers:
            handler()
        handled.append(number)

    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGUSR1, before)


def long_ago() -> anyio.CancelScope:
    """A scope whose deadline has passed."""
    return anyio.CancelScope(deadline=-math.inf)
