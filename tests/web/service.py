"""A server in a process of its own: python service.py LOOP GRACE NAME MADE TAKEN

It consumes the channel NAME, two messages at a time, and streams what comes to NAME-events to its clients.  A handler
ends when there is a message in the queue NAME.  It creates the queue MADE, and TAKEN unless that is "-".
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop
from aiohttp import web

from aioipc import Channel, posix
from aioipc.aiohttp import add_consumer, add_resource, stream_events, stream_websocket

CHANNEL = web.AppKey("channel", Channel)
EVENTS = web.AppKey("events", Channel)
MAY_END = web.AppKey("may end", posix.MessageQueue)
MADE = web.AppKey("made", posix.MessageQueue)
TAKEN = web.AppKey("taken", posix.MessageQueue)


def say(*words: object) -> None:
    print(*words, flush=True)


async def handle(app: web.Application, message: bytes) -> None:
    say("begun", message.decode())
    await app[MAY_END].receive()


async def events(request: web.Request) -> web.StreamResponse:
    return await stream_events(request, request.app[EVENTS])


async def websocket(request: web.Request) -> web.StreamResponse:
    return await stream_websocket(request, request.app[EVENTS])


async def tell_start(app: web.Application) -> None:
    say(f"http://127.0.0.1:{listener.getsockname()[1]}")


async def tell_shutdown(app: web.Application) -> None:
    say("stopping")


loop, grace, name, made, taken = sys.argv[1:]
app = web.Application()
app.add_routes([web.get("/events", events), web.get("/socket", websocket)])
add_resource(app, MADE, posix.MessageQueue.create, made)
add_resource(app, MAY_END, posix.MessageQueue.open, name)
add_resource(app, CHANNEL, Channel.open, name)
add_resource(app, EVENTS, Channel.open, name + "-events")
consumer = add_consumer(app, CHANNEL, handle, concurrency=2, grace=float(grace), borrow=True)
if taken != "-":
    add_resource(app, TAKEN, posix.MessageQueue.create, taken)
app.on_startup.append(tell_start)
app.on_shutdown.append(tell_shutdown)
new_loop = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
with socket.create_server(("127.0.0.1", 0)) as listener:
    web.run_app(app, sock=listener, print=None, access_log=None, loop=new_loop())
statistics = consumer.statistics()
say("handled", statistics.handled, "cancelled", statistics.cancelled)
