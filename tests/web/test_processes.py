"""A server as it is deployed: a process of its own, run by web.run_app, ended by a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType
from conftest import complaints

import aioipc
from aioipc import Channel, posix

SERVICE = Path(__file__).parent / "service.py"

pytestmark = pytest.mark.asyncio

loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@pytest.fixture
def names(new_name: Callable[[], str]) -> tuple[str, str, str]:
    """For what the service uses, and what it makes."""
    name = new_name()
    return name, name + "-events", new_name()


@asynccontextmanager
async def service(*arguments: str) -> AsyncIterator[Process]:
    """The process, which is killed if the block fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", str(SERVICE), *arguments), stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(30):  # half of what aiohttp would wait for its clients
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def said(process: Process) -> str:
    """The next line."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def messages(channel: Channel) -> list[bytes]:
    return channel.receive_many_nowait(100) if channel.statistics().messages else []


@loops
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_handlers_end_and_clients_go(
    names: tuple[str, str, str], loop: str, number: signal.Signals
) -> None:
    name, events, made = names
    async with (
        Channel.create(name) as channel,
        Channel.create(events),
        posix.MessageQueue.create(name) as may_end,
        service(loop, "20", name, made, "-") as process,
        aiohttp.ClientSession(await said(process)) as session,
        session.get("/events") as response,
        session.ws_connect("/socket") as socket,
    ):
        await channel.send_many([b"0", b"1", b"2", b"3"])
        assert {await said(process), await said(process)} == {"begun 0", "begun 1"}
        process.send_signal(number)
        assert await said(process) == "stopping"
        assert await response.content.read() == b""
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1001
        for _ in range(2):
            await may_end.send(b"")
        output, errors = await process.communicate()
        assert (process.returncode, output, complaints(errors.decode())) == (0, b"handled 2 cancelled 0\n", [])
        assert messages(channel) == [b"2", b"3"]
        with pytest.raises(aioipc.NotFoundError):
            posix.MessageQueue.open(made)


@loops
async def test_after_the_grace_period_handlers_are_cancelled(names: tuple[str, str, str], loop: str) -> None:
    name, events, made = names
    async with (
        Channel.create(name) as channel,
        Channel.create(events),
        posix.MessageQueue.create(name) as may_end,
        service(loop, "0.01", name, made, "-") as process,
    ):
        await channel.send_many([b"0", b"1", b"2"])
        await said(process)
        assert {await said(process), await said(process)} == {"begun 0", "begun 1"}
        process.terminate()
        output, errors = await process.communicate()
        assert (process.returncode, output) == (0, b"stopping\nhandled 0 cancelled 2\n")
        assert complaints(errors.decode()) == [
            "consumer handle: 2 handlers did not end within 0.01 s, and are cancelled"
        ]
        assert sorted(messages(channel)) == [b"0", b"1", b"2"]
        await may_end.send(b"")
        assert may_end.statistics().messages == 1


async def test_what_a_killed_server_has_borrowed_goes_to_the_next(names: tuple[str, str, str]) -> None:
    name, events, made = names
    async with (
        Channel.create(name) as channel,
        Channel.create(events),
        posix.MessageQueue.create(name) as may_end,
        service("asyncio", "20", name, made, "-") as process,
    ):
        await channel.send_many([b"0", b"1", b"2"])
        await said(process)
        assert {await said(process), await said(process)} == {"begun 0", "begun 1"}
        await may_end.send(b"")
        assert await said(process) == "begun 2"
        process.kill()
        await process.wait()
        again = [await channel.receive(), await channel.receive()]
        assert b"2" in again
        assert channel.statistics().messages == 0
        async with posix.MessageQueue.open(made) as queue:
            queue.unlink()  # nobody else could


@loops
async def test_an_error_at_the_start_ends_it_and_leaves_nothing(
    names: tuple[str, str, str], new_name: Callable[[], str], loop: str
) -> None:
    name, events, made = names
    taken = new_name()
    async with (
        Channel.create(name) as channel,
        Channel.create(events),
        posix.MessageQueue.create(name),
        posix.MessageQueue.create(taken),
        service(loop, "20", name, made, taken) as process,
    ):
        await channel.send(b"0")
        output, errors = await process.communicate()
        assert process.returncode == 1
        assert output in (b"", b"begun 0\n")
        assert errors.decode().count("Traceback") == 1
        assert errors.decode().splitlines()[-1].startswith("aioipc.errors.ExistsError: [Errno 17]")
        assert messages(channel) == [b"0"]
        with pytest.raises(aioipc.NotFoundError):
            posix.MessageQueue.open(made)
