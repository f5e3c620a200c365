"""FIFOs in the file system, and opening their ends, on every event loop."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import Task, as_nobody, in_child, no_descriptor_left, running, times_out, until, worker_threads

import aioipc
from aioipc._waiting import workers
from aioipc.posix import Fifo, FifoReader, FifoWriter, fifo

pytestmark = pytest.mark.anyio

ENDS = pytest.mark.parametrize("open_end", [Fifo.open_reader, Fifo.open_writer])


@pytest.fixture
def path(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "fifo", 0o600)
    return str(tmp_path / "fifo")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may search."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def nobody_reads(path: str) -> bool:
    """Whether no process has it open for reading, or is about to."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return True
        raise
    return False


def nobody_writes(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 1) == b""
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def descriptors() -> set[str]:
    """The open ones, less that of the list itself."""
    return set(os.listdir("/proc/self/fd"))


async def wait_for_threads() -> None:
    """Until a thread waits in the kernel for each opening that was begun."""
    await until(lambda: workers.in_the_kernel() > 0)


# Opening ---------------------------------------------------------------------------------


@ENDS
@pytest.mark.parametrize("style", ["await", "async with"])
async def test_an_opening_waits_for_the_other_end(path: str, open_end: Callable[[str], Any], style: str) -> None:
    async def open_it() -> None:
        if style == "await":
            opened.append(await open_end(path))
            return
        async with open_end(path) as end:
            opened.append(end)
            await leave.wait()

    opened: list[FifoReader | FifoWriter] = []
    leave = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(open_it)
        await wait_for_threads()
        for _ in range(100):  # this task goes on beside it
            await anyio.lowlevel.checkpoint()
        assert opened == []
        other = Fifo.open_writer(path) if open_end is Fifo.open_reader else Fifo.open_reader(path)
        async with other as second:
            await until(lambda: bool(opened))
            (end,) = opened
            assert type(end) is (FifoReader if open_end is Fifo.open_reader else FifoWriter)
            reader, writer = (end, second) if isinstance(end, FifoReader) else (second, end)
            assert isinstance(writer, FifoWriter)
            await writer.send(b"through")
            assert await reader.receive() == b"through"
            leave.set()
    if style == "await":
        repr_open = f"<aioipc.posix.{type(end).__qualname__} {path!r} open>"
        assert repr(end) == repr_open
        end.close()
    with pytest.raises(aioipc.ClosedError):
        end.fileno()


