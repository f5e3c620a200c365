"""What travels through the ends of a FIFO, on every event loop."""

from __future__ import annotations

import array
import asyncio
import errno
import gc
import itertools
import os
import select
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream
from anyio.streams.text import TextReceiveStream, TextSendStream
from conftest import Task, call_soon, in_child, running, times_out, until

import aioipc
from aioipc.posix import Fifo, FifoReader, FifoWriter

pytestmark = pytest.mark.anyio

SEVERAL_MEGABYTES = 4 * 2**20


@pytest.fixture
def path(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "fifo", 0o600)
    return str(tmp_path / "fifo")


@asynccontextmanager
async def both_ends(path: str) -> AsyncIterator[tuple[FifoReader, FifoWriter]]:
    """A reader, and the only writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    async with Fifo.open_writer(path) as writer:
        async with Fifo.open_reader(path) as reader:
            os.close(descriptor)
            yield reader, writer


async def until_waiting(*ends: FifoReader | FifoWriter, tasks: int = 1) -> None:
    await until(lambda: all(end.statistics().tasks_waiting == tasks for end in ends))


async def read_all(reader: FifoReader) -> bytes:
    data = bytearray()
    async for part in reader:
        data += part
    return bytes(data)


async def fill(writer: FifoWriter) -> int:
    """Write until there is no room; how many bytes that took."""
    for count in itertools.count():
        try:
            writer.send_nowait(b"x" * select.PIPE_BUF)
        except aioipc.WouldBlock:
            return count * select.PIPE_BUF
    raise AssertionError


# Sending and receiving ------------------------------------------------------------------


async def test_bytes_cross(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        assert isinstance(reader, anyio.abc.ByteReceiveStream)
        assert isinstance(writer, anyio.abc.ByteSendStream)
        await writer.send(b"two ")
        await writer.send(b"coffees")
        received = await reader.receive()
        assert (received, type(received)) == (b"two coffees", bytes)
        await writer.send(b"12345")
        assert [await reader.receive(2), await reader.receive(2), await reader.receive(2)] == [b"12", b"34", b"5"]


@pytest.mark.parametrize(
    "data",
    [b"x", bytearray(b"array"), memoryview(b"-view-")[1:-1], memoryview(b"abcd")[::2], array.array("h", [1, 2, 3])],
    ids=["bytes", "bytearray", "memoryview", "gaps", "array"],
)
async def test_anything_bytes_like(path: str, data: Any) -> None:
    async with both_ends(path) as (reader, writer):
        await writer.send(data)
        writer.send_nowait(data)
        assert await reader.receive() == memoryview(data).tobytes() * 2


async def test_nothing_to_send(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        await writer.send(b"")
        writer.send_nowait(b"")
        with pytest.raises(aioipc.WouldBlock):
            reader.receive_nowait()


async def test_from_a_shell(path: str) -> None:
    with running("sh", "-c", 'echo hello > "$0"; echo again > "$0"', path):
        async with Fifo.open_reader(path, keep_open=True) as reader:
            received = b""
            while received != b"hello\nagain\n":
                received += await reader.receive()


async def test_to_cat(path: str, tmp_path: Path) -> None:
    with (tmp_path / "copy").open("wb") as copy, running("cat", path, stdout=copy):
        async with Fifo.open_writer(path) as writer:
            await writer.send(b"one\n")
            await writer.send(b"two\n")
    assert (tmp_path / "copy").read_bytes() == b"one\ntwo\n"


async def test_large_data_through_cat_and_back(path: str, tmp_path: Path) -> None:
    """Through cat(1), which copies one FIFO to another: all bytes, in order."""
    os.mkfifo(tmp_path / "back")
    data = os.urandom(SEVERAL_MEGABYTES)

    async def send() -> None:
        async with Fifo.open_writer(path) as writer:
            await writer.send(data)

    with running("sh", "-c", 'cat "$0" > "$1"', path, str(tmp_path / "back")):
        async with anyio.create_task_group() as group, Fifo.open_reader(tmp_path / "back") as reader:
            group.start_soon(send)
            assert await read_all(reader) == data


async def test_a_sender_waits_until_somebody_reads(path: str) -> None:
    sent = anyio.Event()

    async def send() -> None:
        await writer.send(data)
        sent.set()

    data = os.urandom(SEVERAL_MEGABYTES)
    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        group.start_soon(send)
        await until(lambda: reader.statistics().bytes == reader.statistics().capacity)
        assert not sent.is_set()
        assert writer.statistics().tasks_waiting == 1
        received = bytearray()
        while len(received) < len(data):
            received += await reader.receive()
        await sent.wait()
    assert bytes(received) == data


async def test_large_items_of_several_tasks_are_not_mixed_up(path: str) -> None:
    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(writer.send, b"%d" % number * 300_000)
            await until_waiting(writer, tasks=number + 1)
        received = bytearray()
        while len(received) < 5 * 300_000:
            received += await reader.receive()
    runs = [(value, len(list(run))) for value, run in itertools.groupby(received.decode())]
    assert runs == [(str(number), 300_000) for number in range(5)]


async def test_readers_are_served_in_the_order_they_came(path: str) -> None:
    got: list[tuple[int, bytes]] = []

    async def receive(number: int) -> None:
        got.append((number, await reader.receive(1)))

    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(receive, number)
            await until_waiting(reader, tasks=number + 1)
        await writer.send(b"01234")
    assert got == [(number, b"%d" % number) for number in range(5)]


async def test_nowait(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        with pytest.raises(aioipc.WouldBlock, match="is empty") as caught:
            reader.receive_nowait()
        assert caught.value.errno == errno.EAGAIN
        writer.send_nowait(b"abc")
        assert (reader.receive_nowait(1), reader.receive_nowait()) == (b"a", b"bc")
        capacity = reader.statistics().capacity
        assert await fill(writer) == capacity
        with pytest.raises(aioipc.WouldBlock, match="is full"):
            writer.send_nowait(b"y")
        with pytest.raises(ValueError, match=r"4,097 bytes; only 4,096 \(PIPE_BUF\)"):
            writer.send_nowait(b"x" * (select.PIPE_BUF + 1))
        # All or nothing, also where a part would fit.
        assert reader.receive_nowait(select.PIPE_BUF) == b"x" * select.PIPE_BUF
        writer.send_nowait(b"y")
        with pytest.raises(aioipc.WouldBlock):
            writer.send_nowait(b"z" * select.PIPE_BUF)
        assert reader.statistics().bytes == capacity - select.PIPE_BUF + 1


async def test_nobody_overtakes_those_in_line(path: str) -> None:
    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        group.start_soon(reader.receive)
        await until_waiting(reader)
        writer.send_nowait(b"a")
        with pytest.raises(aioipc.WouldBlock, match="other tasks wait"):
            reader.receive_nowait()
        await until_waiting(reader, tasks=0)
        await fill(writer)
        group.start_soon(writer.send, b"b" * select.PIPE_BUF)
        await until_waiting(writer)
        reader.receive_nowait()
        with pytest.raises(aioipc.WouldBlock, match="other tasks wait"):
            writer.send_nowait(b"c")


async def test_anyio_streams_on_top(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        text = TextSendStream(writer)
        await text.send("caf\u00e9\n")
        assert await TextReceiveStream(reader).receive() == "caf\u00e9\n"
        await text.send("first line\nsecond line\n12345")
        buffered = BufferedByteReceiveStream(reader)
        assert await buffered.receive_until(b"\n", 100) == b"first line"
        assert await buffered.receive_until(b"\n", 100) == b"second line"
        assert await buffered.receive_exactly(5) == b"12345"
        async with StapledByteStream(writer, reader) as loop:
            await loop.send(b"there and back")
            assert await loop.receive() == b"there and back"
        with pytest.raises(anyio.ClosedResourceError):
            await writer.send(b"closed by the stapled stream")


def make_blocking(end: FifoReader | FifoWriter) -> None:
    """What some programs do with their standard input."""
    code = "import os; os.set_blocking(0, True)"
    subprocess.run([sys.executable, "-c", code], stdin=end.fileno(), check=True)
    assert os.get_blocking(end.fileno())


async def test_a_child_that_makes_an_end_block_does_not_stop_the_loop(path: str) -> None:
    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        make_blocking(reader)
        with pytest.raises(aioipc.WouldBlock, match="is empty"):
            reader.receive_nowait()
        make_blocking(reader)
        assert await times_out(reader.receive)
        make_blocking(reader)
        group.start_soon(writer.send, b"x")
        assert await reader.receive() == b"x"
        make_blocking(writer)
        group.start_soon(writer.send, bytes(SEVERAL_MEGABYTES))
        await until_waiting(writer)
        make_blocking(writer)
        received = 0
        while received < SEVERAL_MEGABYTES:
            received += len(await reader.receive())
        await until_waiting(writer, tasks=0)
        await fill(writer)
        make_blocking(writer)
        assert await times_out(partial(writer.send, b"y"))


# The other end goes ------------------------------------------------------------------------


async def test_end_of_file_when_the_last_writer_goes(path: str) -> None:
    async with both_ends(path) as (reader, first), Fifo.open_writer(path) as second:
        await first.send(b"left over")
        first.close()
        assert await reader.receive() == b"left over"
        with pytest.raises(aioipc.WouldBlock):
            reader.receive_nowait()
        second.close()
        for use in (reader.receive, reader.receive):  # again and again
            with pytest.raises(aioipc.EndOfStream, match="open for writing") as caught:
                await use()
        assert isinstance(caught.value, anyio.EndOfStream)
        with pytest.raises(aioipc.EndOfStream):
            reader.receive_nowait()


async def test_end_of_file_while_tasks_wait(path: str) -> None:
    outcomes = []

    async def receive() -> None:
        with pytest.raises(aioipc.EndOfStream):
            await reader.receive()
        outcomes.append("receive")

    async def iterate() -> None:
        assert await read_all(reader) == b""
        outcomes.append("iterate")

    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        for number, task in enumerate((receive, iterate, receive)):
            group.start_soon(task)
            await until_waiting(reader, tasks=number + 1)
        writer.close()
    assert sorted(outcomes) == ["iterate", "receive", "receive"]


async def test_broken_when_the_last_reader_goes(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        reader.close()
        for use in (partial(writer.send, b"x"), partial(writer.send, bytes(SEVERAL_MEGABYTES))):
            with pytest.raises(aioipc.BrokenError, match="open for reading") as caught:
                await use()
            assert isinstance(caught.value, anyio.BrokenResourceError)
            assert caught.value.errno == errno.EPIPE
        with pytest.raises(aioipc.BrokenError):
            writer.send_nowait(b"x")


async def test_broken_while_tasks_wait(path: str) -> None:
    outcomes = []

    async def send(data: bytes) -> None:
        with pytest.raises(aioipc.BrokenError):
            await writer.send(data)
        outcomes.append(len(data))

    async with both_ends(path) as (reader, writer):
        async with anyio.create_task_group() as group:
            for number, data in enumerate((bytes(SEVERAL_MEGABYTES), b"x", b"y")):
                group.start_soon(send, data)
                await until_waiting(writer, tasks=number + 1)
            reader.close()
        assert sorted(outcomes) == [1, 1, SEVERAL_MEGABYTES]
        # The same writer can wait for another reader.
        async with Fifo.open_reader(path) as reader, anyio.create_task_group() as group:
            await fill(writer)
            group.start_soon(writer.send, b"z")
            await until_waiting(writer)
            while await reader.receive() != b"z":
                pass


async def test_broken_as_the_first_in_line_is_cancelled(path: str) -> None:
    """The news was for the first, who does not want it any more: the next hears it."""

    async def send() -> None:
        with pytest.raises(aioipc.BrokenError):
            await writer.send(b"x")

    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        await fill(writer)
        first = Task(group, send)
        await until_waiting(writer)
        second = Task(group, send)
        await until_waiting(writer, tasks=2)
        first.scope.cancel()
        reader.close()
        with anyio.fail_after(30):
            await second.done.wait()


# trio runs tasks that can go on in any order.
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": yes}) for yes in (False, True)])
async def test_another_reader_comes_as_the_last_one_goes(path: str, tmp_path: Path) -> None:
    """The news that it went is old when the sender hears it, who can send then, and waits again."""

    async def send() -> None:
        for _ in range(2):
            await writer.send(b"x" * select.PIPE_BUF)

    async def come() -> None:
        await cue.receive()
        coming.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        os.read(coming[0], select.PIPE_BUF)

    os.mkfifo(tmp_path / "cue")
    coming: list[int] = []
    async with both_ends(path) as (reader, writer), both_ends(str(tmp_path / "cue")) as (cue, giver):
        async with anyio.create_task_group() as group:
            size = await fill(writer)
            sender = Task(group, send)
            await until_waiting(writer)
            group.start_soon(come)
            await until_waiting(cue)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            giver.send_nowait(b"now")
            reader.close()
            await until(lambda: bool(coming))
            try:
                await until(lambda: writer.statistics().bytes == size)
                os.read(coming[0], select.PIPE_BUF)
                with anyio.fail_after(30):
                    await sender.done.wait()
            finally:
                os.close(coming[0])


async def test_a_reader_that_outlives_its_writers(path: str) -> None:
    async with Fifo.open_reader(path, keep_open=True) as reader, anyio.create_task_group() as group:
        for number in range(3):
            async with Fifo.open_writer(path) as writer:
                await writer.send(b"%d" % number)
            assert await reader.receive() == b"%d" % number
            with pytest.raises(aioipc.WouldBlock):
                reader.receive_nowait()
        group.start_soon(reader.receive)
        await until_waiting(reader)
        subprocess.run(["sh", "-c", 'echo hello > "$0"', path], check=True)
        await until_waiting(reader, tasks=0)
        async with Fifo.open_writer(path) as writer:
            reader.close()
            with pytest.raises(aioipc.BrokenError):
                await writer.send(b"x")


# Cancellation, closing -----------------------------------------------------------------------


async def test_cancelled_it_has_read_and_written_nothing(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        assert await times_out(reader.receive)
        assert reader.statistics().tasks_waiting == 0
        await writer.send(b"not lost")
        assert reader.receive_nowait() == b"not lost"
        size = await fill(writer)
        assert await times_out(partial(writer.send, b"y" * select.PIPE_BUF))
        assert writer.statistics().tasks_waiting == 0
        assert reader.statistics().bytes == size
        writer.close()
        assert await read_all(reader) == b"x" * size


@pytest.mark.parametrize("how", ["task", "callback"])
async def test_close_wakes(path: str, how: str) -> None:
    outcomes = []

    async def expect_closed(operation: Callable[[], Any]) -> None:
        with pytest.raises(aioipc.ClosedError) as caught:
            await operation()
        assert isinstance(caught.value, anyio.ClosedResourceError)
        outcomes.append("closed")

    async def iterate() -> None:
        assert await read_all(reader) == b""
        outcomes.append("ended")

    close = call_soon if how == "callback" else lambda function: function()
    async with both_ends(path) as (reader, writer), anyio.create_task_group() as group:
        group.start_soon(expect_closed, reader.receive)
        group.start_soon(iterate)
        await until_waiting(reader, tasks=2)
        close(reader.close)
        await until(lambda: len(outcomes) == 2)
        async with Fifo.open_reader(path) as reader:
            await fill(writer)
            group.start_soon(expect_closed, partial(writer.send, bytes(select.PIPE_BUF)))
            await until_waiting(writer)
            close(writer.close)
            await until(lambda: len(outcomes) == 3)
            writer.close()
            await writer.aclose()
    assert sorted(outcomes) == ["closed", "closed", "ended"]


async def test_use_after_close(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        numbers = reader.fileno(), writer.fileno()
        for number in numbers:
            assert not os.get_blocking(number)
            assert not os.get_inheritable(number)
        reader.close()
        writer.close()
        for number in numbers:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)
        for use in (reader.receive_nowait, partial(writer.send_nowait, b""), reader.fileno, writer.statistics):
            with pytest.raises(aioipc.ClosedError, match=path):
                use()
        for wait in (reader.receive, partial(writer.send, b"")):
            with pytest.raises(aioipc.ClosedError, match=path):
                await wait()
        assert [part async for part in reader] == []
        assert repr(reader) == f"<aioipc.posix.FifoReader {path!r} closed>"


async def test_statistics(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        await writer.send(b"12345")
        for end in (reader, writer):
            assert end.statistics() == (5, os.fpathconf(reader.fileno(), "PC_PIPE_BUF") * 16, 0)
        await reader.receive(3)
        assert writer.statistics().bytes == 2


@pytest.mark.parametrize(
    ("item", "words"), [("text", "not str"), (5, "not int"), (None, "not NoneType"), ([1], "not list")]
)
async def test_bad_items(path: str, item: Any, words: str) -> None:
    async with both_ends(path) as (reader, writer):
        for use in (partial(writer.send, item), partial(in_a_coroutine, writer.send_nowait, item)):
            with pytest.raises(TypeError, match=f"must be bytes-like, {words}"):
                await use()
        for size in (0, -1):
            with pytest.raises(ValueError, match=f"max_bytes {size} must be"):
                await reader.receive(size)


async def in_a_coroutine(function: Callable[[Any], object], argument: Any) -> object:
    return function(argument)


# Whose it is -----------------------------------------------------------------------------


def test_another_loop(path: str, anyio_backend: Any) -> None:
    async def open_and_wait() -> FifoReader:
        reader = await Fifo.open_reader(path, keep_open=True)
        assert await times_out(reader.receive)
        return reader

    async def wait_again() -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            await reader.receive()

    backend, options = anyio_backend
    reader = anyio.run(open_and_wait, backend=backend, backend_options=options)
    anyio.run(wait_again, backend=backend, backend_options=options)
    reader.close()


async def test_after_a_fork(path: str) -> None:
    async with both_ends(path) as (reader, writer):
        for use in (reader.receive_nowait, partial(writer.send_nowait, b"x"), reader.fileno, writer.statistics):
            with pytest.raises(RuntimeError, match="opened before a fork"):
                in_child(use)
        in_child(reader.close)
        await writer.send(b"still open here")
        assert await reader.receive() == b"still open here"


async def test_collected_unclosed_it_warns_and_leaks_nothing(path: str) -> None:
    reader = await Fifo.open_reader(path, keep_open=True)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.warns(ResourceWarning, match=f"unclosed <aioipc.posix.FifoReader '{path}' open>"):
        del reader
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fifo.open_reader(path)  # never awaited, it has opened nothing
        gc.collect()


async def test_a_large_item_from_another_loop_is_not_written_in_part(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    with Fifo.create(path):
        async with Fifo.open_reader(path, keep_open=True) as reader, Fifo.open_writer(path) as writer:
            await writer.send(b"x" * 5000)
            assert await reader.receive() == b"x" * 5000

            async def elsewhere() -> None:
                with pytest.raises(RuntimeError, match="belongs to another event loop"):
                    await writer.send(b"y" * 100_000)

            await anyio.to_thread.run_sync(lambda: asyncio.run(elsewhere()))
            assert reader.statistics().bytes == 0
