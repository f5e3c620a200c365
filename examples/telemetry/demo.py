"""The whole exercise in a few seconds: server, C client, Python client, browser, SIGTERM.

python examples/telemetry/demo.py        (needs a C compiler, and pip install 'aioipc[aiohttp]')
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import aiohttp

import aioipc
from aioipc.posix import MessageQueue

HERE = Path(__file__).parent
QUEUE, COMMANDS = f"/telemetry-{os.getpid()}", f"/commands-{os.getpid()}"


async def run(*command: str) -> None:
    print(f"$ {Path(command[0]).name} {' '.join(command[1:])}".replace(f"{HERE}/", ""))
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait() != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}")


async def first_events(session: aiohttp.ClientSession, count: int, ready: asyncio.Event) -> None:
    async with session.get("/events") as response:
        ready.set()
        async for line in response.content:
            if line.startswith(b"data: "):
                event = json.loads(line.removeprefix(b"data: "))
                print(f"  event: priority {event['priority']:2}  {event['text']}")
                count -= 1
                if count == 0:
                    return


async def main() -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "server.py"),
        *("--port", "0", "--queue", QUEUE, "--commands", COMMANDS),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        url = (await server.stdout.readline()).decode().strip()
        if not url:
            sys.exit("the server did not start")
        print(f"the server runs at {url} and has created {QUEUE} and {COMMANDS}")
        async with aiohttp.ClientSession(url) as session, asyncio.timeout(30):
            ready = asyncio.Event()
            browser = asyncio.create_task(first_events(session, 15, ready))
            await ready.wait()
            with tempfile.TemporaryDirectory() as folder:
                await run("cc", str(HERE / "client.c"), "-o", f"{folder}/client", "-lrt")
                await run(f"{folder}/client", QUEUE, "10")
            await run(sys.executable, str(HERE / "client.py"), QUEUE, "5")
            await browser

            async with session.get("/messages") as response:
                print(f"GET /messages: {len(await response.json())} messages")
            async with (
                session.post("/commands", data=b"open the window") as response,
                MessageQueue.open(COMMANDS) as commands,
            ):
                print(f"POST /commands: {response.status}; on the queue: {await commands.receive()}")
    finally:
        server.send_signal(signal.SIGTERM)
        await server.wait()
    print(f"SIGTERM: the server ended with {server.returncode}", end="")
    for name in (QUEUE, COMMANDS):
        try:
            MessageQueue.open(name).close()
        except aioipc.NotFoundError:
            print(f", {name} is gone", end="")
    print()


asyncio.run(main())
