"""Waiting until a descriptor is ready: POSIX message queues, FIFOs, doorbells.

A `Descriptor` has two lines of tasks, its `Direction`s reading and writing.  The event
loop's own selector watches the descriptor, and only while a task waits in line.

What makes cancellation safe is that nobody takes anything for somebody else.  When the
descriptor is ready, the first task in line is woken to try again *itself*, inside its
own step; a task that was cancelled before that step has taken nothing, and whoever
is first in line then is woken in its place, because the descriptor is still ready.
"""

from __future__ import annotations

import asyncio
import errno
import select
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from aioipc import _limits
from aioipc._waiting import _turns
from aioipc._waiting._loops import whole
from aioipc._waiting.handle import Handle, Line
from aioipc.errors import Error, WouldBlock, from_errno

if TYPE_CHECKING:
    import trio

    from aioipc._waiting._immediate import Gate
    from aioipc._waiting._reports import Reports, Watcher

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Descriptor(Handle):
    """A non-blocking descriptor.

    It does not own the descriptor: call `close` before you close that, never after,
    because its number may belong to something else by then.
    """

    def __init__(self, fileno: int, what: str, *, breaks: bool = False) -> None:
        """
        :param breaks: whether it can lose those who read from it, as a FIFO can
        """
        super().__init__(what)
        self.breaks = breaks
        self.reading = Direction(self)
        self.writing = Direction(self)
        self._fileno = fileno

    def _bound(self, on_trio: bool) -> None:
        self._watch(on_trio, self._fileno, self._fileno, is_writable=True)

    def _watch(
        self, on_trio: bool, reading: int, writing: int, *, is_writable: bool, watcher: Watcher | None = None
    ) -> None:
        kind = _TrioPlaces if on_trio else _AsyncioPlaces
        self.reading.places = kind(self, reading, self.reading.gate, watcher, writing=False)
        self.writing.places = kind(self, writing, self.writing.gate, watcher, writing=is_writable)

    def close(self) -> None:
        """Wake every waiting task with `ClosedError`, and let go of the loop.  Safe to call again."""
        if self.closed:
            return
        self.closed = True
        for direction in (self.reading, self.writing):
            direction.gate.held = True
            # What is inherited is the parent's, and so is the selector behind it.
            if direction.places is not None and not self.inherited:
                direction.places.close()


class Doorbells(Descriptor):
    """Epoll descriptors that become readable when it may be possible to read, and to write.

    They are made when they are needed.  While tasks wait, their loop watches for reports as well.
    """

    def __init__(self, listen: Callable[[int], int], deafen: Callable[[], None], reports: Reports, what: str) -> None:
        """
        :param listen: makes that for reading, 0, or for writing, 1
        :param deafen: is called before they are closed
        :param reports: of what may make it possible, too
        """
        super().__init__(-1, what)
        self._listen = listen
        self._deafen = deafen
        self._reports = reports
        self._polls: list[select.epoll] = []

    def _bound(self, on_trio: bool) -> None:
        self._close_polls()  # what a first wait has left that was interrupted
        try:
            # In one step, which no signal handler can interrupt: each belongs to somebody as soon as it is there.
            self._polls.extend(map(select.epoll.fromfd, map(self._listen, (0, 1))))
        except BaseException as error:
            self._close_polls()
            if isinstance(error, OSError):
                raise _explain(error, self.what) from None
            raise
        reading, writing = (poll.fileno() for poll in self._polls)
        self._watch(on_trio, reading, writing, is_writable=False, watcher=self._reports.watcher())

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._close_polls()
            # They lead back to the owner, whose memory is to go with the last reference and not with a collection.
            del self._listen, self._deafen

    def _close_polls(self) -> None:
        self._deafen()
        while self._polls:
            self._polls.pop().close()


