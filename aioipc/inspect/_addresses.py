"""Addresses: how an object is called by people and by the aioipc command, such as mq:/orders or msg:0x14.

An address is the kind, a colon, and the name, the key or `id=` and the id.  A name is written as in a URL: what a
terminal or a shell could take for something else is a percent sign and two hexadecimal digits.  So an address can
be printed and copied, whatever is in the name.
"""

from __future__ import annotations

import os
import re
from typing import Literal, NamedTuple, get_args
from urllib.parse import unquote_to_bytes

from aioipc._arguments import check_range
from aioipc.posix._names import check_name
from aioipc.sysv.keys import check_key

Kind = Literal["mq", "sem", "shm", "channel", "msg", "semset", "segment", "doorbell"]

KINDS: tuple[Kind, ...] = get_args(Kind)
KEYED: tuple[Kind, ...] = ("msg", "semset", "segment")

_LONGEST_NAME = 255  # bytes after the slash: NAME_MAX
_ID_MAX = 2**31 - 1

# What stands for itself to every shell, and to the patterns of fnmatch.
_PLAIN = re.compile(r"[\w/.,:+@-]")


class Address(NamedTuple):
    """What an address says; one of the last three is not None."""

    kind: Kind | None
    """None if it is a name of any kind."""
    name: str | None = None
    """With its leading slash."""
    key: int | None = None
    """Of a System V object."""
    id: int | None = None
    """Of a System V object."""


def address_of_name(kind: str, name: str) -> str:
    """The address of an object that has a name."""
    return f"{kind}:{escape(name)}"


def address_of_key(kind: str, key: int) -> str:
    """The address of an object that has a key."""
    return f"{kind}:{key & 0xFFFFFFFF:#x}"


def address_of_id(kind: str, id: int) -> str:
    """The address of an object that has no key."""
    return f"{kind}:id={id}"


def escape(name: str) -> str:
    """A name with percent signs for what could be misunderstood."""
    return "".join(
        letter
        if _PLAIN.match(letter) and letter.isprintable()
        else "".join(f"%{byte:02X}" for byte in fsencode(letter))
        for letter in name
    )


def fsencode(text: str) -> bytes:
    """The bytes of a part of a name."""
    return text.encode("utf-8", "surrogateescape")


def parse_address(text: str) -> Address:
    """Read an address, or a name alone, which begins with a slash.

    :raises ValueError: if it is none
    """
    if text.startswith("/"):
        return Address(None, name=_name(text))
    prefix, colon, rest = text.partition(":")
    kind = next((kind for kind in KINDS if kind == prefix), None)
    if not colon or kind is None:
        raise ValueError(
            f"{text!r} is no address: it is a kind ({', '.join(KINDS)}), a colon, and a name (mq:/orders), a key "
            "(msg:0x14) or an id (msg:id=3)"
        )
    if kind not in KEYED:
        return Address(kind, name=_name(rest))
    if rest.startswith("id="):
        return Address(kind, id=check_range("id", _number("id", rest[3:]), 0, _ID_MAX))
    key = check_key(_number("key", rest))
    if key == 0:
        raise ValueError(f"{text}: objects without a key have an address of their id, such as {kind}:id=3")
    return Address(kind, key=key)


def _name(text: str) -> str:
    return check_name(os.fsdecode(unquote_to_bytes(fsencode(text))), _LONGEST_NAME)


def _number(what: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{what} {text!r} is no number: 20 and 0x14 are") from None
