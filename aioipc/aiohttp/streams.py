"""Streams: the messages of a queue or channel to one HTTP client, as server-sent events or over a WebSocket.

A stream takes a message when the one before has been handed to the kernel's socket, so that a slow client leaves
messages to others; and it takes none for a client that has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
from aiohttp import WSCloseCode, web
from anyio.abc import ObjectReceiveStream

from aioipc._arguments import check_seconds
from aioipc.aiohttp._receiving import Receiver, SourceEnded, Stopped
from aioipc.aiohttp.events import Event, as_text

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from aiohttp.abc import AbstractStreamWriter

# Not ObjectReceiveStream[T]: then a type checker would not take `request.app[key]` for one.
_Source = TypeVar("_Source", bound=ObjectReceiveStream[Any])
_Data = TypeVar("_Data")

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # or nginx keeps events until it has enough of them
}


class _Streams:
    """The streams of an application that run."""

    def __init__(self) -> None:
        self.running: set[_Stream] = set()
        self.shutting_down = False

    async def shut_down(self, app: web.Application) -> None:
        self.shutting_down = True
        for stream in list(self.running):
            stream.shut_down()


_STREAMS = web.AppKey("aioipc.streams", _Streams)


def setup(app: web.Application) -> None:
    """Let the streams of an application, and of those below it, end when it is shut down.

    `add_resource` does so by itself.  Without it, aiohttp would wait for their clients, 60 s by default.

    :raises RuntimeError: if the application has started, or was added to another one
    """
    if app.get(_STREAMS) is None:
        streams = _Streams()
        app.on_shutdown.append(streams.shut_down)
        app[_STREAMS] = streams


async def stream_events(
    request: web.Request,
    source: _Source,
    encode: Callable[[Any], str | bytes | Event] = as_text,
    *,
    heartbeat: float | None = None,
    grace: float = 2.0,
    borrow: bool = False,
) -> web.StreamResponse:
    """Answer a request with the messages of a source, as server-sent events.

    Each message goes to one client.  This returns when the client has gone, the application is shut down, or the
    source has ended or was closed or removed.  What was being written when the client went is lost, unless it is
    borrowed; so is, in any case, what the kernel has taken and the client has not read.

    :param source: a queue or a channel
    :param encode: makes data, or a whole `Event`, of a message; if it raises, so does this, and the message is lost
    :param heartbeat: write a comment after so many seconds without a message, for proxies that
        end silent connections; None for never
    :param grace: seconds that the client has at shutdown to take what is being written
    :param borrow: of a channel, consume a message only when it has been written: else it goes to another client
    :raises Error: what else the source raises, such as AccessError
    :raises HTTPBadRequest: if the request has a body
    :raises HTTPMethodNotAllowed: if it is no GET: the answer to HEAD has no room for messages
    :raises RuntimeError: if the application was not prepared by `add_resource` or `setup`
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if an argument is out of range
    """
    if heartbeat is not None and check_seconds("heartbeat", heartbeat) == 0:
        raise ValueError("heartbeat 0 would write without a pause: None is for never")
    response = web.StreamResponse(headers=_HEADERS)
    response.force_close()  # see _Rest

    def framed(message: object) -> bytes:
        return b":\n\n" if message is None else _framed(encode(message))

    with _Stream(request, source, grace=grace, borrow=borrow) as stream, suppress(_ClientGone):
        with _to_client():
            writer = await response.prepare(request)
        request.protocol.set_parser(cast(Any, _Rest(stream.stop)))
        with suppress(Stopped, _Ended):
            await stream.run(writer, framed, response.write, heartbeat)
        with _to_client():
            await response.write_eof()
    return response


async def stream_websocket(
    request: web.Request,
    source: _Source,
    encode: Callable[[Any], str | bytes] = as_text,
    *,
    response: web.WebSocketResponse | None = None,
    grace: float = 2.0,
    borrow: bool = False,
) -> web.WebSocketResponse:
    """Answer a request with a WebSocket that the messages of a source are written to.

    It does what `stream_events` does, and raises the same.  What the client sends is ignored.  The socket is closed
    with 1000 (OK) when the source has ended, with 1001 (going away) when it was closed or
    removed, or the application is shut down, and with 1011 (internal error) when this raises.

    :param source: a queue or a channel
    :param encode: makes a text frame (str) or a binary one (bytes) of a message
    :param response: one with options of your own: `WebSocketResponse(heartbeat=30)` notices clients that have vanished
    :param grace: seconds that the client has at shutdown to take what is being written, and to answer
    :param borrow: of a channel, consume a message only when it has been written: else it goes to another client
    :raises HTTPBadRequest: if the client does not want a WebSocket
    """
    socket = web.WebSocketResponse() if response is None else response

    async def write(data: str | bytes) -> None:
        await (socket.send_str(data) if isinstance(data, str) else socket.send_bytes(data))

    async def listen() -> None:
        try:
            async for _ in socket:  # which also answers pings
                pass
        finally:
            stream.stop()

    with _Stream(request, source, grace=grace, borrow=borrow) as stream, suppress(_ClientGone):
        with _to_client():
            writer = await socket.prepare(request)
        listening = asyncio.create_task(listen())
        code = WSCloseCode.GOING_AWAY
        try:
            await stream.run(writer, encode, write)
        except _Ended as ended:
            if isinstance(ended.__cause__, anyio.EndOfStream):
                code = WSCloseCode.OK
        except (Stopped, _ClientGone):
            pass
        except Exception:
            code = WSCloseCode.INTERNAL_ERROR
            raise
        finally:
            # Or close() would not wait for the client's answer: some clients take that for a broken connection.
            if not socket.closed:
                listening.cancel()
            await asyncio.wait([listening])
            with suppress(ConnectionError):
                await socket.close(code=code)
    return socket


# These are not what was raised in the first place, which `encode` may raise, too: that is no way for a stream to end.
class _ClientGone(Exception):  # noqa: N818, it is no error
    """The connection raised ConnectionError."""


class _Ended(Exception):  # noqa: N818, it is no error
    """The source raised its cause, one of SourceEnded."""


@contextmanager
def _to_client() -> Iterator[None]:
    """A block that does nothing but write to the client."""
    try:
        yield
    except ConnectionError as error:
        raise _ClientGone from error


class _Stream:
    """Messages to one client.  Its `with` is the time in which it can be ended by a shutdown."""

    def __init__(self, request: web.Request, source: ObjectReceiveStream[Any], *, grace: float, borrow: bool) -> None:
        if request.method != "GET":
            raise web.HTTPMethodNotAllowed(request.method, ["GET"])
        if request.can_read_body:  # which nobody would read
            raise web.HTTPBadRequest(text="no body is expected")
        streams = request.config_dict.get(_STREAMS)
        if streams is None:
            raise RuntimeError(
                "a stream would hold up the shutdown of its application: call aioipc.aiohttp.setup(app) as you make it"
            )
        self._streams: _Streams = streams
        self._grace = check_seconds("grace", grace)
        self._receiver = Receiver(source, borrow=borrow)
        self._transport = request.transport
        self._abort: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._streams.running.add(self)
        if self._transport is None:  # it has gone already
            self.stop()
        else:
            # So that a message is not written before the kernel has taken all of the one before.
            self._transport.set_write_buffer_limits(0)
            if self._streams.shutting_down:
                self.shut_down()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._streams.running.discard(self)
        if self._abort is not None:
            self._abort.cancel()

    def stop(self) -> None:
        """Take no more messages."""
        self._receiver.stop()

    def shut_down(self) -> None:
        """Do so, and don't let a client that does not read hold up the shutdown."""
        self.stop()
        if self._transport is not None:
            self._abort = asyncio.get_running_loop().call_later(self._grace, self._transport.abort)

    async def run(
        self,
        writer: AbstractStreamWriter | None,
        encode: Callable[[Any], _Data],
        write: Callable[[_Data], Awaitable[None]],
        heartbeat: float | None = None,
    ) -> None:
        """Encode and write one message after the other, or None after so many seconds without one.

        What `encode` raises is raised as it is.

        :raises _ClientGone: if the client has gone while it was written to
        :raises _Ended: if the source has ended, or was closed or removed
        :raises Stopped: if the client has gone otherwise, or the application is shut down
        """
        assert writer is not None
        failure = None
        try:
            while True:
                async with self._receiver.take(heartbeat) as message:
                    try:
                        data = encode(message)
                    except Exception as error:
                        failure = error
                        raise
                    with _to_client():
                        await write(data)
                        await writer.drain()
                        # drain() may have ended because of it
                        if self._transport is None or self._transport.is_closing():
                            raise ConnectionResetError("the client has gone")
        except SourceEnded as error:
            if error is failure:
                raise
            raise _Ended from error


class _Rest:
    """What aiohttp gives the rest of a connection's data to.  An answer to nothing, and told when the client goes.

    aiohttp does not say so to a handler otherwise, unless the whole server runs with handler_cancellation=True.
    Requests that the client may send after this one are not seen, so the response must close the connection.
    """

    def __init__(self, gone: Callable[[], None]) -> None:
        self.feed_eof = gone

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        return False, b""


def _framed(data: str | bytes | Event) -> bytes:
    return bytes(data if isinstance(data, Event) else Event(data))
