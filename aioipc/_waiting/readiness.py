"""Waiting until a descriptor is ready: POSIX message queues, FIFOs, doorbells.

A `Descriptor` has two `Direction`s, reading and writing.  Each performs operations
that may have to wait: at once where possible, otherwise in line, first come, first
served.  The event loop's own selector watches the descriptor, and only while a task
waits in line.

What makes cancellation safe is that nobody takes anything for somebody else.  When the
descriptor is ready, the first task in line is woken to try again *itself*, inside its
own step; a task that was cancelled before that step has taken nothing, and whoever
is first in line then is woken in its place, because the descriptor is still ready.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from aioipc._waiting._immediate import Gate
from aioipc.errors import ClosedError, WouldBlock

if TYPE_CHECKING:
    import trio

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Descriptor:
    """A non-blocking descriptor that tasks of one event loop wait for.

    It belongs to the first loop that waits.  It does not own the descriptor: call
    `close` before you close that, never after, because its number may belong to
    something else by then.
    """

    def __init__(self, fileno: int, what: str) -> None:
        self.what = what
        self.closed = False
        self.reading = Direction(self)
        self.writing = Direction(self)
        self._fileno = fileno
        self._loop: object = None

    @property
    def inherited(self) -> bool:
        """Whether this process got it by a fork, and so must leave it alone."""
        return self.reading.gate.inherited

    def check(self) -> None:
        """Raise what forbids any operation.

        :raises ClosedError: if it is closed
        :raises RuntimeError: if this process got it by a fork
        """
        if self.inherited:
            raise RuntimeError(
                f"{self.what} was opened before a fork and belongs to the parent process: open it again in the child"
            )
        if self.closed:
            raise ClosedError(f"{self.what} is closed")

    def bind(self) -> None:
        """Make sure that it belongs to the running event loop."""
        loop, kind = _running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            raise RuntimeError(f"{self.what} belongs to another event loop: open it again in each loop that uses it")
        self._loop = loop
        self.reading.line = kind(self._fileno, self.reading.gate, writing=False)
        self.writing.line = kind(self._fileno, self.writing.gate, writing=True)

    def close(self) -> None:
        """Wake every waiting task with `ClosedError`, and let go of the loop.  Safe to call again."""
        if self.closed:
            return
        self.closed = True
        for direction in (self.reading, self.writing):
            direction.gate.held = True
            # An inherited line is the parent's, and so is the selector behind it.
            if direction.line is not None and not self.inherited:
                direction.line.close()


class Direction:
    """Reading from a descriptor, or writing to it."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.gate = Gate()
        self.line: _Line | None = None
        self._descriptor = descriptor

    @property
    def waiting(self) -> int:
        """How many tasks wait in line."""
        return 0 if self.line is None else len(self.line.places)

    def perform_nowait(self, attempt: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        """Return `attempt(*args)`, unless tasks are in line before the caller.

        :raises WouldBlock: if it would have to wait
        """
        if self.gate.held or self.gate.inherited:
            self._descriptor.check()
            raise WouldBlock(f"other tasks wait for {self._descriptor.what} already")
        return attempt(*args)

    async def perform(self, attempt: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        """Return `attempt(*args)`, called as often as needed until it does not raise `WouldBlock`.

        It suspends only where it must wait, or where this task and others like it have
        gone on for so long that the loop's other work is due.
        """
        descriptor, gate = self._descriptor, self.gate
        if not gate.enter():
            descriptor.check()
            if not gate.held:  # then the turn is spent
                gave_way_in = gate.give_way()
                await _let_the_loop_run()
                gate.come_back(gave_way_in)
                descriptor.check()
        if not gate.held:
            try:
                return attempt(*args)
            except WouldBlock:
                pass

        descriptor.bind()
        line = self.line
        assert line is not None
        place = line.join()
        served = False
        try:
            while True:
                await line.turn(place)
                descriptor.check()
                try:
                    result = attempt(*args)
                except WouldBlock:
                    continue
                served = True
                return result
        finally:
            line.leave(place, served)


class _Line(ABC):
    """The tasks that wait for one direction of a descriptor, first come, first served."""

    def __init__(self, fileno: int, gate: Gate, *, writing: bool) -> None:
        # An OrderedDict finds its first and drops any in constant time; a dict that has
        # lost its first ten thousand keys looks at all of them to find the next.
        self.places: OrderedDict[object, Any] = OrderedDict()
        self.closed = False
        self._fileno = fileno
        self._gate = gate
        self._writing = writing

    def first(self) -> Any:
        """What the first in line has left at its place, None if nobody waits."""
        return next(iter(self.places.values()), None)

    def join(self) -> object:
        """Take the last place in line; whoever comes now must come after."""
        place = object()
        self.places[place] = None
        self._gate.held = True
        return place

    def leave(self, place: object, served: bool) -> None:
        """Give up a place: served, or cancelled."""
        del self.places[place]
        if not self.places and not self.closed:
            self._gate.held = False
        self._gate.renew()
        self._left(served)

    @abstractmethod
    async def turn(self, place: object) -> None:
        """Return when this place is the first and the descriptor is ready, or the line is closed."""

    @abstractmethod
    def _left(self, served: bool) -> None:
        """A place was given up."""

    @abstractmethod
    def close(self) -> None:
        """Wake all."""


class _AsyncioLine(_Line):
    """On asyncio and its like: one reader or writer in the loop, and a future for each place."""

    def __init__(self, fileno: int, gate: Gate, *, writing: bool) -> None:
        super().__init__(fileno, gate, writing=writing)
        self._loop = asyncio.get_running_loop()
        self._watched = False
        self._settling = False

    async def turn(self, place: object) -> None:
        if self.closed:
            return
        future = self.places[place] = self._loop.create_future()
        if not self._watched:
            add = self._loop.add_writer if self._writing else self._loop.add_reader
            add(self._fileno, self._ready)
            self._watched = True
        await future

    def _ready(self) -> None:
        # The loop asks the selector before it runs the step of the task that was woken
        # the last time: what it saw then is old once that task has been served.
        if self._settling:
            return
        future = self.first()
        if future is not None and not future.done():
            future.set_result(None)

    def _left(self, served: bool) -> None:
        if not served:
            if not self.places:
                self._unwatch()
        elif not self._settling:
            # A task that receives in a loop is back in line before this runs: no
            # remove_reader and add_reader for each message.
            self._settling = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = False
        if not self.places:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            # After a fork the selector is the parent's too: to unregister would end its wait.
            if not self._loop.is_closed() and not self._gate.inherited:
                remove = self._loop.remove_writer if self._writing else self._loop.remove_reader
                remove(self._fileno)

    def close(self) -> None:
        self.closed = True
        self._unwatch()
        if self._loop.is_closed():  # and so nobody can be woken any more
            return
        for future in self.places.values():
            if future is not None and not future.done():
                future.set_result(None)


class _TrioLine(_Line):
    """On trio, where one task at a time may wait for a descriptor: the first in line."""

    def __init__(self, fileno: int, gate: Gate, *, writing: bool) -> None:
        super().__init__(fileno, gate, writing=writing)
        self._trio = sys.modules["trio"]

    async def turn(self, place: object) -> None:
        if next(iter(self.places)) is not place:
            event: trio.Event = self._trio.Event()
            self.places[place] = event
            await event.wait()
        if self.closed:
            return
        lowlevel = self._trio.lowlevel
        wait = lowlevel.wait_writable if self._writing else lowlevel.wait_readable
        with suppress(self._trio.ClosedResourceError):
            await wait(self._fileno)

    def _left(self, served: bool) -> None:
        event = self.first()
        if event is not None:
            event.set()

    def close(self) -> None:
        self.closed = True
        if self.places:
            self._trio.lowlevel.notify_closing(self._fileno)
            for event in self.places.values():
                if event is not None:
                    event.set()


async def _let_the_loop_run() -> None:
    """Let the loop do its other work, and deliver a cancellation."""
    try:
        _, kind = _running_loop()
    except RuntimeError:
        return  # driven without a loop, by hand: there is nobody to give way to
    if kind is _TrioLine:
        await sys.modules["trio"].lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


def _running_loop() -> tuple[object, type[_AsyncioLine | _TrioLine]]:
    """What identifies the running event loop, and the kind of line that works on it."""
    # trio first: in guest mode it runs inside another loop, maybe asyncio's.  It is not
    # imported here: a task of trio's can't be running in a process that has not done so.
    # The default stands for another thread that is about to import it.
    lowlevel = sys.modules.get("trio.lowlevel")
    in_trio_task = getattr(lowlevel, "in_trio_task", None)
    if lowlevel is not None and in_trio_task is not None and in_trio_task():
        return lowlevel.current_trio_token(), _TrioLine
    return asyncio.get_running_loop(), _AsyncioLine
