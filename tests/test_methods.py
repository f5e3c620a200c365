"""What programs hear that ask about a method, as frameworks, mocks and debuggers do: what they would of a function."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import pydoc
import sys
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial, wraps
from typing import Any
from unittest import mock

import anyio
import anyio.to_thread
import pytest
from conftest import until

import aioipc
import aioipc.aiohttp
import aioipc.inspect
from aioipc import Channel, posix, sysv
from aioipc._ring._binding import Ring
from aioipc._waiting._immediate import immediately

PUBLIC_CLASSES = [
    value
    for package in (aioipc, aioipc.aiohttp, aioipc.inspect, aioipc.posix, aioipc.sysv)
    for value in (getattr(package, name) for name in package.__all__)
    if inspect.isclass(value)
]
KINDS: dict[str, Callable[[str], Any]] = {
    "posix.MessageQueue": lambda name: posix.MessageQueue.create(name, max_messages=2, max_message_size=16),
    "sysv.MessageQueue": lambda _: sysv.MessageQueue.create(None),
    "Channel": lambda name: Channel.create(name, capacity=4096),
}
IN_C = ("send", "send_nowait", "receive", "receive_nowait")


@pytest.fixture(params=KINDS)
def stream(request: pytest.FixtureRequest, name: str) -> Iterator[Any]:
    with KINDS[request.param](name) as made:
        yield made


@pytest.fixture(params=["posix.MessageQueue", "Channel"])
def quick(request: pytest.FixtureRequest, name: str) -> Iterator[Any]:
    """A handle with methods in C."""
    with KINDS[request.param](name) as made:
        yield made


def data(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.data


# Coroutine functions ------------------------------------------------------------------


def are_awaited(kind: type) -> Iterator[str]:
    """The public methods that anyio or a base of this package has as coroutine functions, or that have a twin that does
    not wait."""
    for name in dir(kind):
        if name.startswith("_") or name in ("reserve", "borrow"):
            continue
        has_twin = hasattr(kind, f"{name}_nowait")
        if has_twin or any(inspect.iscoroutinefunction(vars(base).get(name)) for base in kind.__mro__):
            yield name


@pytest.mark.parametrize("kind", PUBLIC_CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_what_is_awaited_is_a_coroutine_function(kind: type) -> None:
    for name in are_awaited(kind):
        method = getattr(kind, name)
        assert inspect.iscoroutinefunction(method), name
        if sys.version_info < (3, 14):  # deprecated there
            assert asyncio.iscoroutinefunction(method), name


def test_a_bound_one_is_one_too(stream: Any) -> None:
    assert set(are_awaited(type(stream))) >= {"send", "receive", "aclose"}
    for function in (stream.send, partial(stream.send, b"x"), partial(type(stream).send, stream), stream.receive):
        assert inspect.iscoroutinefunction(function)
    assert not inspect.iscoroutinefunction(stream.send_nowait)
    assert not inspect.iscoroutinefunction(stream.receive_nowait)


async def dispatch(function: Callable[..., Any], *args: Any) -> Any:
    """Call what may be asynchronous, as web frameworks do: starlette.background.BackgroundTask."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    return await anyio.to_thread.run_sync(function, *args)


@pytest.mark.anyio
async def test_a_framework_that_asks_loses_no_message(stream: Any) -> None:
    await dispatch(stream.send, b"x")
    assert data(await dispatch(stream.receive)) == b"x"


@pytest.mark.anyio
async def test_a_mock_can_be_awaited(stream: Any) -> None:
    mocked = mock.create_autospec(type(stream), instance=True)
    mocked.receive.return_value = b"x"
    assert await mocked.send(b"x") is not None
    assert await mocked.receive() == b"x"
    mocked.send.assert_awaited_once_with(b"x")
    with mock.patch.object(type(stream), "send", autospec=True) as patched:
        await stream.send(b"x")
    patched.assert_awaited_once()
    assert mock.Mock(spec=stream).send_nowait(b"x") is not None


