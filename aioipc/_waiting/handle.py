"""What both ways to wait have in common: a handle, and the lines of tasks in front of it.

An operation that may have to wait is *performed* by a `Line`: at once where that is possible,
otherwise in line, first come, first served.  What a line of tasks waits for, and how, is
the business of its subclasses: readiness.py and blocking.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

from aioipc._waiting._immediate import Gate
from aioipc._waiting._loops import let_the_loop_run, protect_on_trio, running_loop, whole
from aioipc.errors import ClosedError, WouldBlock

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Handle:
    """Something that this process has opened, and that tasks of one event loop use.

    It belongs to the process that opened it, and to the first loop in which a task waits.
    """

    def __init__(self, what: str) -> None:
        """
        :param what: what it is in the words of an error message, such as "message queue /orders"
        """
        self.what = what
        self.closed = False
        self.loop: object = None
        self._birth = Gate()

    @property
    def inherited(self) -> bool:
        """Whether this process got it by a fork, and so must leave it alone."""
        return self._birth.inherited

    def check_process(self) -> None:
        """Raise what forbids even to remove the object.

        :raises RuntimeError: if this process got it by a fork
        """
        if self.inherited:
            raise RuntimeError(
                f"{self.what} was opened before a fork and belongs to the parent process: open it again in the child"
            )

    def check(self) -> None:
        """Raise what forbids any operation.

        :raises ClosedError: if it is closed
        :raises RuntimeError: if this process got it by a fork
        """
        self.check_process()
        if self.closed:
            raise ClosedError(f"{self.what} is closed")

    def bind(self) -> None:
        """Make sure that it belongs to the running event loop."""
        loop, on_trio = running_loop()
        if self.loop is loop:
            return
        if self.loop is not None:
            raise RuntimeError(f"{self.what} belongs to another event loop: open it again in each loop that uses it")
        if on_trio:
            protect_on_trio()
        self._bound(on_trio)
        self.loop = loop

    def _bound(self, on_trio: bool) -> None:
        """It belongs to a loop now."""


class Line(ABC):
    """The tasks that want the same of a handle, and what they do to get it."""

    def __init__(self, handle: Handle) -> None:
        self.gate = Gate()
        self._handle = handle

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many tasks wait in line."""

    def check(self) -> None:
        """Raise what forbids any operation on the handle: see `Handle.check`."""
        self._handle.check()

    def perform_nowait(self, attempt: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        """Return `attempt(*args)`, unless tasks are in line before the caller.

        :raises WouldBlock: if it would have to wait
        """
        if self.gate.held or self.gate.inherited:
            self._handle.check()
            raise WouldBlock(f"other tasks wait for {self._handle.what} already")
        return attempt(*args)

    @whole
    async def perform(self, attempt: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        """Return `attempt(*args)`, called as often as needed until it does not raise `WouldBlock`.

        It suspends only where it must wait, or where this task and others like it have
        gone on for so long that the loop's other work is due.
        """
        gate = self.gate
        if not gate.enter():
            self._handle.check()
            if not gate.held:  # then the turn is spent
                gave_way_in = gate.give_way()
                await let_the_loop_run()
                gate.come_back(gave_way_in)
                self._handle.check()
        if not gate.held:
            try:
                return attempt(*args)
            except WouldBlock:
                pass
        self._handle.bind()
        return await self._wait(attempt, *args)

    @abstractmethod
    async def _wait(self, attempt: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        """Do so in line, behind those who came before."""
