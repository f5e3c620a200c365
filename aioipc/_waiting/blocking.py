"""Waiting for what the kernel only offers as a call that blocks: semaphores, System V
queues and sets, the opening of a FIFO.

`Calls` is a handle of such an object.  It has a line of tasks for each thing that they wait for:
one for the permits of a semaphore, one for each type of message they choose.  For a line
in which somebody waits, one thread makes the call that blocks.  What comes of it is
told to the first task in line, by way of the loop.

What makes cancellation safe:

* When the last task that wants what the thread waits for is cancelled, the thread is
  interrupted, and the task is not done before the thread has answered.
* If the call was quicker, what it took goes to the next in line; if there is none, it is
  given back to the kernel.
* What can't be given back, such as a message that was sent, has come first: the operation
  returns as if there had been no cancellation, which is then delivered at the task's
  next suspension.  (trio itself does so.)
* Where the kernel allows to wait without taking, the thread does only that, and the task
  then tries itself, as in readiness.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from aioipc._waiting._loops import whole
from aioipc._waiting._sleepers import AsyncioSleeper, News, Sleeper, TrioSleeper
from aioipc._waiting.handle import Handle, Line
from aioipc._waiting.workers import Call, End, Run
from aioipc.errors import WouldBlock

_T = TypeVar("_T")

_RECENT_LINES = 64


class Calls(Handle):
    """A handle whose operations are calls that block."""

    def __init__(self, what: str, release: Callable[[], None] = lambda: None) -> None:
        """
        :param release: closes the object itself, once it is closed here and no thread uses it any more
        """
        super().__init__(what)
        # A line lives as long as somebody is in it, or may come back to it: a client that gives
        # each of its requests a type of its own for the answer makes thousands.
        self._lines: WeakValueDictionary[Hashable, CallLine] = WeakValueDictionary()
        self._recent: dict[Hashable, CallLine] = {}
        # Who may use the object still: this handle, until it has been closed, and runs.
        self._users: set[object] = {"handle"}
        self._release = [release]
        self._on_trio = False

    def line(self, wanted: Hashable, make_call: Callable[[], Call[Any] | None] = lambda: None) -> CallLine:
        """The line of the tasks that want this.

        :param make_call: makes the call that they share, for a new line, unless each has its own
        """
        line = self._recent.get(wanted)
        if line is None:
            line = self._lines.get(wanted)
            if line is None:
                line = self._lines[wanted] = CallLine(self, make_call())
                line.gate.held = self.closed or self.inherited
            if len(self._recent) >= _RECENT_LINES:
                self._recent.clear()
            self._recent[wanted] = line
        return line

    @property
    def waiting(self) -> int:
        """How many tasks wait in all lines."""
        return sum(line.waiting for line in self._lines.values())

    def close(self) -> None:
        """Wake every waiting task with `ClosedError`, and have the object released.  Safe to call again."""
        if self.closed:
            return
        self.closed = True
        # Both: the garbage collector clears weak references before it calls __del__.
        for line in {*self._recent.values(), *self._lines.values()}:
            line.close()
        self.ended("handle")

    def _bound(self, on_trio: bool) -> None:
        self._on_trio = on_trio

    def sleeper(self) -> Sleeper:
        """A sleeper for the running task."""
        return TrioSleeper() if self._on_trio else AsyncioSleeper()

    def report(self, line: CallLine, run: Run) -> None:
        """Tell the line, in the loop's thread, that a run has ended.  Called by the run's thread.

        :raises RuntimeError: if the loop has been closed
        """
        loop: Any = self.loop
        tell = loop.run_sync_soon if self._on_trio else loop.call_soon_threadsafe
        tell(line.finish, run)

    def began(self, run: Run) -> None:
        """A run uses the object."""
        self._users.add(run)

    def ended(self, user: object) -> None:
        """It does no more.  Called in any thread."""
        self._users.discard(user)
        if not self._users or self.inherited:
            try:
                release = self._release.pop()  # by one thread only
            except IndexError:
                return
            release()


class CallLine(Line):
    """The tasks that want the same of an object, and the thread that waits for them."""

    def __init__(self, calls: Calls, call: Call[Any] | None) -> None:
        super().__init__(calls)
        self.call: Any = call
        """What the tasks share, if they do."""
        self._calls = calls
        # As long as somebody is in line, the handle is open and this is not a fork's child, either
        # there is a run, or somebody was told something and is yet to run.
        self._places: OrderedDict[Sleeper, Call[Any]] = OrderedDict()
        self._handed: dict[Sleeper, Call[Any]] = {}  # told the result, but yet to run; there is no run then
        self._trying: Sleeper | None = None  # told to try, but yet to run
        self._leavers: list[Sleeper] = []  # cancelled, waiting for the end of the run
        self._run: Run | None = None
        self._asker: Sleeper | None = None  # for whom there is a run

    @property
    def waiting(self) -> int:
        return len(self._places)

    @whole
    async def _wait(self, call: Call[_T]) -> _T:  # type: ignore[override]
        sleeper = self._calls.sleeper()
        self._places[sleeper] = call
        self.gate.held = True
        try:
            while True:
                if self._is_quiet() and next(iter(self._places)) is sleeper:
                    self._start(sleeper, call)
                try:
                    await sleeper.sleep()
                except BaseException as error:
                    if not await self._give_up(sleeper, call, error):
                        raise
                if sleeper.news is not News.TRY:
                    break
                self._calls.check()
                try:
                    return call()
                except WouldBlock:
                    self._trying = None
                    sleeper.news = None
        finally:
            self._remove(sleeper)
            self._handed.pop(sleeper, None)
            self.gate.renew()
            self._go_on()
        if sleeper.news is News.FAILED:
            raise sleeper.value
        return cast(_T, sleeper.value)

    def _remove(self, sleeper: Sleeper) -> None:
        """Take it out of the line; for nobody in line the gate is open."""
        self._places.pop(sleeper, None)
        if self._trying is sleeper:
            self._trying = None
        if not self._places and not self._calls.closed:
            self.gate.held = False

    # The thread

    def _start(self, sleeper: Sleeper, call: Call[Any]) -> None:
        """Have a thread wait for the first in line, who has tried in vain."""
        run = Run(call, lambda run: self._calls.report(self, run), self._calls.ended)
        try:
            self._run, self._asker = run, sleeper
            self._calls.began(run)
            run.start()
        except BaseException:  # also a signal's, as KeyboardInterrupt: a thread may have begun it, or not
            self._run = None
            if run.withdraw():
                self._calls.ended(run)
            elif not run.abandon():
                run.give_back()
            raise

    def _is_quiet(self) -> bool:
        """Whether nothing is under way.

        Who has been handed something goes on before the next tries: trio runs both in any order.  Nor is a thread asked
        before: if the result is given up, the next has it, and the thread would have to be got out of the kernel again.
        """
        return self._run is None and self._trying is None and not self._handed

    def _go_on(self) -> None:
        """See to it that something happens for the first in line: that it tries, before a thread is asked to wait."""
        if self._calls.closed or self._calls.inherited:  # what a child collects is the parent's to go on with
            return
        if self._is_quiet() and self._places:
            self._trying = next(iter(self._places))
            self._trying.tell(News.TRY)

    def finish(self, run: Run) -> None:
        """A run has ended: tell those whom it concerns."""
        if self._run is not run:  # that has been done already
            return
        end = run.settle()
        if end is End.DONE:
            if not self._pass_on(run.call, run.value):
                self._hand_to_heir(run)
        elif end is End.FAILED and self._first_wants(run.call):
            first = next(iter(self._places))
            self._remove(first)
            first.tell(News.FAILED, run.value)
        self._tell_leavers()
        # Last: if Ctrl-C raises an exception in here, who comes after it, or is cancelled, must find that there is
        # something to be finished.
        self._run = self._asker = None
        if self._calls.closed:
            self._wake_all()
        if end is not None:
            self._calls.ended(run)
        self._go_on()

    def _first_wants(self, call: object) -> bool:
        return not self._calls.closed and next(iter(self._places.values()), None) is call

    def _pass_on(self, call: Any, result: Any) -> bool:
        """Give a result to the first in line, or back to the kernel; False if neither can be done."""
        first = next(iter(self._places), None)
        if first is None or not self._first_wants(call) or (call.is_momentary and first is not self._asker):
            return bool(call.revoke(result))
        self._remove(first)
        self._handed[first] = call
        first.tell(News.HAVE, result)
        return True

    # Giving up

    async def _give_up(self, sleeper: Sleeper, call: Call[Any], error: BaseException) -> bool:
        """Leave the line because of an exception; whether it came too late, and the task has its result."""
        if self._calls.inherited:  # the parent's task will have the result, and has the thread
            return False
        if sleeper.news is News.HAVE:
            self._handed.pop(sleeper, None)  # it is not there if the handle was closed meanwhile
            if self._pass_on(call, sleeper.value):
                return False
        else:
            self._remove(sleeper)
            if sleeper.news is not None or self._run is None or self._run.call is not call:
                return False  # the run, if there is one, is not its own: the handle was closed, and it was told so
            if self._first_wants(call) and not (call.is_momentary and sleeper is self._asker):
                return False
            if isinstance(error, GeneratorExit):
                self._abandon()
                return False
            self._leavers.append(sleeper)
            self._run.interrupt()
            self._finish_ended()
            try:
                news = await sleeper.sleep_on(self._finish_ended)
            except GeneratorExit:
                if self._calls.inherited:
                    raise
                if sleeper in self._leavers:
                    self._leavers.remove(sleeper)
                    self._abandon()
                elif sleeper.news is News.HAVE:
                    call.discard(sleeper.value)
                raise
            if news is not News.HAVE:
                return False
        if sleeper.deliver_later(error):
            return True
        call.discard(sleeper.value)
        return False

    def _abandon(self) -> None:
        """End the run without the help of the loop, which may not run any more."""
        run = self._run
        if run is not None:
            if run.abandon():
                self._run = None
                self._tell_leavers()
            else:
                self.finish(run)

    def _finish_ended(self) -> None:
        """Finish a run that has ended, though the loop may not do so any more: see `finish`."""
        if self._run is not None and self._run.end is not None:
            self.finish(self._run)

    def _tell_leavers(self) -> None:
        """There is no run for them any more."""
        for leaver in self._leavers:
            if leaver.news is None:
                leaver.tell(News.GONE)
        self._leavers.clear()

    def _hand_to_heir(self, run: Run) -> None:
        """What can't be given back has come first: before a cancellation, or before the handle was closed."""
        first, call = next(iter(self._places.items()), (None, None))
        if self._leavers:
            self._leavers[0].tell(News.HAVE, run.value)
        elif first is not None and call is run.call:
            self._remove(first)
            first.tell(News.HAVE, run.value)
        else:
            run.call.discard(run.value)

    def close(self) -> None:
        """Wake all; the handle is closed already."""
        self.gate.held = True
        if self._calls.inherited:
            return
        run = self._run
        if run is None:
            self._wake_all()
        elif run.end is None:
            run.interrupt()
            self._wake_all(but=next(iter(self._places), None))  # it may turn out that it has its result
        else:
            self.finish(run)
        for sleeper, call in list(self._handed.items()):
            if call.revoke(sleeper.value):
                del self._handed[sleeper]
                sleeper.news = News.TRY

    def _wake_all(self, but: Sleeper | None = None) -> None:
        for sleeper in self._places:
            if sleeper is not but:
                sleeper.tell(News.TRY)
