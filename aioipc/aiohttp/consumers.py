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
    """Messages whose handler was cancelled: by the application, or because it had not ended within the grace period."""
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
        self._running: set[asyncio.Task[None]] = set()  # the handlers
        self._stopped = False
        self._deadline: float | None = None
        self._out_of_time = False
        self._handled = self._failed = self._cancelled = 0
        app.cleanup_ctx.append(self._live)
        app.on_shutdown.append(self._shut_down)

    def statistics(self) -> ConsumerStatistics:
        """How many messages there were, and what became of them."""
        return ConsumerStatistics(
            received=self._handled + self._failed + self._cancelled + len(self._running),
            handled=self._handled,
            failed=self._failed,
            cancelled=self._cancelled,
            running=len(self._running),
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
        try:
            await asyncio.wait(self._workers, timeout=remaining)
            late = sum(not handling.done() for handling in self._running)
            if late:
                _logger.warning(
                    "consumer %s: %d handlers did not end within %g s, and are cancelled",
                    self._name,
                    late,
                    self._grace,
                )
        finally:  # also if the clean-up is cancelled: aiohttp goes on to close what they use
            self._out_of_time = True
            for handling in self._running:
                handling.cancel()
        await asyncio.wait(self._workers)

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
        """:raises Stopped: if the message is not done with"""
        # In a task of its own: if the application cancels that, the worker goes on; and if the worker is cancelled, it
        # is by who ends the event loop, and has to end.
        handling = asyncio.create_task(self._call(app, message))
        self._running.add(handling)
        handling.add_done_callback(self._count)
        if self._out_of_time:
            handling.cancel()
        try:
            await asyncio.wait([handling])
        except asyncio.CancelledError:
            handling.cancel()
            await asyncio.wait([handling])
            raise
        if handling.cancelled():
            if self._out_of_time:
                raise Stopped
        elif not isinstance(handling.exception(), Exception | None):  # such as SystemExit, which ends the loop
            raise Stopped

    async def _call(self, app: web.Application, message: object) -> None:
        result = self._handler(app, message)
        if not isinstance(result, Awaitable):
            raise TypeError(f"the handler must be an async function; it returned {type(result).__name__}")
        await result

    def _count(self, handling: asyncio.Task[None]) -> None:
        self._running.remove(handling)
        try:
            handling.result()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and handling.cancelling():
                self._cancelled += 1
                if not self._out_of_time:
                    _logger.warning("consumer %s: a handler was cancelled", self._name)
            else:
                self._failed += 1
                _logger.exception("consumer %s: a message could not be handled", self._name)
        except BaseException:  # noqa: BLE001, the loop has raised it
            self._failed += 1
        else:
            self._handled += 1


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

    Each handler runs in a task of its own.  If the application cancels it, that is logged and counted, and the next
    message is taken.

    A message whose handler is cancelled at shutdown is lost, and so are those of handlers that run when the process is
    killed.  With `borrow` they are delivered again, to whoever comes next: see `Channel.borrow`.

    :param source: of what `add_resource` was told to make before: a queue or a channel
    :param concurrency: how many handlers run at a time at most
    :param grace: seconds from the beginning of the shutdown
    :param borrow: of a channel, consume a message only when its handler has returned, raised an exception, or been
        cancelled by the application
    :returns: the consumer, for its `statistics()` and `stop()`
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if an argument is out of range
    """
    return Consumer(app, source, handler, concurrency=concurrency, grace=grace, borrow=borrow)
