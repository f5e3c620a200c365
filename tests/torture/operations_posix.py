"""Operations of POSIX queues, semaphores, shared memory and FIFOs, to be done while system calls fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
from operations import (
    Act,
    Operation,
    Subject,
    at_once,
    beside,
    changed,
    close,
    do_all,
    lifetimes,
    looks,
    made,
    same,
    send_one,
    transfers,
    waiting,
    write_some,
)
from outside import SENT, LongPipe, LongPosixQueue, Peer, Pipe, PosixQueue, PosixSegment, PosixSemaphore, brief

from aioipc import posix


def posix_queues() -> Iterator[Operation]:
    kind = "posix.MessageQueue"
    limits = {"max_messages": 2, "max_message_size": 100}

    def create(peer: Peer, **more: Any) -> Any:
        return posix.MessageQueue.create(peer.name, **limits, **more)

    def create_long(peer: Peer) -> Any:
        return posix.MessageQueue.create(peer.name, max_messages=2, max_message_size=len(LongPosixQueue.sent()))

    def send_long(queue: Any) -> Any:
        return queue.send(LongPosixQueue.sent())

    def fill(queue: Any) -> None:
        for n in range(2):
            queue.send_nowait(b"%d" % n)

    new = {"messages": [], **limits, "mode": 0o600}
    one = made(create, send_one)
    yield from lifetimes(kind, PosixQueue, create, lambda peer: posix.MessageQueue.open(peer.name), new, send_one)
    yield from transfers(kind, PosixQueue, made(create), one, made(create, fill))
    yield from transfers(
        kind, LongPosixQueue, made(create_long), made(create_long, send_long), made(create_long, fill), text=" long"
    )
    yield from looks(kind, PosixQueue, one, statistics={"messages": 1, "bytes": len(SENT), **limits, "mode": 0o600})


def posix_semaphores() -> Iterator[Operation]:
    kind = "posix.Semaphore"

    def create(peer: Peer, value: int = 7, **more: Any) -> Any:
        return posix.Semaphore.create(peer.name, value=value, **more)

    new = {"value": 7, "mode": 0o600}
    less: dict[str, Any] = {"effect": changed(value=lambda value: value - 1)}
    yield from lifetimes(
        kind, PosixSemaphore, create, lambda peer: posix.Semaphore.open(peer.name), new, lambda s: s.release()
    )
    yield Operation(f"{kind}.acquire", PosixSemaphore, made(create), at_once(lambda s: s.acquire()), **less)
    yield Operation(
        f"{kind}.acquire_nowait", PosixSemaphore, made(create), at_once(lambda s: s.acquire_nowait()), **less
    )
    yield Operation(
        f"{kind}.acquire waiting", PosixSemaphore, made(lambda peer: create(peer, 0)),
        waiting(lambda s: s.acquire()), gives=PosixSemaphore.put, **less,
    )  # fmt: skip
    yield Operation(
        f"{kind}.release", PosixSemaphore, made(create), at_once(lambda s: s.release(3)),
        effect=changed(value=lambda value: value + 3),
    )  # fmt: skip
    yield from looks(kind, PosixSemaphore, made(create), statistics=new, value=7)


def posix_segments() -> Iterator[Operation]:
    kind = "posix.SharedMemory"

    def create(peer: Peer, **more: Any) -> Any:
        return posix.SharedMemory.create(peer.name, size=10_000, **more)

    def resize(size: int) -> Operation:
        return Operation(
            f"{kind}.resize to {size}", PosixSegment, one, at_once(lambda s: (s.resize(size), s)),
            undo=lambda result: result[1].resize(10_000), effect=changed(size=size),
        )  # fmt: skip

    new = {"begin": brief(bytes(len(SENT))), "size": 10_000, "mode": 0o600}
    one = made(create, write_some)
    yield from lifetimes(kind, PosixSegment, create, lambda peer: posix.SharedMemory.open(peer.name), new, write_some)
    yield Operation(
        f"{kind}.open read_only", PosixSegment, beside(create, write_some),
        at_once(lambda peer: posix.SharedMemory.open(peer.name, read_only=True)), undo=close,
    )  # fmt: skip
    yield from (resize(20_000_000), resize(5000))
    yield from looks(
        kind, PosixSegment, one, statistics={"size": 10_000, "mode": 0o600, "removed": False},
        buffer=SENT.ljust(10_000, b"\0"),
    )  # fmt: skip


class Ends(NamedTuple):
    """Both ends of a FIFO, as if they were one handle."""

    reader: posix.FifoReader
    writer: posix.FifoWriter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer if name.startswith("send") else self.reader, name)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.reader)


def fifos() -> Iterator[Operation]:
    kind = "posix.Fifo"

    def create(peer: Peer, **more: Any) -> Any:
        return posix.Fifo.create(peer.path, **more)

    def ends(*acts: Act) -> Subject:
        @asynccontextmanager
        async def subject(peer: Peer) -> AsyncIterator[Any]:
            with create(peer):
                async with posix.Fifo.open_reader(peer.path, keep_open=True) as reader:
                    async with posix.Fifo.open_writer(peer.path) as writer:
                        await do_all(acts, both := Ends(reader, writer))
                        yield both

        return subject

    def fill(both: Ends) -> None:
        with suppress(anyio.WouldBlock):
            while True:
                both.writer.send_nowait(bytes(4096))

    for end in ("reader", "writer"):
        yield Operation(
            f"{kind}.open_{end} waiting", Pipe, beside(create),
            waiting(lambda peer, end=end: getattr(posix.Fifo, f"open_{end}")(peer.path)),
            undo=close, gives=Pipe.open_other_end,
        )  # fmt: skip
    yield Operation(
        f"{kind}.open_reader keep_open", Pipe, beside(create),
        at_once(lambda peer: posix.Fifo.open_reader(peer.path, keep_open=True)), undo=close,
    )  # fmt: skip
    yield from lifetimes(kind, Pipe, create, None, {"bytes": 0, "mode": 0o600})
    for text, peer in (("", Pipe), (" long", LongPipe)):
        yield from transfers(
            kind, peer, ends(), ends(lambda both, peer=peer: both.send(peer.sent())), ends(fill), text=text,
            add=changed(bytes=lambda size, peer=peer: size + len(peer.sent())), drop=changed(bytes=0),
        )  # fmt: skip
    yield Operation(
        f"{kind}.statistics", Pipe, ends(send_one), at_once(lambda both: [end.statistics().bytes for end in both]),
        undo=same([len(SENT)] * 2),
    )  # fmt: skip
