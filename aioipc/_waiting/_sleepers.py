"""Tasks that wait for news, on any event loop."""

from __future__ import annotations

import asyncio
import enum
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import trio


class News(enum.Enum):
    """What a task in line is told."""

    TRY = "now is the time"
    HAVE = "here is the result"
    FAILED = "here is the exception"
    GONE = "the thread that waited for you does so no more"


class Sleeper(ABC):
    """A task that waits in line, and what it is told."""

    def __init__(self) -> None:
        self.news: News | None = None
        self.value: Any = None

    def tell(self, news: News, value: Any = None) -> None:
        """Wake it."""
        self.news = news
        self.value = value
        self._wake()

    @abstractmethod
    def _wake(self) -> None: ...

    @abstractmethod
    async def sleep(self) -> None:
        """Return when there is news."""

    @abstractmethod
    async def sleep_on(self, cancelled: Callable[[], None]) -> News | None:
        """Do so whatever cancellation comes meanwhile, and say what the news is.

        :param cancelled: called at each
        """

    @abstractmethod
    def deliver_later(self, error: BaseException) -> bool:
        """An exception came too late for this operation; if it is a cancellation, deliver it at the next suspension.

        :returns: False if it is something else, such as KeyboardInterrupt on trio: it must be raised now
        """


_delivered: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
"""For tasks that are to be cancelled again: how many requests they knew of before.

Such a task may wait here again by then, and that operation too may be over when the cancellation comes.
"""


def requests_delivered(task: asyncio.Task[Any]) -> int:
    """How many requests for cancellation a task knows of."""
    # One that was made in this very step (by a task started eagerly, say) comes with the suspension.
    return _delivered.get(task, task.cancelling() - getattr(task, "_must_cancel", False))


class AsyncioSleeper(Sleeper):
    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._requests = 0  # for cancellation, that the task has been told of
        if task is not None:
            self._requests = requests_delivered(task)
        self._future: asyncio.Future[None] | None = None
        self._later: tuple[Any, ...] | None = None  # the message of a cancellation that task.cancel() is to repeat

    def _wake(self) -> None:
        if self._future is not None and not self._future.done() and not self._loop.is_closed():
            self._future.set_result(None)

    async def sleep(self) -> None:
        if self.news is None:
            self._future = self._loop.create_future()
            await self._future

    async def sleep_on(self, cancelled: Callable[[], None]) -> News | None:
        while self.news is None:
            try:
                await self.sleep()
            except asyncio.CancelledError as error:  # the one that is to be raised afterwards will do
                self._note(error)
                cancelled()
        return self.news

    def deliver_later(self, error: BaseException) -> bool:
        if not isinstance(error, asyncio.CancelledError):
            return False
        # Not before the task suspends again, and not if whoever wanted the cancellation
        # takes it back before: an asyncio.timeout() whose block ends with this operation.
        self._note(error)
        if self._task is not None and self._later is not None and not self._loop.is_closed():
            _delivered[self._task] = self._requests
            self._loop.call_soon(self._cancel_again, self._later)
        return True

    def _note(self, cancellation: asyncio.CancelledError) -> None:
        # anyio's scopes cancel again by themselves, but not where the task is shielded by
        # then.  There is no better mark of theirs than the message; anyio goes by it, too.
        if not str(cancellation).startswith(("Cancelled via cancel scope ", "Cancelled by cancel scope ")):
            self._later = cancellation.args

    def _cancel_again(self, message: tuple[Any, ...]) -> None:
        task = self._task
        assert task is not None
        _delivered.pop(task, None)
        if not task.done() and task.cancelling() > self._requests:
            task.uncancel()  # so that the number of requests stays what it is
            task.cancel(*message)


class TrioSleeper(Sleeper):
    def __init__(self) -> None:
        super().__init__()
        self._trio = sys.modules["trio"]
        self._event: trio.Event | None = None

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()

    async def sleep(self) -> None:
        if self.news is None:
            self._event = self._trio.Event()
            await self._event.wait()

    async def sleep_on(self, cancelled: Callable[[], None]) -> News | None:
        with self._trio.CancelScope(shield=True):
            await self.sleep()
        return self.news

    def deliver_later(self, error: BaseException) -> bool:
        return isinstance(error, self._trio.Cancelled)  # trio does it: its scopes stay cancelled
