"""Messages that are handled in the background of an application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from conftest import passes, until
from serving import anyio_backend, serving  # noqa: F401

import aioipc
from aioipc import Channel, posix, sysv
from aioipc.aiohttp import add_consumer, add_resource

pytestmark = pytest.mark.anyio

NewName = Callable[[], str]

QUEUE = web.AppKey("queue", posix.MessageQueue)
JOBS = web.AppKey("jobs", sysv.MessageQueue)
CHANNEL = web.AppKey("channel", Channel)


class Handler:
    """Notes the messages that it gets, and holds them until it may go on."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.ended: list[bytes] = []
        self.may_end = asyncio.Event()

    async def __call__(self, app: web.Application, message: Any) -> None:
        data = getattr(message, "data", message)
        self.begun.append(data)
        await self.may_end.wait()
        self.ended.append(data)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "aioipc.aiohttp"]


# Handling -----------------------------------------------------------------------------


async def test_each_message_is_handled_with_the_application(name: str) -> None:
    answers = web.AppKey("answers", list[posix.Message])
    done = asyncio.Event()

    async def handle(app: web.Application, message: posix.Message) -> None:
        app[answers].append(message)
        if len(app[answers]) == 20:
            done.set()

    app = web.Application()
    app[answers] = []
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    consumer = add_consumer(app, QUEUE, handle)
    assert consumer.statistics() == (0, 0, 0, 0, 0, False)
    async with serving(app):
        for number in range(20):
            await app[QUEUE].send(b"%d" % number, priority=7)
        await done.wait()
        assert app[answers] == [posix.Message(b"%d" % number, 7) for number in range(20)]
        await until(lambda: app[QUEUE].statistics().tasks_waiting_receive == 1)
        assert consumer.statistics() == (20, 20, 0, 0, 0, True)
    assert consumer.statistics() == (20, 20, 0, 0, 0, False)


async def test_no_message_is_taken_unless_a_handler_is_free(name: str) -> None:
    handler = Handler()
    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    consumer = add_consumer(app, QUEUE, handler, concurrency=3)
    async with serving(app):
        for number in range(8):
            await app[QUEUE].send(b"%d" % number)
        await until(lambda: len(handler.begun) == 3)
        # Whoever could take a message would be in line for it; there is nobody, and there are messages.
        statistics = app[QUEUE].statistics()
        assert (statistics.messages, statistics.tasks_waiting_receive) == (5, 0)
        assert consumer.statistics()._asdict() == {
            "received": 3,
            "handled": 0,
            "failed": 0,
            "cancelled": 0,
            "running": 3,
            "active": True,
        }
        handler.may_end.set()
        await until(lambda: len(handler.ended) == 8)


