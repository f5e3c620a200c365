"""Objects that live as long as an application."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import as_nobody
from serving import anyio_backend, serving  # noqa: F401

import aioipc
from aioipc import Channel, posix, sysv
from aioipc.aiohttp import add_resource

pytestmark = pytest.mark.anyio

KINDS = {
    "posix queue": (posix.MessageQueue, {}),
    "posix semaphore": (posix.Semaphore, {"value": 3}),
    "posix memory": (posix.SharedMemory, {"size": 10}),
    "channel": (Channel, {}),
    "sysv queue": (sysv.MessageQueue, {}),
    "sysv semaphores": (sysv.SemaphoreSet, {"values": [3]}),
    "sysv memory": (sysv.SharedMemory, {"size": 10}),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, name: str, key: int) -> tuple[type[Any], Any, dict[str, Any]]:
    """A class, the name or key of an object that does not exist yet, and what it is made of."""
    cls, options = KINDS[request.param]
    return cls, key if cls.__module__.startswith("aioipc.sysv") else name, options


async def test_it_exists_while_the_application_runs(kind: tuple[type[Any], Any, dict[str, Any]]) -> None:
    cls, found_by, options = kind
    resource = web.AppKey("resource", object)
    app = web.Application()
    add_resource(app, resource, cls.create, found_by, **options)
    with pytest.raises(aioipc.NotFoundError):
        cls.open(found_by)
    async with serving(app):
        made = app[resource]
        assert isinstance(made, cls)
        cls.open(found_by).close()
    with pytest.raises(aioipc.NotFoundError):
        cls.open(found_by)
    assert "closed" in repr(made)


def test_without_aiohttp() -> None:
    program = "import sys; sys.modules['aiohttp'] = None; import aioipc.aiohttp"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "install aioipc with its extra `aiohttp`" in result.stderr


def test_a_resource_that_has_been_made_already(name: str) -> None:
    with posix.MessageQueue.create(name) as queue:
        with pytest.raises(
            TypeError, match="it takes what makes the resource, and its arguments after that, not a Mess"
        ):
            add_resource(web.Application(), web.AppKey("queue", object), queue)  # type: ignore[arg-type]


async def test_what_is_only_opened_stays(kind: tuple[type[Any], Any, dict[str, Any]]) -> None:
    cls, found_by, options = kind
    resource = web.AppKey("resource", object)
    app = web.Application()
    add_resource(app, resource, cls.open, found_by)
    with cls.create(found_by, **options):
        async with serving(app):
            pass
        assert "closed" in repr(app[resource])
        cls.open(found_by).close()


async def test_a_semaphore_is_not_acquired(name: str) -> None:
    printer = web.AppKey("printer", posix.Semaphore)
    app = web.Application()
    add_resource(app, printer, posix.Semaphore.create, name, value=1)
    async with serving(app):
        assert app[printer].value == 1


async def test_the_end_of_a_fifo(tmp_path: Path) -> None:
    orders = web.AppKey("orders", posix.FifoReader)
    app = web.Application()
    with posix.Fifo.create(tmp_path / "orders"):
        add_resource(app, orders, posix.Fifo.open_reader, tmp_path / "orders", keep_open=True)
        async with serving(app):
            (tmp_path / "orders").write_bytes(b"two coffees")
            assert await app[orders].receive() == b"two coffees"


async def test_handlers_use_it(name: str) -> None:
    orders = web.AppKey("orders", posix.MessageQueue)

    async def order(request: web.Request) -> web.Response:
        await request.app[orders].send(await request.read())
        return web.Response(status=202)

    app = web.Application()
    app.router.add_post("/", order)
    add_resource(app, orders, posix.MessageQueue.create, name)
    async with serving(app) as server, server.client.post("/", data=b"two coffees") as response:
        assert response.status == 202
        assert (await app[orders].receive()).data == b"two coffees"


async def test_an_error_stops_the_start_and_what_was_there_is_cleaned_up(new_name: Callable[[], str]) -> None:
    first, second = web.AppKey("first", posix.MessageQueue), web.AppKey("second", posix.MessageQueue)
    first_name, taken = new_name(), new_name()
    app = web.Application()
    add_resource(app, first, posix.MessageQueue.create, first_name)
    add_resource(app, second, posix.MessageQueue.create, taken)
    with posix.MessageQueue.create(taken):
        with pytest.raises(aioipc.ExistsError, match=taken):
            async with serving(app):
                pass
        assert "closed" in repr(app[first])
        with pytest.raises(aioipc.NotFoundError):
            posix.MessageQueue.open(first_name)
        posix.MessageQueue.open(taken).close()


def test_the_queue_of_another_user_stops_the_start(name: str) -> None:
    async def start() -> None:
        app = web.Application()
        add_resource(app, web.AppKey("orders", posix.MessageQueue), posix.MessageQueue.open, name)
        async with serving(app):
            pass

    with posix.MessageQueue.create(name), pytest.raises(aioipc.AccessError):
        as_nobody(lambda: asyncio.run(start()))


async def test_the_last_is_cleaned_up_first(new_name: Callable[[], str]) -> None:
    cleaned: list[str] = []

    class Noted(ExitStack):
        def __init__(self, word: str) -> None:
            super().__init__()
            self.callback(cleaned.append, word)

    app = web.Application()
    for word in "abc":
        add_resource(app, web.AppKey(word, Noted), Noted, word)
    async with serving(app):
        assert cleaned == []
    assert cleaned == ["c", "b", "a"]


async def test_two_applications_and_one_below_another_have_their_own(new_name: Callable[[], str]) -> None:
    orders = web.AppKey("orders", posix.MessageQueue)
    names = [new_name() for _ in range(3)]
    apps = [web.Application() for _ in names]
    for app, name in zip(apps, names, strict=True):
        add_resource(app, orders, posix.MessageQueue.create, name)
    apps[1].add_subapp("/below", apps[2])
    async with serving(apps[0]), serving(apps[1]):
        assert [app[orders].name for app in apps] == names
    for name in names:
        with pytest.raises(aioipc.NotFoundError):
            posix.MessageQueue.open(name)
