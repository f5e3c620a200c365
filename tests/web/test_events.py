"""Server-sent events as they are written, and what they can't be."""

from __future__ import annotations

import pytest

from aioipc.aiohttp import Event, as_text
from aioipc.posix import Message


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (Event("two coffees"), b"data: two coffees\n\n"),
        (Event(""), b"data: \n\n"),
        (Event("a\nb\r\nc\rd\n"), b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        (Event("one\u2028line\x0b"), "data: one\u2028line\x0b\n\n".encode()),
        (Event(b"\xff\n\n"), b"data: \xff\ndata: \ndata: \n\n"),
        (Event("x", event="order", id="7", retry=100), b"event: order\nid: 7\nretry: 100\ndata: x\n\n"),
        (Event("x", id=""), b"id: \ndata: x\n\n"),
    ],
)
def test_how_it_is_written(event: Event, lines: bytes) -> None:
    assert bytes(event) == lines


@pytest.mark.parametrize("value", ["a\nb", "a\r", "\0"])
@pytest.mark.parametrize("field", ["event", "id"])
def test_one_line_each(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} .* must not have line ends or NUL"):
        Event("x", **{field: value})


def test_text_of_any_message() -> None:
    assert as_text("gr\u00fcn".encode()) == as_text(Message("gr\u00fcn".encode(), 3)) == "gr\u00fcn"
    assert as_text(b"a\xffb") == "a\ufffdb"
