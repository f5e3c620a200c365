"""The coffee bar in a few seconds: the server, browsers, customers, SIGTERM in the middle, and who takes over.

python examples/aiohttp_service/demo.py        (needs pip install 'aioipc[aiohttp]')
"""

from __future__ import annotations

import asyncio
import json
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
from aioipc import Channel
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
    text = (await response.content.readuntil(b"\n\n")).decode()
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines())
    print(f"  to one browser: {fields['event']}, {fields['data']}")
    return fields["data"]


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


async def order(browser: aiohttp.ClientSession, text: str) -> None:
    async with browser.post("/orders", data=text.encode()) as response:
        assert response.status == 202


async def first_server() -> list[str]:
    """What browsers were told to be ready."""
    async with serving() as (process, browser):
        async with browser.get("/ready") as events:
            await order(browser, "two coffees")
            told = [await next_event(events)]
            async with MessageQueue.open(ORDERS) as orders:  # as any program on the machine
                await orders.send(b"an espresso for the fire brigade", priority=1)
            told.append(await next_event(events))

        async with browser.ws_connect("/ready/ws") as socket, MessageQueue.open(ORDERS) as orders:
            # The first browser has gone: nothing is taken for it any more.
            await order(browser, "decaf")  # which the baristas refuse
            await order(browser, "a cup of tea")
            told.append((await socket.receive_json())["text"])
            print(f"  to another one: {told[-1]}")

            for number in range(9):  # more than three baristas have time for
                await orders.send(b"coffee %d" % number)
            stopping = asyncio.create_task(stop(process))
            while (message := await socket.receive()).type is WSMsgType.TEXT:
                told.append(json.loads(message.data)["text"])
                print(f"  to another one: {told[-1]}")
            assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
            prepared, left = await stopping, orders.statistics().messages
            print(f"  the WebSocket says goodbye, and {left} orders are in the queue")
            assert prepared + left == 3 + 9
            return told


async def second_server(told: list[str]) -> list[str]:
    """What browsers were told to be ready, by both servers."""
    async with serving() as (process, browser), browser.get("/ready") as events:
        while len(told) < 3 + 9:
            told.append(await next_event(events))
        await stop(process)
        return told


async def main() -> None:
    try:
        async with asyncio.timeout(30):
            told = await second_server(await first_server())
    finally:  # what the servers leave to each other
        with suppress(aioipc.NotFoundError), MessageQueue.open(ORDERS) as orders:
            orders.unlink()
        with suppress(aioipc.NotFoundError), Channel.open(READY) as ready:
            ready.unlink()
    expected = ["two coffees", "an espresso for the fire brigade", "a cup of tea", *(f"coffee {n}" for n in range(9))]
    assert sorted(told) == sorted(expected)
    print(f"{len(told)} of {len(expected)} orders were prepared, and browsers were told of each once")


asyncio.run(main())