async def test_a_handler_that_fails_is_logged_and_counted(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(app: web.Application, message: posix.Message) -> None:
        if message.data == b"bad":
            raise ZeroDivisionError
        if message.data == b"gives up":  # as if it had awaited what somebody else has cancelled
            raise asyncio.CancelledError

    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    consumer = add_consumer(app, QUEUE, handle)
    async with serving(app):
        for data in (b"bad", b"good", b"gives up", b"good"):
            await app[QUEUE].send(data)
        await until(lambda: consumer.statistics().received == 4)
        await until(lambda: app[QUEUE].statistics().tasks_waiting_receive == 1)
        assert consumer.statistics()[:5] == (4, 2, 2, 0, 0)
    assert len(logged(caplog)) == 2
    assert all(level == "ERROR" and "handle: a message could not be handled" in text for level, text in logged(caplog))
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("borrow", [False, True])
async def test_a_handler_that_the_application_cancels(
    name: str, caplog: pytest.LogCaptureFixture, borrow: bool
) -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def handle(app: web.Application, message: bytes) -> None:
        tasks.append(asyncio.current_task())
        if message != b"good":
            await asyncio.Event().wait()

    app = web.Application()
    add_resource(app, CHANNEL, Channel.create, name)
    consumer = add_consumer(app, CHANNEL, handle, borrow=borrow)
    async with serving(app):
        await app[CHANNEL].send_many([b"bad", b"worse", b"good"])
        for number in range(2):
            await until(lambda count=number + 1: len(tasks) == count)  # type: ignore[misc]
            task = tasks[number]
            assert task is not None
            task.cancel()
        await until(lambda: app[CHANNEL].statistics().tasks_waiting_receive == 1)
        assert consumer.statistics() == (3, 1, 0, 2, 0, True)
        assert app[CHANNEL].statistics().messages == 0  # as if it had failed: it is not borrowed again
    assert [level for level, _ in logged(caplog)] == ["WARNING"] * 2
    assert "handle: a handler was cancelled" in caplog.text


async def test_a_handler_that_is_not_async(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def handle(app: web.Application, message: posix.Message) -> None: ...

    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    consumer = add_consumer(app, QUEUE, handle)  # type: ignore[arg-type]
    async with serving(app):
        await app[QUEUE].send(b"x")
        await until(lambda: consumer.statistics().failed == 1)
    assert "TypeError: the handler must be an async function; it returned NoneType" in caplog.text


async def test_a_message_that_could_not_be_handled_is_not_borrowed_again(name: str) -> None:
    async def handle(app: web.Application, message: bytes) -> None:
        assert type(message) is bytes
        raise ZeroDivisionError

    app = web.Application()
    add_resource(app, CHANNEL, Channel.create, name)
    consumer = add_consumer(app, CHANNEL, handle, borrow=True)
    async with serving(app):
        await app[CHANNEL].send(b"a")
        await until(lambda: app[CHANNEL].statistics().messages == 0)
        assert consumer.statistics()[:5] == (1, 0, 1, 0, 0)


async def test_system_v_too(key: int) -> None:
    handler = Handler()
    handler.may_end.set()
    app = web.Application()
    add_resource(app, JOBS, sysv.MessageQueue.create, key)
    add_consumer(app, JOBS, handler, concurrency=2)
    async with serving(app):
        await until(lambda: app[JOBS].statistics().tasks_waiting_receive == 2)
        for number in range(5):
            await app[JOBS].send(b"%d" % number)
        await until(lambda: len(handler.ended) == 5)
    assert sorted(handler.ended) == [b"0", b"1", b"2", b"3", b"4"]


# Stopping -----------------------------------------------------------------------------


async def test_at_shutdown_what_runs_may_end_and_the_rest_stays(name: str, caplog: pytest.LogCaptureFixture) -> None:
    handler = Handler()
    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.open, name)
    consumer = add_consumer(app, QUEUE, handler, concurrency=2)
    async with posix.MessageQueue.create(name) as queue:
        async with serving(app) as server:
            for number in range(6):
                await queue.send(b"%d" % number)
            await until(lambda: len(handler.begun) == 2)
            stopping = asyncio.create_task(server.stop())
            await until(lambda: not consumer.statistics().active)
            handler.may_end.set()
            await stopping
        assert handler.ended == [b"0", b"1"]
        assert consumer.statistics() == (2, 2, 0, 0, 0, False)
        assert [(await queue.receive()).data for _ in range(4)] == [b"2", b"3", b"4", b"5"]
        assert queue.statistics().messages == 0
    assert logged(caplog) == []


@pytest.mark.parametrize("borrow", [False, True])
async def test_a_handler_that_does_not_end_is_cancelled(
    name: str, caplog: pytest.LogCaptureFixture, borrow: bool
) -> None:
    handler = Handler()
    app = web.Application()
    add_resource(app, CHANNEL, Channel.open, name)
    consumer = add_consumer(app, CHANNEL, handler, grace=0.01, borrow=borrow)
    async with Channel.create(name) as channel:
        async with serving(app):
            await channel.send_many([b"a", b"b"])
            await until(lambda: handler.begun == [b"a"])
        assert handler.ended == []
        assert consumer.statistics() == (1, 0, 0, 1, 0, False)
        assert logged(caplog) == [
            ("WARNING", f"consumer {handler!r}: 1 handlers did not end within 0.01 s, and are cancelled")
        ]
        left = [b"a", b"b"] if borrow else [b"b"]  # delivered again, or lost
        assert channel.receive_many_nowait(9) == left


@pytest.mark.parametrize("borrow", [False, True])
async def test_a_clean_up_that_is_cancelled_cancels_handlers(name: str, borrow: bool) -> None:
    handler = Handler()
    app = web.Application()
    add_resource(app, CHANNEL, Channel.open, name)
    consumer = add_consumer(app, CHANNEL, handler, grace=1000, borrow=borrow)
    async with Channel.create(name) as channel:
        async with serving(app) as server:
            await channel.send_many([b"a", b"b"])
            await until(lambda: handler.begun == [b"a"])
            stopping = asyncio.create_task(server.stop())
            await until(lambda: not consumer.statistics().active)
            await passes(20)  # until it waits for the handler
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            await until(lambda: consumer.statistics() == (1, 0, 0, 1, 0, False))
            assert handler.ended == []
            assert channel.receive_many_nowait(9) == ([b"a", b"b"] if borrow else [b"b"])


def test_handlers_do_not_hold_up_a_loop_that_ends_without_clean_up(name: str) -> None:
    async def main() -> None:
        app = web.Application()
        add_resource(app, CHANNEL, Channel.open, name)
        add_consumer(app, CHANNEL, handler, borrow=True)
        await web.AppRunner(app).setup()
        await app[CHANNEL].send_many([b"a", b"b"])
        await until(lambda: handler.begun == [b"a"])

    handler = Handler()
    with Channel.create(name) as channel:
        asyncio.run(main())
        assert handler.ended == []
        assert channel.receive_many_nowait(9) == [b"a", b"b"]


@pytest.mark.parametrize("grace", [0, 10])
async def test_consumers_that_wait_are_stopped_at_once_and_quietly(
    key: int, caplog: pytest.LogCaptureFixture, grace: float
) -> None:
    app = web.Application()
    add_resource(app, JOBS, sysv.MessageQueue.open, key)
    consumer = add_consumer(app, JOBS, Handler(), concurrency=10, grace=grace)
    async with sysv.MessageQueue.create(key) as jobs:
        async with serving(app):
            await until(lambda: app[JOBS].statistics().tasks_waiting_receive == 10)
        await jobs.send(b"")
        assert jobs.statistics().messages == 1
    assert consumer.statistics() == (0, 0, 0, 0, 0, False)
    assert logged(caplog) == []


async def test_stop_takes_no_more(name: str) -> None:
    handler = Handler()
    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    consumer = add_consumer(app, QUEUE, handler, concurrency=2)
    async with serving(app):
        await app[QUEUE].send(b"a")
        await until(lambda: handler.begun == [b"a"])
        consumer.stop()
        consumer.stop()
        await until(lambda: app[QUEUE].statistics().tasks_waiting_receive == 0)
        await app[QUEUE].send(b"b")
        handler.may_end.set()
        await until(lambda: handler.ended == [b"a"])
        await until(lambda: consumer.statistics() == (1, 1, 0, 0, 0, False))
        assert app[QUEUE].receive_nowait().data == b"b"


async def test_one_that_is_stopped_before_the_start(name: str) -> None:
    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    consumer = add_consumer(app, QUEUE, Handler())
    consumer.stop()
    async with serving(app):
        await app[QUEUE].send(b"a")
        assert not consumer.statistics().active
        assert app[QUEUE].receive_nowait().data == b"a"
    assert consumer.statistics() == (0, 0, 0, 0, 0, False)


@pytest.mark.parametrize("ending", ["end", "close", "remove"])
async def test_when_the_source_ends_the_server_goes_on(
    new_name: NewName, key: int, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    caplog.set_level(logging.INFO, "aioipc.aiohttp")
    app = web.Application()
    app.router.add_get("/", hello)
    add_resource(app, CHANNEL, Channel.create, new_name())
    add_resource(app, JOBS, sysv.MessageQueue.create, key)
    handler = Handler()
    handler.may_end.set()
    consumer = add_consumer(app, JOBS if ending == "remove" else CHANNEL, handler, concurrency=3)
    async with serving(app) as server:
        await until(lambda: app[JOBS if ending == "remove" else CHANNEL].statistics().tasks_waiting_receive == 3)
        if ending == "end":
            await app[CHANNEL].send(b"last")
            await app[CHANNEL].end()
        elif ending == "close":
            app[CHANNEL].close()
        else:
            app[JOBS].remove()
        await until(lambda: not consumer.statistics().active)
        async with server.client.get("/") as response:
            assert await response.text() == "hello"
    assert handler.ended == ([b"last"] if ending == "end" else [])
    [(level, text)] = logged(caplog)
    assert level == ("INFO" if ending == "end" else "WARNING")
    assert text.startswith(f"consumer {handler!r} ends: ")


async def test_a_source_that_fails_otherwise_ends_the_consumer(name: str, caplog: pytest.LogCaptureFixture) -> None:
    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, name, read=False)
    consumer = add_consumer(app, QUEUE, Handler(), concurrency=2)
    async with serving(app):
        await until(lambda: not consumer.statistics().active)
    assert {level for level, _ in logged(caplog)} == {"ERROR"}
    assert "AccessError" in caplog.text


# Applications -------------------------------------------------------------------------


async def test_two_applications_and_one_below_another(new_name: NewName) -> None:
    names = [new_name() for _ in range(3)]
    handlers = [Handler() for _ in names]
    apps = [web.Application() for _ in names]
    consumers = []
    for app, name, handler in zip(apps, names, handlers, strict=True):
        handler.may_end.set()
        add_resource(app, QUEUE, posix.MessageQueue.create, name)
        consumers.append(add_consumer(app, QUEUE, handler))
    apps[1].add_subapp("/below", apps[2])
    async with serving(apps[0]) as first, serving(apps[1]):
        for app, name in zip(apps, names, strict=True):
            await app[QUEUE].send(name.encode())
        await until(lambda: all(consumer.statistics().handled for consumer in consumers))
        await first.stop()
        assert [consumer.statistics().active for consumer in consumers] == [False, True, True]
    assert [handler.ended for handler in handlers] == [[name.encode()] for name in names]
    assert not any(consumer.statistics().active for consumer in consumers)


async def test_a_later_failure_at_the_start_stops_the_consumer(new_name: NewName) -> None:
    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, new_name())
    consumer = add_consumer(app, QUEUE, Handler())
    add_resource(app, CHANNEL, Channel.open, new_name())
    with pytest.raises(aioipc.NotFoundError):
        async with serving(app):
            pass
    assert not consumer.statistics().active
    assert "closed" in repr(app[QUEUE])


