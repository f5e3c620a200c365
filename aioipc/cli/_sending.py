"""send: put messages into a queue or a channel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import click

from aioipc import Channel
from aioipc.cli._codes import NOTHING, OK
from aioipc.cli._messages import MESSAGES, TIMEOUT, check_option, open_queue, within
from aioipc.cli._output import complain
from aioipc.cli._running import event_loop


@click.command()
@click.argument("address", type=MESSAGES)
@click.argument("data", nargs=-1)
@click.option("-p", "--priority", type=click.IntRange(0, 32767), help="Of a POSIX queue: 0, the lowest, to 32767.")
@click.option("-t", "--type", "type_", type=click.IntRange(min=1), help="Of a System V queue: 1 or greater.")
@click.option("--lines", is_flag=True, help="Each line of the input is a message, without its end.")
@click.option("--hex", "is_hex", is_flag=True, help="DATA, or the input, is in hexadecimal digits.")
@click.option("--timeout", type=TIMEOUT, metavar="SECONDS", help="Wait no longer for room; 0 not at all.")
@click.option("--end", is_flag=True, help="End the channel then; without DATA and --lines send nothing else.")
def send(
    address: str,
    data: tuple[str, ...],
    priority: int | None,
    type_: int | None,
    lines: bool,
    is_hex: bool,
    timeout: float | None,
    end: bool,
) -> int:
    """Send messages: each DATA is one, or else the whole input is, or each line of it.

    It waits for room.  The exit code is 1 if there was none in time; messages before that one have been sent.
    """
    target = MESSAGES.resolve(address)
    check_option("--priority", priority, target, "mq")
    check_option("--type", type_, target, "msg")
    check_option("--end", end, target, "channel")
    if lines and data:
        raise click.UsageError("--lines is for the input, not for DATA")
    options = [option for option in (priority, type_) if option is not None]
    # The input is read between the runs: Ctrl-C ends that at once, too.
    with open_queue(target, receiving=False) as queue, event_loop() as runner:
        for message in _messages(data, lines, is_hex, end):
            try:
                runner.run(
                    within,
                    timeout,
                    partial(queue.send_nowait, message, *options),
                    partial(queue.send, message, *options),
                )
            except TimeoutError:
                complain(f"{address} had no room in time")
                return NOTHING
        if end and isinstance(queue, Channel):
            runner.run(queue.end)
    return OK


def _messages(data: tuple[str, ...], lines: bool, is_hex: bool, end: bool) -> Iterator[bytes]:
    source: Iterator[bytes]
    if data:
        source = (each.encode("utf-8", "surrogateescape") for each in data)
    elif lines:
        source = (line.removesuffix(b"\n") for line in sys.stdin.buffer)
    elif end:
        return
    else:
        source = iter([sys.stdin.buffer.read()])
    for message in source:
        yield _from_hex(message) if is_hex else message


def _from_hex(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii", "replace"))
    except ValueError as error:
        raise click.UsageError(f"--hex: {error}") from None
