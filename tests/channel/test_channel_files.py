"""What is found under a channel's name: of others, broken, half; and what is left when a channel can't be made."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import NOBODY, as_nobody, doorbells, with_own_shm

import aioipc
from aioipc import Channel
from aioipc._ring import _binding, _deaths, _files

CONSTANT = 128  # bytes of the header that never change


def path_of(name: str) -> Path:
    return Path("/dev/shm" + name)


@pytest.fixture
def broken(name: str, descriptors: Callable[[], int]) -> Iterator[Path]:
    """The file of a channel, to break; whatever is there in the end is removed."""
    channel = Channel.create(name, capacity=4096, persist=True)
    channel.close()
    bells = doorbells(name)
    before = descriptors()
    path = path_of(name)
    yield path
    assert descriptors() == before
    for each in (path, *bells):
        if each.is_dir() and not each.is_symlink():
            each.rmdir()
        else:
            each.unlink(missing_ok=True)


def refused(name: str, words: str, error: type[aioipc.Error] = aioipc.CorruptError) -> aioipc.Error:
    """Open it, and take it over, in vain."""
    for way in (lambda: Channel.open(name), lambda: Channel.create(name, exist_ok=True)):
        with pytest.raises(error, match=words) as caught:
            way()
        assert caught.value.filename == name  # type: ignore[attr-defined]
    with pytest.raises(aioipc.ExistsError):
        Channel.create(name)
    return caught.value


def change(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def check_of(header: bytes) -> bytes:
    """FNV-1a of the constant part: see file.c."""
    number = 0xCBF29CE484222325
    for byte in header:
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return number.to_bytes(8, "little")


def rewrite(path: Path, offset: int, data: bytes) -> None:
    """Change the header, and its check with it."""
    change(path, offset, data)
    with open(path, "rb") as file:
        header = file.read(64)
    change(path, 64, check_of(header))


# Files of others --------------------------------------------------------------------------


def test_the_check_is_what_the_library_writes(broken: Path) -> None:
    assert broken.read_bytes()[64:72] == check_of(broken.read_bytes()[:64])


@pytest.mark.parametrize("size", [0, 1, 8, 64, CONSTANT - 1, CONSTANT, 4096, 65536, 131071])
def test_truncated(name: str, broken: Path, size: int) -> None:
    os.truncate(broken, size)
    error = refused(name, f"it is too short, {size:,} bytes: it was truncated, or is no channel; to remove it: `rm ")
    assert error.errno == errno.EUCLEAN  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", [bytes(131072), b"x" * 131072, b"\x7fELF" + bytes(200)], ids=["zeros", "x", "ELF"])
def test_something_else(name: str, broken: Path, data: bytes) -> None:
    broken.write_bytes(data)
    refused(name, "it is not a channel; to remove it")


def test_another_version(name: str, broken: Path) -> None:
    rewrite(broken, 8, struct.pack("=I", 2))
    refused(name, "it has version 2 of the format; this aioipc reads version 1")


@pytest.mark.parametrize(("offset", "length"), [(0, 8), (12, 4)], ids=["byte order", "ABI"])
def test_another_machine(name: str, broken: Path, offset: int, length: int) -> None:
    rewrite(broken, offset, broken.read_bytes()[offset : offset + length][::-1])
    refused(name, "it was made for another byte order or ABI")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        *(
            (offset, struct.pack("=Q", value))
            for offset in (16, 24, 32, 40)
            for value in (0, 63, 2**20, 2**63, 2**64 - 1)
        ),
        *((offset, struct.pack("=I", value)) for offset in (48, 52) for value in (0, 1, 2**32 - 1)),
    ],
)
@pytest.mark.parametrize("with_check", [True, False])
def test_a_header_that_can_not_be_right(name: str, broken: Path, offset: int, value: bytes, with_check: bool) -> None:
    (rewrite if with_check else change)(broken, offset, value)
    refused(name, "what its header says can't be right")


def test_another_id_without_its_check(name: str, broken: Path) -> None:
    change(broken, 56, b"12345678")
    refused(name, "what its header says can't be right")


def test_other_kinds_of_files(name: str, broken: Path, tmp_path: Path) -> None:
    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))

    target = tmp_path / "target"
    channel = broken.with_name(broken.name + "-channel")
    broken.replace(channel)
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink(target, path), bind):
        make(broken)
        refused(name, "it is not a channel, but another kind of file; to remove it: `rm ")
        if broken.is_dir():
            broken.rmdir()
        else:
            broken.unlink()
    assert not target.exists()
    broken.symlink_to(channel)
    refused(name, "another kind of file")
    channel.unlink()


# Doorbells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_a_doorbell_is_missing(name: str, broken: Path, number: int) -> None:
    doorbells(name)[number].unlink()
    refused(name, "its doorbells, two FIFOs, have been removed; to remove it: `rm ")


@pytest.mark.parametrize("kind", ["file", "symlink", "directory", "dangling", "socket"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_doorbell_is_something_else(name: str, broken: Path, number: int, kind: str, tmp_path: Path) -> None:
    bells = doorbells(name)
    bell = bells[number]
    bell.unlink()
    if kind == "file":
        bell.write_bytes(b"")
    elif kind == "symlink":
        bell.symlink_to(bells[1 - number])
    elif kind == "dangling":
        bell.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        bell.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(bell))
    refused(name, f"a doorbell, {bell}, is no FIFO of its owner's")


@pytest.mark.parametrize("number", [0, 1])
def test_a_doorbell_of_another_user(name: str, broken: Path, number: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("it takes root to give a file away")
    os.chown(doorbells(name)[number], NOBODY, NOBODY)
    refused(name, "is no FIFO of its owner's")


def test_it_names_the_doorbells_of_another_user(name: str, new_name: Callable[[], str]) -> None:
    """Who removes it removes no others."""
    with Channel.create(name) as channel:
        others = new_name()
        as_nobody(lambda: Channel.create(others, persist=True).close())
        for bell in doorbells(others):
            bell.unlink()
        with open(path_of(name), "rb") as file:
            id = file.read(64)[56:]
        rewrite(path_of(others), 56, id)
        identity = os.lstat(path_of(others))
        _files.unlink(others, identity, int.from_bytes(id, sys.byteorder), identity.st_uid)
        assert not path_of(others).exists()
        assert all(bell.exists() for bell in doorbells(name))
        Channel.open(name).close()
        channel.send_nowait(b"x")


# Other users --------------------------------------------------------------------------------


def test_another_user_may_not(name: str) -> None:
    with Channel.create(name) as channel:
        for way in (lambda: Channel.open(name), lambda: Channel.create(name, exist_ok=True)):
            with pytest.raises(aioipc.AccessError, match=f"owner and mode of the channel do not let user {NOBODY}"):
                as_nobody(lambda way=way: way().close())
        assert channel.statistics().mode == 0o600


def test_another_user_may_if_the_mode_says_so(name: str) -> None:
    def use() -> bytes:
        with Channel.open(name) as other:
            with pytest.raises(aioipc.AccessError, match="only its owner may remove"):
                other.unlink()
            other.send_nowait(b"from nobody")
            return other.receive_nowait()

    before = os.umask(0)
    try:
        channel = Channel.create(name, mode=0o666)
    finally:
        os.umask(before)
    with channel:
        channel.send_nowait(b"from root")
        assert as_nobody(use) == b"from root"
        assert channel.receive_nowait() == b"from nobody"
        statistics = channel.statistics()
        assert (statistics.owner, statistics.group, statistics.mode) == (os.geteuid(), os.getegid(), 0o666)
        doorbells(name)[0].chmod(0o600)
        with pytest.raises(aioipc.AccessError, match="owner and mode of a doorbell of the channel"):
            as_nobody(lambda: Channel.open(name).close())


# Limits: nothing is left ----------------------------------------------------------------------


def nothing_is_left(make: Callable[[], Channel], error: type[BaseException], words: str | None = None) -> BaseException:
    before = sorted(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=words) as caught:
        make()
    assert (sorted(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))) == before
    return caught.value


def in_own_shm(function: Callable[[], Any], options: str = "size=16m") -> Any:
    def prepare() -> Any:
        _deaths.watch("")
        return function()

    return with_own_shm(options, prepare)


def test_no_room(name: str) -> None:
    def fill() -> None:
        assert (
            nothing_is_left(
                lambda: Channel.create(name, capacity=2**20), aioipc.LimitError, "no room for .* /dev/shm"
            ).errno
            == errno.ENOSPC
        )  # type: ignore[attr-defined]
        with Channel.create(name, capacity=2**19):
            pass

    in_own_shm(fill, "size=1m")


@pytest.mark.parametrize("inodes", [2, 3, 4, 5])
def test_no_more_files(name: str, inodes: int) -> None:
    """The folder is one, the memory another, and then the two doorbells."""

    def fill() -> bool:
        try:
            with Channel.create(name):
                return True
        except aioipc.LimitError:
            nothing_is_left(lambda: Channel.create(name), aioipc.LimitError, "no room for one more file")
            return False

    assert in_own_shm(fill, f"nr_inodes={inodes}") == (inodes >= 4)


@pytest.mark.parametrize("existing", [False, True])
def test_no_more_descriptors(name: str, existing: bool) -> None:
    def use_up() -> int:
        with ExitStack() as stack:
            if existing:
                stack.enter_context(Channel.create(name))
            highest = max(map(int, os.listdir("/proc/self/fd")[:-1]))
            for _ in range(highest):  # no gaps
                stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
            failures = 0
            while True:
                used = len(os.listdir("/proc/self/fd")) - 1
                limit = used + 1 + failures  # nothing_is_left() needs one
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                make = (lambda: Channel.open(name)) if existing else (lambda: Channel.create(name))
                try:
                    make().__exit__(None, None, None)
                except aioipc.LimitError:
                    nothing_is_left(make, aioipc.LimitError, "RLIMIT_NOFILE")
                    failures += 1
                else:
                    return failures

    assert in_own_shm(use_up) in range(3, 6)


@pytest.mark.parametrize("existing", [False, True])
def test_no_more_watches(name: str, existing: bool) -> None:
    """The second user of this machine that one may be: the limit is each user's."""

    def use_up() -> None:
        if existing:
            Channel.create(name, persist=True).close()
            _deaths._watch = None
        libc = ctypes.CDLL(None)
        limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit + 100, hard), hard))
        while libc.inotify_init() >= 0:
            pass
        for way in (
            lambda: Channel.open(name) if existing else Channel.create(name),
            lambda: Channel.create(name, exist_ok=True),
        ):
            error = nothing_is_left(way, aioipc.LimitError, "fs.inotify.max_user_instances .* now; raise it with")
            assert error.errno == errno.EMFILE  # type: ignore[attr-defined]

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    as_nobody(use_up)