# Arguments ----------------------------------------------------------------------------


async def test_a_consumer_needs_its_resource_first(name: str) -> None:
    app = web.Application()
    add_consumer(app, QUEUE, Handler())
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    with pytest.raises(LookupError, match="call add_resource for it before"):
        async with serving(app):
            pass


async def test_only_a_channel_can_be_borrowed_from(name: str) -> None:
    app = web.Application()
    add_resource(app, QUEUE, posix.MessageQueue.create, name)
    add_consumer(app, QUEUE, Handler(), borrow=True)
    with pytest.raises(TypeError, match="borrow=True takes a Channel"):
        async with serving(app):
            pass


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"concurrency": 0}, ValueError, "concurrency 0 must be 1 to"),
        ({"concurrency": 1.5}, TypeError, "concurrency must be an integer"),
        ({"grace": -1}, ValueError, "grace -1 must be a number of seconds, 0 or more"),
        ({"grace": float("nan")}, ValueError, "grace nan"),
        ({"grace": float("inf")}, ValueError, "grace inf"),
        ({"grace": "1"}, TypeError, "grace must be a number of seconds, not str"),
        ({"handler": None}, TypeError, "the handler must be an async function, not NoneType"),
    ],
)
def test_bad_arguments_fail_at_once(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        add_consumer(web.Application(), QUEUE, **{"handler": Handler()} | options)
