"""System calls that fail on the way: found by tests/torture/faults.py, each here by itself."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import posix_ipc
import pytest
from conftest import doorbells, no_descriptor_left, with_own_shm

import aioipc
from aioipc import Channel, inspect, posix, sysv
from aioipc._waiting import _interrupt
from aioipc.posix import _calls

NO_DESCRIPTOR = {
    "This process already has the maximum number of files open": (errno.EMFILE, "RLIMIT_NOFILE"),
    "The system limit on the total number of open files has been reached": (errno.ENFILE, "fs.file-max"),
}
"""What posix_ipc says, without an errno, and what it means."""


def failing(error: OSError, instead: Callable[..., Any] | None = None, times: int = 1) -> Callable[..., Any]:
    """A function that fails so often, and then does what it is instead of."""
    left = [error] * times

    def call(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        assert instead is not None
        return instead(*args, **kwargs)

    return call


@pytest.mark.parametrize("kind", ["Semaphore", "MessageQueue"])
@pytest.mark.parametrize("words", NO_DESCRIPTOR)
def test_no_descriptor_for_a_moment(kind: str, words: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors were used up, and are not any more when the error is explained."""
    with getattr(posix, kind).create(name):
        monkeypatch.setattr(posix_ipc, kind, failing(OSError(words)))
        with pytest.raises(aioipc.LimitError) as caught:
            getattr(posix, kind).open(name)
    assert (caught.value.errno, NO_DESCRIPTOR[words][1] in str(caught.value)) == (NO_DESCRIPTOR[words][0], True)


@pytest.mark.parametrize("kind", ["Semaphore", "MessageQueue"])
def test_an_interrupted_open_is_repeated(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_ipc, kind, failing(InterruptedError(errno.EINTR, ""), getattr(posix_ipc, kind)))
    with getattr(posix, kind).create(name):
        pass


@pytest.mark.asyncio
async def test_an_interrupted_open_of_a_fifo_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with posix.Fifo.create(tmp_path / "fifo") as fifo:
        monkeypatch.setattr(_interrupt, "open", failing(InterruptedError(errno.EINTR, ""), _interrupt.open))
        async with posix.Fifo.open_reader(fifo, keep_open=True), posix.Fifo.open_writer(fifo) as writer:
            await writer.send(b"x")


@contextmanager
def semaphores_can_not_be_looked_at(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> Iterator[None]:
    """lstat(2) of a semaphore fails, after so many that do not."""
    lstat, left = os.lstat, iter(range(after))

    def look(path: Any, **more: Any) -> os.stat_result:
        if str(path).startswith("/dev/shm/sem.") and next(left, None) is None:
            raise OSError(errno.ENOMEM, "")
        return lstat(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", look)
        yield


def test_a_semaphore_that_can_not_be_looked_at_is_not_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with semaphores_can_not_be_looked_at(monkeypatch, after=1), pytest.raises(aioipc.LimitError):
        posix.Semaphore.create(name)
    with pytest.raises(aioipc.NotFoundError):
        posix.Semaphore.open(name)


def test_leaving_says_that_a_semaphore_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    semaphore = posix.Semaphore.create(name)
    with semaphores_can_not_be_looked_at(monkeypatch), pytest.raises(aioipc.LimitError), semaphore:
        pass
    semaphore.unlink()


@pytest.mark.parametrize(
    ("make", "function"),
    [
        (posix.Semaphore.create, (os, "unlink")),
        (posix.MessageQueue.create, (_calls, "unlink")),
        (lambda name: posix.SharedMemory.create(name, size=1), (os, "unlink")),
        (Channel.create, (os, "unlink")),
    ],
)
def test_what_can_not_be_removed(
    make: Callable[[str], Any], function: tuple[Any, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = make(name)
    with monkeypatch.context() as patch:
        patch.setattr(*function, failing(OSError(errno.ENOMEM, "")))
        with pytest.raises(aioipc.LimitError) as caught, handle:
            pass
    assert (caught.value.errno, caught.value.filename) == (errno.ENOMEM, name)
    handle.unlink()


def test_a_doorbell_that_can_not_be_removed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = os.unlink

    def unlink_no_doorbell(path: str) -> None:
        if path.endswith(".room"):
            raise OSError(errno.ENOMEM, "", path)
        unlink(path)

    channel = Channel.create(name)
    messages, room = doorbells(name)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink_no_doorbell)
        with pytest.raises(aioipc.LimitError) as caught, channel:
            pass
    assert caught.value.filename == str(room)
    assert not messages.exists()
    unlink(room)


def test_no_room_for_a_semaphore_or_a_fifo() -> None:
    def full(text: str) -> bool:
        for make, names in ((posix.Semaphore.create, "/dev/shm"), (posix.Fifo.create, "file system of /dev/shm")):
            with pytest.raises(aioipc.LimitError) as caught:
                make("/aioipc-test" if make == posix.Semaphore.create else "/dev/shm/aioipc-test")
            assert caught.value.errno == errno.ENOSPC
            assert names in str(caught.value)
            assert make != posix.Semaphore.create or text in str(caught.value)
        return True

    assert with_own_shm("nr_inodes=1", lambda: full("nr_inodes"))


def test_no_page_for_a_semaphore() -> None:
    def fill() -> str:
        Path("/dev/shm/filler").write_bytes(bytes(2**16))
        with pytest.raises(aioipc.LimitError) as caught:
            posix.Semaphore.create("/aioipc-test")
        return str(caught.value)

    assert "0 of 65,536 bytes free now" in with_own_shm("size=65536", fill)


@pytest.mark.asyncio
async def test_no_watch_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    with posix.MessageQueue.create(name) as queue:
        monkeypatch.setattr(loop, "add_reader", failing(OSError(errno.ENOSPC, ""), loop.add_reader))
        with pytest.raises(aioipc.LimitError, match=r"fs\.epoll\.max_user_watches"):
            await queue.receive()
        receiver = asyncio.create_task(queue.receive())
        await asyncio.sleep(0)
        queue.send_nowait(b"x")
        assert (await receiver).data == b"x"


def test_what_can_not_be_opened_is_not_taken_for_another_kind(name: str) -> None:
    """Nor are the doorbells of a channel, that can't be looked into, for such that no channel has."""
    with Channel.create(name):
        for look in (lambda: inspect.find(f"channel:{name}"), lambda: inspect._shm._find(name[1:])):
            with no_descriptor_left(), pytest.raises(aioipc.LimitError, match="RLIMIT_NOFILE"):
                look()


def test_what_can_not_be_listed_may_exist(key: int) -> None:
    with sysv.MessageQueue.create(key), no_descriptor_left(), pytest.raises(OSError, match="open files") as caught:
        inspect.find(f"msg:{key:#x}")
    assert caught.value.errno == errno.EMFILE
