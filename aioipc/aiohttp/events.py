"""How a message becomes text, and text a server-sent event (HTML standard, section 9.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Only these end a line there; str.splitlines() knows more.
_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event.

    :raises ValueError: if `event` or `id` has characters that it can't have
    """

    data: str | bytes
    """As many lines as it likes; bytes are UTF-8."""
    event: str | None = None
    """Its type, for `addEventListener`; None for "message"."""
    id: str | None = None
    """What the browser sends as Last-Event-ID when it connects again."""
    retry: int | None = None
    """Milliseconds the browser is to wait before it does so."""

    def __post_init__(self) -> None:
        for field, value in (("event", self.event), ("id", self.id)):
            if value is not None and any(character in value for character in "\r\n\0"):
                raise ValueError(f"{field} {value!r} must not have line ends or NUL")

    def __bytes__(self) -> bytes:
        """The event as it is sent."""
        return b"".join(self._lines()) + b"\n"

    def _lines(self) -> Iterator[bytes]:
        for field in ("event", "id", "retry"):
            value = getattr(self, field)
            if value is not None:
                yield f"{field}: {value}\n".encode()
        data = self.data.encode() if isinstance(self.data, str) else self.data
        for line in _LINE_END.split(data):
            yield b"data: %b\n" % line


def as_text(message: Any) -> str:
    """The data of a message, taken for UTF-8; what is none becomes U+FFFD.

    :param message: bytes, or a `Message` of a queue
    """
    data: bytes = getattr(message, "data", message)
    return data.decode(errors="replace")
