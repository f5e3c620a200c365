"""A web server at a POSIX message queue.

    python server.py [--port 8080] [--queue /telemetry] [--commands /commands] [--persist]

It creates two queues.  What programs on this machine put on the first is offered as

    GET  /messages   JSON: the last hundred messages
    GET  /events     server-sent events: each message as it arrives

and what is sent to it with

    POST /commands   the body, at most 256 bytes

goes to the second.  SIGTERM and SIGINT stop it; both queues are removed then, unless
--persist keeps them, with what is in them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator

from aiohttp import web

import aioipc
from aioipc.posix import Message, MessageQueue

MAX_MESSAGES = 10
MAX_MESSAGE_SIZE = 256


class Hub:
    """The latest messages, and the clients that want each as it comes."""

    def __init__(self) -> None:
        self.count = 0
        self.recent: deque[dict[str, object]] = deque(maxlen=100)
        self.clients: set[asyncio.Queue[dict[str, object] | None]] = set()

    def publish(self, message: Message) -> None:
        self.count += 1
        text = message.data.decode(errors="replace")
        event = {"text": text, "priority": message.priority, "received": time.time()}
        self.recent.append(event)
        for client in list(self.clients):
            if client.full():
                self.drop(client)  # too slow: it may come again
            else:
                client.put_nowait(event)

    def drop(self, client: asyncio.Queue[dict[str, object] | None]) -> None:
        self.clients.discard(client)
        if client.full():
            client.get_nowait()
        client.put_nowait(None)


arguments_key = web.AppKey("arguments", argparse.Namespace)
hub_key = web.AppKey("hub", Hub)
commands_key = web.AppKey("commands", MessageQueue)


async def queues(app: web.Application) -> AsyncIterator[None]:
    """Create both queues and consume the first, as long as the application runs."""
    arguments, hub = app[arguments_key], app[hub_key]
    attributes = {
        "max_messages": MAX_MESSAGES,
        "max_message_size": MAX_MESSAGE_SIZE,
        "exist_ok": arguments.persist,
        "persist": arguments.persist,
    }

    async def consume() -> None:
        async for message in queue:
            try:
                hub.publish(message)
            except Exception:
                logging.exception("message of priority %d", message.priority)

    async with (
        MessageQueue.create(arguments.queue, **attributes) as queue,
        MessageQueue.create(arguments.commands, **attributes) as app[commands_key],
    ):
        consumer = asyncio.create_task(consume())
        print(f"http://127.0.0.1:{arguments.port}", flush=True)
        yield
        queue.close()  # ends the iteration; what it has not taken stays in the queue
        await consumer
    print(f"consumed {hub.count} messages", flush=True)


async def end_streams(app: web.Application) -> None:
    """Let the streams end, or the server would wait for its clients to go."""
    for client in list(app[hub_key].clients):
        app[hub_key].drop(client)


async def messages(request: web.Request) -> web.Response:
    return web.json_response(list(request.app[hub_key].recent))


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    hub = request.app[hub_key]
    client: asyncio.Queue[dict[str, object] | None] = asyncio.Queue(maxsize=1000)
    hub.clients.add(client)
    try:
        while (event := await client.get()) is not None:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
    except ConnectionResetError:
        pass  # the client has gone
    finally:
        hub.clients.discard(client)
    return response


async def command(request: web.Request) -> web.Response:
    try:
        async with asyncio.timeout(1):
            await request.app[commands_key].send(await request.read())
    except TimeoutError:
        raise web.HTTPServiceUnavailable(text="nobody takes the commands: the queue is full\n") from None
    except aioipc.MessageTooLongError as error:
        raise web.HTTPRequestEntityTooLarge(MAX_MESSAGE_SIZE, 0, text=f"{error}\n") from None
    return web.Response(status=202)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free one")
    parser.add_argument("--queue", default="/telemetry")
    parser.add_argument("--commands", default="/commands")
    parser.add_argument("--persist", action="store_true", help="take over the queues that exist, and leave them")
    app = web.Application()
    app[arguments_key] = parser.parse_args()
    app[hub_key] = Hub()
    app.cleanup_ctx.append(queues)
    app.on_shutdown.append(end_streams)
    app.add_routes([web.get("/messages", messages), web.get("/events", events), web.post("/commands", command)])

    listener = socket.create_server(("127.0.0.1", app[arguments_key].port))
    app[arguments_key].port = listener.getsockname()[1]
    try:
        web.run_app(app, sock=listener, print=None)
    except (aioipc.Error, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
