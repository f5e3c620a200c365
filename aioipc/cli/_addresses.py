"""Addresses and filters on the command line."""

from __future__ import annotations

import math
import pwd
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from aioipc.cli._output import complain
from aioipc.errors import Error
from aioipc.inspect import KINDS, Address, Kind, Named, Object, find, look, parse_address

_Command = TypeVar("_Command", bound=Callable[..., Any])

LISTED: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "doorbell")
"""The kinds that are listed: a doorbell belongs to a channel."""


class AddressType(click.ParamType):  # type: ignore[type-arg]  # it has none before click 8.5
    """The address of an object of some kinds."""

    name = "address"

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds or LISTED

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            kind = parse_address(value).kind
        except ValueError as error:
            self.fail(str(error), param, ctx)
        self._check_kind(kind, value)
        return value

    def resolve(self, text: str) -> Address:
        """What an address says, with its kind: also of a name alone, if one object of these kinds has it."""
        address = parse_address(text)
        if address.kind is None:
            address = address._replace(kind=find_object(text).kind)
            self._check_kind(address.kind, text)
        return address

    def _check_kind(self, kind: Kind | None, text: str) -> None:
        if kind is not None and kind not in self._kinds and kind != "doorbell":
            raise click.UsageError(f"{text}: this takes {', '.join(self._kinds)}, but no {kind}")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found: list[str] = []
        with suppress(Error, OSError):
            for each in look(*self._kinds).objects:
                is_name = incomplete.startswith("/") and isinstance(each, Named)
                found.append(each.address.partition(":")[2] if is_name else each.address)
        return [CompletionItem(address) for address in found if address.startswith(incomplete)]


ADDRESS = AddressType()


def find_object(address: str) -> Object:
    """The object of an address; one of several with a name is the fault of the command line."""
    try:
        return find(address)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


class OwnerType(click.ParamType):  # type: ignore[type-arg]
    """A user by name or number."""

    name = "user"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int) or value.isdecimal():
            return int(value)
        try:
            return pwd.getpwnam(value).pw_uid
        except KeyError:
            self.fail(f"there is no user {value!r}", param, ctx)


def filter_options(command: _Command) -> _Command:
    """The options by which objects are chosen: `kinds` and `owner`."""
    owner = click.option("--owner", metavar="USER", type=OwnerType(), help="Only those that belong to a user.")
    kind = click.option(
        "--kind",
        "kinds",
        metavar="KIND",
        type=click.Choice(LISTED),
        multiple=True,
        help=f"Only those of a kind: {', '.join(LISTED)}.  May be given several times.",
    )
    return kind(owner(command))


class Seconds(click.FloatRange):
    """A number of seconds, which is a number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


def look_for(kinds: Sequence[Kind], patterns: Sequence[str], owner: int | None) -> list[Object]:
    """The objects that match; of those for which it can't look it says so."""
    listing = look(*kinds)
    for gap in listing.gaps:
        if _concerns(patterns, gap.kind):
            complain(f"{gap.kind}: {gap.reason}")
    return [each for each in listing.objects if _matches(each, patterns, owner)]


def _concerns(patterns: Sequence[str], kind: Kind) -> bool:
    """Whether an object of this kind could match."""
    prefixes = [before for before, colon, _ in (each.partition(":") for each in patterns) if colon]
    return len(prefixes) < len(patterns) or not patterns or any(fnmatchcase(kind, prefix) for prefix in prefixes)


def _matches(found: Object, patterns: Sequence[str], owner: int | None) -> bool:
    """Whether an object is one of those asked for: by the whole address, or by a name alone."""
    if owner is not None and found.owner != owner:
        return False
    _, _, rest = found.address.partition(":")
    return not patterns or any(fnmatchcase(found.address, each) or fnmatchcase(rest, each) for each in patterns)