@pytest.mark.parametrize("existing", [False, True])
def test_no_more_address_space(name: str, existing: bool) -> None:
    def use_up() -> None:
        if existing:
            Channel.create(name, capacity=2**26, persist=True).close()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**25, -1))
        make = (lambda: Channel.open(name)) if existing else (lambda: Channel.create(name, capacity=2**26))
        error = nothing_is_left(make, aioipc.LimitError, "address space|RLIMIT_AS")
        assert error.errno == errno.ENOMEM  # type: ignore[attr-defined]

    in_own_shm(use_up, "size=200m")


def test_nothing_is_left_when_it_fails_in_the_middle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step that can fail, or be interrupted."""

    def fail(*arguments: object, **options: object) -> None:
        raise error

    @contextmanager
    def failing(target: object, attribute: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(target, attribute, fail)
            yield

    def try_all() -> None:
        nonlocal error
        for error in (OSError(errno.EIO, "it failed"), KeyboardInterrupt()):
            expected = aioipc.KernelError if isinstance(error, OSError) else KeyboardInterrupt
            for target, attribute in (
                (_binding, "make_ring"),
                (os, "mkfifo"),
                (_files, "_open_fifo"),
                (os, "link"),
                (_binding, "add_watch"),
                (Channel, "_join"),
            ):
                with failing(target, attribute):
                    nothing_is_left(lambda: Channel.create(name), expected)
            with Channel.create(name):
                for target, attribute in ((_binding, "add_watch"), (Channel, "_join"), (_files, "_open_fifo")):
                    with failing(target, attribute):
                        nothing_is_left(lambda: Channel.open(name), expected)
                        nothing_is_left(lambda: Channel.create(name, exist_ok=True), expected)

    error: BaseException
    in_own_shm(try_all)


def test_a_name_that_is_taken_just_now(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_and_link(*arguments: Any, **options: Any) -> None:
        monkeypatch.undo()
        others.append(Channel.create(name))
        link(*arguments, **options)

    def run() -> None:
        for exist_ok in (False, True):
            monkeypatch.setattr(os, "link", take_and_link)
            before = len(os.listdir("/proc/self/fd"))
            if exist_ok:
                with Channel.create(name, exist_ok=True) as channel:
                    others[-1].send_nowait(b"the same")
                    assert channel.receive_nowait() == b"the same"
            else:
                with pytest.raises(aioipc.ExistsError):
                    Channel.create(name)
            with others.pop():
                assert len(os.listdir("/dev/shm")) == (0 if exist_ok else 3)
            assert len(os.listdir("/proc/self/fd")) == before
            assert os.listdir("/dev/shm") == []

    link = os.link
    others: list[Channel] = []
    in_own_shm(run)


def test_removed_while_it_is_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove_and_identify(file: int) -> Any:
        channel.unlink()
        return identify(file)

    identify = _binding.identify
    with Channel.create(name) as channel:
        monkeypatch.setattr(_binding, "identify", remove_and_identify)
        with pytest.raises(aioipc.NotFoundError, match="was removed just now"):
            Channel.open(name)
        monkeypatch.undo()
