"""receive and tail: take messages out of a queue or a channel."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import click

from aioipc import Channel, posix, sysv
from aioipc.cli._codes import NOTHING, OK
from aioipc.cli._messages import MESSAGES, TIMEOUT, Queue, check_option, open_queue
from aioipc.cli._output import complain, printable
from aioipc.cli._running import event_loop
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
            runner.run(_receive, lambda: _next(queue, type_ or 0, exclude), form, count, timeout)
        except TimeoutError:
            complain(f"{address}: no message came in time")
            return NOTHING
        except EndOfStream:
            if not is_tail:
                complain(f"{address} has ended")
                return NOTHING
    return OK


async def _receive(
    take: Callable[[], AbstractAsyncContextManager[_Message]],
    form: str | None,
    count: int | None,
    seconds: float | None,
) -> None:
    for _ in range(count) if count is not None else itertools.count():
        async with AsyncExitStack() as stack:
            with _reader_needed():
                async with asyncio.timeout(seconds):
                    message = await stack.enter_async_context(take())
            _write(message, form)


@asynccontextmanager
async def _next(queue: Queue, type_: int, exclude: int | None) -> AsyncIterator[_Message]:
    """A block with the next message, which goes back if that can't be written."""
    if isinstance(queue, Channel):
        async with queue.borrow() as view:
            yield bytes(view)
        return
    if isinstance(queue, sysv.MessageQueue):
        message: posix.Message | sysv.Message = await queue.receive(type_, exclude=exclude)
    else:
        message = await queue.receive()
    try:
        yield message
    except BaseException:
        with suppress(Error):
            queue.send_nowait(message)  # type: ignore[arg-type]
        raise


@contextmanager
def _reader_needed() -> Iterator[None]:
    """A block that ends, with BrokenPipeError, when nobody can read the output any more."""
    output = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(output).st_mode):
        yield
        return
    task = asyncio.current_task()
    assert task is not None
    is_gone = False

    def leave() -> None:
        nonlocal is_gone
        is_gone = True
        task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_reader(output, leave)  # of the writing end of a pipe that means an error: nobody has the other one
    try:
        yield
    except asyncio.CancelledError:
        if is_gone:
            raise BrokenPipeError from None
        raise
    finally:
        loop.remove_reader(output)


def _write(message: _Message, form: str | None) -> None:
    data = message if isinstance(message, bytes) else message.data
    output = sys.stdout.buffer
    if form == "raw":
        output.write(data)
    elif form == "hex":
        output.write(data.hex().encode("ascii") + b"\n")
    elif form == "json":
        output.write(json.dumps(_as_json(message, data)).encode("ascii") + b"\n")
    elif sys.stdout.isatty():
        output.write(printable(data.decode("utf-8", "backslashreplace")).encode() + b"\n")
    else:
        output.write(data + b"\n")
    output.flush()


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
