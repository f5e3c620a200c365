"""Operations of channels, to be done while system calls fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from operations import (
    Operation,
    appended,
    at_once,
    changed,
    emptied,
    lifetimes,
    looks,
    made,
    once_given,
    received,
    same,
    send_one,
    transfers,
    waiting,
)
from outside import SENT, Peer, brief
from outside_channels import LockedRing, LongRing, Ring, SleepingReceiver, SleepingSender

from aioipc import Channel


async def borrow(channel: Channel) -> bytes:
    async with channel.borrow() as view:
        return bytes(view)


def channels() -> Iterator[Operation]:
    kind = "Channel"

    def create(peer: Peer, **more: Any) -> Any:
        return Channel.create(peer.name, capacity=256, **more)

    def create_long(peer: Peer) -> Any:
        return Channel.create(peer.name, capacity=150_000)

    def fill(channel: Channel) -> Any:
        return channel.send_many([b"%d" % n for n in range(4)])

    async def reserve(channel: Channel) -> None:
        async with channel.reserve(len(SENT)) as buffer:
            buffer[:] = SENT

    new = {"messages": [], "peers": 1, "capacity": 256, "ended": False, "mode": 0o600}
    one, full = made(create, send_one), made(create, fill)
    yield from lifetimes(kind, Ring, create, lambda peer: Channel.open(peer.name), new, send_one)
    yield from transfers(kind, Ring, made(create), one, full)
    long = made(create_long, lambda channel: channel.send(LongRing.sent()))
    yield from transfers(kind, LongRing, made(create_long), long, long, text=" long")
    yield Operation(
        f"{kind}.send_many", Ring, made(create), at_once(lambda c: c.send_many([SENT] * 3)), effect=appended(Ring, 3)
    )
    yield Operation(
        f"{kind}.send_many waiting", Ring, full, waiting(lambda c: c.send_many([SENT])), gives=Ring.take,
        effect=appended(Ring),
    )  # fmt: skip
    yield Operation(
        f"{kind}.receive_many waiting", Ring, made(create), waiting(lambda c: c.receive_many(5)),
        undo=same([Ring.given()]), gives=Ring.put, effect=emptied,
    )  # fmt: skip
    yield Operation(f"{kind}.reserve", Ring, made(create), at_once(reserve), effect=appended(Ring))
    yield Operation(f"{kind}.reserve waiting", Ring, full, waiting(reserve), gives=Ring.take, effect=appended(Ring))
    yield Operation(f"{kind}.borrow", Ring, one, at_once(borrow), undo=received(Ring.sent), effect=emptied)
    yield Operation(
        f"{kind}.borrow waiting", Ring, made(create), waiting(borrow), undo=received(Ring.given), gives=Ring.put,
        effect=emptied,
    )  # fmt: skip
    yield Operation(f"{kind}.end", Ring, made(create), at_once(lambda c: c.end()), effect=changed(ended=True))
    # While somebody else is just about to send.
    for name, act, effect in (
        ("send", lambda c: c.send(SENT), appended(Ring)),
        ("end", lambda c: c.end(), changed(ended=True)),
    ):
        yield Operation(
            f"{kind}.{name} in turn waiting", LockedRing, made(create), waiting(act), gives=LockedRing.put,
            effect=effect,
        )  # fmt: skip
    yield from looks(
        kind, Ring, one, statistics={"messages": 1, "bytes": len(SENT), "capacity": 256, "ended": False, "mode": 0o600}
    )


def wakings() -> Iterator[Operation]:
    """What has to wake who sleeps in another process."""
    message = SleepingReceiver.sent()

    def create(peer: Peer) -> Any:
        return Channel.create(peer.name, capacity=256)

    def fill(channel: Channel) -> Any:
        return channel.send_many([message] * 4)

    async def reserve(channel: Channel) -> None:
        async with channel.reserve(len(message)) as buffer:
            buffer[:] = message

    def exchanged(contents: Any) -> Any:
        return {**contents, "messages": [*contents["messages"][1:], brief(SleepingSender.given())]}

    for name, act in (
        ("send", lambda c: c.send(message)),
        ("send_many", lambda c: c.send_many([message])),
        ("reserve", reserve),
    ):
        yield Operation(
            f"Channel.{name} to one asleep", SleepingReceiver, made(create), once_given(act),
            gives=SleepingReceiver.put, effect=lambda contents: SleepingReceiver.joined(contents, -1),
        )  # fmt: skip
    for name, act in (("receive", lambda c: c.receive()), ("borrow", borrow)):
        yield Operation(
            f"Channel.{name} from one asleep", SleepingSender, made(create, fill), once_given(act),
            undo=same(message), gives=SleepingSender.put, effect=exchanged,
        )  # fmt: skip
