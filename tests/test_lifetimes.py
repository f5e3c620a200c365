"""What holds for handles of all kinds, while they live and when they are forgotten."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import os
import pickle
import pydoc
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from conftest import in_child

from aioipc import Channel, ClosedError, posix, sysv

KINDS: dict[str, Callable[[str], Any]] = {
    "posix.MessageQueue": lambda name: posix.MessageQueue.create(name, max_messages=1, max_message_size=16),
    "posix.Semaphore": lambda name: posix.Semaphore.create(name),
    "posix.SharedMemory": lambda name: posix.SharedMemory.create(name, size=100),
    "posix.Fifo": lambda name: posix.Fifo.create("." + name),
    "Channel": lambda name: Channel.create(name, capacity=4096),
    "sysv.MessageQueue": lambda _: sysv.MessageQueue.create(None),
    "sysv.SemaphoreSet": lambda _: sysv.SemaphoreSet.create(None, values=[1]),
    "sysv.SharedMemory": lambda _: sysv.SharedMemory.create(None, size=100),
}


@pytest.fixture(params=KINDS)
def handle(request: pytest.FixtureRequest, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        made = KINDS[request.param](name)
        stack.enter_context(made)
        yield made


def remove(handle: Any) -> None:
    (handle.remove if hasattr(handle, "remove") else handle.unlink)()


def test_a_child_of_a_fork_does_not_remove_what_it_inherited(handle: Any) -> None:
    def try_to() -> str:
        with pytest.raises(RuntimeError) as caught:
            remove(handle)
        handle.close()
        with pytest.raises(RuntimeError):
            remove(handle)
        return str(caught.value)

    assert "belongs to the parent process: open it again in the child" in in_child(try_to)
    remove(handle)  # and so it was there


def test_the_block_of_a_closed_handle_can_not_be_entered(handle: Any) -> None:
    handle.close()
    with pytest.raises(ClosedError, match="is closed"):
        handle.__enter__()
    if hasattr(handle, "aclose"):
        with pytest.raises(ClosedError, match="is closed"):
            handle.__aenter__().send(None)


@pytest.mark.parametrize("kind", ["posix.MessageQueue", "posix.SharedMemory", "Channel"])
def test_what_is_collected_where_warnings_are_errors_is_closed(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", lambda told: unraisable.append(told.exc_type))
    with KINDS[kind](name) as made, warnings.catch_warnings():
        warnings.simplefilter("error")
        before = os.listdir("/proc/self/fd")
        type(made).open(name)
        gc.collect()
        assert os.listdir("/proc/self/fd") == before
    assert unraisable == [ResourceWarning]


def test_who_calls_a_class_hears_what_makes_a_handle(handle: Any) -> None:
    kind = type(handle)
    with pytest.raises(TypeError, match=f"{kind.__name__} can't be called: use {kind.__name__}.create"):
        kind("/name")


def test_who_calls_the_class_of_an_end_hears_what_opens_it() -> None:
    with pytest.raises(TypeError, match=r"use Fifo\.open_reader$"):
        posix.FifoReader("path")
    with pytest.raises(TypeError, match=r"use Fifo\.open_writer$"):
        posix.FifoWriter("path")


def test_a_subclass_is_made_in_the_same_ways(name: str) -> None:
    class Own(posix.MessageQueue):
        pass

    with Own.create(name, max_messages=1, max_message_size=16) as created, Own.open(name) as opened:
        assert type(created) is type(opened) is Own


# Subclasses that can't be made -------------------------------------------------------------


class Place(NamedTuple):
    """Where an object can be."""

    name: str
    key: int


class Unmakeable(NamedTuple):
    """A kind whose subclasses are made in vain."""

    kind: Any
    create: Callable[..., Any]
    open: Callable[[Any, Place], Any] = lambda kind, place: kind.open(place.name)


def _open_keyed(kind: Any, place: Place) -> Any:
    return kind.open(place.key)


UNMAKEABLE = [
    Unmakeable(
        posix.MessageQueue,
        lambda kind, place, **options: kind.create(place.name, max_messages=1, max_message_size=16, **options),
    ),
    Unmakeable(posix.Semaphore, lambda kind, place, **options: kind.create(place.name, **options)),
    Unmakeable(posix.SharedMemory, lambda kind, place, **options: kind.create(place.name, size=100, **options)),
    Unmakeable(Channel, lambda kind, place, **options: kind.create(place.name, capacity=4096, **options)),
    Unmakeable(
        sysv.MessageQueue, lambda kind, place, **options: kind.create(place.key, max_bytes=100, **options), _open_keyed
    ),
    Unmakeable(
        sysv.SemaphoreSet, lambda kind, place, **options: kind.create(place.key, values=[1], **options), _open_keyed
    ),
    Unmakeable(
        sysv.SharedMemory, lambda kind, place, **options: kind.create(place.key, size=100, **options), _open_keyed
    ),
]


def takes_nothing(kind: Any) -> Any:
    class Own(kind):
        def __init__(self) -> None:
            super().__init__()

    return Own


def fails_at_first(kind: Any) -> Any:
    class Own(kind):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            raise TypeError("in vain")

    return Own


def fails_at_last(kind: Any) -> Any:
    class Own(kind):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            raise TypeError("in vain")  # before there is a log

        def close(self) -> None:
            self.log.close()
            super().close()

    return Own


def fails_when_allocated(kind: Any) -> Any:
    class Own(kind):
        def __new__(cls) -> Any:
            return super().__new__(cls)

    return Own


def closes_itself(kind: Any) -> Any:
    class Own(kind):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.close()
            raise TypeError("in vain")

    return Own


def is_abstract(kind: Any) -> Any:
    class Own(kind):
        @abstractmethod
        def use(self) -> None: ...

    return Own


@pytest.fixture(params=UNMAKEABLE, ids=lambda each: f"{each.kind.__module__.split('.')[1]}.{each.kind.__name__}")
def unmakeable(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def place(name: str, key: int) -> Place:
    return Place(name, key)


@pytest.fixture(
    params=[takes_nothing, fails_at_first, fails_at_last, fails_when_allocated, closes_itself, is_abstract],
    ids=lambda make: make.__name__,
)
def subclass(request: pytest.FixtureRequest, unmakeable: Unmakeable) -> Any:
    return request.param(unmakeable.kind)


def fail_to(make: Callable[[], object]) -> None:
    """Call it; nothing is to be heard of what was half made."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError):
            make()
        gc.collect()


