"""The aiohttp service as it is run: a process of its own, real clients, SIGTERM."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import posix_ipc
import pytest
from conftest import compile_c, running

import aioipc
from aioipc.posix import MessageQueue

HERE = Path(__file__).parents[2] / "examples" / "telemetry"

pytestmark = pytest.mark.asyncio


class Service:
    """The server process, its address and its queues."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, queue: str, commands: str) -> None:
        self.process = process
        self.url = url
        self.queue = queue
        self.commands = commands

    async def stop(self) -> int:
        """End it with SIGTERM; how many messages it has consumed."""
        self.process.send_signal(signal.SIGTERM)
        output, errors = await asyncio.wait_for(self.process.communicate(), 30)
        assert (self.process.returncode, errors.decode()) == (0, "")
        found = re.search(r"consumed (\d+) messages", output.decode())
        assert found is not None
        return int(found[1])


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_c(HERE / "client.c", tmp_path_factory.mktemp("telemetry") / "client")


@asynccontextmanager
async def serving(new_name: Callable[[], str], *options: str) -> AsyncIterator[Service]:
    queue, commands = new_name(), new_name()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(HERE / "server.py")),
        *("--port", "0", "--queue", queue, "--commands", commands, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        yield Service(process, url, queue, commands)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def next_event(response: aiohttp.ClientResponse) -> dict[str, object]:
    async for line in response.content:
        if line.startswith(b"data: "):
            event: dict[str, object] = json.loads(line.removeprefix(b"data: "))
            return event
    raise EOFError


async def test_messages_of_c_and_python_reach_the_browser(new_name: Callable[[], str], c_client: str) -> None:
    async with serving(new_name) as service, aiohttp.ClientSession(service.url) as session:
        async with session.get("/events") as response:
            assert response.content_type == "text/event-stream"
            for command in ([c_client], [sys.executable, str(HERE / "client.py")]):
                subprocess.run([*command, service.queue, "15"], check=True)
            events = [await next_event(response) for _ in range(30)]
        texts = [event["text"] for event in events]
        assert sorted(texts) == sorted(
            [f"temperature={20 + n % 10:.1f} number={n}" for n in range(15)]
            + [f"humidity={40 + n % 10} number={n}" for n in range(15)]
        )
        priorities = {event["text"]: event["priority"] for event in events}
        assert priorities["temperature=29.0 number=9"] == 10
        async with session.get("/messages") as response:
            assert [event["text"] for event in await response.json()] == texts
        assert await service.stop() == 30


async def test_a_post_goes_to_the_second_queue(new_name: Callable[[], str]) -> None:
    async with serving(new_name) as service, aiohttp.ClientSession(service.url) as session:
        async with session.post("/commands", data=b"open the window") as response:
            assert response.status == 202
        with closing(posix_ipc.MessageQueue(service.commands)) as bare:
            assert bare.receive(timeout=5) == (b"open the window", 0)
        async with session.post("/commands", data=b"x" * 257) as response:
            assert response.status == 413
            assert "257 bytes" in await response.text()
        statuses = []
        for _ in range(11):  # one more than fit
            async with session.post("/commands", data=b"again") as response:
                statuses.append(response.status)
        assert statuses == [202] * 10 + [503]
        await service.stop()


@pytest.mark.parametrize("stop_by", ["SIGTERM", "SIGINT"])
async def test_both_queues_are_removed_while_a_browser_listens(new_name: Callable[[], str], stop_by: str) -> None:
    async with serving(new_name) as service, aiohttp.ClientSession(service.url) as session:
        async with session.get("/events") as response:
            MessageQueue.open(service.queue).close()
            service.process.send_signal(getattr(signal, stop_by))
            with pytest.raises(EOFError):
                await next_event(response)
        await asyncio.wait_for(service.process.wait(), 30)
        for name in (service.queue, service.commands):
            with pytest.raises(aioipc.NotFoundError):
                MessageQueue.open(name)


async def test_stopped_with_messages_in_flight(new_name: Callable[[], str], mq: str) -> None:
    """What the server has not consumed is in the queue still, and nothing is lost between."""
    async with serving(new_name, "--persist") as service, aiohttp.ClientSession(service.url) as session:
        async with session.get("/events") as response:
            with running(mq, "count", service.queue, "100000", "20"):
                for _ in range(100):
                    await next_event(response)
                consumed = await service.stop()
                with MessageQueue.open(service.queue) as queue:
                    first = int((await queue.receive()).data)
                    assert first == consumed
                    left = [first]
                    while left[-1] < 99_999:
                        left.append(int((await queue.receive()).data))
                assert left == list(range(consumed, 100_000))


async def test_a_persistent_service_takes_over_what_was_left(new_name: Callable[[], str], mq: str) -> None:
    name = new_name()
    subprocess.run([mq, "create", name, "10", "256"], check=True)
    subprocess.run([mq, "send", name, "4", "from before"], check=True)

    def names() -> str:
        return queue_names.pop()

    queue_names = [new_name(), name]
    async with serving(names, "--persist") as service, aiohttp.ClientSession(service.url) as session:
        async with session.get("/messages") as response:
            (event,) = await response.json()
        assert (event["text"], event["priority"]) == ("from before", 4)
        assert await service.stop() == 1
    MessageQueue.open(name).close()


async def test_a_client_without_a_server_says_what_is_wrong(name: str) -> None:
    result = subprocess.run(
        [sys.executable, str(HERE / "client.py"), name, "1"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("[Errno 2] no queue has this name")
    assert "Traceback" not in result.stderr


async def test_the_demo(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(HERE / "demo.py")], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    assert "GET /messages: 15 messages" in result.stdout
    assert "POST /commands: 202; on the queue: Message(data=b'open the window', priority=0)" in result.stdout
    assert result.stdout.count(" is gone") == 2
