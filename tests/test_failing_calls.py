"""System calls that fail on the way: found by tests/torture/faults.py, each here by itself."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import posix_ipc
import pytest
from conftest import PEERS, compile_c, doorbells, no_descriptor_left, with_own_shm

import aioipc
from aioipc import Channel, inspect, posix, sysv
from aioipc._ring import _files
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


def test_an_interrupted_call_that_was_not_to_wait_is_repeated(tmp_path: Path) -> None:
    library = compile_c(PEERS / "interrupting.c", tmp_path / "interrupting.so", "-shared", "-fPIC", "-ldl")
    code = """
from aioipc import sysv

with sysv.MessageQueue.create(None) as queue, sysv.SemaphoreSet.create(None, values=[1]) as semaphores:
    queue.send_nowait(b"x", type=1)
    queue.receive_nowait()
    semaphores[0].acquire_nowait()
"""
    preloaded = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), library]))
    command = [sys.executable, "-c", code]
    process = subprocess.run(
        command, env=os.environ | {"LD_PRELOAD": preloaded}, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr.split()[-3:]) == (0, ["msgsnd", "msgrcv", "semop"])


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


def test_what_failed_first_is_raised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with semaphores_can_not_be_looked_at(monkeypatch, after=1), monkeypatch.context() as patch:
        patch.setattr(posix_ipc, "unlink_semaphore", failing(OSError(errno.EIO, "")))
        with pytest.raises(aioipc.LimitError):
            posix.Semaphore.create(name)


def test_doorbells_that_can_not_be_looked_at_are_not_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a channel that could not be made."""
    before = set(os.listdir("/dev/shm"))
    with monkeypatch.context() as patch, pytest.raises(aioipc.KernelError):
        patch.setattr(os, "link", failing(OSError(errno.EIO, "")))
        patch.setattr(os, "lstat", failing(OSError(errno.ENOMEM, ""), os.lstat, times=2))
        Channel.create(name)
    assert set(os.listdir("/dev/shm")) == before


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


def test_a_name_that_is_taken_where_there_is_no_room() -> None:
    def take_again() -> bool:
        with posix.Semaphore.create("/aioipc-test"):
            with Path("/dev/shm/filler").open("wb") as file, pytest.raises(OSError, match="No space left"):
                file.write(bytes(2**17))
            with pytest.raises(aioipc.ExistsError):
                posix.Semaphore.create("/aioipc-test")
        return True

    assert with_own_shm("size=65536", take_again)


@pytest.mark.parametrize("make", [lambda name: posix.SharedMemory.create(name, size=1), Channel.create])
def test_room_that_can_not_be_known(make: Callable[[str], Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", failing(OSError(errno.EPERM, ""), times=10))
    with make(name):
        pass
    monkeypatch.setattr(os, "posix_fallocate", failing(OSError(errno.ENOSPC, "")))
    with pytest.raises(aioipc.LimitError, match="an unknown number of bytes free now"):
        make(name)


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


def test_what_can_not_be_read_is_not_taken_for_another_kind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are the doorbells of such a channel, that nobody has open just now, for such that no channel has."""
    monkeypatch.setattr(inspect._shm, "_SECONDS_TO_CREATE", -1)
    Channel.create(name, persist=True).close()
    with monkeypatch.context() as patch:
        patch.setattr(inspect._shm._binding, "peek", failing(OSError(errno.ENOMEM, "no page"), times=10))
        for look in (lambda: inspect.find(f"channel:{name}"), inspect.orphans):
            with pytest.raises(aioipc.LimitError):
                look()
        assert [gap.kind for gap in inspect.look("shm", "channel").gaps] == ["shm", "channel"]
    assert not {f"/{path.name}" for path in doorbells(name)} & {bell.name for bell in inspect.orphans()}


def test_who_can_not_be_looked_at_may_use_it(key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with sysv.MessageQueue.create(key) as queue:
        queue.send_nowait(b"x", type=1)
        found = inspect.find(f"msg:{key:#x}")
        assert inspect.users([found])[found.address].pids == (os.getpid(),)
        stat = os.stat

        def look(path: Any, **more: Any) -> os.stat_result:
            if path == f"/proc/{os.getpid()}":
                raise OSError(errno.ENOMEM, "")
            return stat(path, **more)

        monkeypatch.setattr(os, "stat", look)
        with pytest.raises(aioipc.LimitError):
            inspect.users([found])


def test_queues_that_can_not_be_listed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect._mqueue, "mount_points", lambda: [str(tmp_path)])
    with no_descriptor_left():
        assert [gap.kind for gap in inspect.look("mq").gaps] == ["mq"]


def test_of_what_can_not_be_listed_it_is_not_known_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = [inspect.Gap(kind, "", None) for kind in inspect._finding.KINDS]
    monkeypatch.setattr(inspect._usage, "look", lambda: inspect.Listing([], gaps))
    used = {limit.name: limit.used for limit in inspect.limits() if not limit.name.startswith("/dev/shm")}
    assert set(used.values()) == {None}
    assert {"kernel.msgmni", "kernel.sem SEMMNI", "kernel.sem SEMMNS", "kernel.shmmni", "kernel.shmall"} <= set(used)


def test_how_much_queues_take_that_can_not_be_opened_is_not_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with posix.MessageQueue.create(name):
        found = replace(inspect.find(f"mq:{name}"), max_messages=None, max_message_size=None)
    monkeypatch.setattr(inspect._usage, "look", lambda: inspect.Listing([found], []))
    used = {limit.name: limit.used for limit in inspect.limits()}
    assert (used["fs.mqueue.queues_max"], used["RLIMIT_MSGQUEUE"]) == (1, None)


def test_statistics_that_can_not_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with posix.MessageQueue.create(name) as queue:
        monkeypatch.setattr(os, "pread", failing(OSError(errno.ENOMEM, ""), os.pread))
        with pytest.raises(aioipc.LimitError) as caught:
            queue.statistics()
        assert caught.value.filename == name
        assert queue.statistics().messages == 0


def test_a_header_that_can_not_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Channel.create(name):
        monkeypatch.setattr(_files._binding, "identify", failing(OSError(errno.ENOMEM, "")))
        with pytest.raises(aioipc.LimitError) as caught:
            Channel.open(name)
    assert caught.value.filename == name


def test_what_can_not_be_listed_may_exist(key: int) -> None:
    with sysv.MessageQueue.create(key), no_descriptor_left(), pytest.raises(OSError, match="open files") as caught:
        inspect.find(f"msg:{key:#x}")
    assert caught.value.errno == errno.EMFILE
