"""Threads for calls that block in the kernel, each of which can be got out of its call at once.

A `Run` is one such call in one thread.  `Run.interrupt` ends it: by a signal, which the
thread's own timer repeats until the thread has answered (see _interrupt.c).  The threads
are started as needed, without an upper bound, used again, and end when there is nothing
to do for them.  They are not `threading.Thread`s: the exit of the interpreter does not
wait for them, and so ends at once.
"""

from __future__ import annotations

import _thread
import atexit
import enum
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from aioipc import _limits
from aioipc._arguments import check_integer
from aioipc._waiting._interrupt import Interrupter, install
from aioipc.errors import LimitError, WouldBlock

_T = TypeVar("_T")

_LINGER = 0.1
"""Seconds until a thread without work ends.  To start one takes less than a millisecond."""

_EXIT_GRACE = 0.2
"""Seconds that the exit of the interpreter waits for threads that are on their way out of the kernel."""


class Call(ABC, Generic[_T]):
    """A kernel call, in the three forms that waiting for it takes.

    Tasks in one line that share a call take its results for each other.
    """

    is_momentary = False
    """Whether its result says how something was in that moment: who came later can't have it."""

    @abstractmethod
    def __call__(self) -> _T:
        """Make it, in the loop's thread.

        :raises WouldBlock: if it would have to wait
        """

    @abstractmethod
    def block(self) -> _T:
        """Make it in a worker's thread, waiting in the kernel.

        :raises InterruptedError: if a signal ended it; it had no effect
        :raises WouldBlock: if it waited without taking: now is the time to try
        """

    @abstractmethod
    def revoke(self, result: _T) -> bool:
        """Undo what `block` did, in any thread; False if that can't be done.  Raises nothing."""

    def discard(self, result: _T) -> None:
        """Let go of what can't be undone, and what nobody can have any more, in any thread.  Raises nothing."""


class End(enum.Enum):
    """How a run ended."""

    DONE = "the call has returned something"
    FAILED = "the call has raised an exception"
    NOTHING = "it has had no effect: it was interrupted, or it is time to try without waiting"


class Run:
    """One blocking call, in a thread of its own from `start` until `end` is set."""

    def __init__(self, call: Call[Any], report: Callable[[Run], None], abandoned: Callable[[Run], None]) -> None:
        """
        :param report: called by the thread when the run has ended, to tell the event loop;
            raises RuntimeError if that has been closed
        :param abandoned: called by the thread instead, when nobody wants to know any more
        """
        self.call = call
        self.end: End | None = None
        self.value: Any = None
        """What the call returned, if DONE; the exception, if FAILED."""
        self._report = report
        self._abandoned = abandoned
        self._unwanted = self._forgotten = self._settled = False
        self._interrupter: Interrupter | None = None
        self._lock = _thread.allocate_lock()
        self._running = _thread.allocate_lock()

    def start(self) -> None:
        """Give it to a thread.

        :raises LimitError: if no more threads can be started
        """
        if not _signal:
            set_interrupt_signal(signal.SIGRTMAX - 1)
        self._running.acquire()
        _unsettled.add(self)
        try:
            _give_to_worker(self)
        except RuntimeError as error:
            _unsettled.discard(self)
            if "shutdown" in str(error):  # of the interpreter
                raise
            raise LimitError(
                errno.EAGAIN,
                f"no more threads can be started, with {in_the_kernel():,} threads waiting in the kernel: one of these "
                f"is reached: {_limits.explain_threads()}",
            ) from None

    def interrupt(self) -> None:
        """Make the call return, if it has not done so.  It takes well under a millisecond as a rule."""
        with self._lock:
            self._unwanted = True
            if self.end is None and self._interrupter is not None:
                self._interrupter.arm()

    def abandon(self) -> bool:
        """Do so, and let the thread give back what it has taken nevertheless.

        :returns: False if the run has ended already: see `settle`
        """
        with self._lock:
            if self.end is not None:
                return False
            self._forgotten = True
        self.interrupt()
        return True

    def withdraw(self) -> bool:
        """Let no thread begin it; False if one has done so."""
        with self._lock:
            if self._interrupter is not None or self.end is not None:
                return False
            self._unwanted = self._forgotten = self._settled = True
        _unsettled.discard(self)
        return True

    def settle(self) -> End | None:
        """How it ended, for the first who asks, in any thread, and sees to what it has taken; None for all others."""
        with self._lock:
            if self._settled:
                return None
            self._settled = True
            _unsettled.discard(self)
            return self.end

    def give_back(self) -> None:
        """See to what it has taken where no task can have it any more.  In any thread."""
        end = self.settle()
        if end is End.DONE and not self.call.revoke(self.value):
            self.call.discard(self.value)
        if end is not None:
            self._abandoned(self)

    def join(self, timeout: float) -> None:
        """Wait in this thread for the end."""
        if self._running.acquire(timeout=timeout):
            self._running.release()

    # In the worker's thread

    def perform(self, interrupter: Interrupter) -> bool:
        """Make the call; whether it ended by itself."""
        with self._lock:
            self._interrupter = interrupter
        end, value = End.NOTHING, None
        while not self._unwanted:
            try:
                end, value = End.DONE, self.call.block()
            except InterruptedError:
                continue  # by a signal from elsewhere, unless it is unwanted
            except WouldBlock:
                pass
            except Exception as error:  # noqa: BLE001, the task will raise it
                end, value = End.FAILED, error
            break
        self.set_end(end, value, interrupter)
        return not self._unwanted

    def set_end(self, end: End, value: Any, interrupter: Interrupter | None = None) -> None:
        """From now on it is not interrupted any more."""
        with self._lock:
            self.value = value
            self.end = end
            if self._unwanted and interrupter is not None:
                interrupter.disarm()

    def conclude(self) -> None:
        """Tell the loop; or, if nobody wants to know any more, give back what was taken."""
        if not self._forgotten:
            try:
                self._report(self)
            except RuntimeError:  # the event loop has been closed
                self._forgotten = True
        if self._forgotten:
            self.give_back()
        self._running.release()


