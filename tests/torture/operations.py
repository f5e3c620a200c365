"""What is done while system calls fail: what the operations of all objects have in common.

An operation is done in the process under test, which uses the library; what it gets is given by a `Peer` in the
harness, which knows the same object by name or key.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
from outside import SENT, Peer, brief, doorbells_of
from outside_channels import Ring

from aioipc import RemovedError

Give = Callable[[], None]


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
    effect: Callable[[Any], Any] = lambda contents: contents
    """In the harness: what the contents are once it is done, by those before it or after the gift."""
    ends: bool = False
    """Whether it ends the handle, even if it fails, so that it can't be done again."""
    removes: bool = False
    """Whether nothing is left of the object and the handle once it is done."""

    @property
    def waits(self) -> bool:
        """Whether it waits in the event loop: what becomes of it is the loop's matter, too."""
        return self.name.endswith(" waiting")


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


def once_given(function: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, Give], Awaitable[Any]]:
    """An operation that is begun when something has been given."""

    async def run(subject: Any, give: Give) -> Any:
        give()
        return await function(subject)

    return run


def same(wanted: object) -> Callable[[Any], None]:
    """Looks at a result: what is wanted of it, or of some of its fields."""

    def check(found: Any) -> None:
        if isinstance(wanted, dict):
            found = {name: getattr(found, name) for name in wanted}
        assert found == wanted, f"{found}, not {wanted}"

    return check


def received(data: Callable[[], bytes]) -> Callable[[Any], None]:
    """Looks at what was received."""
    return lambda message: same(data())(getattr(message, "data", message))


def leave(subject: Any) -> None:
    subject.__exit__(None, None, None)


def close(subject: Any) -> None:
    subject.close()


Make = Callable[[Peer], Any]
Subject = Callable[[Peer], AbstractAsyncContextManager[Any]]
Act = Callable[[Any], object]


async def do_all(acts: Iterable[Act], handle: Any) -> None:
    for act in acts:
        result = act(handle)
        if isinstance(result, Awaitable):
            await result


def made(make: Make, *acts: Act) -> Subject:
    """A subject: a handle that is made, and left in the end."""

    @asynccontextmanager
    async def subject(peer: Peer) -> AsyncIterator[Any]:
        handle = make(peer)
        try:
            await do_all(acts, handle)
            yield handle
        finally:
            leave(handle)

    return subject


def beside(make: Make, *acts: Act) -> Subject:
    """A subject: the peer, beside an object."""

    @asynccontextmanager
    async def subject(peer: Peer) -> AsyncIterator[Any]:
        async with made(make, *acts)(peer):
            yield peer

    return subject


@asynccontextmanager
async def bare(peer: Peer) -> AsyncIterator[Peer]:
    """A subject: the peer, and no object."""
    yield peer


def dying(make: Make, *acts: Act, removed: bool) -> Subject:
    """A subject: a handle whose operation ends it.

    :param removed: whether that may remove the object; what is left is removed afterwards
    """

    @asynccontextmanager
    async def subject(peer: Peer) -> AsyncIterator[Any]:
        handle = make(peer)
        await do_all(acts, handle)
        yield handle
        assert handle._handle.closed
        with suppress(FileNotFoundError, RemovedError) if removed else nullcontext():
            handle._remove_object()
        for doorbell in doorbells_of(os.getpid()):
            os.unlink(f"/dev/shm/{doorbell}")

    return subject


def remove(handle: Any) -> None:
    """What System V objects call so, and POSIX objects call unlink."""
    (handle.remove if hasattr(handle, "remove") else handle.unlink)()


