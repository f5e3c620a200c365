"""What is done while system calls fail: each operation of each object of the library.

An operation is done in the process under test, which uses the library; what it gets is given by a `Peer` in the
harness, which knows the same object by name or key.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
from outside import GIVEN, PEERS, Peer, Pipe, PosixQueue, PosixSemaphore, Ring, Set, SysvQueue, doorbells_of

from aioipc import Channel, RemovedError, inspect, posix, sysv

Give = Callable[[], None]
SENT = b"sent"


class Operation(NamedTuple):
    """Something that is done with an object, whatever system calls fail."""

    name: str
    peer: type[Peer]
    subject: Callable[[Peer], AbstractAsyncContextManager[Any]]
    """What it is done to; in the process under test, as all that follows unless it says otherwise."""
    run: Callable[[Any, Give], Awaitable[Any]]
    """Do it; Give has something given by the peer."""
    undo: Callable[[Any], object] = lambda _: None
    """Undo what has been done, by its result."""
    gives: Callable[[Any, Any], Any] = lambda _, contents: contents
    """In the harness: what giving is, to a peer; what the contents are then, by those before."""
    effect: Callable[[Any], Any] | None = lambda contents: contents
    """In the harness: what the contents are once it is done, by those before it or after the gift; None if that is
    not to be told."""
    ends: bool = False
    """Whether it ends the handle, even if it fails, so that it can't be done again."""
    removes: bool = False
    """Whether nothing is left of the object and the handle once it is done."""


def at_once(function: Callable[[Any], Any]) -> Callable[[Any, Give], Awaitable[Any]]:
    """An operation that waits for nothing."""

    async def run(subject: Any, _: Give) -> Any:
        result = function(subject)
        return await result if isinstance(result, Awaitable) else result

    return run


def waiting(function: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Give], Awaitable[Any]]:
    """An operation that waits for what is given."""

    async def run(subject: Any, give: Give) -> Any:
        results: list[Any] = []
        errors: list[Exception] = []

        async def call() -> None:
            try:
                results.append(await function(subject))
            except Exception as error:  # noqa: BLE001
                errors.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            if not errors:
                give()
        if errors:
            raise errors.pop()
        return results[0]

    return run


def received(data: bytes) -> Callable[[Any], None]:
    """Looks at what was received."""

    def check(message: Any) -> None:
        assert getattr(message, "data", message) == data, message

    return check


def leave(subject: Any) -> None:
    subject.__exit__(None, None, None)


Make = Callable[[Peer], Any]


def made(make: Make, *then: Callable[[Any], object]) -> Callable[[Peer], AbstractAsyncContextManager[Any]]:
    """A subject: a handle that is made, and left in the end."""

    @asynccontextmanager
    async def subject(peer: Peer) -> AsyncIterator[Any]:
        handle = make(peer)
        try:
            for act in then:
                result = act(handle)
                if isinstance(result, Awaitable):
                    await result
            yield handle
        finally:
            leave(handle)

    return subject


def beside(make: Make, second: Make = lambda peer: peer) -> Callable[[Peer], AbstractAsyncContextManager[Any]]:
    """A subject: what is made of the peer beside an object, such as the peer itself."""

    @asynccontextmanager
    async def subject(peer: Peer) -> AsyncIterator[Any]:
        handle = make(peer)
        try:
            yield second(peer)
        finally:
            leave(handle)

    return subject


@asynccontextmanager
async def bare(peer: Peer) -> AsyncIterator[Peer]:
    """A subject: the peer, and no object."""
    yield peer


def dying(make: Make) -> Callable[[Peer], AbstractAsyncContextManager[Any]]:
    """A subject: a handle whose operation ends it.  If that fails, the object is removed afterwards."""

    @asynccontextmanager
    async def subject(peer: Peer) -> AsyncIterator[Any]:
        handle = make(peer)
        yield handle
        assert handle._handle.closed
        with suppress(FileNotFoundError, RemovedError):
            handle._remove_object()
        for doorbell in doorbells_of(os.getpid()):
            os.unlink(f"/dev/shm/{doorbell}")

    return subject


