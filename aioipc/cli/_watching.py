"""watch: how the depth of an object changes."""

from __future__ import annotations

import errno
import itertools
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import click
from rich.live import Live
from rich.text import Text

from aioipc import inspect
from aioipc.cli._addresses import ADDRESS, Seconds, find_object
from aioipc.cli._output import as_time, console
from aioipc.errors import RemovedError

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60


class Sample(NamedTuple):
    """What was found at a moment."""

    time: float
    """Seconds since the epoch."""
    clock: float
    """Seconds of a clock that nobody sets."""
    level: int | None
    """What is watched: messages, permits, bytes, attachments."""
    size: int | None
    """Bytes of the messages."""
    sent: int | None
    """Messages sent from the beginning on, where that is counted."""


@click.command()
@click.argument("address", type=ADDRESS)
@click.option("--interval", type=Seconds(0.01, 1e6), default=1.0, show_default=True, metavar="SECONDS")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many looks.")
def watch(address: str, interval: float, count: int | None) -> None:
    """Watch how full an object is, and how fast that changes, without taking anything from it.

    The level is that of a queue's or a channel's messages, a semaphore's permits, the bytes of memory that a shared
    memory object takes up, or how often a segment is attached.  Its rate is what has changed: a queue that is emptied
    as fast as it is filled has none.  Only a channel counts what is sent.

    It ends with Ctrl-C, after --count looks, or when the object is removed.
    """
    first = find_object(address)
    samples = itertools.pairwise(itertools.chain([None], _samples(first, interval, count)))
    if sys.stdout.isatty():
        _show_live(first.address, samples)
        return
    click.echo("TIME\tLEVEL\tCHANGE/S\tBYTES\tSENT/S")
    for before, sample in samples:
        assert sample is not None
        change, sent = _rates(before, sample)
        click.echo("\t".join([as_time(sample.time), _number(sample.level), change, _number(sample.size), sent]))
        sys.stdout.flush()


def _samples(first: inspect.Object, interval: float, count: int | None) -> Iterator[Sample]:
    found = first
    due = time.monotonic()
    for looks in itertools.count(1):
        yield _sample(found)
        if looks == count:
            return
        due = max(due + interval, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))
        found = inspect.find(first.address)
        if found.identity != first.identity:
            raise RemovedError(errno.EIDRM, "it was removed, and there is another one of its name", first.address)


def _sample(found: inspect.Object) -> Sample:
    level = size = sent = None
    match found:
        case inspect.Channel():
            level, size, sent = found.messages, found.bytes, found.sent
        case inspect.PosixMessageQueue() | inspect.SysvMessageQueue():
            level, size = found.messages, found.bytes
        case inspect.PosixSemaphore():
            level = found.value
        case inspect.PosixSharedMemory():
            level = found.reserved
        case inspect.SysvSemaphoreSet():
            level = None if found.values is None else sum(found.values)
        case inspect.SysvSharedMemory():
            level = found.attached
    return Sample(time.time(), time.monotonic(), level, size, sent)


def _rates(before: Sample | None, now: Sample) -> tuple[str, str]:
    """How fast the level has changed, and how many messages were sent, each in a second."""
    if before is None:
        return "-", "-"
    seconds = now.clock - before.clock
    return _rate(before.level, now.level, seconds, "+"), _rate(before.sent, now.sent, seconds)


def _rate(old: int | None, new: int | None, seconds: float, sign: str = "") -> str:
    if old is None or new is None:
        return "-"
    return format((new - old) / seconds, sign + (",.1f" if sys.stdout.isatty() else ".1f"))


def _show_live(address: str, samples: Iterator[tuple[Sample | None, Sample | None]]) -> None:
    levels: deque[int] = deque(maxlen=_WIDTH)
    # Drawn when there is something new: no thread that draws all the time.
    with Live(console=console(), auto_refresh=False) as live:
        for before, sample in samples:
            assert sample is not None
            levels.append(sample.level or 0)
            change, sent = _rates(before, sample)
            parts = [
                f"{address}  {_number(sample.level)}",
                f"{change}/s",
                "" if sample.size is None else f"{_number(sample.size)} bytes",
                "" if sample.sent is None else f"{sent}/s sent",
            ]
            live.update(Text("  ".join(part for part in parts if part) + "\n" + _sparkline(levels)), refresh=True)


def _sparkline(levels: deque[int]) -> str:
    """A bar for each level, the highest of them as high as it goes."""
    highest = max(max(levels), 1)
    return "".join(_BARS[level * (len(_BARS) - 1) // highest] for level in levels)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}" if sys.stdout.isatty() else str(value)