def lifetimes(
    kind: str, peer: type[Peer], create: Callable[..., Any], open: Make | None, new: dict[str, Any], *acts: Act
) -> Iterator[Operation]:
    """What all objects have in common.

    :param new: the contents of a new one
    :param acts: put something into one that exists already
    """

    def create_or_take(peer: Peer) -> Any:
        return create(peer, exist_ok=True)

    made_new: dict[str, Any] = {"undo": leave, "effect": lambda _: new}
    opened: dict[str, Any] = {"undo": close, "effect": peer.joined}
    yield Operation(f"{kind}.create", peer, bare, at_once(create), **made_new)
    yield Operation(f"{kind}.create exist_ok", peer, bare, at_once(create_or_take), **made_new)
    yield Operation(f"{kind}.create to take over", peer, beside(create, *acts), at_once(create_or_take), **opened)
    if open is not None:
        yield Operation(f"{kind}.open", peer, beside(create, *acts), at_once(open), **opened)
    if peer is not Ring:  # what is left of a channel are orphans, which are not removed by its name
        yield Operation(f"{kind}.remove", peer, made(create, *acts), at_once(remove), effect=lambda _: None)
    yield Operation(
        f"{kind}.close", peer, dying(create, *acts, removed=False), at_once(close), ends=True,
        effect=lambda contents: peer.joined(contents, -1),
    )  # fmt: skip
    yield Operation(
        f"{kind}.leave", peer, dying(create, *acts, removed=True), at_once(leave), ends=True, removes=True,
        effect=lambda _: None,
    )  # fmt: skip


Change = Callable[[Any], Any]


def changed(**changes: Any) -> Change:
    """An effect: what parts of the contents become, or functions that say it."""
    return lambda contents: {
        **contents,
        **{name: to(contents[name]) if callable(to) else to for name, to in changes.items()},
    }


def appended(peer: type[Peer], count: int = 1) -> Change:
    """An effect: so many more messages of the process under test."""
    return lambda contents: {**contents, "messages": [*contents["messages"], *[brief(peer.sent())] * count]}


without_first = changed(messages=lambda messages: messages[1:])
emptied = changed(messages=[])


def transfers(
    kind: str, peer: type[Peer], empty: Subject, one: Subject, full: Subject, *,
    text: str = "", add: Change | None = None, drop: Change = without_first,
) -> Iterator[Operation]:  # fmt: skip
    """Sending and receiving.

    :param text: comes after the name
    :param add: the effect of sending
    :param drop: the effect of receiving
    """

    def operation(name: str, subject: Subject, run: Callable[[Any, Give], Awaitable[Any]], **more: Any) -> Operation:
        what, *waits = name.split(" ")
        return Operation(" ".join([f"{kind}.{what}{text}", *waits]), peer, subject, run, **more)

    sends: dict[str, Any] = {"effect": add or appended(peer)}
    takes: dict[str, Any] = {"undo": received(peer.sent), "effect": drop}
    given: dict[str, Any] = {"undo": received(peer.given), "effect": drop, "gives": peer.put}
    yield operation("send", empty, at_once(lambda h: h.send(peer.sent())), **sends)
    yield operation("send waiting", full, waiting(lambda h: h.send(peer.sent())), gives=peer.take, **sends)
    if not text:
        yield operation("send_nowait", empty, at_once(lambda h: h.send_nowait(peer.sent())), **sends)
        yield operation("receive_nowait", one, at_once(lambda h: h.receive_nowait()), **takes)
        yield operation("anext", one, at_once(lambda h: anext(aiter(h))), **takes)
        yield operation("anext waiting", empty, waiting(lambda h: anext(aiter(h))), **given)
    yield operation("receive", one, at_once(lambda h: h.receive()), **takes)
    yield operation("receive waiting", empty, waiting(lambda h: h.receive()), **given)


def looks(kind: str, peer: type[Peer], subject: Subject, **found: object) -> Iterator[Operation]:
    """What changes nothing, and what it finds."""
    for name, wanted in found.items():

        def look(handle: Any, name: str = name) -> object:
            result = getattr(handle, name)
            return result() if callable(result) else result

        yield Operation(f"{kind}.{name}", peer, subject, at_once(look), undo=same(wanted))


def send_one(handle: Any) -> Any:
    return handle.send(SENT)


def write_some(segment: Any) -> None:
    segment.buffer[: len(SENT)] = SENT
