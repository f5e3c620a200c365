"""What looks at all objects, to be done while system calls fail."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from operations import Operation, at_once, bare, same
from outside import SENT, Peer, doorbells_of

from aioipc import Channel, inspect, posix, sysv
from aioipc.inspect import _shm

_THERE: dict[str, dict[str, Any]] = {
    "mq": {"messages": 1},
    "sem": {"value": 3},
    "channel": {"messages": 1},
    "msg": {"messages": 1},
    "semset": {"values": (1,)},
    "segment": {"size": 1},
}
"""One of each, and what is to be known of it."""


@asynccontextmanager
async def many(peer: Peer) -> AsyncIterator[Peer]:
    """A subject: one of each."""
    with (
        posix.MessageQueue.create(peer.name, max_messages=1) as queue,
        posix.Semaphore.create(peer.name, value=3),
        Channel.create(peer.name) as channel,
        sysv.MessageQueue.create(peer.key) as keyed,
        sysv.SemaphoreSet.create(peer.key, values=[1]),
        sysv.SharedMemory.create(None, size=1),
    ):
        for each in (queue, channel, keyed):
            each.send_nowait(SENT)
        yield peer


@asynccontextmanager
async def quiet(peer: Peer) -> AsyncIterator[Peer]:
    """A subject: a channel that nobody has open, with a message in it, whose doorbells are old."""
    with mock.patch.object(_shm, "_SECONDS_TO_CREATE", -1):
        with Channel.create(peer.name, capacity=256, persist=True) as channel:
            channel.send_nowait(SENT)
        try:
            yield peer
        finally:
            Channel.create(peer.name, exist_ok=True).__exit__(None, None, None)


@asynccontextmanager
async def left(peer: Peer) -> AsyncIterator[Peer]:
    """A subject: the doorbells of a channel that is gone."""
    with mock.patch.object(_shm, "_SECONDS_TO_CREATE", -1):
        Channel.create(peer.name, capacity=256, persist=True).close()
        os.unlink(f"/dev/shm{peer.name}")
        try:
            yield peer
        finally:
            for bell in doorbells_of(os.getpid()):
                os.unlink(f"/dev/shm/{bell}")


def _own(peer: Peer, objects: list[inspect.Object]) -> dict[str, inspect.Object]:
    """Those of one of each, by their addresses."""
    return {
        found.address: found
        for found in objects
        if peer.name == getattr(found, "name", None)
        or peer.key == getattr(found, "key", None)
        or getattr(found, "creator_pid", None) == os.getpid()
    }


def _agree(found: inspect.Object, true: inspect.Object) -> None:
    """What could not be known is None, and may have a fault; what is known is right."""
    assert type(found) is type(true), (found, true)
    for field in dataclasses.fields(true):
        value = getattr(found, field.name)
        assert value is None or field.name == "fault" or value == getattr(true, field.name), (found, true)


def _check_listing(result: tuple[Peer, inspect.Listing]) -> None:
    peer, found = result
    objects, unknown = inspect.look()
    true = _own(peer, objects)
    there = _THERE.keys() - {gap.kind for gap in unknown}  # no queues where no file system lists them
    assert there == {each.kind for each in true.values()}, true
    for each in true.values():
        same(_THERE[each.kind])(each)
    listed = _own(peer, found.objects)
    gaps = {gap.kind for gap in found.gaps}
    missing = {address for address, each in true.items() if each.kind not in gaps} - listed.keys()
    assert not missing, f"{missing} are not among {found}"
    for address, each in listed.items():
        _agree(each, true[address])


def _check_found(result: tuple[str, inspect.Object]) -> None:
    address, found = result
    _agree(found, inspect.find(address))


def _check_limits(found: list[inspect.Limit]) -> None:
    """Those that can't be read are left out; what is used of /dev/shm is not the same all the time."""
    true = {limit.name: limit for limit in inspect.limits()}
    for limit in found:
        wanted = true[limit.name]
        assert limit._replace(used=None) == wanted._replace(used=None), (limit, wanted)
        is_moving = limit.name.startswith("/dev/shm")
        assert limit.used is None or is_moving or limit.used == wanted.used, (limit, wanted)


def _check_users(result: tuple[list[inspect.Object], dict[str, inspect.Users]]) -> None:
    objects, found = result
    for each in objects:
        users = found[each.address]
        assert os.getpid() in users.pids or not users.is_complete, (each, users)


def _users(peer: Peer) -> Any:
    """Of this process alone: the others are many, and come and go."""
    objects = list(_own(peer, inspect.look().objects).values())
    listdir = os.listdir

    def own(path: str) -> list[str]:
        return [name for name in listdir(path) if path != "/proc" or name == str(os.getpid())]

    with mock.patch.object(os, "listdir", own):
        return objects, inspect.users(objects)


def _orphans(_: Peer) -> list[str]:
    return sorted(bell.name[1:] for bell in inspect.orphans())


def _check_none(found: list[str]) -> None:
    own = set(doorbells_of(os.getpid()))
    assert own, "there are none"
    assert not own & set(found), f"{found} are not orphans"


def _check_all(found: list[str]) -> None:
    """What could not be made sure of is left out."""
    own = doorbells_of(os.getpid())
    true = {bell.name[1:] for bell in inspect.orphans()}
    assert set(found) <= true, f"{found} were found, {true} are orphans"
    assert set(own) <= true, f"{own} are orphans, too"


def the_rest() -> Iterator[Operation]:
    status = os.stat("/")
    yield Operation(
        "sysv.ftok", Peer, bare, at_once(lambda _: sysv.ftok("/", 1)),
        undo=same(1 << 24 | (status.st_dev & 0xFF) << 16 | status.st_ino & 0xFFFF),
    )  # fmt: skip
    yield Operation("inspect.look", Peer, many, at_once(lambda peer: (peer, inspect.look())), undo=_check_listing)
    yield Operation("inspect.limits", Peer, many, at_once(lambda _: inspect.limits()), undo=_check_limits)
    yield Operation("inspect.users", Peer, many, at_once(_users), undo=_check_users)
    yield Operation("inspect.orphans", Peer, quiet, at_once(_orphans), undo=_check_none)
    yield Operation("inspect.orphans of a channel", Peer, left, at_once(_orphans), undo=_check_all)

    def find(kind: str, address: Callable[[Peer], str]) -> Operation:
        def run(peer: Peer) -> Any:
            return address(peer), inspect.find(address(peer))

        return Operation(f"inspect.find {kind}", Peer, many, at_once(run), undo=_check_found)

    for kind in ("mq", "sem", "channel"):
        yield find(kind, lambda peer, kind=kind: f"{kind}:{peer.name}")
    yield find("msg", lambda peer: f"msg:{peer.key:#x}")