def lifetimes(kind: str, peer: type[Peer], create: Callable[..., Any], open: Make | None) -> Iterator[Operation]:
    """What all objects have in common."""

    def operation(name: str, *args: Any, **more: Any) -> Operation:
        return Operation(f"{kind}.{name}", peer, *args, effect=None, **more)

    def create_or_take(peer: Peer) -> Any:
        return create(peer, exist_ok=True)

    def close(handle: Any) -> None:
        handle.close()

    yield operation("create", bare, at_once(create), undo=leave)
    yield operation("create exist_ok", bare, at_once(create_or_take), undo=leave)
    yield operation("create to take over", beside(create), at_once(create_or_take), undo=close)
    if open is not None:
        yield operation("open", beside(create), at_once(open), undo=close)
        yield operation("close", dying(create), at_once(close), ends=True)
    yield operation("leave", dying(create), at_once(leave), ends=True, removes=True)


def transfers(
    kind: str, peer: type[Peer], empty: Make, full: Make, *, fill: Callable[[Any], object], count: Callable[..., Any]
) -> Iterator[Operation]:
    """Sending and receiving.

    :param count: changes the messages in contents by a function
    """
    sent = SENT.decode()
    add = {"effect": lambda contents: count(contents, lambda messages: [*messages, sent])}
    drop = {"effect": lambda contents: count(contents, lambda messages: messages[1:])}
    given = PEERS if peer is Ring else GIVEN
    got: dict[str, Any] = {"undo": received(SENT), **drop}
    one = made(empty, lambda handle: handle.send(SENT))
    put: dict[str, Any] = {"gives": peer.put, "undo": received(given), **drop}
    yield Operation(f"{kind}.send", peer, made(empty), at_once(lambda h: h.send(SENT)), **add)
    yield Operation(f"{kind}.send_nowait", peer, made(empty), at_once(lambda h: h.send_nowait(SENT)), **add)
    yield Operation(
        f"{kind}.send waiting", peer, made(full, fill), waiting(lambda h: h.send(SENT)), gives=peer.take, **add
    )
    yield Operation(f"{kind}.receive", peer, one, at_once(lambda h: h.receive()), **got)
    yield Operation(f"{kind}.receive_nowait", peer, one, at_once(lambda h: h.receive_nowait()), **got)
    yield Operation(f"{kind}.anext", peer, one, at_once(lambda h: anext(aiter(h))), **got)
    yield Operation(f"{kind}.receive waiting", peer, made(empty), waiting(lambda h: h.receive()), **put)
    yield Operation(f"{kind}.anext waiting", peer, made(empty), waiting(lambda h: anext(aiter(h))), **put)


def looks(kind: str, peer: type[Peer], create: Make, *names: str) -> Iterator[Operation]:
    """What changes nothing."""
    for name in names:

        def look(handle: Any, name: str = name) -> object:
            found = getattr(handle, name)
            return found() if callable(found) else found

        yield Operation(f"{kind}.{name}", peer, made(create), at_once(look))


def _plain(contents: Any, change: Callable[[Any], Any]) -> Any:
    return change(contents)


def _of_ring(contents: Any, change: Callable[[Any], Any]) -> Any:
    return {**contents, "messages": change(contents["messages"])}


def posix_queues() -> Iterator[Operation]:
    kind = "posix.MessageQueue"

    def create(peer: Peer, **more: Any) -> Any:
        return posix.MessageQueue.create(peer.name, max_messages=2, max_message_size=100, **more)

    yield from lifetimes(kind, PosixQueue, create, lambda peer: posix.MessageQueue.open(peer.name))
    yield from transfers(
        kind, PosixQueue, create, create, fill=lambda h: [h.send_nowait(b"%d" % n) for n in range(2)] and None,
        count=_plain,
    )  # fmt: skip
    yield from looks(kind, PosixQueue, create, "statistics")


