"""receive and tail: take messages out of a queue or a channel."""

from __future__ import annotations

import base64
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import click

from aioipc import Channel, posix, sysv
from aioipc.cli._codes import NOTHING, OK
from aioipc.cli._messages import MESSAGES, TIMEOUT, Queue, check_option, open_queue, within
from aioipc.cli._output import complain, explain, printable
from aioipc.cli._running import event_loop
from aioipc.cli._stdout import reader_needed, write
from aioipc.errors import EndOfStream, Error

_Command = TypeVar("_Command", bound=Callable[..., Any])

_Message = posix.Message | sysv.Message | bytes


def _options(command: _Command) -> _Command:
    options = (
        click.argument("address", type=MESSAGES),
        click.option("-t", "--type", "type_", type=int, help="Of a System V queue: as in msgrcv(2), also negative."),
        click.option("--exclude", type=click.IntRange(min=1), help="Of a System V queue: all but this type."),
        click.option("--json", "form", flag_value="json", help="Write a line of JSON for each."),
        click.option("--hex", "form", flag_value="hex", help="Write hexadecimal digits, a line for each."),
        click.option("--raw", "form", flag_value="raw", help="Write the bytes alone, without the end of a line."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Take so many.")
@click.option("--timeout", type=TIMEOUT, metavar="SECONDS", help="Wait no longer for each; 0 not at all.")
def receive(
    address: str, type_: int | None, exclude: int | None, form: str | None, count: int, timeout: float | None
) -> int:
    """Receive a message: take it out of a queue or a channel, and write it.

    Each is written with the end of a line; a terminal is shown what is not printable escaped.  The exit code is 1
    if none came in time, or the channel has ended.
    """
    return _run(address, type_, exclude, form, count, timeout)


@click.command()
@_options
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many.")
def tail(address: str, type_: int | None, exclude: int | None, form: str | None, count: int | None) -> int:
    """Follow a queue or a channel: show each message as it arrives.  This CONSUMES the messages.

    Each message goes to one receiver, so what is shown here is taken away from all others.  To see how many there
    are without taking any, use `aioipc watch`.

    It ends with Ctrl-C, after --count messages, when a channel has ended, and when nobody reads its output any more.
    To stop after some use --count: what `head` leaves unread has been taken, too.
    """
    _run(address, type_, exclude, form, count, None, is_tail=True)
    return OK


def _run(
    address: str,
    type_: int | None,
    exclude: int | None,
    form: str | None,
    count: int | None,
    timeout: float | None,
    is_tail: bool = False,
) -> int:
    source = MESSAGES.resolve(address)
    check_option("--type", type_, source, "msg")
    check_option("--exclude", exclude, source, "msg")
    if type_ is not None and exclude is not None:
        raise click.UsageError("--type and --exclude can't both be given")
    with open_queue(source, receiving=True) as queue, event_loop() as runner:
        if is_tail:
            complain(f"{address}: each message shown here is consumed, and no other receiver gets it")
        try:
            runner.run(_receive, lambda: _next(queue, type_ or 0, exclude, timeout), form, count)
        except TimeoutError:
            complain(f"{address}: no message came in time")
            return NOTHING
        except EndOfStream:
            if not is_tail:
                complain(f"{address} has ended")
                return NOTHING
    return OK


async def _receive(
    take: Callable[[], AbstractAsyncContextManager[_Message]], form: str | None, count: int | None
) -> None:
    for _ in range(count) if count is not None else itertools.count():
        async with AsyncExitStack() as stack:
            with reader_needed():
                message = await stack.enter_async_context(take())
            await write(_formed(message, form))


@asynccontextmanager
async def _next(queue: Queue, type_: int, exclude: int | None, seconds: float | None) -> AsyncIterator[_Message]:
    """A block with the next message, which goes back if that can't be written.

    :raises TimeoutError: if none has come after so many seconds
    """
    if isinstance(queue, Channel):
        async with AsyncExitStack() as stack:
            view = await within(
                seconds,
                lambda: stack.enter_context(queue.borrow_nowait()),
                lambda: stack.enter_async_context(queue.borrow()),
            )
            yield bytes(view)
        return
    options: dict[str, Any] = {"type": type_, "exclude": exclude} if isinstance(queue, sysv.MessageQueue) else {}
    message: posix.Message | sysv.Message = await within(
        seconds, lambda: queue.receive_nowait(**options), lambda: queue.receive(**options)
    )
    try:
        yield message
    except BaseException:
        try:
            queue.send_nowait(message)  # type: ignore[arg-type]
        except Error as error:
            text = json.dumps(_as_json(message, message.data))
            complain(f"a message that could not be written can't go back either ({explain(error)}): {text}")
        raise


def _formed(message: _Message, form: str | None) -> bytes:
    data = message if isinstance(message, bytes) else message.data
    if form == "raw":
        return data
    if form == "hex":
        return data.hex().encode("ascii") + b"\n"
    if form == "json":
        return json.dumps(_as_json(message, data)).encode("ascii") + b"\n"
    if sys.stdout.isatty():
        return printable(data.decode("utf-8", "backslashreplace")).encode() + b"\n"
    return data + b"\n"


def _as_json(message: _Message, data: bytes) -> dict[str, object]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    found: dict[str, object] = {"data": text, "base64": base64.b64encode(data).decode("ascii")}
    if isinstance(message, posix.Message):
        found["priority"] = message.priority
    elif isinstance(message, sysv.Message):
        found["type"] = message.type
    return found