# Arguments ----------------------------------------------------------------------------


@pytest.mark.anyio
async def test_keyword_arguments(stream: Any) -> None:
    await stream.send(item=b"1")
    assert data(await stream.receive()) == b"1"
    stream.send_nowait(item=b"2")
    assert data(stream.receive_nowait()) == b"2"
    await type(stream).send(self=stream, item=b"3")
    assert data(await type(stream).receive(self=stream)) == b"3"


@pytest.mark.anyio
async def test_with_a_keyword_it_waits_in_turn(name: str) -> None:
    with Channel.create(name, capacity=64) as channel:
        await channel.send(item=b"1")
        async with anyio.create_task_group() as tasks:
            for number, item in enumerate((b"2", b"3"), 1):
                tasks.start_soon(partial(channel.send, item=item))
                await until(lambda number=number: channel.statistics().tasks_waiting_send == number)
            assert [await channel.receive() for _ in range(3)] == [b"1", b"2", b"3"]


def test_signature(stream: Any) -> None:
    parameters = inspect.signature(stream.send).parameters
    assert next(iter(parameters)) == "item"
    assert inspect.signature(type(stream).send).parameters.keys() == {"self"} | parameters.keys()
    assert inspect.signature(stream.receive_nowait) == inspect.signature(stream.receive)


def test_what_is_wrong_with_arguments_python_says(quick: Any) -> None:
    kind = type(quick).__name__
    for method, args, options, words in (
        ("send", (), {}, "missing 1 required positional argument: 'item'"),
        ("send", (b"x", 1, 2), {}, "positional arguments but 4 were given"),
        ("send", (b"x",), {"other": 1}, "got an unexpected keyword argument 'other'"),
        ("send", (b"x",), {"item": b"x"}, "got multiple values for argument 'item'"),
        ("receive", (1,), {}, "takes 1 positional argument but 2 were given"),
        ("receive", (), {"other": 1}, "got an unexpected keyword argument 'other'"),
    ):
        for name in (method, f"{method}_nowait"):
            with pytest.raises(TypeError) as caught:
                getattr(quick, name)(*args, **options)
            assert str(caught.value).startswith(f"{kind}.{name}() ")
            assert str(caught.value).endswith(words)
    assert quick.statistics().messages == 0


def test_of_nothing_and_of_something_else(quick: Any) -> None:
    kind = type(quick)
    for name in IN_C:
        method = getattr(kind, name)
        with pytest.raises(TypeError, match=r"missing .* 'self'"):
            method()
        for wrong in (5, None, kind, object()):
            for args in ((), (b"x",), (b"x", 1, 2)):
                with pytest.raises(
                    TypeError, match=rf"^{kind.__name__}\.{name}\(\) is no method of {type(wrong).__name__}$"
                ):
                    method(wrong, *args)


# Subclasses ---------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [posix.MessageQueue, Channel])
async def test_a_subclass_may_do_more(name: str, kind: Any) -> None:
    class Own(kind):
        async def send(self, item: bytes) -> None:
            seen.append(item)
            await super().send(item)

        async def receive(self) -> object:
            message = await super().receive()
            seen.append(data(message))
            return message

    seen: list[bytes] = []
    with Own.create(name) as own:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(own.receive)
            await until(lambda: own.statistics().tasks_waiting_receive == 1)
            await own.send(b"x")
        await kind.send(own, b"y")
        assert data(await kind.receive(own)) == b"y"
    assert seen == [b"x", b"x"]


# Names --------------------------------------------------------------------------------