class _Worker:
    """A thread, and the lock by which it waits for its next run."""

    def __init__(self, run: Run) -> None:
        self.run: Run | None = run
        self.wake = _thread.allocate_lock()
        self.wake.acquire()

    def main(self) -> None:
        run, self.run = self.run, None
        assert run is not None
        try:
            interrupter = Interrupter(_signal)
        except OSError as error:
            limit = _limits.explain_rlimit_sigpending()
            run.set_end(End.FAILED, LimitError(error.errno, f"no timer left to interrupt a thread by: {limit}"))
            run.conclude()
            return
        try:
            while self.serve(run, interrupter):
                run = None  # it may be the last thing that keeps a handle alive
                run = self.next_run()
                if run is None:
                    return
        finally:
            interrupter.delete()  # an exception that a run has raised may keep this frame, and all that is in it

    def serve(self, run: Run, interrupter: Interrupter) -> bool:
        """See a run through; whether this thread may go on."""
        by_itself = run.perform(interrupter)
        if by_itself:
            # Before it is reported: what follows from that may need a thread at once.
            _idle.append(self)
        run.conclude()
        return by_itself

    def next_run(self) -> Run | None:
        """Wait for the next run; None if none comes."""
        if not self.wake.acquire(timeout=_LINGER):
            try:
                _idle.remove(self)
            except ValueError:  # somebody has just chosen this thread
                self.wake.acquire()
            else:
                return None
        run, self.run = self.run, None
        return run


_idle: list[_Worker] = []
_unsettled: set[Run] = set()
"""Those that are in a thread, and those that are not yet known to have ended."""
_signal = 0


def in_the_kernel() -> int:
    """How many runs have not ended."""
    return sum(run.end is None for run in list(_unsettled))


def _give_to_worker(run: Run) -> None:
    try:
        worker = _idle.pop()
    except IndexError:
        _thread.start_new_thread(_Worker(run).main, ())
    else:
        worker.run = run
        worker.wake.release()


def set_interrupt_signal(number: int) -> None:
    """Choose the signal by which threads are got out of blocking calls: sigaction(2).

    By default it is SIGRTMAX - 1.  Call this before anything waits for a semaphore or a System V
    object.  The signal gets a handler that does nothing, and is only ever sent to threads
    that aioipc has started; the program must neither handle, ignore nor block it.

    :param number: such as `signal.SIGRTMIN + 5`
    :raises RuntimeError: if the signal has a handler already, or another was chosen or used before
    :raises TypeError: if it is not an integer
    :raises ValueError: if it is not a real-time signal
    """
    global _signal
    if not signal.SIGRTMIN <= check_integer("signal", number) <= signal.SIGRTMAX:
        raise ValueError(f"signal {number} must be a real-time signal, {signal.SIGRTMIN} to {signal.SIGRTMAX}")
    if _signal not in (0, number):
        raise RuntimeError(f"signal {_signal} is in use: choose another before anything waits")
    if not install(number):
        raise RuntimeError(
            f"signal {number}, by which aioipc interrupts its threads, has a handler already: "
            "choose another with aioipc.set_interrupt_signal()"
        )
    _signal = number


def _leave() -> None:
    """At exit, take nothing any more: the program may live on for a while without its event loop."""
    deadline = time.monotonic() + _EXIT_GRACE
    runs = list(_unsettled)
    for run in runs:
        if not run.abandon():
            run.give_back()  # it was reported to a loop that did not run again
    for run in runs:
        run.join(max(deadline - time.monotonic(), 0))


atexit.register(_leave)


def _forget_all() -> None:
    """In the child of a fork there are no such threads."""
    _idle.clear()
    _unsettled.clear()


os.register_at_fork(after_in_child=_forget_all)
