"""Channels where something comes in between: closing from within, interrupts, collections, threads, limits."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import mmap
import os
import resource
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from conftest import in_child

from aioipc import Channel, ClosedError, CorruptError, LimitError, MessageTooLongError, WouldBlock
from aioipc._ring import _binding, _deaths, _files

python_buffers = pytest.mark.skipif(sys.version_info < (3, 12), reason="classes have no __buffer__ before Python 3.12")


class Buffer(bytes):
    """Bytes that do something else first when somebody wants to read them."""

    first: Callable[[], object]

    def __buffer__(self, flags: int) -> memoryview:
        self.first()
        return memoryview(b"text")


@python_buffers
@pytest.mark.anyio
async def test_a_buffer_that_closes_the_channel(name: str) -> None:
    with Channel.create(name) as channel:
        for send in ("send", "send_many", "send_nowait", "send_many_nowait"):
            other = Channel.open(name)
            item = Buffer()
            item.first = other.close
            with pytest.raises(ClosedError):
                result = getattr(other, send)([item] if "many" in send else item)
                if result is not None:
                    await result
        assert channel.statistics().messages == 0


@python_buffers
@pytest.mark.anyio
async def test_a_buffer_that_sends_too(name: str) -> None:
    with Channel.create(name) as channel:
        item = Buffer()
        item.first = lambda: channel.send_nowait(b"first")
        await channel.send(item)
        channel.send_many_nowait([item])
        assert await channel.receive_many(10) == [b"first", b"text"] * 2


@python_buffers
@pytest.mark.anyio
async def test_a_buffer_that_is_interrupted(name: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with Channel.create(name) as channel:
        item = Buffer()
        item.first = interrupt
        with pytest.raises(KeyboardInterrupt):
            await channel.send(item)
        assert channel.statistics().messages == 0


def test_lengths_that_together_are_no_number(name: str) -> None:
    """More bytes than there are addresses, without the memory: nobody looks at it."""

    def child() -> None:
        huge = (ctypes.c_char * 2**62).from_address(mmap.PAGESIZE)
        with Channel.create(name) as channel:
            for items in ([huge] * 4, [huge] * 8, [b"x", huge, huge, huge, huge], [huge], [b"x"] + [huge] * 2):
                with pytest.raises(MessageTooLongError, match="and together no more than"):
                    channel.send_many_nowait(items)
            channel.send_nowait(b"the lock is free")
            assert channel.receive_many_nowait(10) == [b"the lock is free"]

    in_child(child)


def test_what_create_and_open_did_not_make() -> None:
    channel = Channel.__new__(Channel)
    for operation in (lambda: channel.send(b""), channel.receive, channel.__anext__):
        with pytest.raises(RuntimeError, match="create or open"):
            operation()
    assert channel._try_send(b"", True) == channel._look()
    channel._reap()
    channel._leave()


def test_threads_that_open_close_and_look(name: str, races: int) -> None:
    """News of the death of a peer is passed on by any thread, also to handles that are just being closed."""
    over = threading.Event()

    def look() -> None:
        with Channel.open(name) as channel:
            while not over.is_set():
                with suppress(WouldBlock):
                    channel.receive_nowait()

    def come_and_go() -> None:
        for _ in range(races):
            Channel.open(name).close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Channel.create(name), ThreadPoolExecutor() as threads:
            looking, coming = ([threads.submit(run) for _ in range(2)] for run in (look, come_and_go))
            try:
                for future in coming:
                    future.result()
            finally:
                over.set()
            for future in looking:
                future.result()
    finally:
        sys.setswitchinterval(interval)


def test_a_collection_while_another_handle_is_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is collected then has watched the same files, and must not take the watch along."""
    add_watch = _binding.add_watch

    def add_and_collect(*args: int) -> int:
        number = add_watch(*args)
        gc.collect()
        return number

    with Channel.create(name, persist=True) as channel:
        garbage: list[object] = [Channel.open(name)]
        garbage.append(garbage)
    monkeypatch.setattr(_binding, "add_watch", add_and_collect)
    del garbage
    with pytest.warns(ResourceWarning, match="unclosed"):
        channel = Channel.create(name, exist_ok=True)
    with channel:
        kernels = Path(f"/proc/self/fdinfo/{channel._watch.fileno}").read_text()
        assert kernels.count("inotify wd:") == 2


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("make", [Channel.create, Channel.open])
def test_interrupted_while_it_joins(make: Callable[[str], Channel], name: str) -> None:
    """Nothing is closed twice: the numbers may be others' by then."""

    def interrupt(frame: object, event: str, function: object) -> None:
        if event == "c_return" and getattr(function, "__name__", "") == "_join":
            sys.setprofile(None)
            raise KeyboardInterrupt

    if make == Channel.open:
        Channel.create(name).close()
    before = descriptors()
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            make(name)
    finally:
        sys.setprofile(None)
    others = [os.open("/dev/null", os.O_RDWR) for _ in range(6)]
    del caught
    gc.collect()
    for descriptor in others:
        os.close(descriptor)
    assert descriptors() == before
    with Channel.create(name, exist_ok=make == Channel.open):  # and so create has left nothing
        pass