def posix_semaphores() -> Iterator[Operation]:
    kind = "posix.Semaphore"

    def create(peer: Peer, value: int = 1, **more: Any) -> Any:
        return posix.Semaphore.create(peer.name, value=value, **more)

    less: dict[str, Any] = {"effect": lambda value: value - 1}
    yield from lifetimes(kind, PosixSemaphore, create, lambda peer: posix.Semaphore.open(peer.name))
    yield Operation(f"{kind}.acquire", PosixSemaphore, made(create), at_once(lambda s: s.acquire()), **less)
    yield Operation(
        f"{kind}.acquire_nowait", PosixSemaphore, made(create), at_once(lambda s: s.acquire_nowait()), **less
    )
    yield Operation(
        f"{kind}.acquire waiting", PosixSemaphore, made(lambda peer: create(peer, 0)),
        waiting(lambda s: s.acquire()), gives=PosixSemaphore.put, **less,
    )  # fmt: skip
    yield Operation(
        f"{kind}.release", PosixSemaphore, made(create), at_once(lambda s: s.release(3)), effect=lambda value: value + 3
    )
    yield from looks(kind, PosixSemaphore, create, "statistics", "value")


def posix_segments() -> Iterator[Operation]:
    kind = "posix.SharedMemory"

    def create(peer: Peer, **more: Any) -> Any:
        return posix.SharedMemory.create(peer.name, size=10_000, **more)

    def resize(size: int) -> Operation:
        return Operation(
            f"{kind}.resize to {size}", Peer, made(create), at_once(lambda s: (s.resize(size), s)),
            undo=lambda result: result[1].resize(10_000),
        )  # fmt: skip

    yield from lifetimes(kind, Peer, create, lambda peer: posix.SharedMemory.open(peer.name))
    yield Operation(
        f"{kind}.open read_only", Peer, beside(create),
        at_once(lambda peer: posix.SharedMemory.open(peer.name, read_only=True)), undo=lambda h: h.close(), effect=None,
    )  # fmt: skip
    yield from (resize(20_000_000), resize(5000))
    yield from looks(kind, Peer, create, "statistics", "buffer")


def fifos() -> Iterator[Operation]:
    kind = "posix.Fifo"

    def create(peer: Peer, **more: Any) -> Any:
        return posix.Fifo.create(peer.path, **more)

    def close(end: Any) -> None:
        end.close()

    for end in ("reader", "writer"):
        yield Operation(
            f"{kind}.open_{end}", Pipe, beside(create),
            waiting(lambda peer, end=end: getattr(posix.Fifo, f"open_{end}")(peer.path)),
            undo=close, gives=Pipe.open_other_end, effect=None,
        )  # fmt: skip
    yield Operation(
        f"{kind}.open_reader keep_open", Pipe, beside(create),
        at_once(lambda peer: posix.Fifo.open_reader(peer.path, keep_open=True)), undo=close, effect=None,
    )  # fmt: skip
    yield from lifetimes(kind, Pipe, create, None)

    @asynccontextmanager
    async def ends(peer: Peer) -> AsyncIterator[Any]:
        with create(peer):
            async with posix.Fifo.open_reader(peer.path, keep_open=True) as reader:
                async with posix.Fifo.open_writer(peer.path) as writer:
                    yield reader, writer

    @asynccontextmanager
    async def full(peer: Peer) -> AsyncIterator[Any]:
        async with ends(peer) as (reader, writer):
            with suppress(anyio.WouldBlock):
                while True:
                    writer.send_nowait(bytes(4096))
            yield reader, writer

    yield Operation(
        f"{kind}.receive waiting", Pipe, ends, waiting(lambda both: both[0].receive()),
        gives=Pipe.put, undo=received(GIVEN), effect=lambda size: size - len(GIVEN),
    )  # fmt: skip
    yield Operation(
        f"{kind}.send", Pipe, ends, at_once(lambda both: both[1].send(SENT)), effect=lambda size: size + len(SENT)
    )
    yield Operation(
        f"{kind}.send waiting", Pipe, full, waiting(lambda both: both[1].send(bytes(4096))),
        gives=Pipe.take, effect=lambda size: size + 4096,
    )  # fmt: skip
    yield Operation(f"{kind}.statistics", Pipe, ends, at_once(lambda both: [end.statistics() for end in both]))


