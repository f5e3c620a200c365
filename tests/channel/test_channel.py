"""What a user of channels relies on, on every event loop."""

from __future__ import annotations

import array
import errno
import mmap
import os
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import numpy as np
import pytest
from conftest import Task, call_soon, counted_passes, until

import aioipc
from aioipc import Channel

pytestmark = pytest.mark.anyio

UNIT = 64


def units(count: int) -> int:
    """The size of a message that takes so much room."""
    return count * UNIT - 32


def small(name: str, capacity: int = 4 * UNIT, **options: Any) -> Channel:
    return Channel.create(name, capacity=capacity, **options)


async def until_waiting(channel: Channel, *, receive: int = 0, send: int = 0) -> None:
    def all_wait() -> bool:
        statistics = channel.statistics()
        return (statistics.tasks_waiting_receive, statistics.tasks_waiting_send) == (receive, send)

    await until(all_wait)


def finish(coroutine: Any) -> Any:
    """What a coroutine returns that never suspends, driven without any event loop."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


# Messages ---------------------------------------------------------------------------------


def from_mmap() -> mmap.mmap:
    memory = mmap.mmap(-1, 100)
    memory[:5] = b"hello"
    return memory


ITEMS = {
    "empty": b"",
    "bytes": b"x",
    "bytearray": bytearray(b"array"),
    "memoryview": memoryview(b"-view-")[1:-1],
    "a view with gaps": memoryview(b"abcdef")[::2],
    "a view backwards": memoryview(b"abcdef")[::-1],
    "a cast view": memoryview(bytes(range(24))).cast("Q"),
    "array": array.array("h", [1, 2, 3]),
    "mmap": from_mmap(),
    "numpy": np.arange(7, dtype=np.float32),
    "numpy with gaps": np.arange(20, dtype=np.int16)[::3],
    "numpy by columns": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "numpy without dimension": np.array(5.0),
    "numpy without bytes": np.zeros((0, 3)),
}


@pytest.mark.parametrize("kind", ITEMS)
async def test_anything_bytes_like(name: str, kind: str) -> None:
    item: Any = ITEMS[kind]
    data = memoryview(item).tobytes()
    async with small(name, 64 * UNIT) as channel, Channel.open(name) as other:
        await channel.send(item)
        channel.send_nowait(item)
        await channel.send_many([item, b"between", item])
        channel.send_many_nowait(iter([item]))
        received = await other.receive_many(10)
        assert received == [data] * 3 + [b"between"] + [data] * 2
        assert {type(message) for message in received} == {bytes}


@pytest.mark.parametrize("item", ["text", 5, None, [1, 2], object()], ids=repr)
async def test_what_is_not_bytes_like(name: str, item: Any) -> None:
    async with small(name) as channel:
        words = f"must be bytes-like, not {type(item).__name__}"
        for send in (channel.send_nowait, lambda item: channel.send_many_nowait([b"a", item])):
            with pytest.raises(TypeError, match=words):
                send(item)
        for wait in (channel.send, lambda item: channel.send_many([b"a", item])):
            with pytest.raises(TypeError, match=words):
                await wait(item)
        assert channel.statistics().messages == 0


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 63, 64, 65, 96, 97, 4063, 4064, 4065, 4096, 4097])
async def test_sizes_at_every_place_of_the_ring(name: str, size: int) -> None:
    """Often enough that each record begins once at each place, the last of the ring among them."""
    data = bytes(n % 251 for n in range(size))
    async with Channel.create(name, capacity=65536) as channel:
        for number in range(1100 if size < 100 else 150):
            if number % 3 == 0:
                await channel.send(data)
            elif number % 3 == 1:
                await channel.send_many([data, b"", data])
                assert await channel.receive_many(2) == [data, b""]
            else:
                async with channel.reserve(size) as buffer:
                    buffer[:] = data
            if number % 2:
                async with channel.borrow() as view:
                    assert view == data
            else:
                assert await channel.receive() == data
        assert channel.statistics().messages == 0


@pytest.mark.parametrize("size", [65536 - 32, 65536, 65536 + 1, 2**18 - 1, 2**18, 2**20 + 7])
async def test_long_messages(name: str, size: int) -> None:
    data = os.urandom(size)
    async with Channel.create(name, capacity=4 * 2**20) as channel, Channel.open(name) as other:
        for _ in range(8):
            await channel.send(data)
            await channel.send_many([data, b"short", data[:-1]])
            assert await other.receive() == data
            assert await other.receive_many(10) == [data, b"short", data[:-1]]


@pytest.mark.parametrize("capacity", [64, 100, 127, 128, 1000, 4096, 65536])
async def test_the_longest_message_and_one_more(name: str, capacity: int) -> None:
    async with small(name, capacity) as channel:
        longest = channel.max_message_size
        assert longest == capacity // 64 * 64 - 32
        words = f"it takes messages of {longest:,} bytes at most"
        for _ in range(3):
            await channel.send(b"x" * longest)
            assert await channel.receive() == b"x" * longest
            for send in (channel.send, lambda item: channel.send_many([item])):
                with pytest.raises(aioipc.MessageTooLongError, match=words) as caught:
                    await send(b"x" * (longest + 1))
                assert caught.value.errno == errno.EMSGSIZE
            with pytest.raises(aioipc.MessageTooLongError, match=words):
                channel.send_nowait(bytearray(longest + 1))
            for size in (longest + 1, 2**62, 2**63 - 1):
                with pytest.raises(aioipc.MessageTooLongError, match=words):
                    await channel.reserve(size).__aenter__()
        fits = capacity // 64
        await channel.send_many([b""] * fits)
        assert await channel.receive_many(10_000) == [b""] * fits
        with pytest.raises(aioipc.MessageTooLongError, match=f"together no more than {capacity:,} bytes"):
            await channel.send_many([b""] * (fits + 1))
        assert channel.statistics().messages == 0


async def test_many(name: str) -> None:
    async with small(name) as channel:
        await channel.send_many([])
        channel.send_many_nowait([])
        with pytest.raises(aioipc.WouldBlock):
            channel.receive_many_nowait(1)
        await channel.send_many([b"a", b"b", b"c"])
        with pytest.raises(aioipc.WouldBlock):
            channel.send_many_nowait([b"d", b"e"])  # all or none
        await channel.send_many([b"d"])
        assert channel.receive_many_nowait(3) == [b"a", b"b", b"c"]
        assert await channel.receive_many(3) == [b"d"]


@pytest.mark.parametrize("count", [0, -1, 2**63, "3", 1.5, None])
async def test_arguments_of_counts_and_sizes(name: str, count: Any) -> None:
    error = ValueError if isinstance(count, int) else TypeError
    with small(name) as channel:
        for operation in (channel.receive_many_nowait, lambda count: finish(channel.receive_many(count))):
            with pytest.raises(error):
                operation(count)
        if count != 0:
            for block in (channel.reserve, channel.reserve_nowait):
                with pytest.raises(error, match="nbytes"):
                    block(count)


async def test_forms_of_the_size_of_a_block(name: str) -> None:
    async with small(name) as channel:
        for block in (channel.reserve(nbytes=3), channel.reserve(np.int8(3)), channel.reserve(3)):  # type: ignore[arg-type]
            async with block as buffer:
                assert len(buffer) == 3
        for reserve in (channel.reserve, channel.reserve_nowait):
            for wrong in ((), (1, 2)):
                with pytest.raises(TypeError):
                    reserve(*wrong)
            with pytest.raises(TypeError):
                reserve(size=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"capacity": 63}, ValueError, "capacity 63 must be 64 to"),
        ({"capacity": -1}, ValueError, "capacity -1"),
        ({"capacity": 2**46 + 1}, ValueError, "capacity"),
        ({"capacity": "1"}, TypeError, "str"),
        ({"capacity": 1e6}, TypeError, "float"),
        ({"mode": 0o1000}, ValueError, "permission bits"),
        ({"mode": -1}, ValueError, "permission bits"),
        ({"mode": "rw"}, TypeError, "str"),
    ],
)
def test_arguments_of_create(name: str, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Channel.create(name, **options)
    assert not os.path.exists("/dev/shm" + name)


@pytest.mark.parametrize(
    ("name", "error"),
    [("x", ValueError), ("", ValueError), ("/", ValueError), ("/a/b", ValueError), ("/..", ValueError),
     ("/a\0b", ValueError), ("/" + "n" * 256, ValueError), (None, TypeError), (b"/x", TypeError)],
)  # fmt: skip
def test_names(name: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", None)
    for make in (Channel.create, Channel.open):
        with pytest.raises(error, match="name"):
            make(name)


def test_the_longest_name(name: str) -> None:
    longest = name + "n" * (256 - len(name))
    with Channel.create(longest) as channel, Channel.open(longest) as other:
        channel.send_nowait(b"x")
        assert other.receive_nowait() == b"x"


def test_not_found_and_exists(name: str) -> None:
    with pytest.raises(aioipc.NotFoundError, match="no channel has this name") as caught:
        Channel.open(name)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)
    with Channel.create(name):
        with pytest.raises(aioipc.ExistsError, match="exist_ok=True") as taken:
            Channel.create(name)
        assert (taken.value.errno, taken.value.filename) == (errno.EEXIST, name)


@pytest.mark.parametrize(("mode", "umask", "result"), [(0o600, 0, 0o600), (0o666, 0o022, 0o644), (0o660, 0, 0o660)])
def test_mode(name: str, mode: int, umask: int, result: int) -> None:
    before = os.umask(umask)
    try:
        with small(name, mode=mode) as channel:
            assert channel.statistics().mode == os.stat("/dev/shm" + name).st_mode & 0o777 == result
    finally:
        os.umask(before)


# C1: at once when possible ------------------------------------------------------------------


async def everything(channel: Channel) -> None:
    await channel.send(b"a")
    await channel.send_many([b"b", b"c"])
    assert await channel.receive() == b"a"
    async with channel.borrow() as view, channel.reserve(1) as buffer:
        buffer[:] = view
    assert await anext(aiter(channel)) == b"c"
    assert await channel.receive_many(5) == [b"b"]


def test_without_waiting_there_is_no_loop(name: str) -> None:
    began = time.monotonic()
    with small(name) as channel:
        while time.monotonic() - began < 0.01:  # several turns long
            finish(everything(channel))
        finish(channel.end())


def test_without_waiting_a_block_needs_no_coroutine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with small(name) as channel:
        monkeypatch.setattr(channel, "_enter", None)
        finish(everything(channel))


async def test_without_waiting_the_loop_is_not_touched(name: str) -> None:
    async with small(name) as channel:
        finish(everything(channel))
        finish(channel.send_eof())


def test_what_is_not_awaited_takes_nothing(name: str) -> None:
    with small(name) as channel:
        channel.send_nowait(b"a")
        anext(aiter(channel)).close()
        channel.receive().close()
        channel.send(b"b").close()
        for coroutine in (channel.receive_many(1), channel.send_many([b"b"]), channel.end()):
            coroutine.close()
        assert channel.receive_nowait() == b"a"
        assert channel.statistics().messages == 0


def test_nowait(name: str) -> None:
    with small(name) as channel:
        with pytest.raises(aioipc.WouldBlock, match="is empty") as caught:
            channel.receive_nowait()
        assert isinstance(caught.value, anyio.WouldBlock)
        with pytest.raises(aioipc.WouldBlock, match="is empty"), channel.borrow_nowait():
            pytest.fail("nothing was sent")
        for _ in range(4):
            channel.send_nowait(b"x")
        for send in (
            lambda: channel.send_nowait(b""),
            lambda: channel.send_many_nowait([b""]),
            lambda: channel.reserve_nowait(0).__enter__(),
        ):
            with pytest.raises(aioipc.WouldBlock, match=re.escape(f"{name} is full")):
                send()


# C12: looking ---------------------------------------------------------------------------------


async def test_statistics(name: str) -> None:
    async with small(name, 6 * UNIT) as channel, Channel.open(name) as other, anyio.create_task_group() as group:
        statistics = channel.statistics()
        assert statistics == (0, 0, 6 * UNIT, 0, 0, 0, False, 0, 0, os.geteuid(), os.getegid(), 0o600)
        channel.send_many_nowait([b"12345", b"678"])
        with channel.reserve_nowait(9), other.borrow_nowait():
            for each in (channel.statistics(), other.statistics()):
                assert each == statistics._replace(messages=2, bytes=8, senders=1, receivers=1)
        for _ in range(3):
            other.send_nowait(b"")
        tasks = [Task(group, lambda: channel.send(bytes(units(6)))) for _ in range(3)]
        await until_waiting(channel, send=3)
        assert other.statistics()[:7] == (5, 12, 6 * UNIT, 2, 1, 0, False)
        for task in tasks:
            await task.cancel()
        channel.end_nowait()
        assert other.statistics().ended
        other.close()
        assert channel.statistics()[3:5] == (1, 0)


async def test_an_anyio_object_stream(name: str) -> None:
    async with small(name) as channel:
        assert isinstance(channel, anyio.abc.ObjectStream)
        stream: anyio.abc.ObjectStream[bytes] = channel
        await stream.send(b"a")
        await stream.send_eof()
        assert [item async for item in stream] == [b"a"]
        await anyio.aclose_forcefully(stream)
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()


# C6, C7: nobody starves, and nobody is woken for nothing --------------------------------------


@pytest.mark.parametrize("style", ["async for", "receive", "receive_many", "borrow", "send", "send_many", "reserve"])
async def test_a_channel_that_never_runs_empty(name: str, style: str) -> None:
    """The loop runs, and cancellation reaches the task."""

    async def go_on() -> None:
        if style == "async for":
            async for message in channel:
                channel.send_nowait(message)
        while True:
            if style.startswith("receive"):
                channel.send_nowait((await (channel.receive() if style == "receive" else wrap())) or b"")
            elif style == "borrow":
                async with channel.borrow() as view:
                    channel.send_nowait(view)
            else:
                channel.receive_nowait()
                if style == "reserve":
                    async with channel.reserve(1):
                        pass
                else:
                    await (channel.send(b"again") if style == "send" else channel.send_many([b"again"]))

    async def wrap() -> bytes:
        return (await channel.receive_many(5))[0]

    async with small(name) as channel, counted_passes() as passes, anyio.create_task_group() as group:
        channel.send_nowait(b"again")
        task = Task(group, go_on)
        await until(lambda: passes[0] > 5)
        await task.cancel()


async def test_an_idle_wait_wakes_nobody(name: str) -> None:
    """Neither is the loop asked to run, nor does a task of the channel try again."""

    def count(attempt: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            attempts.append(attempt)
            return attempt(*arguments)

        return counted

    attempts: list[object] = []
    async with small(name) as channel, Channel.open(name) as full_side, anyio.create_task_group() as group:
        channel._attempt = count(channel._attempt)  # type: ignore[method-assign]
        for _ in range(3):
            group.start_soon(channel.receive)
        await until_waiting(channel, receive=3)
        await anyio.wait_all_tasks_blocked()
        before = len(attempts)
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert len(attempts) == before
        full_side.send_nowait(b"x")
        await until_waiting(channel, receive=2)
        assert len(attempts) <= before + 2
        group.cancel_scope.cancel()


async def test_use_after_close(name: str) -> None:
    channel = small(name)
    with channel:
        pass
    for use in (
        channel.receive_nowait, partial(channel.send_nowait, b""), channel.statistics, channel.end_nowait,
        partial(channel.send_many_nowait, [b""]), partial(channel.receive_many_nowait, 1),
        channel.borrow_nowait().__enter__, channel.reserve_nowait(1).__enter__,
    ):  # fmt: skip
        with pytest.raises(aioipc.ClosedError, match=name):
            use()
    for wait in (
        channel.receive, partial(channel.send, b""), channel.end, partial(channel.send_many, [b""]),
        partial(channel.receive_many, 1), channel.borrow().__aenter__, channel.reserve(1).__aenter__,
    ):  # fmt: skip
        with pytest.raises(aioipc.ClosedError, match=name):
            await wait()
    assert [message async for message in channel] == []
    assert (channel.name, channel.capacity, channel.max_message_size) == (name, 256, 224)
    assert repr(channel) == f"<aioipc.Channel {name!r} closed>"


async def test_close_from_a_callback(name: str) -> None:
    async with small(name) as channel:
        call_soon(channel.close)
        with anyio.fail_after(30):
            assert [message async for message in channel] == []
        channel.close()
