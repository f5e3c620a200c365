"""Messages of queues and channels to HTTP clients, as server-sent events and over WebSockets."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import WSMsgType, web
from conftest import until
from serving import Server, anyio_backend, serving  # noqa: F401

import aioipc
from aioipc import Channel, posix, sysv
from aioipc.aiohttp import Event, add_resource, setup, stream_events, stream_websocket

pytestmark = pytest.mark.anyio

QUEUE = web.AppKey("queue", posix.MessageQueue)
JOBS = web.AppKey("jobs", sysv.MessageQueue)
CHANNEL = web.AppKey("channel", Channel)

WEBSOCKET = (
    "GET /socket HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
EVENTS = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"

Options = dict[str, Any]


def application(key: web.AppKey[Any], make: Callable[..., Any], *arguments: Any, **options: Any) -> web.Application:
    """One with a source at app[key], as events at / and over a WebSocket at /socket, with these options."""

    async def events(request: web.Request) -> web.StreamResponse:
        return await stream_events(request, request.config_dict[key], **options)

    async def websocket(request: web.Request) -> web.StreamResponse:
        return await stream_websocket(request, request.config_dict[key], **options)

    app = web.Application()
    app.router.add_get("/", events)
    app.router.add_get("/socket", websocket)
    add_resource(app, key, make, *arguments)
    return app


async def until_waiting(source: Any, count: int) -> None:
    await until(lambda: source.statistics().tasks_waiting_receive == count)


async def read_to_the_end(client: socket.socket) -> bytes:
    """All that is written to a client."""

    def read() -> bytes:
        with client.makefile("rb") as file:
            return file.read()

    return await anyio.to_thread.run_sync(read)


def reset(client: socket.socket) -> None:
    """Go without a word: by a RST, not a FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# Events -------------------------------------------------------------------------------


