"""Objects that carry messages: what send, receive and tail have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import click

from aioipc import Channel, posix, sysv
from aioipc.cli._addresses import AddressType, Seconds
from aioipc.errors import AccessError, WouldBlock
from aioipc.inspect import Address

Queue: TypeAlias = posix.MessageQueue | sysv.MessageQueue | Channel

_T = TypeVar("_T")

MESSAGES = AddressType("mq", "msg", "channel")

TIMEOUT = Seconds(min=0)


def open_queue(address: Address, *, receiving: bool) -> Queue:
    """Open what has this address, in both directions if that is allowed."""
    if address.kind == "msg":
        return sysv.MessageQueue.open(address.key, id=address.id)
    assert address.name is not None
    if address.kind == "channel":
        return Channel.open(address.name)
    try:
        return posix.MessageQueue.open(address.name)
    except AccessError:
        return posix.MessageQueue.open(address.name, read=receiving, write=not receiving)


def check_option(option: str, value: object, address: Address, kind: str) -> None:
    """Refuse an option that an object of this kind does not have."""
    if value is not None and value is not False and address.kind != kind:
        raise click.UsageError(f"{option} is for {kind} only, not for {address.kind}")


async def within(seconds: float | None, at_once: Callable[[], _T], wait: Callable[[], Awaitable[_T]]) -> _T:
    """Do something at once if that is possible, else wait for so long.

    :raises TimeoutError: if that was not long enough
    """
    await asyncio.sleep(0)  # Ctrl-C is heard of also where there is never anything to wait for
    try:
        return at_once()
    except WouldBlock:
        if seconds == 0:
            raise TimeoutError from None
    async with asyncio.timeout(seconds):
        return await wait()