def sysv_queues() -> Iterator[Operation]:
    kind = "sysv.MessageQueue"

    def create(peer: Peer, **more: Any) -> Any:
        return sysv.MessageQueue.create(peer.key, **more)

    def create_small(peer: Peer, **more: Any) -> Any:
        return create(peer, max_bytes=20, **more)

    def change(queue: Any) -> Any:
        queue.change(max_bytes=100, mode=0o640)

    yield from lifetimes(kind, SysvQueue, create_small, lambda peer: sysv.MessageQueue.open(peer.key))
    yield Operation(
        f"{kind}.open by id", SysvQueue, made(create), at_once(lambda q: sysv.MessageQueue.open(id=q.id)),
        undo=lambda h: h.close(), effect=None,
    )  # fmt: skip
    yield from transfers(
        kind, SysvQueue, create, create_small, fill=lambda h: [h.send_nowait(b"%010d" % n) for n in range(2)] and None,
        count=_plain,
    )  # fmt: skip
    yield Operation(f"{kind}.change", SysvQueue, made(create), at_once(change))
    yield from looks(kind, SysvQueue, create, "statistics")


def sysv_sets() -> Iterator[Operation]:
    kind = "sysv.SemaphoreSet"

    def create(peer: Peer, value: int = 1, **more: Any) -> Any:
        return sysv.SemaphoreSet.create(peer.key, values=[value, 5], **more)

    def set_values(semaphores: Any) -> None:
        semaphores.values = [3, 3]

    yield from lifetimes(kind, Set, create, lambda peer: sysv.SemaphoreSet.open(peer.key))
    yield Operation(
        f"{kind}.open by id", Set, made(create), at_once(lambda s: sysv.SemaphoreSet.open(id=s.id)),
        undo=lambda h: h.close(), effect=None,
    )  # fmt: skip
    for undo in (False, True):
        text = " undo" if undo else ""
        less: dict[str, Any] = {"effect": lambda value: value - 1}
        yield Operation(
            f"{kind}.operate{text}", Set, made(create),
            at_once(lambda s, undo=undo: s.operate((0, -1), (1, -1), undo=undo)), **less,
        )  # fmt: skip
        yield Operation(
            f"{kind}.operate{text} waiting", Set, made(lambda peer: create(peer, 0)),
            waiting(lambda s, undo=undo: s.operate((0, -1), (1, -1), undo=undo)), gives=Set.put, **less,
        )  # fmt: skip
    yield Operation(
        f"{kind}.operate_nowait", Set, made(create), at_once(lambda s: s.operate_nowait((0, 2))),
        effect=lambda value: value + 2,
    )  # fmt: skip
    yield Operation(f"{kind}.set values", Set, made(create), at_once(set_values), effect=lambda _: 3)
    yield Operation(f"{kind}.change", Set, made(create), at_once(lambda s: s.change(mode=0o640)))
    yield from looks(kind, Set, create, "statistics", "values")