def test_names(stream: Any) -> None:
    kind = type(stream)
    for name in IN_C:
        for method in (getattr(kind, name), getattr(stream, name)):
            assert method.__name__ == name
            assert method.__qualname__ == f"{kind.__name__}.{name}"
            assert method.__module__ == kind.__module__
            assert method.__doc__
            assert f"{kind.__name__}.{name}" in repr(method)
            assert inspect.getsource(method).lstrip().startswith(("@immediately", "def", "async def"))
        assert not hasattr(getattr(kind, name), "other")
    assert "async send(" in pydoc.plain(pydoc.render_doc(kind))

    @wraps(stream.send)
    def wrapper() -> None: ...

    assert wrapper.__qualname__ == f"{kind.__name__}.send"


def test_names_of_awaitables(stream: Any) -> None:
    kind = type(stream).__name__
    for make, name in ((lambda: stream.send(b"x"), "send"), (stream.receive, "receive")):
        made = make()
        for _ in range(2):
            assert (made.__name__, made.__qualname__) == (name, f"{kind}.{name}")
            assert f" object {kind}.{name} at " in repr(made)
            made.close()  # it keeps them in the end


@pytest.mark.parametrize("name_", ["__anext__", "__aenter__", "__aexit__"])
def test_names_of_awaitables_of_special_methods(name: str, name_: str) -> None:
    with Channel.create(name) as channel:
        made = {
            "__anext__": channel.__anext__,
            "__aenter__": lambda: channel.borrow().__aenter__(),
            "__aexit__": lambda: channel.borrow().__aexit__(None, None, None),
        }[name_]()
        assert made.__name__ == name_
        assert made.__qualname__.endswith(f".{name_}")
        made.close()


def test_names_of_tasks(stream: Any) -> None:
    async def look() -> None:
        task = asyncio.create_task(stream.receive())
        for state in ("at first", "while it waits"):
            assert f"coro=<{kind}.receive()" in repr(task), state
            await asyncio.sleep(0)
        await stream.send(b"x")
        await task
        assert f"coro=<{kind}.receive()" in repr(task)

    kind = type(stream).__name__
    asyncio.run(look())


@pytest.mark.anyio
async def test_names_of_tasks_of_anyio(stream: Any) -> None:
    kind = type(stream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.receive)
        await until(lambda: stream.statistics().tasks_waiting_receive == 1)
        names = [task.name for task in anyio.get_running_tasks()]
        tasks.start_soon(stream.send, b"x")
    assert f"{kind.__module__}.{kind.__qualname__}.receive" in names


# As an object -------------------------------------------------------------------------


def test_copied_and_pickled_it_is_the_same(quick: Any) -> None:
    for name in IN_C:
        method = getattr(type(quick), name)
        for transfer in (copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))):
            assert transfer(method) is method
        assert copy.copy(getattr(quick, name)) == getattr(quick, name)
        with pytest.raises(TypeError, match="can't be pickled"):
            pickle.dumps(getattr(quick, name))


def test_what_can_be_decorated() -> None:
    def function(self: object) -> None: ...

    for wrong in (5, len, "".join, function, str.__len__, Ring._listen):  # the last takes a tuple of arguments
        with pytest.raises(TypeError, match="takes a method in C"):
            immediately(wrong)
    for wrong in (5, len, immediately(str.isdigit)(function)):
        with pytest.raises(TypeError, match="a function is decorated, not"):
            immediately(str.isdigit)(wrong)
    assert immediately(str.isdigit)(function)("5") is True


def test_a_class_with_such_a_method_is_collected() -> None:
    def make() -> weakref.ref[type]:
        class Own(str):
            @immediately(str.isdigit)
            def is_number(self) -> bool:
                return super().isdigit()

        assert Own("5").is_number()
        return weakref.ref(Own)

    gone = make()
    gc.collect()
    assert gone() is None


@pytest.mark.anyio
async def test_errors_show_the_method(quick: Any) -> None:
    """The traceback leads through it, as that of a coroutine does."""
    operation: Callable[[], Awaitable[object]] = partial(quick.send, bytes(10_000))
    with pytest.raises(aioipc.MessageTooLongError) as caught:
        await operation()
    assert "send" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