async def test_messages_arrive_as_events(name: str) -> None:
    app = application(QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server, server.client.get("/") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache"
        await app[QUEUE].send(b"two coffees")
        await app[QUEUE].send("gr\u00fcn\n\u00e9\xff".encode("latin-1"))
        assert await response.content.readuntil(b"\n\n") == b"data: two coffees\n\n"
        assert await response.content.readuntil(b"\n\n") == "data: gr\ufffdn\ndata: \ufffd\ufffd\n\n".encode()


async def test_encode_makes_whole_events(name: str) -> None:
    def encode(message: posix.Message) -> Event | bytes:
        return b"plain" if message.priority == 0 else Event(message.data, event="urgent", id=str(message.priority))

    app = application(QUEUE, posix.MessageQueue.create, name, encode=encode)
    async with serving(app) as server, server.client.get("/") as response:
        await app[QUEUE].send(b"fire", priority=9)
        assert await response.content.readuntil(b"\n\n") == b"event: urgent\nid: 9\ndata: fire\n\n"
        await app[QUEUE].send(b"smoke")
        assert await response.content.readuntil(b"\n\n") == b"data: plain\n\n"


async def test_a_heartbeat_between_messages(name: str) -> None:
    async def events(request: web.Request) -> web.StreamResponse:
        return await stream_events(request, app[QUEUE], heartbeat=0.001)

    app = web.Application()
    app.router.add_get("/", events)
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server, server.client.get("/") as response:
        for number in range(30):
            assert await response.content.readuntil(b"\n\n") == b":\n\n"
            await app[QUEUE].send(b"%d" % number)
            text = b":\n\n"
            while text == b":\n\n":
                text = await response.content.readuntil(b"\n\n")
            assert text == b"data: %d\n\n" % number


@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_only_get_has_an_answer_with_messages(name: str, method: str) -> None:
    async def events(request: web.Request) -> web.StreamResponse:
        return await stream_events(request, app[QUEUE])

    app = web.Application()
    app.router.add_route("*", "/", events)
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server:
        await app[QUEUE].send(b"a")
        async with server.client.request(method, "/", data=b"" if method == "HEAD" else b"body") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET")
        async with server.client.get("/", data=b"body") as response:
            assert response.status == 400
        assert app[QUEUE].receive_nowait().data == b"a"


# WebSockets ---------------------------------------------------------------------------


async def test_messages_arrive_over_a_websocket(name: str) -> None:
    app = application(QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server, server.client.ws_connect("/socket") as client:
        await client.send_str("whatever")
        await client.ping()
        for number in range(30):
            await app[QUEUE].send(b"%d" % number)
            assert await client.receive_str() == f"{number}"
        await client.close()
        assert client.close_code == 1000


async def test_bytes_are_binary_frames(name: str) -> None:
    app = application(CHANNEL, Channel.create, name, encode=bytes)
    async with serving(app) as server, server.client.ws_connect("/socket") as client:
        await app[CHANNEL].send(b"\xff\x00")
        assert await client.receive_bytes() == b"\xff\x00"


async def test_a_response_of_ones_own(name: str) -> None:
    async def websocket(request: web.Request) -> web.StreamResponse:
        response = web.WebSocketResponse(protocols=("orders",), heartbeat=0.05)
        assert await stream_websocket(request, app[QUEUE], response=response) is response
        codes.append(response.close_code)
        return response

    codes: list[int | None] = []
    app = web.Application()
    app.router.add_get("/socket", websocket)
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server:
        async with server.client.ws_connect("/socket", protocols=("orders",), autoping=False) as client:
            assert client.protocol == "orders"
            assert (await client.receive()).type is WSMsgType.PING
            # It does not answer: the server gives it up, although no message comes.
            await until(lambda: codes == [1006])
        await app[QUEUE].send(b"a")
        assert app[QUEUE].receive_nowait().data == b"a"


async def test_who_does_not_want_a_websocket(name: str) -> None:
    app = application(QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server:
        await app[QUEUE].send(b"a")
        async with server.client.get("/socket") as response:
            assert response.status == 400
        assert app[QUEUE].receive_nowait().data == b"a"


# Slow clients -------------------------------------------------------------------------


@pytest.mark.parametrize("request_text", [EVENTS, WEBSOCKET], ids=["events", "websocket"])
async def test_a_slow_client_leaves_messages_to_others(name: str, request_text: str) -> None:
    async def fast(request: web.Request) -> web.StreamResponse:
        return await stream_events(request, app[CHANNEL], note)

    def note(message: bytes) -> bytes:
        to_fast.append(message[:3])
        return message

    to_fast: list[bytes] = []
    to_slow: list[bytes] = []
    app = application(CHANNEL, lambda: Channel.create(name))
    app.router.add_get("/fast", fast)
    async with serving(app) as server:
        with closing(server.connect(request_text)) as slow:
            await until_waiting(app[CHANNEL], 1)
            async with server.client.get("/fast") as response:
                await until_waiting(app[CHANNEL], 2)
                await app[CHANNEL].send_many([b"%03d %s" % (number, b"x" * 1000) for number in range(500)])
                reading = asyncio.create_task(response.content.read())
                await until(lambda: app[CHANNEL].statistics().messages == 0)
                reading.cancel()
            # What the slow one holds is the message that is being written, and what fits into the sockets.
            assert len(to_fast) > 450
            text = b""
            while len(to_slow) < 500 - len(to_fast):
                text += await anyio.to_thread.run_sync(slow.recv, 65536)
                to_slow = re.findall(rb"(\d\d\d) x", text)
            assert sorted([*to_slow, *to_fast]) == [b"%03d" % number for number in range(500)]


# Clients that go ----------------------------------------------------------------------


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("request_text", [EVENTS, WEBSOCKET], ids=["events", "websocket"])
async def test_no_message_is_taken_for_a_client_that_has_gone(
    key: int, request_text: str, leave: Callable[[socket.socket], None]
) -> None:
    app = application(JOBS, sysv.MessageQueue.create, key)
    async with serving(app) as server:
        client = server.connect(request_text)
        await until_waiting(app[JOBS], 1)
        leave(client)
        await until_waiting(app[JOBS], 0)
        await app[JOBS].send(b"a")
        assert app[JOBS].statistics().messages == 1
        async with server.client.get("/") as response:
            assert await response.content.readuntil(b"\n\n") == b"data: a\n\n"


@pytest.mark.parametrize("request_text", [EVENTS, WEBSOCKET], ids=["events", "websocket"])
async def test_nor_by_a_server_that_cancels_its_handlers(
    name: str, caplog: pytest.LogCaptureFixture, request_text: str
) -> None:
    app = application(QUEUE, posix.MessageQueue.create, name)
    async with serving(app, handler_cancellation=True) as server:
        client = server.connect(request_text)
        await until_waiting(app[QUEUE], 1)
        client.close()
        await until_waiting(app[QUEUE], 0)
        await app[QUEUE].send(b"a")
        assert app[QUEUE].receive_nowait().data == b"a"
    assert caplog.text == ""


@pytest.mark.parametrize("stream", [stream_events, stream_websocket])
@pytest.mark.parametrize("request_text", [EVENTS, WEBSOCKET], ids=["events", "websocket"])
async def test_nor_for_one_that_goes_before_the_stream_begins(
    name: str, caplog: pytest.LogCaptureFixture, request_text: str, stream: Callable[..., Awaitable[Any]]
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        began.set()
        await until(lambda: request.transport is None)
        try:
            response: web.StreamResponse = await stream(request, app[QUEUE])
            return response
        finally:
            ended.set()

    began, ended = asyncio.Event(), asyncio.Event()
    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server:
        await app[QUEUE].send(b"a")
        client = server.connect(request_text)
        await began.wait()
        client.close()
        await ended.wait()
        assert app[QUEUE].receive_nowait().data == b"a"
    assert "ConnectionResetError" not in caplog.text


@pytest.mark.parametrize("borrow", [False, True])
@pytest.mark.parametrize("request_text", [EVENTS, WEBSOCKET], ids=["events", "websocket"])
async def test_the_message_being_written_is_lost_or_goes_to_another_client(
    name: str, request_text: str, borrow: bool
) -> None:
    app = application(CHANNEL, lambda: Channel.create(name, capacity=2**25), borrow=borrow)
    async with serving(app) as server:
        client = server.connect(request_text)
        await until_waiting(app[CHANNEL], 1)
        await app[CHANNEL].send(b"first" + bytes(2**24))  # more than sockets take
        await app[CHANNEL].send(b"second")
        await until_waiting(app[CHANNEL], 0)  # it is being written
        assert app[CHANNEL].statistics().messages == 1 + borrow
        reset(client)
        async with server.client.get("/") as response:
            assert await response.content.readexactly(11) == (b"data: first" if borrow else b"data: secon")


async def test_a_websocket_that_the_client_closes(name: str) -> None:
    app = application(QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server:
        async with server.client.ws_connect("/socket") as client:
            await until_waiting(app[QUEUE], 1)
            await client.close()
            await until_waiting(app[QUEUE], 0)
        await app[QUEUE].send(b"a")
        assert app[QUEUE].receive_nowait().data == b"a"


async def test_what_a_client_sends_after_its_request_for_events_is_ignored(name: str) -> None:
    app = application(QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server:
        with closing(server.connect(EVENTS)) as client:
            await until_waiting(app[QUEUE], 1)
            client.sendall(EVENTS.encode())
            await app[QUEUE].send(b"a")
            await until(lambda: app[QUEUE].statistics().messages == 0)
            await until_waiting(app[QUEUE], 1)
            await server.stop()
            text = await read_to_the_end(client)
            assert text.count(b"HTTP/1.1 200 OK") == 1
            assert b"data: a\n\n" in text


# The end ------------------------------------------------------------------------------


async def test_a_channel_that_is_ended(name: str) -> None:
    app = application(CHANNEL, Channel.create, name)
    async with serving(app) as server:
        async with server.client.get("/") as response, server.client.ws_connect("/socket") as client:
            await until_waiting(app[CHANNEL], 2)
            await app[CHANNEL].send_many([b"a", b"b"])
            await app[CHANNEL].end()
            assert await response.content.read() == b"data: a\n\n"
            assert await client.receive_str() == "b"
            assert (await client.receive()).type is WSMsgType.CLOSE
            assert client.close_code == 1000
        async with server.client.get("/") as response:
            assert await response.content.read() == b""


@pytest.mark.parametrize("how", ["close", "remove"])
async def test_a_queue_that_is_closed_or_removed(key: int, how: str) -> None:
    app = application(JOBS, sysv.MessageQueue.create, key)
    async with serving(app) as server:
        async with server.client.get("/") as response, server.client.ws_connect("/socket") as client:
            await until_waiting(app[JOBS], 2)
            getattr(app[JOBS], how)()
            assert await response.content.read() == b""
            assert (await client.receive()).type is WSMsgType.CLOSE
            assert client.close_code == 1001


@pytest.mark.parametrize(
    "error",
    # what the connection and the source raise, too
    [ZeroDivisionError, ConnectionRefusedError, aioipc.ClosedError, aioipc.RemovedError, anyio.EndOfStream],
)
async def test_encode_that_fails(name: str, caplog: pytest.LogCaptureFixture, error: type[Exception]) -> None:
    def encode(message: posix.Message) -> str:
        raise error("no such text")

    app = application(QUEUE, posix.MessageQueue.create, name, encode=encode)
    async with serving(app) as server:
        async with server.client.ws_connect("/socket") as client:
            await app[QUEUE].send(b"a")
            assert (await client.receive()).type is WSMsgType.CLOSE
            assert client.close_code == 1011
        async with server.client.get("/") as response:
            await app[QUEUE].send(b"a")
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        assert app[QUEUE].statistics().messages == 0
    assert caplog.text.count(f"{error.__name__}: no such text") == 2


# Shutting down ------------------------------------------------------------------------


async def test_a_shutdown_ends_streams(name: str) -> None:
    app = application(QUEUE, posix.MessageQueue.open, name)
    async with posix.MessageQueue.create(name) as queue, serving(app) as server:
        async with server.client.get("/") as response, server.client.ws_connect("/socket") as client:
            await until_waiting(app[QUEUE], 2)
            with anyio.fail_after(30):  # aiohttp would wait for 60 s
                stopping = asyncio.create_task(server.stop())
                assert await response.content.read() == b""
                assert (await client.receive()).type is WSMsgType.CLOSE
                assert client.close_code == 1001
                await stopping
        await queue.send(b"a")
        assert queue.receive_nowait().data == b"a"


@pytest.mark.parametrize("borrow", [False, True])
@pytest.mark.parametrize("request_text", [EVENTS, WEBSOCKET], ids=["events", "websocket"])
async def test_a_client_that_does_not_read_does_not_hold_up_the_shutdown(
    name: str, request_text: str, borrow: bool
) -> None:
    app = application(CHANNEL, lambda: Channel.open(name), borrow=borrow, grace=0.01)
    async with Channel.create(name, capacity=2**25) as channel, serving(app) as server:
        with closing(server.connect(request_text)):
            await until_waiting(app[CHANNEL], 1)
            await channel.send(b"first" + bytes(2**24))
            await until_waiting(app[CHANNEL], 0)  # it is being written
            with anyio.fail_after(30):
                await server.stop()
            assert channel.statistics().messages == borrow


async def test_a_websocket_client_that_does_not_answer_does_not_either(name: str) -> None:
    app = application(QUEUE, posix.MessageQueue.create, name, grace=0.01)
    async with serving(app) as server:
        with closing(server.connect(WEBSOCKET)):
            await until_waiting(app[QUEUE], 1)
            with anyio.fail_after(9):  # aiohttp would wait for 10 s
                await server.stop()


async def test_a_stream_that_begins_during_the_shutdown_ends_at_once(name: str) -> None:
    may_begin, began = asyncio.Event(), asyncio.Event()

    async def events(request: web.Request) -> web.StreamResponse:
        began.set()
        await may_begin.wait()
        return await stream_events(request, app[QUEUE])

    async def begin(app: web.Application) -> None:
        may_begin.set()

    app = web.Application()
    app.router.add_get("/", events)
    add_resource(app, QUEUE, posix.MessageQueue.open, name)
    app.on_shutdown.append(begin)
    async with posix.MessageQueue.create(name) as queue, serving(app) as server:
        await queue.send(b"a")
        request = asyncio.create_task(read(server.client.get("/")))
        await began.wait()
        with anyio.fail_after(30):
            await server.stop()
        assert await request == b""
        assert queue.receive_nowait().data == b"a"


async def read(request: Any) -> bytes:
    async with request as response:
        return await response.read()


# Applications -------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["its own", "of the one above"])
async def test_an_application_below_another(name: str, whose: str) -> None:
    async def events(request: web.Request) -> web.StreamResponse:
        return await stream_events(request, request.config_dict[QUEUE])

    below = web.Application()
    below.router.add_get("/events", events)
    app = web.Application()
    owner = below if whose == "its own" else app
    add_resource(owner, QUEUE, posix.MessageQueue.create, name)
    app.add_subapp("/below", below)
    async with serving(app) as server, server.client.get("/below/events") as response:
        await owner[QUEUE].send(b"a")
        assert await response.content.readuntil(b"\n\n") == b"data: a\n\n"
        with anyio.fail_after(30):
            await server.stop()
        assert await response.content.read() == b""


async def test_two_applications_shut_down_on_their_own(name: str) -> None:
    first = application(QUEUE, posix.MessageQueue.create, name)
    second = application(QUEUE, posix.MessageQueue.open, name)
    async with serving(first) as one, serving(second) as two:
        async with one.client.get("/") as to_one, two.client.get("/") as to_two:
            await until_waiting(first[QUEUE], 1)
            await two.stop()
            assert await to_two.content.read() == b""
            await first[QUEUE].send(b"a")
            assert await to_one.content.readuntil(b"\n\n") == b"data: a\n\n"


@pytest.mark.parametrize("is_set_up", [False, True])
async def test_handles_that_are_no_resources_need_setup(
    name: str, caplog: pytest.LogCaptureFixture, is_set_up: bool
) -> None:
    async def events(request: web.Request) -> web.StreamResponse:
        async with posix.MessageQueue.open(name) as queue:
            return await stream_events(request, queue)

    app = web.Application()
    app.router.add_get("/", events)
    if is_set_up:
        setup(app)
        setup(app)
    async with posix.MessageQueue.create(name) as queue, serving(app) as server:
        await queue.send(b"a")
        async with server.client.get("/") as response:
            if is_set_up:
                assert await response.content.readuntil(b"\n\n") == b"data: a\n\n"
            else:
                assert response.status == 500
                assert "call aioipc.aiohttp.setup(app)" in caplog.text
                assert queue.statistics().messages == 1


@pytest.mark.parametrize(
    ("stream", "options", "words"),
    [
        (stream_events, {"heartbeat": 0}, "ValueError: heartbeat 0 would write without a pause"),
        (stream_events, {"heartbeat": -1}, "ValueError: heartbeat -1 must be a number of seconds"),
        (stream_events, {"grace": -1}, "ValueError: grace -1 must be a number of seconds"),
        (stream_websocket, {"grace": "1"}, "TypeError: grace must be a number of seconds, not str"),
        (stream_websocket, {"borrow": True}, "TypeError: borrow=True takes a Channel"),
        (stream_events, {"source": b"a"}, "TypeError: the source must be a queue or a channel, not bytes"),
    ],
)
async def test_bad_arguments_fail_before_anything_is_written(
    name: str, caplog: pytest.LogCaptureFixture, stream: Callable[..., Awaitable[Any]], options: Options, words: str
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await stream(**{"request": request, "source": app[QUEUE], **options})
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    async with serving(app) as server, server.client.get("/") as response:
        assert response.status == 500
        assert words in caplog.text
