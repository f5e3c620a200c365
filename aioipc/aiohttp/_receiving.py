"""Taking messages one at a time, until told to stop.

Who hands messages on, to a handler or to a client, must take none that it can't hand on any more.  So it is
stopped between two messages: at once while it waits for one, and otherwise when it has done with the one it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio.abc import ObjectReceiveStream

from aioipc._waiting._sleepers import requests_delivered
from aioipc.errors import RemovedError

_T = TypeVar("_T")

SourceEnded = (anyio.EndOfStream, anyio.ClosedResourceError, RemovedError)
"""What a source raises that will never have a message again."""


class Stopped(Exception):  # noqa: N818, it is no error
    """The receiver was told to take no more messages."""


class Receiver(Generic[_T]):
    """Takes messages for one task."""

    def __init__(self, source: ObjectReceiveStream[_T], *, borrow: bool) -> None:
        """
        :param borrow: whether a message, of a channel, is consumed only when its block ends well
        :raises TypeError: if the source can't do so, or is none
        """
        if not hasattr(source, "receive"):
            raise TypeError(f"the source must be a queue or a channel, not {type(source).__name__}")
        if borrow and not hasattr(source, "borrow"):
            raise TypeError(f"borrow=True takes a Channel: {source!r} can't take messages back")
        self._source = source
        self._borrow = borrow
        self._stopped = False
        self._waiting: asyncio.Task[Any] | None = None
        self._cancelled = False

    def stop(self) -> None:
        """Take no more messages.  From a callback, too; safe to call again."""
        if not self._stopped:
            self._stopped = True
            # Not a task or a future beside it: once this has returned, nothing takes a message.
            task = self._waiting
            if task is None:
                return
            loop = task.get_loop()
            if task is asyncio.current_task(loop):
                # It is the source that calls this.  Before Python 3.13 a task can't take back that it cancels itself:
                # so not before it suspends, if it does.
                loop.call_soon(self._cancel)
            else:
                self._cancel()

    def _cancel(self) -> None:
        if self._waiting is not None:
            self._cancelled = True
            self._waiting.cancel()

    @asynccontextmanager
    async def take(self, patience: float | None = None) -> AsyncIterator[_T | None]:
        """A block that has the next message, or None if there is none for so many seconds.

        :raises Stopped: on entering, if the receiver was told to stop
        """
        async with AsyncExitStack() as loan:
            try:
                async with asyncio.timeout(patience) as limit:
                    message = await self._next(loan)
            except TimeoutError:
                if not limit.expired():  # it is one of the source
                    raise
                message = None
            yield message

    async def _next(self, loan: AsyncExitStack) -> _T:
        if self._stopped:
            raise Stopped
        task = asyncio.current_task()
        assert task is not None
        requests = requests_delivered(task)
        self._waiting = task
        try:
            if self._borrow:
                view = await loan.enter_async_context(cast(Any, self._source).borrow())
                message = cast(_T, bytes(view))
            else:
                message = await self._source.receive()
        except asyncio.CancelledError:
            if self._cancelled:
                if task.uncancel() <= requests:
                    raise Stopped from None
                # Others cancel, too, but this may be what stop() has raised: without the message by which anyio's
                # scopes know their own.  They cancel again in each pass; to anybody else this one is as good.
                await asyncio.sleep(0)
            raise
        finally:
            self._waiting = None
        if self._cancelled:  # but the message could not go back: the cancellation must not hit who has it
            task.uncancel()
        return message
