"""The coffee bar in a few seconds: the server, browsers, customers, SIGTERM in the middle, and who takes over.

python examples/aiohttp_service/demo.py        (needs pip install 'aioipc[aiohttp]')
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from aiohttp import WSMsgType

import aioipc
from aioipc.posix import MessageQueue

HERE = Path(__file__).parent
ORDERS, READY = f"/orders-{os.getpid()}", f"/ready-{os.getpid()}"


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Process, aiohttp.ClientSession]]:
    command = (str(HERE / "server.py"), "--port", "0", "--orders", ORDERS, "--ready", READY)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, stderr=PIPE)
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        if not url:
            sys.exit("the server did not start")
        print(f"the server runs at {url}")
        async with aiohttp.ClientSession(url) as browser:
            yield process, browser
    finally:
        if process.returncode is None:  # only if something has failed
            process.kill()
            await process.wait()


async def next_event(response: aiohttp.ClientResponse) -> str:
    lines = (await response.content.readuntil(b"\n\n")).decode().splitlines()
    fields = dict(line.split(": ", 1) for line in lines if line != ":")
    return f"{fields['event']}: {fields['data']}"


async def stop(process: Process) -> int:
    """End the server by SIGTERM; how many orders it has prepared."""
    process.terminate()
    output, errors = await process.communicate()
    summary = output.decode().strip()
    print(f"SIGTERM: the server ended with {process.returncode}; {summary}")
    assert process.returncode == 0, errors.decode()
    found = re.match(r"(\d+) orders prepared, \d+ failed, 0 given up", summary)
    assert found is not None, summary
    return int(found[1])


async def first_server() -> int:
    async with serving() as (process, browser):
        async with browser.get("/ready") as events:
            async with browser.post("/orders", data=b"two coffees") as response:
                assert response.status == 202
            print("  to one browser  ", text := await next_event(events))
            assert text == "ready: two coffees"

            async with MessageQueue.open(ORDERS) as orders:  # as any program on the machine
                await orders.send(b"an espresso for the fire brigade", priority=1)
            print("  to one browser  ", text := await next_event(events))
            assert text == "urgent: an espresso for the fire brigade"

        async with browser.ws_connect("/ready/ws") as socket:
            # The first browser has gone: nothing is taken for it any more.
            await browser.post("/orders", data=b"decaf")
            await browser.post("/orders", data=b"a cup of tea")
            text = await socket.receive_str()
            print("  to another one  ", text)
            assert "a cup of tea" in text

            async with MessageQueue.open(ORDERS) as orders:
                for number in range(9):  # more than three baristas can prepare before the server ends
                    await orders.send(b"coffee %d" % number)
                prepared = await stop(process)
                left = orders.statistics().messages
            while (message := await socket.receive()).type is WSMsgType.TEXT:
                print("  to another one  ", message.data)
            print(f"  the WebSocket is closed with {socket.close_code}; {left} orders are in the queue")
            assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
            assert prepared + left == 3 + 9
            return left


async def second_server(left: int) -> None:
    async with serving() as (process, browser), browser.get("/ready") as events:
        for _ in range(left):
            print("  to one browser  ", text := await next_event(events))
            assert text.startswith("ready: coffee ")
        assert await stop(process) == left


async def main() -> None:
    try:
        async with asyncio.timeout(30):
            await second_server(await first_server())
    finally:
        with suppress(aioipc.NotFoundError), MessageQueue.open(ORDERS) as orders:
            orders.unlink()  # which the servers leave to each other


asyncio.run(main())
