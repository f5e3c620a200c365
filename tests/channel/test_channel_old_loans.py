"""A message that was borrowed long ago, and many that are gone behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aioipc import Channel, inspect

pytestmark = pytest.mark.anyio

GONE = 55_000
CAPACITY = (GONE + 3) * 64


@contextmanager
def borrowed_long(channel: Channel) -> Iterator[None]:
    """In the block, the first message is borrowed, and those behind it are gone.  How it ends is how the loan does."""
    channel.send_nowait(b"old")
    with channel.borrow_nowait():
        for _ in range(GONE // 1000):
            channel.send_many_nowait([b"x"] * 1000)
            assert len(channel.receive_many_nowait(1000)) == 1000
        yield


async def test_statistics_count_what_is_not_consumed(name: str) -> None:
    async with Channel.create(name, capacity=2 * CAPACITY) as channel:

        def counted() -> tuple[int, int]:
            found = channel.statistics()
            seen = inspect.find(f"channel:{name}")
            assert (seen.messages, seen.bytes) == (found.messages, found.bytes)
            return found.messages, found.bytes

        with borrowed_long(channel):
            assert counted() == (1, 3)
            channel.send_many_nowait([b"12"] * 40_000)
            assert counted() == (40_001, 80_003)
        assert counted() == (40_000, 80_000)
