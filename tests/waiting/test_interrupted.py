"""KeyboardInterrupt anywhere within a wait: the program ends, and on trio nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from conftest import in_child

import aioipc
from aioipc import Channel, WouldBlock, posix, sysv
from aioipc._waiting import workers

WAITING = str(Path(aioipc.__file__).parent / "_waiting")

Main = Callable[[], Coroutine[Any, Any, None]]


class Points:
    """Interrupts once, where CPython hears of signals: as a function begins, or a call of C returns."""

    def __init__(self, number: int, interrupt: Callable[[], object]) -> None:
        self.place = ""
        self._left = number
        self._interrupt = interrupt

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(WAITING):
            self._left -= 1
            if self._left == 0:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno} {event}"
                self._interrupt()

    def begin(self) -> None:
        sys.setprofile(self._see)

    @contextmanager
    def pause(self) -> Iterator[None]:
        sys.setprofile(None)
        yield
        self.begin()


class Loop:
    """An event loop, and how Ctrl-C comes there."""

    def __init__(self, points: int) -> None:
        self.points = Points(points, self.interrupt)


class Asyncio(Loop):
    """Run as a program does that leaves Ctrl-C to Python: at once, wherever it is.  Then it cancels all its tasks."""

    may_lose = 1
    sleep = staticmethod(asyncio.sleep)

    @staticmethod
    def interrupt() -> None:
        raise KeyboardInterrupt

    async def all(self, *functions: Main) -> None:
        await asyncio.wait([asyncio.create_task(function()) for function in functions])

    async def cancel(self, function: Main, is_waiting: Callable[[], bool]) -> None:
        task = asyncio.create_task(function())
        while not is_waiting():  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    def run(self, main: Main) -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        except KeyboardInterrupt:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            loop.close()


class Trio(Loop):
    """It decides by what runs just then whether Ctrl-C comes at once or later."""

    may_lose = 0
    sleep = staticmethod(trio.sleep)

    @staticmethod
    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    async def all(self, *functions: Main) -> None:
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)

    async def cancel(self, function: Main, is_waiting: Callable[[], bool]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            while not is_waiting():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    def run(self, main: Main) -> None:
        try:
            trio.run(main)
        except* KeyboardInterrupt:
            pass


def two_handles(kind: str, name: str) -> tuple[Any, Any]:
    if kind == "posix.MessageQueue":
        return posix.MessageQueue.create(name, max_messages=8, max_message_size=8), posix.MessageQueue.open(name)
    if kind == "posix.Semaphore":
        return posix.Semaphore.create(name, value=0), posix.Semaphore.open(name)
    if kind == "sysv.MessageQueue":
        queue = sysv.MessageQueue.create(None)
        return queue, sysv.MessageQueue.open(id=queue.id)
    return Channel.create(name, capacity=4096), Channel.open(name)


def take(handle: Any) -> bool:
    try:
        handle.acquire_nowait() if isinstance(handle, posix.Semaphore) else handle.receive_nowait()
    except WouldBlock:
        return False
    return True


@pytest.mark.parametrize("kind", ["posix.MessageQueue", "posix.Semaphore", "sysv.MessageQueue", "Channel"])
@pytest.mark.parametrize("make_loop", [Asyncio, Trio])
def test_interrupted_anywhere(name: str, kind: str, make_loop: type[Asyncio | Trio]) -> None:
    def attempt(number: int) -> str:
        """Where it was interrupted: two tasks for which two things come, then one that is cancelled."""
        loop = make_loop(number)
        given = got = 0

        async def wait() -> None:
            nonlocal got
            await (handle.acquire() if kind == "posix.Semaphore" else handle.receive())
            got += 1

        def waiting() -> int:
            with loop.points.pause():
                found = handle.statistics()
            count: int = found.tasks_waiting_acquire if kind == "posix.Semaphore" else found.tasks_waiting_receive
            return count

        async def give() -> None:
            nonlocal given
            for left in 2, 1:
                while waiting() != left:
                    await loop.sleep(0)
                with loop.points.pause():
                    peer.release() if kind == "posix.Semaphore" else peer.send_nowait(b"")
                    given += 1

        async def main() -> None:
            await loop.all(wait, wait, give)
            await loop.cancel(wait, lambda: waiting() == 1)

        with ExitStack() as stack:
            handle, peer = (stack.enter_context(each) for each in two_handles(kind, name))
            loop.points.begin()
            try:
                loop.run(main)
            finally:
                sys.setprofile(None)
            handle.close()
            while workers.in_the_kernel():
                pass
            left = sum(1 for _ in iter(lambda: take(peer), False))
            assert given - loop.may_lose <= got + left <= given, (given, got, left, loop.points.place)
        return loop.points.place

    def attempt_all() -> list[str]:
        return list(itertools.takewhile(bool, map(attempt, itertools.count(1))))

    # In a process of its own: an interrupt just as a thread is chosen leaves that thread idle for ever.
    assert len(in_child(attempt_all)) > 20
