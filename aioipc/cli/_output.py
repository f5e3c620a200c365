"""What the command writes: tables for people, tabs for programs, and nothing that could garble a terminal."""

from __future__ import annotations

import dataclasses
import grp
import json
import pwd
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aioipc.inspect import Object, SysvSemaphoreSet

json_option = click.option("--json", "is_json", is_flag=True, help="Write JSON, with all that is known.")

Cell: TypeAlias = str | int | None


class Column(NamedTuple):
    """A column of a table."""

    title: str
    folds: bool = False
    """Whether it is the one that gives way where the terminal is too narrow."""
    is_command: bool = False
    """Whether it has commands to copy: on a terminal each is a line below the table, however long."""


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a table: aligned on a terminal, else a line for each row with tabs in between."""
    if not sys.stdout.isatty():
        for row in ([column.title for column in columns], *rows):
            click.echo("\t".join("-" if cell is None else printable(str(cell)) for cell in row))
        return
    _show_at_terminal(columns, list(rows))


_GAP = 2
"""Spaces between columns."""

_FOLDED = 24
"""A column that gives way does not become narrower than that."""


def _show_at_terminal(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    # A column in which nothing is known takes room for nothing.
    shown = [
        place
        for place, column in enumerate(columns)
        if not column.is_command and (not rows or any(row[place] is not None for row in rows))
    ]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    needed = 0
    for place in shown:
        title, folds, _ = columns[place]
        justify: Literal["left", "right"] = "right" if any(isinstance(row[place], int) for row in rows) else "left"
        table.add_column(title, justify=justify, no_wrap=not folds, overflow="fold")
        width = max(map(cell_len, [title, *(_for_people(row[place]) for row in rows)]))
        needed += (min(width, _FOLDED) if folds else width) + _GAP
    for row in rows:
        table.add_row(*(Text(_for_people(row[place])) for place in shown))
    screen = console()
    screen.width = max(screen.width, needed)  # what does not fit goes on in the next line: a number is never cut
    screen.print(table)
    for place, column in enumerate(columns):
        commands = [str(row[place]) for row in rows if row[place] is not None]
        if column.is_command and commands:
            click.echo("\n".join(["", f"{column.title.capitalize()}:", *commands]))


def console() -> Console:
    """The terminal."""
    return Console(markup=False, emoji=False, highlight=False)


def show_json(value: object) -> None:
    """Write JSON, of ASCII letters: over several lines on a terminal."""
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def complain(text: str) -> None:
    """Say something beside the output."""
    click.echo(f"aioipc: {printable(text)}", err=True)


def explain(error: Exception) -> str:
    """An error in words, without its number."""
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def printable(text: str) -> str:
    r"""A text in one line, with what is not printable escaped as in Python: \x1b."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text
    )


def as_json(found: Object) -> dict[str, object]:
    """All that is known of an object."""
    fields = dataclasses.asdict(found)
    del fields["identity"]
    if isinstance(found, SysvSemaphoreSet) and found.members is not None:
        fields["members"] = [member._asdict() for member in found.members]
    return {"address": found.address, "kind": found.kind, **fields}


def as_time(seconds: float) -> str:
    """A time for people and programs, by the clock of this place."""
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def user_name(uid: int) -> str:
    """The name of a user, or the number of one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group, or the number of one without."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def process_name(pid: int) -> str:
    """A process by its number, with the name of its program."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"{pid} ({file.read().rstrip()})"
    except OSError:
        return f"{pid} (gone)"


def _for_people(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) else printable(cell)
