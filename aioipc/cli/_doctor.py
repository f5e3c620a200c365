"""doctor: what is missing or tight on this machine, and what mends it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

import click

from aioipc import inspect
from aioipc._limits import message_queue_bytes
from aioipc._shm import DIRECTORY
from aioipc.cli._codes import NOTHING, OK
from aioipc.cli._output import Column, json_option, show_json, show_table

_TIGHT = 0.8
"""What part of a limit is used when it counts as tight."""

_DEFAULT_QUEUE = message_queue_bytes(10, 8192)


class Finding(NamedTuple):
    """Something that was looked at."""

    is_well: bool
    what: str
    """In words."""
    command: str | None
    """What mends it."""


@click.command()
@json_option
def doctor(is_json: bool) -> int:
    """Say what is missing or tight on this machine, and the command that mends it.

    The commands are for root, but for `ulimit` and `aioipc`.  The exit code is 1 if there is something to mend.
    """
    found = list(examine())
    if is_json:
        show_json([finding._asdict() for finding in found])
    else:
        show_table(
            (Column("STATE"), Column("WHAT", folds=True), Column("TO MEND IT", is_command=True)),
            (("well" if each.is_well else "mend", each.what, each.command) for each in found),
        )
    return OK if all(each.is_well for each in found) else NOTHING


def examine() -> Iterator[Finding]:
    """Look at everything."""
    listing = inspect.look()
    yield from _lists(listing)
    yield from _directory()
    yield from _limits()
    yield from _channels(listing)
    yield from _orphans()


def _lists(listing: inspect.Listing) -> Iterator[Finding]:
    gaps = {gap.kind: gap for gap in listing.gaps}
    for kind in inspect.KINDS:
        if kind in gaps:
            yield Finding(False, f"{kind}: {gaps[kind].reason.partition(': `')[0]}", gaps[kind].command)
    if not gaps:
        yield Finding(True, "objects of all kinds can be listed", None)


def _directory() -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(os.stat(DIRECTORY).st_mode)
    except FileNotFoundError:  # said already
        return
    if mode == 0o1777:
        yield Finding(True, f"{DIRECTORY} has mode 1777", None)
    else:
        what = f"{DIRECTORY} has mode {mode:04o}: all users need to write there, but not to remove what is not theirs"
        yield Finding(False, what, f"chmod 1777 {DIRECTORY}")


def _limits() -> Iterator[Finding]:
    for limit in inspect.limits():
        if limit.value is None:
            continue
        # Also where nobody knows what is used: that there is no room for one queue.
        is_tight = limit.name == "RLIMIT_MSGQUEUE" and limit.value - (limit.used or 0) < _DEFAULT_QUEUE
        if limit.used is not None:
            is_tight |= limit.used >= _TIGHT * limit.value
        elif not is_tight:
            continue
        used = "an unknown part" if limit.used is None else f"{limit.used:,}"
        yield Finding(
            not is_tight, f"{limit.name}: {used} of {limit.value:,} used", limit.command if is_tight else None
        )


def _channels(listing: inspect.Listing) -> Iterator[Finding]:
    for each in listing.objects:
        if isinstance(each, inspect.Channel) and each.fault is not None:
            yield Finding(False, f"{each.address} can't be used: {each.fault}", f"aioipc rm {each.address}")


def _orphans() -> Iterator[Finding]:
    orphans = inspect.orphans()
    if orphans:
        yield Finding(False, f"{len(orphans):,} doorbells of channels that are gone", "aioipc rm --orphans")
    else:
        yield Finding(True, "no doorbells are left of channels that are gone", None)