@pytest.mark.parametrize("where", [(_deaths, "watch"), (_files, "give_name"), (_files, "_open_fifo")])
def test_what_could_not_be_created_is_not_there(
    where: tuple[object, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> NoReturn:
        raise LimitError(errno.ENOSPC, "no more")

    before = descriptors()
    bell_id = secrets.randbits(64)
    monkeypatch.setattr(secrets, "randbits", lambda count: bell_id)
    monkeypatch.setattr(*where, fail)
    with pytest.raises(LimitError, match="no more"):
        Channel.create(name)
    assert descriptors() == before
    assert not any(map(os.path.exists, (f"/dev/shm{name}", *_files._doorbells(bell_id))))


def test_no_descriptor_left(name: str) -> None:
    """Whichever it is that can't be had, the error names the limit, and nothing is left."""
    with Channel.create(name):
        before = descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for limit in itertools.count(3):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                Channel.open(name).close()
                break
            except LimitError as error:
                assert error.errno == errno.EMFILE
                assert "RLIMIT_NOFILE" in str(error)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert descriptors() == before
    assert limit >= len(before)


def test_a_fifo_of_that_name(name: str) -> None:
    os.mkfifo(f"/dev/shm{name}")
    try:
        for make in (Channel.open, partial(Channel.create, exist_ok=True)):
            with pytest.raises(CorruptError, match="not a channel"):
                make(name)
    finally:
        os.unlink(f"/dev/shm{name}")


def test_a_cycle_through_a_block(name: str) -> None:
    """What is forgotten in the middle of a block is collected, and gives back what it has."""

    class Holder(Channel):
        block: AbstractContextManager[memoryview]

    with Channel.create(name) as channel:
        channel.send_nowait(b"message")
        before = descriptors()
        for start in (Holder.borrow_nowait, lambda holder: holder.reserve_nowait(7)):
            holder = Holder.open(name)
            holder.block = start(holder)
            view = holder.block.__enter__()
            with pytest.warns(ResourceWarning, match="unclosed"):
                del holder, view
                gc.collect()
            gc.collect()  # the warning had it
            assert descriptors() == before
        assert channel.receive_nowait() == b"message"
        assert channel.statistics().messages == 0


def test_a_block_entered_twice(name: str) -> None:
    with Channel.create(name) as channel:
        block = channel.reserve_nowait(1)
        with block as view:
            view[0] = 65
            with pytest.raises(RuntimeError, match="entered already"), block:
                pass
        with block as view:
            view[0] = 66
        assert channel.receive_many_nowait(3) == [b"A", b"B"]


@pytest.mark.anyio
async def test_arrays_without_a_format(name: str) -> None:
    """What can be sent at once can be sent after waiting, too."""
    times = np.array(["2020-01-01", "2020-01-02"], "M8[D]")
    with Channel.create(name) as channel:
        await channel.send(times)
        channel.send_nowait(times)
        await channel.send_many([times])
        assert [await channel.receive() for _ in range(3)] == [times.tobytes()] * 3
        with pytest.raises(ValueError, match="contiguous"):
            await channel.send(times[::-1])
        released = memoryview(b"text")
        released.release()
        with pytest.raises(ValueError, match="released"):
            channel.send_nowait(released)


@pytest.mark.anyio
async def test_no_look_at_the_watch_without_need(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What need not wait makes no call to the kernel."""
    with Channel.create(name) as channel:
        looks: list[None] = []
        monkeypatch.setattr(channel._watch, "look", lambda: looks.append(None))
        channel.send_nowait(b"message")
        channel.receive_nowait()
        await channel.send_many([b"a", b"b"])
        assert await channel.receive_many(2) == [b"a", b"b"]
        async with channel.reserve(3):
            pass
        async with channel.borrow():
            pass
        assert not looks
        with pytest.raises(WouldBlock):
            channel.receive_nowait()
        assert looks


def test_a_child_has_nothing_of_the_watch(name: str) -> None:
    """Nor closes what has its number by then; and it can have a watch of its own."""
    with Channel.create(name) as channel:
        number = channel._watch.fileno

        def is_free() -> bool:
            try:
                os.fstat(number)
            except OSError:
                return True
            return False

        def child() -> list[bool]:
            freed = is_free()
            assert os.dup2(0, number) == number
            channel.close()
            with Channel.open(name) as own:
                own.send_nowait(b"message")
                return [freed, in_child(is_free), is_free(), channel._watch is own._watch]

        assert in_child(child) == [True, False, False, False]
        assert not is_free()
        assert channel.receive_nowait() == b"message"