async def test_a_writer_is_opened_at_once_where_somebody_reads(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(StopIteration) as stop:  # without any event loop
        Fifo.open_writer(path).__await__().send(None)
    stop.value.value.close()
    os.close(descriptor)


async def test_a_reader_that_is_kept_open_waits_for_nobody(path: str) -> None:
    with pytest.raises(StopIteration) as stop:
        Fifo.open_reader(path, keep_open=True).__await__().send(None)
    with stop.value.value as reader:
        assert not os.get_blocking(reader.fileno())


async def test_a_peer_opens_first(path: str) -> None:
    with running("sh", "-c", 'echo hello > "$0"', path):
        async with Fifo.open_reader(path) as reader:
            assert await reader.receive() == b"hello\n"
    with running("cat", path, stdout=subprocess.PIPE) as cat:
        async with Fifo.open_writer(path) as writer:
            await writer.send(b"hello\n")
        assert cat.stdout.read() == b"hello\n"


async def test_several_tasks_open(path: str) -> None:
    async def read_one() -> None:
        async with Fifo.open_reader(path) as reader:
            opened.append(reader)
            await leave.wait()

    opened: list[FifoReader] = []
    leave = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(read_one)
        async with Fifo.open_writer(path):
            await until(lambda: len(opened) == 10)
        leave.set()


@ENDS
@pytest.mark.parametrize("how", ["scope", "timeout"])
async def test_a_cancelled_opening_leaves_nothing(path: str, open_end: Callable[[str], Any], how: str) -> None:
    async def open_it() -> None:
        async with open_end(path):
            pytest.fail("nobody is at the other end")

    if how == "timeout":
        assert await times_out(open_it)  # the first time, so that all that is kept has been opened
    before = descriptors()
    if how == "timeout":
        assert await times_out(open_it)
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(open_it)
            await wait_for_threads()
            group.cancel_scope.cancel()
    assert not workers.in_the_kernel()
    assert descriptors() == before
    assert nobody_reads(path)
    assert nobody_writes(path)
    await until(lambda: not worker_threads())


@ENDS
async def test_a_peer_is_served_by_another_opener(path: str, open_end: Callable[[str], Any]) -> None:
    async def open_it() -> None:
        await open_end(path)

    assert await times_out(open_it)
    if open_end is Fifo.open_reader:
        with running("sh", "-c", 'echo hello > "$0"', path):
            async with Fifo.open_reader(path) as reader:
                assert await reader.receive() == b"hello\n"
    else:
        with running("cat", path, stdout=subprocess.PIPE) as cat:
            async with Fifo.open_writer(path) as writer:
                await writer.send(b"hello\n")
            assert cat.stdout.read() == b"hello\n"


async def test_cancelled_when_a_peer_has_written(path: str) -> None:
    """The peer has ended well, so what it wrote must not be lost; the next thing the task waits for is cancelled."""

    async def read_one() -> None:
        async with Fifo.open_reader(path) as reader:
            received.append(await reader.receive())
            await anyio.sleep_forever()

    received: list[bytes] = []
    async with anyio.create_task_group() as group:
        task = Task(group, read_one)
        await wait_for_threads()
        subprocess.run(["sh", "-c", 'echo hello > "$0"', path], check=True)  # without letting the loop run
        await task.cancel()
    assert received == [b"hello\n"]
    assert nobody_reads(path)


async def test_cancelled_when_a_peer_waits_to_read(path: str) -> None:
    async def write_one() -> None:
        async with Fifo.open_writer(path) as writer:
            await writer.send(b"hello\n")
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        task = Task(group, write_one)
        await wait_for_threads()
        with running("sh", "-c", 'exec < "$0"; echo opened; cat', path, stdout=subprocess.PIPE) as cat:
            assert cat.stdout.readline() == b"opened\n"  # without letting the loop run
            await task.cancel()
            assert cat.stdout.read() == b"hello\n"


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_loop_ends_before_the_task_has_its_end(
    path: str, is_cancelled: bool, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nobody can have it, and it is closed."""

    async def open_it() -> None:
        await Fifo.open_reader(path)

    def open_late(path: str, flags: int) -> int:
        has_begun.set()
        peer_comes.wait()
        return os.open(path, flags | os.O_NONBLOCK)

    def run_once() -> None:
        loop.call_soon(loop.stop)
        loop.run_forever()

    has_begun, peer_comes = threading.Event(), threading.Event()
    monkeypatch.setattr(fifo, "_interrupt", SimpleNamespace(open=open_late))
    loop = asyncio.new_event_loop()
    coroutine = open_it()
    task = loop.create_task(coroutine)
    run_once()
    has_begun.wait()
    if is_cancelled:
        task.cancel()
        run_once()
    peer_comes.set()
    while worker_threads():
        pass
    if is_told:
        run_once()  # but it has no step any more
    assert not task.done()
    assert not nobody_reads(path)
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # which asyncio would complain of, rightly
    coroutine.close()
    assert nobody_reads(path)


def test_interrupted_on_trio_when_the_other_end_has_come(path: str) -> None:
    """Ctrl-C ends the opening, and what has been opened is closed."""
    code = """
import os, signal, sys, trio
from aioipc import posix
from aioipc._waiting import workers

class Peer(trio.abc.Instrument):
    done = False
    def before_io_wait(self, timeout):
        if not self.done and workers.in_the_kernel():
            self.done = True
            os.kill(os.getpid(), signal.SIGINT)
            os.close(os.open(sys.argv[1], os.O_WRONLY))
            while workers.in_the_kernel():
                pass

async def main():
    trio.lowlevel.add_instrument(Peer())
    await posix.Fifo.open_reader(sys.argv[1])

signal.signal(signal.SIGINT, signal.default_int_handler)
before = os.listdir("/proc/self/fd")
try:
    trio.run(main)
except KeyboardInterrupt:
    print("interrupted", os.listdir("/proc/self/fd") == before)
"""
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("interrupted True\n", "")


async def test_one_of_two_that_wait_is_cancelled(path: str) -> None:
    async def read_one(scope: anyio.CancelScope) -> None:
        with scope:
            async with Fifo.open_reader(path) as reader:
                received.append(await reader.receive())

    received: list[bytes] = []
    scopes = [anyio.CancelScope(), anyio.CancelScope()]
    async with anyio.create_task_group() as group:
        for number, scope in enumerate(scopes):
            group.start_soon(read_one, scope)
            await until(lambda number=number: workers.in_the_kernel() == number + 1)
        scopes[0].cancel()
        await until(lambda: workers.in_the_kernel() == 1)
        async with Fifo.open_writer(path) as writer:
            await writer.send(b"for the second")
    assert received == [b"for the second"]


# Paths -----------------------------------------------------------------------------------


@ENDS
async def test_nothing_there(tmp_path: Path, open_end: Callable[[str], Any]) -> None:
    for path in (tmp_path / "missing", tmp_path / "missing" / "fifo"):
        with pytest.raises(aioipc.NotFoundError, match=r"Fifo\.create\(\) makes one") as caught:
            await open_end(path)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))


@ENDS
async def test_replaced_while_it_is_opened(
    tmp_path: Path, open_end: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, descriptors: Callable[[], int]
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def replace_and_open(path: str, flags: int) -> int:
        os.unlink(path)
        Path(path).touch()
        return os.open(path, flags)

    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(fifo, "_interrupt", SimpleNamespace(open=replace_and_open))
        with pytest.raises(ValueError, match=f"{path} is not a FIFO"):
            await open_end(str(path))
    assert descriptors() == before


@ENDS
async def test_not_a_fifo(tmp_path: Path, open_end: Callable[[str], Any]) -> None:
    (tmp_path / "file").write_bytes(b"untouched")
    for path in (tmp_path / "file", tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match=f"{path} is not a FIFO"):
            await open_end(path)
    assert (tmp_path / "file").read_bytes() == b"untouched"
    with pytest.raises(TypeError):
        open_end(5)
    with pytest.raises(ValueError, match="null"):
        await open_end("a\0b")


@ENDS
def test_another_user_may_not(public: Path, open_end: Callable[[str], Any], anyio_backend: Any) -> None:
    async def open_it() -> None:
        await open_end(path)

    path = str(public / "fifo")
    backend, options = anyio_backend
    with Fifo.create(path):
        with pytest.raises(aioipc.AccessError) as caught:
            as_nobody(partial(anyio.run, open_it, backend=backend, backend_options=options))
        assert (caught.value.errno, caught.value.filename) == (errno.EACCES, path)
        with pytest.raises(aioipc.AccessError):
            as_nobody(Fifo.unlink, lambda: Fifo.create(path, exist_ok=True))
        with pytest.raises(aioipc.AccessError):
            as_nobody(lambda: Fifo.create(public / "another").close())


@pytest.mark.parametrize(
    "open_end",
    [Fifo.open_reader, partial(Fifo.open_reader, keep_open=True), Fifo.open_writer],
    ids=["reader", "reader kept open", "writer"],
)
async def test_descriptors_used_up(path: str, open_end: Callable[[str], Any]) -> None:
    async def open_it() -> None:
        async with open_end(path):
            await anyio.sleep_forever()

    assert await times_out(open_it)  # the loop has all that it opens
    before = descriptors()
    with no_descriptor_left(), pytest.raises(aioipc.LimitError, match=r"RLIMIT_NOFILE \(0 open.*ulimit -n") as caught:
        await open_end(path)
    assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, path)
    assert descriptors() == before


def test_create_with_descriptors_used_up(tmp_path: Path) -> None:
    with no_descriptor_left(), pytest.raises(aioipc.LimitError, match="RLIMIT_NOFILE"):
        Fifo.create(tmp_path / "fifo")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("mode", "umask", "result"), [(0o600, 0, 0o600), (0o666, 0o022, 0o644), (0o640, 0, 0o640)])
def test_mode(tmp_path: Path, mode: int, umask: int, result: int) -> None:
    before = os.umask(umask)
    try:
        with Fifo.create(tmp_path / "fifo", mode=mode) as fifo:
            found = os.stat(fifo.path)
            assert stat.S_ISFIFO(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == result
    finally:
        os.umask(before)


def test_private_by_default(tmp_path: Path) -> None:
    with Fifo.create(tmp_path / "fifo") as fifo:
        assert stat.S_IMODE(os.stat(fifo.path).st_mode) == 0o600


@pytest.mark.parametrize(("mode", "error"), [(0o10000, ValueError), (-1, ValueError), ("rw", TypeError)])
def test_bad_modes(tmp_path: Path, mode: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Fifo.create(tmp_path / "fifo", mode=mode)
    assert os.listdir(tmp_path) == []


async def test_the_creator_removes_on_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Fifo.create("fifo") as fifo:  # relative, and the program goes elsewhere
        monkeypatch.chdir("/")
        assert fifo.path == str(tmp_path / "fifo")
        async with (
            Fifo.open_reader(fifo.path, keep_open=True) as reader,
            Fifo.open_writer(Path(fifo.path)) as writer,
        ):
            fifo.unlink()
            await writer.send(b"stay connected")
            assert await reader.receive() == b"stay connected"
            with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
                fifo.unlink()
    assert os.listdir(tmp_path) == []
    with pytest.raises(ZeroDivisionError):
        async with Fifo.create(tmp_path / "fifo"):
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_a_path_that_goes_back_from_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`link/..` is the folder that holds what the link leads to."""
    (tmp_path / "other" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("other/folder")
    monkeypatch.chdir(tmp_path)
    for path in ("link/../fifo", f"{tmp_path}/link/../fifo"):
        with Fifo.create(path) as fifo:
            assert os.path.isabs(fifo.path)
            assert os.path.samefile(fifo.path, tmp_path / "other" / "fifo")
        assert os.listdir(tmp_path / "other") == ["folder"]


@pytest.mark.parametrize("kind", ["nothing", "dangling link", "folder"])
def test_paths_that_no_fifo_has(tmp_path: Path, kind: str) -> None:
    if kind == "dangling link":
        (tmp_path / "it").symlink_to("missing")
    elif kind == "folder":
        (tmp_path / "it").mkdir()
    for exist_ok in (False, True):
        with pytest.raises(ValueError, match="it/' ends with a slash"):
            Fifo.create(f"{tmp_path}/it/", exist_ok=exist_ok)
        with pytest.raises(ValueError, match="empty"):
            Fifo.create("", exist_ok=exist_ok)


def test_persist_and_take_over(tmp_path: Path) -> None:
    with Fifo.create(tmp_path / "fifo", persist=True, mode=0o640) as fifo:
        pass
    with pytest.raises(aioipc.ExistsError, match="exist_ok=True") as caught:
        Fifo.create(fifo.path)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, fifo.path)
    with Fifo.create(fifo.path, exist_ok=True) as again:
        assert stat.S_IMODE(os.stat(again.path).st_mode) == 0o640
    assert os.listdir(tmp_path) == []
    with Fifo.create(tmp_path / "fifo", exist_ok=True):
        assert os.listdir(tmp_path) == ["fifo"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link to a FIFO", "dangling link"])
@pytest.mark.parametrize("exist_ok", [False, True])
def test_something_else_is_there(tmp_path: Path, kind: str, exist_ok: bool) -> None:
    path = tmp_path / "it"
    if kind == "file":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    else:
        if kind == "link to a FIFO":
            os.mkfifo(tmp_path / "fifo")
        path.symlink_to("fifo")
    before = sorted(os.listdir(tmp_path)), descriptors()
    with pytest.raises(aioipc.ExistsError, match="something else than a FIFO"):
        Fifo.create(path, exist_ok=exist_ok)
    assert (sorted(os.listdir(tmp_path)), descriptors()) == before


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(aioipc.NotFoundError) as caught:
        Fifo.create(tmp_path / "missing" / "fifo")
    assert caught.value.errno == errno.ENOENT
    (tmp_path / "file").touch()
    with pytest.raises(aioipc.Error) as other:
        Fifo.create(tmp_path / "file" / "fifo")
    assert isinstance(other.value, OSError)
    assert other.value.errno == errno.ENOTDIR


@pytest.mark.parametrize("what", ["FIFO", "file"])
def test_what_others_made_at_its_path_is_left_alone(tmp_path: Path, what: str) -> None:
    path = tmp_path / "fifo"
    with Fifo.create(path) as fifo:
        path.unlink()
        if what == "FIFO":
            os.mkfifo(path)  # the file system gives it the same number, if that is free
        else:
            path.touch()
        with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
            fifo.unlink()
    assert path.exists()


def test_close_alone_removes_nothing(tmp_path: Path) -> None:
    before = descriptors()
    fifo = Fifo.create(tmp_path / "fifo")
    fifo.close()
    fifo.close()
    assert repr(fifo) == f"<aioipc.posix.Fifo '{tmp_path / 'fifo'}' closed>"
    assert descriptors() == before
    fifo.unlink()
    assert os.listdir(tmp_path) == []


def test_in_a_child_its_end_removes_nothing(tmp_path: Path) -> None:
    with Fifo.create(tmp_path / "fifo") as fifo:
        in_child(partial(fifo.__exit__, None, None, None))
        assert os.listdir(tmp_path) == ["fifo"]
        fifo.unlink()


def test_collected_unclosed_it_warns_and_leaks_nothing(tmp_path: Path) -> None:
    before = descriptors()
    fifo = Fifo.create(tmp_path / "fifo")
    with pytest.warns(ResourceWarning, match="unclosed <aioipc.posix.Fifo"):
        del fifo
        gc.collect()
    assert descriptors() == before


async def test_an_opening_is_used_once(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    with Fifo.create(path):
        opening = Fifo.open_reader(path, keep_open=True)
        async with opening:
            with pytest.raises(RuntimeError, match="has been awaited or entered before"):
                await opening
            with pytest.raises(RuntimeError, match="has been awaited or entered before"):
                async with opening:
                    pass


async def test_an_opening_cancelled_as_the_other_end_comes(tmp_path: Path, races: int, rng: random.Random) -> None:
    """The task has this end, since the other one has come: no descriptor is left, and nobody reads."""
    with Fifo.create(tmp_path / "fifo") as fifo:
        async with anyio.create_task_group() as group:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(races // 20):

                async def open_reader() -> FifoReader:
                    return await Fifo.open_reader(fifo)

                task = Task(group, open_reader)
                writer = None
                while writer is None:  # until the thread is in the kernel: it counts as a reader from then on
                    await anyio.lowlevel.checkpoint()
                    with suppress(OSError):
                        writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                for _ in range(rng.randrange(20)):
                    await anyio.lowlevel.checkpoint()
                await task.cancel()
                assert isinstance(task.result, FifoReader)
                task.result.close()
                os.close(writer)
                with pytest.raises(OSError, match="No such device or address"):
                    os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            assert len(os.listdir("/proc/self/fd")) == before


REPLACER = """
import itertools, os, sys

path = sys.argv[1]
for number in itertools.count():
    os.mkfifo(f"{path}-{number}")
    os.rename(f"{path}-{number}", path)
    if number == 0:
        print("ready", flush=True)
"""


async def test_a_reader_that_is_kept_open_has_both_ends_of_one_fifo(tmp_path: Path, races: int) -> None:
    """Though others put another one in its place all the time."""
    path = tmp_path / "fifo"
    with subprocess.Popen([sys.executable, "-c", REPLACER, path], stdout=subprocess.PIPE) as replacer:
        try:
            replacer.stdout.readline()
            for _ in range(races):
                async with Fifo.open_reader(path, keep_open=True) as reader:
                    with pytest.raises(aioipc.WouldBlock):
                        reader.receive_nowait()
        finally:
            replacer.kill()