@pytest.mark.parametrize("exist_ok", [False, True])
def test_what_was_created_for_a_subclass_that_cannot_be_made_is_removed(
    unmakeable: Unmakeable, subclass: Any, place: Place, descriptors: Callable[[], int], exist_ok: bool
) -> None:
    before = descriptors()
    fail_to(lambda: unmakeable.create(subclass, place, exist_ok=exist_ok))
    assert descriptors() == before
    with unmakeable.create(unmakeable.kind, place):  # and so it is not there
        pass


def test_what_was_taken_over_for_a_subclass_that_cannot_be_made_stays(
    unmakeable: Unmakeable, subclass: Any, place: Place, descriptors: Callable[[], int]
) -> None:
    with unmakeable.create(unmakeable.kind, place):
        before = descriptors()
        fail_to(lambda: unmakeable.create(subclass, place, exist_ok=True))
        fail_to(lambda: unmakeable.open(subclass, place))
        assert descriptors() == before
        unmakeable.open(unmakeable.kind, place).close()


def test_a_fifo_for_a_subclass_that_cannot_be_made(tmp_path: Path, descriptors: Callable[[], int]) -> None:
    path = tmp_path / "fifo"
    before = descriptors()
    for make in (takes_nothing, fails_at_last, is_abstract):
        fail_to(partial(make(posix.Fifo).create, path))
        assert not path.exists()
    with posix.Fifo.create(path):
        fail_to(lambda: takes_nothing(posix.Fifo).create(path, exist_ok=True))
        assert path.exists()
    assert descriptors() == before


@pytest.mark.parametrize("transfer", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_handle_is_not_for_other_processes(handle: Any, transfer: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=r"can't be pickled or copied: let the other process open it by its name or id"):
        transfer(handle)


# A forgotten await ------------------------------------------------------------------------


def forgotten(make: Callable[[], object]) -> list[tuple[type[Warning], str, str]]:
    """What is said of an awaitable that nobody awaits."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
        gc.collect()
    return [(warning.category, str(warning.message), Path(warning.filename).name) for warning in caught]


OPERATIONS: dict[str, Callable[[Any], object]] = {
    "send": lambda handle: handle.send(b"x"),
    "receive": lambda handle: handle.receive(),
    "iterate": lambda handle: anext(aiter(handle)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["posix.MessageQueue", "sysv.MessageQueue", "Channel"])
def test_a_forgotten_await_is_told(name: str, kind: str, operation: str) -> None:
    with KINDS[kind](name) as handle:
        ((category, text, file),) = forgotten(lambda: OPERATIONS[operation](handle))
    assert (category, "never awaited" in text, file) == (RuntimeWarning, True, Path(__file__).name)


def test_a_forgotten_await_in_words(name: str) -> None:
    with KINDS["posix.MessageQueue"](name) as queue:
        assert forgotten(lambda: queue.send(b"x"))[0][1] == "MessageQueue.send() was never awaited"
        assert queue.statistics().messages == 0


def test_a_forgotten_await_of_what_is_part_of_a_cycle(name: str) -> None:
    def make() -> None:
        cycle = [queue.receive()]
        cycle.append(cycle)

    with KINDS["posix.MessageQueue"](name) as queue:
        assert [text for _, text, _ in forgotten(make)] == ["MessageQueue.receive() was never awaited"]


def test_a_forgotten_await_where_warnings_are_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda error: errors.append(error.exc_value))
    with KINDS["posix.MessageQueue"](name) as queue, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError):  # what is under way goes on
            raise ZeroDivisionError(queue.receive())
        gc.collect()
    assert [str(error) for error in errors] == ["MessageQueue.receive() was never awaited"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_cancelled_before_it_starts_was_not_forgotten(name: str, backend: str) -> None:
    async def cancel() -> None:
        if backend == "asyncio":
            task = asyncio.create_task(queue.receive())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            await queue.receive()

    with KINDS["posix.MessageQueue"](name) as queue:
        assert forgotten(lambda: anyio.run(cancel, backend=backend)) == []


# Names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "expected"), [("__main__", "Own"), ("jobs", "jobs.Own"), ("jobs.queues", "jobs.queues.Own")]
)
def test_the_name_of_a_subclass(name: str, module: str, expected: str) -> None:
    own = type("Own", (posix.Semaphore,), {"__module__": module})
    with own.create(name) as semaphore:  # type: ignore[attr-defined]
        assert repr(semaphore) == f"<{expected} '{name}' open>"


def test_the_name_of_a_class_of_the_package(name: str) -> None:
    with posix.Semaphore.create(name) as semaphore:
        assert repr(semaphore) == f"<aioipc.posix.Semaphore '{name}' open>"


def test_help_shows_no_way_to_call_a_class() -> None:
    with pytest.raises(ValueError, match=r"MessageQueue can't be called: use MessageQueue\.create or"):
        inspect.signature(posix.MessageQueue)
    text = pydoc.plain(pydoc.render_doc(posix.MessageQueue))
    assert "MessageQueue(*" not in text
    assert "create(" in text
