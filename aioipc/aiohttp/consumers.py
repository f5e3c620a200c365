"""Consumers: messages of a queue or channel, handled in the background of an application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import anyio
from aiohttp import web
from anyio.abc import ObjectReceiveStream

from aioipc._arguments import check_range, check_seconds
from aioipc.aiohttp._receiving import Receiver, SourceEnded, Stopped

_Source = TypeVar("_Source", bound=ObjectReceiveStream[Any])

_CONCURRENCY_MAX = 10_000

_logger = logging.getLogger("aioipc.aiohttp")


class ConsumerStatistics(NamedTuple):
    """What `Consumer.statistics` found, all at one moment."""

    received: int
    """Messages taken; the sum of the next four."""
    handled: int
    """Messages whose handler has returned."""
    failed: int
    """Messages whose handler has raised an exception."""
    cancelled: int
    """Messages whose handler was cancelled, because it had not ended within the grace period."""
    running: int
    """Messages whose handler runs now."""
    active: bool
    """Whether the consumer has started, and takes messages still."""


class Consumer:
    """Calls a handler for each message.  Made by `add_consumer`."""

    def __init__(
        self,
        app: web.Application,
        source: web.AppKey[Any],
        handler: Callable[[web.Application, Any], Awaitable[object]],
        *,
        concurrency: int,
        grace: float,
        borrow: bool,
    ) -> None:
        """Not for use: see `add_consumer`."""
        if not callable(handler):
            raise TypeError(f"the handler must be an async function, not {type(handler).__name__}")
        self._source = source
        self._handler = handler
        self._concurrency = check_range("concurrency", concurrency, 1, _CONCURRENCY_MAX)
        self._grace = check_seconds("grace", grace)
        self._borrow = borrow
        self._name = getattr(handler, "__qualname__", repr(handler))
        self._receivers: list[Receiver[Any]] = []
        self._workers: list[asyncio.Task[None]] = []
        self._stopped = False
        self._deadline: float | None = None
        self._handled = self._failed = self._cancelled = self._running = 0
        app.cleanup_ctx.append(self._live)
        app.on_shutdown.append(self._shut_down)

    def statistics(self) -> ConsumerStatistics:
        """How many messages there were, and what became of them."""
        return ConsumerStatistics(
            received=self._handled + self._failed + self._cancelled + self._running,
            handled=self._handled,
            failed=self._failed,
            cancelled=self._cancelled,
            running=self._running,
            active=bool(self._workers) and not self._stopped,
        )

    def stop(self) -> None:
        """Take no more messages, for good.  Handlers that run go on.  Safe to call again."""
        self._stopped = True
        for receiver in self._receivers:
            receiver.stop()

    async def _live(self, app: web.Application) -> AsyncIterator[None]:
        source = app.get(self._source)
        if source is None:
            raise LookupError(
                f"the consumer {self._name} finds no {self._source!r} in its application: call add_resource for it "
                "before add_consumer"
            )
        # A worker takes a message when it has nothing else to do: what nobody has time for stays in the queue.
        self._receivers = [Receiver(source, borrow=self._borrow) for _ in range(self._concurrency)]
        self._workers = [asyncio.create_task(self._work(app, receiver)) for receiver in self._receivers]
        if self._stopped:  # before it began
            self.stop()
        try:
            yield
        finally:
            await self._finish()

    async def _shut_down(self, app: web.Application) -> None:
        """Stop, and let the grace period begin: it runs while the server waits for its requests."""
        self.stop()
        self._deadline = asyncio.get_running_loop().time() + self._grace

    async def _finish(self) -> None:
        self.stop()
        if not self._workers:
            return
        now = asyncio.get_running_loop().time()
        remaining = self._grace if self._deadline is None else max(0, self._deadline - now)
        _, late = await asyncio.wait(self._workers, timeout=remaining)
        if self._running:  # of the late ones, some may just have been told to stop
            _logger.warning(
                "consumer %s: %d handlers did not end within %g s, and are cancelled",
                self._name,
                self._running,
                self._grace,
            )
        for worker in late:
            worker.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, app: web.Application, receiver: Receiver[Any]) -> None:
        try:
            while True:
                async with receiver.take() as message:
                    await self._handle(app, message)
        except Stopped:
            pass
        except SourceEnded as error:
            level = logging.INFO if isinstance(error, anyio.EndOfStream) else logging.WARNING
            _logger.log(level, "consumer %s ends: %s", self._name, error)
        except Exception:
            _logger.exception("consumer %s ends", self._name)
        finally:
            self.stop()

    async def _handle(self, app: web.Application, message: object) -> None:
        self._running += 1
        try:
            result = self._handler(app, message)
            if not isinstance(result, Awaitable):
                raise TypeError(f"the handler must be an async function; it returned {type(result).__name__}")
            await result
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                self._cancelled += 1
                raise
            self._failed += 1
            _logger.exception("consumer %s: a message could not be handled", self._name)
        else:
            self._handled += 1
        finally:
            self._running -= 1


def add_consumer(
    app: web.Application,
    source: web.AppKey[_Source],
    handler: Callable[[web.Application, Any], Awaitable[object]],
    *,
    concurrency: int = 1,
    grace: float = 10.0,
    borrow: bool = False,
) -> Consumer:
    """Have `await handler(app, message)` called for each message of `app[source]` while the application runs.

    A message is taken when a handler is free for it, and not before.  A handler that raises an exception is logged
    and counted, and the next message is taken.  At shutdown no more messages are taken; handlers that run have
    `grace` seconds to end, or as long as the server waits for its requests, and are cancelled then.  If the source
    ends, or is closed or removed, the consumer ends and says so in the log, and the application goes on.

    A message whose handler is cancelled is lost, and so are those of handlers that run when the process is killed.
    With `borrow` they are delivered again, to whoever comes next: see `Channel.borrow`.

    :param source: of what `add_resource` was told to make before: a queue or a channel
    :param concurrency: how many handlers run at a time at most
    :param grace: seconds from the beginning of the shutdown
    :param borrow: of a channel, consume a message only when its handler has returned or raised an exception
    :returns: the consumer, for its `statistics()` and `stop()`
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if an argument is out of range
    """
    return Consumer(app, source, handler, concurrency=concurrency, grace=grace, borrow=borrow)
