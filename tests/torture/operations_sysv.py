"""Operations of System V queues, sets and segments, to be done while system calls fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from operations import (
    Operation,
    at_once,
    changed,
    close,
    lifetimes,
    looks,
    made,
    received,
    send_one,
    transfers,
    waiting,
    write_some,
)
from outside import SENT, LongSysvQueue, Peer, Set, SysvQueue, SysvSegment, brief

from aioipc import sysv


def sysv_queues() -> Iterator[Operation]:
    kind = "sysv.MessageQueue"

    def create(peer: Peer, **more: Any) -> Any:
        return sysv.MessageQueue.create(peer.key, **more)

    def create_small(peer: Peer, **more: Any) -> Any:
        return create(peer, max_bytes=20, **more)

    def fill(queue: Any) -> None:
        for n in range(2):
            queue.send_nowait(b"%010d" % n)

    def change(queue: Any) -> Any:
        queue.change(max_bytes=100, mode=0o640)

    def send_other(queue: Any) -> Any:
        return queue.send(b"other", type=2)

    new = {"messages": [], "max_bytes": 20, "mode": 0o600}
    yield from lifetimes(kind, SysvQueue, create_small, lambda peer: sysv.MessageQueue.open(peer.key), new, send_one)
    yield Operation(
        f"{kind}.open by id", SysvQueue, made(create), at_once(lambda q: sysv.MessageQueue.open(id=q.id)), undo=close
    )
    yield from transfers(kind, SysvQueue, made(create), made(create, send_one), made(create_small, fill))
    yield from transfers(
        kind, LongSysvQueue, made(create), made(create, lambda q: q.send(LongSysvQueue.sent())),
        made(lambda peer: create(peer, max_bytes=12_000), lambda q: q.send(LongSysvQueue.sent())), text=" long",
    )  # fmt: skip
    # What is not wanted comes before what is.
    second: dict[str, Any] = {"effect": changed(messages=lambda messages: messages[:1])}
    for text, options in ((" of a type", {"type": 1}), (" but a type", {"exclude": 2})):
        yield Operation(
            f"{kind}.receive{text}", SysvQueue, made(create, send_other, send_one),
            at_once(lambda q, options=options: q.receive(**options)), undo=received(SysvQueue.sent), **second,
        )  # fmt: skip
        yield Operation(
            f"{kind}.receive{text} waiting", SysvQueue, made(create, send_other),
            waiting(lambda q, options=options: q.receive(**options)),
            undo=received(SysvQueue.given), gives=SysvQueue.put, **second,
        )  # fmt: skip
    yield Operation(
        f"{kind}.change", SysvQueue, made(create), at_once(change), effect=changed(max_bytes=100, mode=0o640)
    )
    yield from looks(
        kind, SysvQueue, made(create_small, send_one),
        statistics={"messages": 1, "bytes": len(SENT), "max_bytes": 20, "mode": 0o600},
    )  # fmt: skip


def sysv_sets() -> Iterator[Operation]:
    kind = "sysv.SemaphoreSet"

    def create(peer: Peer, value: int = 1, **more: Any) -> Any:
        return sysv.SemaphoreSet.create(peer.key, values=[value, 5], **more)

    def create_empty(peer: Peer) -> Any:
        return create(peer, 0)

    def set_values(semaphores: Any) -> None:
        semaphores.values = [3, 3]

    def values(*by: int) -> dict[str, Any]:
        return {"effect": changed(values=lambda old: tuple(map(sum, zip(old, by, strict=True))))}

    new = {"values": (1, 5), "mode": 0o600}
    yield from lifetimes(
        kind, Set, create, lambda peer: sysv.SemaphoreSet.open(peer.key), new, lambda s: s.operate((1, 2))
    )
    yield Operation(
        f"{kind}.open by id", Set, made(create), at_once(lambda s: sysv.SemaphoreSet.open(id=s.id)), undo=close
    )
    for undo in (False, True):
        text = " undo" if undo else ""
        for name, act, change in (
            ("operate", lambda s, undo=undo: s.operate((0, -1), (1, -1), undo=undo), values(-1, -1)),
            ("acquire of a member", lambda s, undo=undo: s[0].acquire(undo=undo), values(-1, 0)),
        ):
            yield Operation(f"{kind}.{name}{text}", Set, made(create), at_once(act), **change)
            yield Operation(
                f"{kind}.{name}{text} waiting", Set, made(create_empty), waiting(act), gives=Set.put, **change
            )
    yield Operation(f"{kind}.wait_for_zero", Set, made(create_empty), at_once(lambda s: s[0].wait_for_zero()))
    yield Operation(
        f"{kind}.wait_for_zero waiting", Set, made(create), waiting(lambda s: s[0].wait_for_zero()), gives=Set.take
    )
    yield Operation(
        f"{kind}.operate_nowait", Set, made(create), at_once(lambda s: s.operate_nowait((0, 2))), **values(2, 0)
    )
    yield Operation(f"{kind}.set values", Set, made(create), at_once(set_values), effect=changed(values=(3, 3)))
    yield Operation(
        f"{kind}.change", Set, made(create), at_once(lambda s: s.change(mode=0o640)), effect=changed(mode=0o640)
    )
    yield from looks(kind, Set, made(create), statistics=new, values=(1, 5))


def sysv_segments() -> Iterator[Operation]:
    kind = "sysv.SharedMemory"

    def create(peer: Peer, **more: Any) -> Any:
        return sysv.SharedMemory.create(peer.key, size=10_000, **more)

    new = {"begin": brief(bytes(len(SENT))), "size": 10_000, "mode": 0o600}
    yield from lifetimes(kind, SysvSegment, create, lambda peer: sysv.SharedMemory.open(peer.key), new, write_some)
    yield Operation(
        f"{kind}.open by id", SysvSegment, made(create, write_some),
        at_once(lambda s: sysv.SharedMemory.open(id=s.id, read_only=True)), undo=close,
    )  # fmt: skip
    yield Operation(
        f"{kind}.change", SysvSegment, made(create), at_once(lambda s: s.change(mode=0o640)), effect=changed(mode=0o640)
    )
    yield from looks(kind, SysvSegment, made(create), statistics={"size": 10_000, "attached": 1, "mode": 0o600})