class Direction(Line):
    """Reading from a descriptor, or writing to it."""

    places: _Places | None = None

    @property
    def waiting(self) -> int:
        return 0 if self.places is None else len(self.places.taken)

    @whole
    async def _wait(self, attempt: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        places = self.places
        assert places is not None
        place = object()
        try:
            places.join(place)
            while True:
                await places.turn(place)
                self._handle.check()
                try:
                    return attempt(*args)
                except WouldBlock:
                    continue
        finally:
            places.leave(place)


class _Places(ABC):
    """The places in line of the tasks that wait for one direction of a descriptor."""

    def __init__(
        self, handle: Descriptor, fileno: int, gate: Gate, watcher: Watcher | None = None, *, writing: bool
    ) -> None:
        """
        :param watcher: of what is to be watched as well while somebody waits here
        """
        # An OrderedDict finds its first and drops any in constant time; a dict that has
        # lost its first ten thousand keys looks at all of them to find the next.
        self.taken: OrderedDict[object, Any] = OrderedDict()
        self._handle = handle
        self._fileno = fileno
        self._gate = gate
        self._watcher = watcher
        self._writing = writing

    def first(self) -> Any:
        """What the first in line has left at its place, None if nobody waits."""
        return next(iter(self.taken.values()), None)

    def join(self, place: object) -> None:
        """Take the last place in line; whoever comes now must come after."""
        self.taken[place] = None
        self._gate.held = True

    def leave(self, place: object) -> None:
        """Give up a place: served, or cancelled."""
        self.taken.pop(place, None)  # interrupted, it may not have taken it
        if not self.taken and not self._handle.closed:
            self._gate.held = False
        self._gate.renew()
        self._left()

    @abstractmethod
    async def turn(self, place: object) -> None:
        """Return when this place is the first and the descriptor is ready, or all is closed."""

    @abstractmethod
    def _left(self) -> None:
        """A place was given up."""

    @abstractmethod
    def try_again(self) -> None:
        """Wake the first in line, as if the descriptor were ready."""

    @abstractmethod
    def close(self) -> None:
        """Wake all; the handle is closed already."""


class _AsyncioPlaces(_Places):
    """On asyncio and its like: one reader or writer in the loop, and a turn for each place."""

    def __init__(
        self, handle: Descriptor, fileno: int, gate: Gate, watcher: Watcher | None = None, *, writing: bool
    ) -> None:
        super().__init__(handle, fileno, gate, watcher, writing=writing)
        self._loop = asyncio.get_running_loop()
        self._watched = False
        self._serving = False

    async def turn(self, place: object) -> None:
        if self._handle.closed:
            return
        turn = self.taken[place] = self._loop.create_future()
        self._watch()
        await turn

    def _watch(self) -> None:
        if not self._watched:
            add = self._loop.add_writer if self._writing else self._loop.add_reader
            self._watched = True
            try:
                add(self._fileno, self._ready)
                if self._watcher is not None:
                    self._watcher.attend(self)
            except BaseException as error:
                self._unwatch()
                if isinstance(error, OSError):
                    raise _explain(error, self._handle.what) from None
                raise

    def _ready(self) -> None:
        turn: _turns.Turn | None = self.first()
        self._serving = True
        try:
            if self._writing and self._handle.breaks:
                # If it did, uvloop has said so once and watches no more.
                self._unwatch()
            if turn is not None:
                _turns.come(turn)
        finally:
            self._serving = False
            # A task that receives in a loop is back in line: no remove_reader and add_reader for each message.
            self._go_on()

    def _left(self) -> None:
        if not self._serving:
            self._go_on()

    def _go_on(self) -> None:
        """Watch if and only if somebody is in line."""
        if not self.taken:
            self._unwatch()
        elif not (self._handle.closed or self._gate.inherited or self._loop.is_closed()):
            try:
                self._watch()
            except Error:  # so the first in line tries that itself, and hears of it; when it has left, the next
                self.try_again()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            if self._watcher is not None:
                self._watcher.dismiss(self)
            # After a fork the selector is the parent's too: to unregister would end its wait.
            if not self._loop.is_closed() and not self._gate.inherited:
                remove = self._loop.remove_writer if self._writing else self._loop.remove_reader
                remove(self._fileno)

    def try_again(self) -> None:
        turn: _turns.Turn | None = self.first()
        if turn is not None:
            _turns.come_soon(turn)

    def close(self) -> None:
        self._unwatch()
        if self._loop.is_closed():  # and so nobody can be woken any more
            return
        for turn in self.taken.values():
            if turn is not None:
                _turns.come_soon(turn)


def _explain(error: OSError, what: str) -> Error:
    """What an error of epoll_create1(2) or epoll_ctl(2) means."""
    number = error.errno or 0
    if number == errno.ENOSPC:
        limit = _limits.explain_sysctl("fs.epoll.max_user_watches")
        return from_errno(number, what, f"no more descriptors can be watched for this user: {limit}")
    return from_errno(number, what)


class _TrioPlaces(_Places):
    """On trio, where one task at a time may wait for a descriptor: the first in line."""

    def __init__(
        self, handle: Descriptor, fileno: int, gate: Gate, watcher: Watcher | None = None, *, writing: bool
    ) -> None:
        super().__init__(handle, fileno, gate, watcher, writing=writing)
        self._trio = sys.modules["trio"]

    async def turn(self, place: object) -> None:
        if next(iter(self.taken)) is not place:
            event: trio.Event = self._trio.Event()
            self.taken[place] = event
            await event.wait()
        if self._handle.closed:
            return
        lowlevel = self._trio.lowlevel
        wait = lowlevel.wait_writable if self._writing else lowlevel.wait_readable
        try:
            if self._watcher is not None:
                self._watcher.attend(self)
            with suppress(self._trio.ClosedResourceError):
                await wait(self._fileno)
        except OSError as error:
            raise _explain(error, self._handle.what) from None

    def _left(self) -> None:
        if self._watcher is not None and not self.taken:
            self._watcher.dismiss(self)
        event = self.first()
        if event is not None:
            event.set()

    def try_again(self) -> None:
        self._trio.lowlevel.notify_closing(self._fileno)

    def close(self) -> None:
        if self.taken:
            with suppress(RuntimeError):  # trio does not run any more, and so nobody can be woken
                self._trio.lowlevel.notify_closing(self._fileno)
                for event in self.taken.values():
                    if event is not None:
                        event.set()
