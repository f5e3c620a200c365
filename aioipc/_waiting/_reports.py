"""A descriptor that reports what may concern any handle of the process, watched once by each loop in which one waits.

If each handle watched it, there could be 500 of them: of one file the kernel lets no more paths lead through another
epoll descriptor to that of a loop (EINVAL, see path_limits in fs/eventpoll.c).  And each report would wake them all.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from aioipc._waiting._immediate import Gate
from aioipc._waiting._loops import running_loop
from aioipc.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio


class Waiting(Protocol):
    """Tasks that wait for what may be reported."""

    def try_again(self) -> None:
        """Have the first of them try, and so hear of what is wrong."""


class Reports:
    """The descriptor, and those who watch it."""

    def __init__(self, fileno: int, look: Callable[[], None]) -> None:
        """
        :param look: passes on what is reported, so that those whom it concerns are woken, or raises `Error`
        """
        self.fileno = fileno
        self.look = look
        self._watchers: WeakValueDictionary[object, Watcher] = WeakValueDictionary()
        """Of loops; what belongs to a loop keeps its watcher."""

    def watcher(self) -> Watcher:
        """That of the running loop."""
        loop, on_trio = running_loop()
        watcher = self._watchers.get(loop)
        if watcher is None or watcher.inherited:
            watcher = _TrioWatcher(self) if on_trio else _AsyncioWatcher(self)
            self._watchers[loop] = watcher
        return watcher


class Watcher(ABC):
    """Who watches it in one loop, as long as somebody waits there."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._waiting: set[Waiting] = set()
        self._birth = Gate()

    @property
    def inherited(self) -> bool:
        return self._birth.inherited

    @abstractmethod
    def attend(self, waiting: Waiting) -> None:
        """Somebody waits now.  Safe to call again.

        :raises OSError: if the descriptor can't be watched
        """

    @abstractmethod
    def dismiss(self, waiting: Waiting) -> None:
        """Nobody waits there any more.  Safe to call again."""

    def _look(self) -> None:
        try:
            self._reports.look()
        except Error:  # so those who wait look themselves, and hear of it
            self._let_all_try()

    def _let_all_try(self) -> None:
        for waiting in list(self._waiting):
            waiting.try_again()


class _AsyncioWatcher(Watcher):
    """On asyncio and its like: a reader in the loop."""

    def __init__(self, reports: Reports) -> None:
        super().__init__(reports)
        self._loop = asyncio.get_running_loop()
        self._watches = False

    def attend(self, waiting: Waiting) -> None:
        self._waiting.add(waiting)
        if not self._watches:
            self._loop.add_reader(self._reports.fileno, self._look)
            self._watches = True

    def dismiss(self, waiting: Waiting) -> None:
        self._waiting.discard(waiting)
        if not self._waiting:
            self._watches = False
            # After a fork the selector is the parent's too.
            if not self._loop.is_closed() and not self.inherited:
                self._loop.remove_reader(self._reports.fileno)


class _TrioWatcher(Watcher):
    """On trio: a task of its own."""

    def __init__(self, reports: Reports) -> None:
        super().__init__(reports)
        self._trio = sys.modules["trio"]
        self._runs = False
        self._attended: trio.Event = self._trio.Event()
        self._error: OSError | None = None

    def attend(self, waiting: Waiting) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._waiting.add(waiting)
        self._attended.set()
        if not self._runs:
            # Not when trio has begun to end: then what waits is being cancelled.
            with suppress(RuntimeError):
                self._trio.lowlevel.spawn_system_task(self._run)
                self._runs = True

    def dismiss(self, waiting: Waiting) -> None:
        self._waiting.discard(waiting)
        if not self._waiting:
            self._error = None

    async def _run(self) -> None:
        try:
            while True:
                if not self._waiting:
                    self._attended = self._trio.Event()
                    await self._attended.wait()
                await self._trio.lowlevel.wait_readable(self._reports.fileno)
                self._look()
        except self._trio.BusyResourceError:  # another one does so already: whoever began it was interrupted then
            pass
        except OSError as error:
            self._error = error
            self._let_all_try()
        finally:
            self._runs = False
