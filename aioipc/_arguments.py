"""Checks of arguments that several kinds of objects take."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from typing_extensions import Buffer


def check_mode(mode: int) -> int:
    """Return permission bits.

    :raises ValueError: if it is something else
    """
    if not 0 <= operator.index(mode) <= 0o777:
        raise ValueError(f"mode {mode:#o} must be permission bits, 0 to 0o777")
    return mode


def check_range(argument: str, value: SupportsIndex, lowest: int, highest: int) -> int:
    """Return an integer within bounds.

    :raises TypeError: if it is not an integer
    :raises ValueError: if it is out of range
    """
    number = operator.index(value)
    if not lowest <= number <= highest:
        raise ValueError(f"{argument} {number} must be {lowest:,} to {highest:,}")
    return number


def message_bytes(item: Buffer) -> bytes:
    """Return the bytes of a message.  The bindings take strings too, so this is where they are refused.

    :raises TypeError: if it is not bytes-like
    """
    try:
        return item if isinstance(item, bytes) else memoryview(item).tobytes()
    except TypeError:
        raise TypeError(f"a message must be bytes-like, not {type(item).__name__}") from None
