"""Checks of arguments that several kinds of objects take."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from typing_extensions import Buffer


def check_mode(mode: int) -> int:
    """Return permission bits.

    :raises TypeError: if it is not an integer
    :raises ValueError: if it is out of range
    """
    if not 0 <= check_integer("mode", mode) <= 0o777:
        raise ValueError(f"mode {mode:#o} must be permission bits, 0 to 0o777")
    return mode


def check_integer(argument: str, value: SupportsIndex) -> int:
    """Return an integer.

    :raises TypeError: if it is not one
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, not {type(value).__name__}") from None


def check_range(argument: str, value: SupportsIndex, lowest: int, highest: int) -> int:
    """Return an integer within bounds.

    :raises TypeError: if it is not an integer
    :raises ValueError: if it is out of range
    """
    number = check_integer(argument, value)
    if not lowest <= number <= highest:
        raise ValueError(f"{argument} {number} must be {lowest:,} to {highest:,}")
    return number


def check_seconds(argument: str, value: float) -> float:
    """Return a duration.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is negative, infinite or not a number (NaN)
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{argument} {value} must be a number of seconds, 0 or more")
    return value


def message_bytes(item: Buffer) -> bytes:
    """Return the bytes of a message.  The bindings take strings too, so this is where they are refused.

    :raises TypeError: if it is not bytes-like
    """
    try:
        return item if isinstance(item, bytes) else memoryview(item).tobytes()
    except TypeError:
        raise TypeError(f"a message must be bytes-like, not {type(item).__name__}") from None
