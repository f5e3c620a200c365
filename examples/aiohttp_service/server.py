"""A coffee bar: orders come over a POSIX message queue or HTTP, and what is ready goes to browsers.

    python server.py [--port 8080] [--orders /orders] [--ready /ready]

    POST /orders     puts the body on the queue of orders; any program on the machine can do so by mq_send(3)
    GET  /ready      server-sent events: what is ready, each for one browser
    GET  /ready/ws   the same over a WebSocket
    GET  /status     JSON: what the baristas have done, and what is in the queue

Three baristas prepare the orders.  On SIGTERM or SIGINT they finish what they have begun.  Orders that nobody
has begun, and what is ready and no browser has got, wait for the next server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys

from aiohttp import web

import aioipc
from aioipc import Channel
from aioipc.aiohttp import Consumer, Event, add_consumer, add_resource, stream_events, stream_websocket
from aioipc.posix import Message, MessageQueue

ORDERS = web.AppKey("orders", MessageQueue)
READY = web.AppKey("ready", Channel)
BARISTAS = web.AppKey("baristas", Consumer)


async def prepare(app: web.Application, order: Message) -> None:
    await asyncio.sleep(0.05)  # stands for the coffee machine
    text = order.data.decode(errors="replace")
    if "decaf" in text:
        raise ValueError("we don't have that here")
    await app[READY].send(json.dumps({"text": text, "urgent": order.priority > 0}).encode())


async def order(request: web.Request) -> web.Response:
    priority = 1 if "urgent" in request.query else 0
    try:
        async with asyncio.timeout(1):
            await request.app[ORDERS].send(await request.read(), priority=priority)
    except TimeoutError:
        raise web.HTTPServiceUnavailable(text="the queue is full\n") from None
    except aioipc.MessageTooLongError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from None
    return web.Response(status=202)


def as_event(message: bytes) -> Event:
    ready = json.loads(message)
    return Event(ready["text"], event="urgent" if ready["urgent"] else "ready")


async def ready(request: web.Request) -> web.StreamResponse:
    return await stream_events(request, request.app[READY], as_event, heartbeat=15, borrow=True)


async def ready_websocket(request: web.Request) -> web.StreamResponse:
    response = web.WebSocketResponse(heartbeat=30)
    return await stream_websocket(request, request.app[READY], response=response, borrow=True)


async def status(request: web.Request) -> web.Response:
    baristas = request.app[BARISTAS].statistics()
    return web.json_response({"baristas": baristas._asdict(), "queued": request.app[ORDERS].statistics().messages})


def make_app(orders: str, ready_name: str) -> web.Application:
    app = web.Application()
    app.add_routes(
        [
            web.post("/orders", order),
            web.get("/ready", ready),
            web.get("/ready/ws", ready_websocket),
            web.get("/status", status),
        ]
    )
    # What is in them outlives the server, and the next one takes them over.
    add_resource(app, ORDERS, MessageQueue.create, orders, max_message_size=256, exist_ok=True, persist=True)
    add_resource(app, READY, Channel.create, ready_name, exist_ok=True, persist=True)
    app[BARISTAS] = add_consumer(app, ORDERS, prepare, concurrency=3, grace=5)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free one")
    parser.add_argument("--orders", default="/orders")
    parser.add_argument("--ready", default="/ready")
    arguments = parser.parse_args()
    app = make_app(arguments.orders, arguments.ready)

    async def announce(app: web.Application) -> None:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)

    app.on_startup.append(announce)
    try:
        with socket.create_server(("127.0.0.1", arguments.port)) as listener:
            web.run_app(app, sock=listener, print=None)
    except (aioipc.Error, OSError, ValueError) as error:  # OSError: the port is taken, say
        sys.exit(str(error))
    done = app[BARISTAS].statistics()
    print(f"{done.handled} orders prepared, {done.failed} failed, {done.cancelled} given up", flush=True)


if __name__ == "__main__":
    main()