def sysv_segments() -> Iterator[Operation]:
    kind = "sysv.SharedMemory"

    def create(peer: Peer, **more: Any) -> Any:
        return sysv.SharedMemory.create(peer.key, size=10_000, **more)

    yield from lifetimes(kind, Peer, create, lambda peer: sysv.SharedMemory.open(peer.key))
    yield Operation(
        f"{kind}.open by id", Peer, made(create), at_once(lambda s: sysv.SharedMemory.open(id=s.id, read_only=True)),
        undo=lambda h: h.close(), effect=None,
    )  # fmt: skip
    yield Operation(f"{kind}.change", Peer, made(create), at_once(lambda s: s.change(mode=0o640)))
    yield from looks(kind, Peer, create, "statistics")


def channels() -> Iterator[Operation]:
    kind = "Channel"

    def create(peer: Peer, **more: Any) -> Any:
        return Channel.create(peer.name, capacity=256, **more)

    async def reserve(channel: Channel) -> None:
        async with channel.reserve(4) as buffer:
            buffer[:] = SENT

    async def borrow(channel: Channel) -> bytes:
        async with channel.borrow() as view:
            return bytes(view)

    def messages(change: Callable[[Any], Any]) -> dict[str, Any]:
        return {"effect": lambda contents: _of_ring(contents, change)}

    sent = SENT.decode()
    one = made(create, lambda channel: channel.send(SENT))
    yield from lifetimes(kind, Ring, create, lambda peer: Channel.open(peer.name))
    yield from transfers(
        kind, Ring, create, create, fill=lambda h: h.send_many([b"%d" % n for n in range(4)]), count=_of_ring
    )
    yield Operation(
        f"{kind}.send_many", Ring, made(create), at_once(lambda c: c.send_many([SENT] * 3)),
        **messages(lambda old: [*old, *[sent] * 3]),
    )  # fmt: skip
    yield Operation(
        f"{kind}.receive_many waiting", Ring, made(create), waiting(lambda c: c.receive_many(5)),
        gives=Ring.put, **messages(lambda _: []),
    )  # fmt: skip
    yield Operation(f"{kind}.reserve", Ring, made(create), at_once(reserve), **messages(lambda old: [*old, sent]))
    yield Operation(f"{kind}.borrow", Ring, one, at_once(borrow), undo=received(SENT), **messages(lambda _: []))
    yield Operation(
        f"{kind}.borrow waiting", Ring, made(create), waiting(borrow), gives=Ring.put, **messages(lambda _: [])
    )
    yield Operation(f"{kind}.end", Ring, made(create), at_once(lambda c: c.end()))
    yield from looks(kind, Ring, create, "statistics")


def the_rest() -> Iterator[Operation]:
    def ftok(_: Peer) -> int:
        return sysv.ftok("/", 1)

    @asynccontextmanager
    async def many(peer: Peer) -> AsyncIterator[Peer]:
        """One of each."""
        with posix.MessageQueue.create(peer.name, max_messages=1), posix.Semaphore.create(peer.name):
            with Channel.create(peer.name), sysv.MessageQueue.create(peer.key), sysv.SharedMemory.create(None, size=1):
                with sysv.SemaphoreSet.create(peer.key, values=[1]):
                    yield peer

    yield Operation("sysv.ftok", Peer, bare, at_once(ftok))
    yield Operation("inspect.look", Peer, many, at_once(lambda _: inspect.look()))
    yield Operation("inspect.limits", Peer, many, at_once(lambda _: inspect.limits()))
    yield Operation("inspect.orphans", Peer, many, at_once(lambda _: inspect.orphans()))
    for kind in ("mq", "sem", "channel"):
        yield Operation(
            f"inspect.find {kind}", Peer, many, at_once(lambda peer, kind=kind: inspect.find(f"{kind}:{peer.name}"))
        )
    yield Operation("inspect.find msg", Peer, many, at_once(lambda peer: inspect.find(f"msg:{peer.key:#x}")))


OPERATIONS = tuple(
    operation
    for part in (
        posix_queues, posix_semaphores, posix_segments, fifos, sysv_queues, sysv_sets, sysv_segments, channels, the_rest
    )
    for operation in part()
)  # fmt: skip
