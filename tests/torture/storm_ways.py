"""The ways in which a task is cancelled, and the moments: of asyncio, of trio, and of anyio on both."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import sniffio
import trio

Act = Callable[[], Awaitable[None]]


async def pause(kind: str, amount: int) -> None:
    """Let some passes of the loop go by; or microseconds, in which the loop runs ("sleep") or not ("spin")."""
    if kind == "passes":
        for _ in range(amount):
            await anyio.lowlevel.checkpoint()
    elif kind == "sleep":
        await anyio.sleep(amount / 1e6)
    else:
        end = time.perf_counter() + amount / 1e6
        while time.perf_counter() < end:
            pass


def on_trio() -> bool:
    return sniffio.current_async_library() == "trio"


def cancellations() -> int:
    """How many requests there are to cancel the running task that are asyncio's own."""
    task = None if on_trio() else asyncio.current_task()
    return 0 if task is None else task.cancelling()


def is_cancelled(known: int = 0) -> bool:
    """Whether somebody has asked to cancel what runs now.

    :param known: how many requests of asyncio's have been delivered before
    """
    return anyio.current_effective_deadline() == -math.inf or cancellations() > known


class Way(ABC):
    """A task that is cancelled in this way."""

    strokes = 1
    """How often it takes `cancel` until it is cancelled."""

    def __init__(self, act: Act, seconds: float) -> None:
        """
        :param seconds: until it is cancelled, if it is a way with a deadline
        """
        self.error: BaseException | None = None
        self.done = anyio.Event()
        self._act = act
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self._task_is_cancelled = False

    @abstractmethod
    async def run(self) -> None:
        """Do it, in the task.  A cancellation ends here, if this is not asyncio's own of the task."""

    def cancel(self) -> None:  # noqa: B027 -- some do it by themselves
        """Do so now, whether the task has started or ended or not."""

    def start(self, nursery: trio.Nursery | None) -> None:
        if nursery is not None:
            nursery.start_soon(self._run_on_trio)
        else:
            self._task = self._make_task()
            self._task.add_done_callback(self._ended)

    def _make_task(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._run_and_check())

    def _cancel_task(self) -> None:
        assert self._task is not None
        self._task_is_cancelled = True
        self._task.cancel("storm")

    async def _run_and_check(self) -> None:
        await self.run()
        if not self._task_is_cancelled and cancellations():
            raise AssertionError("a request for cancellation was left")
        try:
            await pause("passes", 2)
        except BaseException:
            if not self._task_is_cancelled:
                raise AssertionError("a cancellation came twice, or later") from None
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.error = task.exception()
        elif not self._task_is_cancelled:
            self.error = AssertionError("the task was cancelled, and nobody wanted that")
        self.done.set()

    async def _run_on_trio(self) -> None:
        try:
            await self._run_and_check()
        except Exception as error:  # noqa: BLE001 -- it is reported
            self.error = error
        finally:
            self.done.set()


class Scope(Way):
    def __init__(self, act: Act, seconds: float) -> None:
        super().__init__(act, seconds)
        self._scope = trio.CancelScope() if on_trio() else anyio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            await self._act()

    def cancel(self) -> None:
        self._scope.cancel()


class OwnScope(Scope):
    """Cancelled before it begins."""

    async def run(self) -> None:
        with self._scope:
            self._scope.cancel()
            await self._act()


class Deadline(Way):
    async def run(self) -> None:
        with anyio.move_on_after(self._seconds):
            await self._act()


class Shielded(Way):
    """The first stroke meets a shield."""

    strokes = 2

    def __init__(self, act: Act, seconds: float) -> None:
        super().__init__(act, seconds)
        self._scopes = [anyio.CancelScope(shield=True), anyio.CancelScope()]
        self._inner, self._outer = self._scopes

    async def run(self) -> None:
        with self._outer, self._inner:
            await self._act()

    def cancel(self) -> None:
        if self._scopes:
            self._scopes.pop().cancel()


class _Stop(Exception):  # noqa: N818
    pass


class Group(Way):
    """In a task group, in which another task fails; with a deadline around it all."""

    def __init__(self, act: Act, seconds: float) -> None:
        super().__init__(act, seconds)
        self._stop = anyio.Event()
        self._has_ended = False

    async def run(self) -> None:
        with suppress_stop(), anyio.move_on_after(5 * self._seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(self._act_and_end)
                await self._wait()

    async def _act_and_end(self) -> None:
        try:
            await self._act()
        finally:
            self._has_ended = True
            self._stop.set()

    async def _wait(self) -> None:
        await self._stop.wait()
        if not self._has_ended:
            raise _Stop

    def cancel(self) -> None:
        self._stop.set()


class suppress_stop:  # noqa: N801 -- as contextlib.suppress, which does not look into groups before Python 3.12
    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return isinstance(error, BaseExceptionGroup) and error.split(_Stop)[1] is None


class Task(Way):
    """By task.cancel()."""

    async def run(self) -> None:
        await self._act()

    def cancel(self) -> None:
        self._cancel_task()


class EagerTask(Task):
    """The same of a task that starts at once."""

    def _make_task(self) -> asyncio.Task[None]:
        if sys.version_info < (3, 12):
            return super()._make_task()
        return asyncio.Task(self._run_and_check(), loop=asyncio.get_running_loop(), eager_start=True)


class OwnTask(Task):
    """The same by the task itself, before it begins."""

    async def run(self) -> None:
        self._cancel_task()
        await self._act()


class Timeout(Way):
    """By asyncio.timeout(), whose time has come; the second stroke by task.cancel()."""

    _timeout: asyncio.Timeout | None = None

    async def run(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as self._timeout:
                await self._act()

    def cancel(self) -> None:
        if self._timeout is not None and self._timeout.when() is None:
            with suppress(RuntimeError):  # it is over
                self._timeout.reschedule(0)
        else:
            self._cancel_task()


class WaitFor(Way):
    async def run(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._act_in_coroutine(), self._seconds)

    async def _act_in_coroutine(self) -> None:
        await self._act()


class TaskGroup(Group):
    """As in a group of anyio's, with a timeout in it."""

    async def run(self) -> None:
        with suppress_stop():
            async with asyncio.TaskGroup() as group:
                group.create_task(self._act_in_time())
                await self._wait()

    async def _act_in_time(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._seconds):
                await self._act_and_end()


WAYS: dict[str, type[Way]] = {way.__name__: way for way in (Scope, OwnScope, Deadline, Shielded, Group)}
ASYNCIO_WAYS: dict[str, type[Way]] = {
    way.__name__: way for way in (Task, EagerTask, OwnTask, Timeout, WaitFor, TaskGroup)
}
"""Those that only asyncio has."""


def ways_of(loop: str) -> list[str]:
    return [*WAYS] if loop == "trio" else [*WAYS, *ASYNCIO_WAYS]


def way(name: str) -> type[Way]:
    return (WAYS | ASYNCIO_WAYS)[name]
