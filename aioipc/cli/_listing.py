"""What there is: ls, stat, limits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator

import click

from aioipc import inspect
from aioipc.cli._addresses import ADDRESS, filter_options, find_object, look_for
from aioipc.cli._codes import NOTHING, OK
from aioipc.cli._output import (
    Cell,
    Column,
    as_json,
    as_time,
    group_name,
    json_option,
    process_name,
    show_json,
    show_table,
    user_name,
)


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@filter_options
@json_option
def ls(patterns: tuple[str, ...], kinds: tuple[inspect.Kind, ...], owner: int | None, is_json: bool) -> int:
    """List the objects of the system.

    A PATTERN chooses by address or name: 'mq:*', '/orders*', 'msg:0x1?'.  Sizes are bytes; what is not known, or not
    there to be known, is a dash.  Where the output is no terminal, tabs are between the columns.
    """
    found = look_for(kinds, patterns, owner)
    if is_json:
        show_json([as_json(each) for each in found])
    else:
        show_table(_COLUMNS, map(_row, found))
    return NOTHING if patterns and not found else OK


_COLUMNS = (
    Column("OBJECT", folds=True),
    Column("ID"),
    Column("OWNER"),
    Column("MODE"),
    Column("MESSAGES"),
    Column("BYTES"),
    Column("SIZE"),
    Column("VALUE"),
    Column("WAITING"),
    Column("USERS"),
)

_VALUES = 8
"""So many values of a set are listed."""


def _row(found: inspect.Object) -> tuple[Cell, ...]:
    messages = size = capacity = waiting = used = None
    value: Cell = None
    match found:
        case inspect.PosixMessageQueue():
            messages, size = found.messages, found.bytes
            if found.max_messages is not None and found.max_message_size is not None:
                capacity = found.max_messages * found.max_message_size
        case inspect.PosixSemaphore():
            value, waiting = found.value, found.waiting
        case inspect.Channel():
            messages, size, capacity = found.messages, found.bytes, found.capacity
            used = None if found.peers is None else len(found.peers)
        case inspect.PosixSharedMemory():
            capacity = found.size
        case inspect.SysvMessageQueue():
            messages, size, capacity = found.messages, found.bytes, found.max_bytes
        case inspect.SysvSemaphoreSet():
            value, waiting = _values(found), found.waiting
        case inspect.SysvSharedMemory():
            capacity, used = found.size, found.attached
    return (
        found.address,
        str(found.id) if isinstance(found, inspect.Keyed) else None,
        user_name(found.owner),
        f"{found.mode:04o}",
        messages,
        size,
        capacity,
        value,
        waiting,
        used,
    )


def _values(found: inspect.SysvSemaphoreSet) -> str | None:
    if found.values is None:
        return None
    rest = f",... ({found.size})" if found.size > _VALUES else ""
    return ",".join(map(str, found.values[:_VALUES])) + rest


@click.command()
@click.argument("address", type=ADDRESS)
@json_option
def stat(address: str, is_json: bool) -> None:
    """Show all that is known of an object, and which processes have it open."""
    found = find_object(address)
    users = inspect.users([found])[found.address]
    if is_json:
        show_json({**as_json(found), "users": list(users.pids), "users_are_all": users.is_complete})
    else:
        _show_pairs([*_pairs(found), *_user_pairs(users)])


def _pairs(found: inspect.Object) -> Iterator[tuple[str, str]]:
    yield "address", found.address
    for field in dataclasses.fields(found):
        if field.name not in ("identity", "members"):
            yield field.name.replace("_", " "), _explain(field.name, getattr(found, field.name))
    if isinstance(found, inspect.SysvSemaphoreSet):
        for number, member in enumerate(found.members or ()):
            yield (
                f"semaphore {number}",
                f"{member.value}, {member.waiting_for_nonzero} wait for more, {member.waiting_for_zero} for zero, "
                f"last changed by {_explain('last_pid', member.last_pid)}",
            )


def _explain(field: str, value: object) -> str:
    """What a field says, in words."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"  # of a channel's peers: each in its own PID namespace
    if isinstance(value, (int, float)):
        if field.endswith("_at"):
            return as_time(value)
        if field.endswith("pid"):
            return process_name(int(value)) if value else "none"
        if field in ("owner", "creator"):
            return user_name(int(value))
        if field in ("group", "creator_group"):
            return group_name(int(value))
        if field == "mode":
            return f"{value:04o}"
        if field == "bell_id":
            return f"{value:016x}"
        if field == "key":
            return f"{int(value) & 0xFFFFFFFF:#x}" if value else "private"
        if sys.stdout.isatty() and field != "id":
            return f"{value:,}"
    return str(value)


def _user_pairs(users: inspect.Users) -> Iterator[tuple[str, str]]:
    yield "used by", ", ".join(process_name(pid) for pid in users.pids) or "nobody that can be seen"
    if not users.is_complete:
        yield "", "and maybe others, which can't be told"


def _show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    show_table((Column("FIELD"), Column("VALUE", folds=True)), pairs)


@click.command()
@json_option
def limits(is_json: bool) -> None:
    """Show the limits of IPC objects, how much of them is used, and what raises them."""
    found = inspect.limits()
    if is_json:
        show_json([limit._asdict() for limit in found])
        return
    show_table(_LIMIT_COLUMNS, map(_limit_row, found))


_LIMIT_COLUMNS = (
    Column("LIMIT"),
    Column("VALUE"),
    Column("USED"),
    Column("BOUNDS", folds=True),
    Column("TO RAISE IT", is_command=True),
)


def _limit_row(limit: inspect.Limit) -> tuple[Cell, ...]:
    return limit.name, "none" if limit.value is None else limit.value, limit.used, limit.bounds, limit.command
