"""POSIX shared memory: names, sizes that change, other users, limits.  For the rest see tests/test_memory.py."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import posix_ipc
import pytest
from conftest import NOBODY, as_nobody, in_child, with_own_shm

import aioipc
from aioipc import _shm
from aioipc.posix import SharedMemory, shared_memory

PAGE = os.sysconf("SC_PAGE_SIZE")


def path(name: str) -> str:
    return "/dev/shm" + name


def exists(name: str) -> bool:
    return os.path.exists(path(name))


def peer(shm: str, *words: object) -> bytes:
    """What the C program prints."""
    return subprocess.check_output([shm, *map(str, words)])


# Names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("table", ValueError, "must begin with a slash: '/table'"),
        ("/", ValueError, "nothing after the slash"),
        ("/..", ValueError, "nothing after the slash"),
        ("/a/b", ValueError, "slash inside"),
        ("/a\0b", ValueError, "NUL"),
        ("/" + "n" * 256, ValueError, "name of 256 bytes after the slash; 255 at most"),
        (None, TypeError, "must be a string, not NoneType"),
        (b"/table", TypeError, "must be a string, not bytes"),
    ],
)
def test_names(name: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SharedMemory.create(name, size=10)
    with pytest.raises(error, match=words):
        SharedMemory.open(name)


def test_the_longest_name(name: str) -> None:
    longest = name + "n" * (256 - len(name))
    with SharedMemory.create(longest, size=10), SharedMemory.open(longest) as other:
        assert other.size == 10


def test_unlink(name: str) -> None:
    with SharedMemory.create(name, size=10) as segment, SharedMemory.open(name) as other:
        other.unlink()
        assert not exists(name)
        for handle in (segment, other):
            assert handle.statistics().removed
            with pytest.raises(aioipc.NotFoundError, match="has been removed already") as caught:
                handle.unlink()
            assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)
        segment.buffer[0] = 1
        assert other.buffer[0] == 1


def test_one_made_anew_under_the_name_is_left_alone(name: str, shm: str) -> None:
    with SharedMemory.create(name, size=10) as segment:
        peer(shm, "remove", name)
        peer(shm, "create", name, 20, "0600")
        with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
            segment.unlink()
    with pytest.raises(aioipc.NotFoundError):
        segment.unlink()
    assert peer(shm, "stat", name) == b"20 600\n"


def test_a_closed_handle_can_unlink(name: str) -> None:
    segment = SharedMemory.create(name, size=10)
    segment.close()
    segment.unlink()
    assert not exists(name)


def test_what_is_no_shared_memory(name: str) -> None:
    """Nothing is followed, and nobody waited for."""
    os.symlink("/etc/hostname", path(name))
    for read_only in (False, True):
        with pytest.raises(aioipc.Error) as caught:
            SharedMemory.open(name, read_only=read_only)
        assert caught.value.errno == errno.ELOOP
    os.unlink(path(name))
    os.mkfifo(path(name))
    for read_only in (False, True):
        with pytest.raises(aioipc.KernelError) as caught:
            SharedMemory.open(name, read_only=read_only)
        assert caught.value.errno == errno.EINVAL
    assert stat.S_ISFIFO(os.stat(path(name)).st_mode)


# Creating is one step -----------------------------------------------------------------------------------


def test_all_of_the_memory_is_there_when_the_name_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def link(source: str, destination: str, **options: Any) -> None:
        assert not exists(name)
        seen.append(os.stat(source))
        really_link(source, destination, **options)

    really_link = os.link
    monkeypatch.setattr(os, "link", link)
    with SharedMemory.create(name, size=3 * PAGE + 1) as segment:
        (status,) = seen
        assert (status.st_size, status.st_blocks * 512) == (3 * PAGE + 1, 4 * PAGE)
        assert segment.statistics().reserved == 4 * PAGE


@pytest.mark.parametrize("exist_ok", [False, True])
def test_a_name_that_is_taken_meanwhile(name: str, shm: str, exist_ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, destination: str, **options: Any) -> None:
        peer(shm, "create", name, 100, "0600")
        monkeypatch.setattr(os, "link", really_link)
        really_link(source, destination, **options)

    really_link = os.link
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "link", link)
    if exist_ok:
        with SharedMemory.create(name, size=10, exist_ok=True) as segment:
            assert segment.size == 100
    else:
        with pytest.raises(aioipc.ExistsError) as caught:
            SharedMemory.create(name, size=10)
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
        assert peer(shm, "stat", name) == b"100 600\n"
    assert os.listdir("/proc/self/fd") == before


def test_one_to_take_over_that_is_removed_meanwhile(name: str, shm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lexists(file: str) -> bool:
        found = really_lexists(file)
        if found:
            peer(shm, "remove", name)
        return found

    peer(shm, "create", name, 100, "0600")
    really_lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lexists)
    with SharedMemory.create(name, size=10, exist_ok=True) as segment:
        assert segment.size == 10


def test_nothing_is_left_of_one_that_was_interrupted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int, place: int, size: int) -> None:
        if place >= 3 * PAGE:
            raise KeyboardInterrupt
        really_reserve(descriptor, place, size)

    really_reserve = os.posix_fallocate
    monkeypatch.setattr(_shm, "_STEP", PAGE)
    monkeypatch.setattr(os, "posix_fallocate", interrupt)
    before = os.listdir("/proc/self/fd"), os.listdir("/dev/shm")
    with pytest.raises(KeyboardInterrupt):
        SharedMemory.create(name, size=10 * PAGE)
    assert (os.listdir("/proc/self/fd"), os.listdir("/dev/shm")) == before
    with SharedMemory.create(name, size=PAGE) as segment:
        with pytest.raises(KeyboardInterrupt):
            segment.resize(10 * PAGE)
        assert (segment.size, segment.statistics().size, segment.statistics().reserved) == (PAGE, PAGE, PAGE)
        monkeypatch.undo()
        segment.resize(10 * PAGE)
        assert segment.statistics().reserved == 10 * PAGE


def test_one_that_has_no_size_yet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between shm_open and ftruncate of a C program."""
    posix_ipc.SharedMemory(name, posix_ipc.O_CREX, 0o600).close_fd()
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: os.truncate(path(name), 100))
        with SharedMemory.open(name) as segment:
            assert segment.size == 100
    os.truncate(path(name), 0)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(aioipc.KernelError, match=f"has not set its size.*`rm /dev/shm{name}`") as caught:
        SharedMemory.open(name)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, name)
    with pytest.raises(ValueError, match="has 0 bytes, fewer than 10"):
        SharedMemory.create(name, size=10, exist_ok=True)
    assert os.listdir("/proc/self/fd") == before


def test_one_that_will_never_have_a_size_is_not_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    posix_ipc.SharedMemory(name, posix_ipc.O_CREX, 0o600).close_fd()
    later = time.time() + 3
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(aioipc.KernelError):
        SharedMemory.open(name)


# Sizes that change -----------------------------------------------------------------------------------------


def test_resize(name: str, shm: str) -> None:
    with SharedMemory.create(name, size=10) as segment:
        segment.buffer[:] = b"0123456789"
        for size in (PAGE + 1, 5, 3 * PAGE, 3 * PAGE, 1, PAGE):
            expected = bytes(segment.buffer[:size]).ljust(size, b"\0")
            segment.resize(size)
            assert (segment.size, len(segment.buffer), segment.statistics().size) == (size, size, size)
            assert segment.statistics().reserved == -(-size // PAGE) * PAGE
            assert bytes(segment.buffer) == expected
            assert peer(shm, "stat", name) == f"{size} 600\n".encode()
        segment.buffer[-1] = 7
        assert peer(shm, "read", name, PAGE - 1, 1) == b"\x07"
        inode = f" {os.stat(path(name)).st_ino} "
        assert Path("/proc/self/maps").read_text().count(inode) == 1


def test_views_stay_when_it_grows(name: str) -> None:
    with SharedMemory.create(name, size=PAGE) as segment:
        old = segment.buffer
        array = np.asarray(old)
        segment.resize(100 * PAGE)
        new = segment.buffer
        assert (len(old), len(new)) == (PAGE, 100 * PAGE)
        new[0] = 1
        array[1] = 2
        assert (old[0], new[1]) == (1, 2)
    new[100 * PAGE - 1] = 3
    assert (old[0], new[100 * PAGE - 1]) == (1, 3)


def test_views_keep_it_from_getting_smaller(name: str) -> None:
    with SharedMemory.create(name, size=3 * PAGE) as segment:
        array = np.asarray(segment.buffer)
        for size in (3 * PAGE - 1, 1):
            with pytest.raises(BufferError, match=f"would lose what is beyond {size:,} bytes"):
                segment.resize(size)
        array[3 * PAGE - 1] = 1
        assert (segment.size, segment.statistics().size) == (3 * PAGE, 3 * PAGE)
        segment.resize(5 * PAGE)
        with pytest.raises(BufferError):  # the view is of an earlier mapping
            segment.resize(2 * PAGE)
        segment.resize(3 * PAGE)  # which is not touched by that
        assert array[3 * PAGE - 1] == 1
        del array
        segment.resize(1)
        assert segment.size == 1


def test_a_change_that_another_has_made(name: str, shm: str) -> None:
    with SharedMemory.create(name, size=PAGE) as segment:
        segment.buffer[0] = 5
        peer(shm, "resize", name, 3 * PAGE)
        assert (segment.size, segment.statistics().size) == (PAGE, 3 * PAGE)
        segment.resize(segment.statistics().size)
        assert (segment.size, len(segment.buffer), segment.buffer[0]) == (3 * PAGE, 3 * PAGE, 5)
        peer(shm, "resize", name, 10)
        segment.resize(segment.statistics().size)
        assert bytes(segment.buffer) == b"\x05" + bytes(9)


@pytest.mark.parametrize("fails", [False, True])
def test_what_another_adds_meanwhile_is_not_cut(name: str, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses it would be killed."""

    def map_later(*arguments: Any) -> Any:
        monkeypatch.undo()
        grower.resize(3 * PAGE)
        if fails:
            raise KeyboardInterrupt
        return really_map(*arguments)

    really_map = shared_memory._map
    with SharedMemory.create(name, size=PAGE) as segment, SharedMemory.open(name) as grower:
        monkeypatch.setattr(shared_memory, "_map", map_later)
        if fails:
            with pytest.raises(KeyboardInterrupt):
                segment.resize(2 * PAGE)
        else:
            segment.resize(PAGE)
        assert (segment.size, segment.statistics().size) == (PAGE, 3 * PAGE)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_that_was_interrupted_has_the_size_that_it_had(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int, place: int, size: int) -> None:
        really_reserve(descriptor, place, size)
        done.append(place)
        if len(done) == steps:
            raise KeyboardInterrupt

    done: list[int] = []
    really_reserve = os.posix_fallocate
    with SharedMemory.create(name, size=10) as segment:
        monkeypatch.setattr(_shm, "_STEP", PAGE)
        monkeypatch.setattr(os, "posix_fallocate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            segment.resize(2 * PAGE + 20)
        assert (segment.size, segment.statistics()[:2]) == (10, (10, PAGE))


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (2**63, ValueError), (1.5, TypeError), ("1", TypeError)]
)
def test_sizes_that_can_not_be(name: str, size: Any, error: type[Exception]) -> None:
    with SharedMemory.create(name, size=10) as segment:
        with pytest.raises(error):
            segment.resize(size)
        assert (segment.size, segment.statistics().size) == (10, 10)


def test_who_may_not_resize(name: str) -> None:
    with SharedMemory.create(name, size=10) as segment:
        with SharedMemory.open(name, read_only=True) as other:
            with pytest.raises(aioipc.AccessError, match="opened with read_only=True") as caught:
                other.resize(20)
            assert (caught.value.errno, caught.value.filename) == (errno.EBADF, name)
        with pytest.raises(aioipc.ClosedError):
            other.resize(20)
        with pytest.raises(RuntimeError, match="opened before a fork"):
            in_child(lambda: segment.resize(20))
        assert segment.statistics().size == 10


# Limits ------------------------------------------------------------------------------------------------------


def test_a_full_file_system(name: str) -> None:
    """The error is an exception, not a SIGBUS later on."""

    def fill() -> tuple[list[Any], list[str]]:
        errors = []
        with pytest.raises(aioipc.LimitError) as caught:
            SharedMemory.create(name, size=2**20 + 1)
        errors.append(caught.value)
        assert os.listdir("/dev/shm") == []
        with SharedMemory.create(name, size=2**20 - 8 * PAGE) as segment:
            segment.buffer[-1] = 1
            for size in (2**20 + 1, 2**40):
                with pytest.raises(aioipc.LimitError) as caught:
                    segment.resize(size)
                errors.append(caught.value)
                assert (segment.size, segment.statistics().size) == (2**20 - 8 * PAGE,) * 2
            segment.resize(2**20)
            segment.buffer[:] = bytes([1]) * 2**20
            with pytest.raises(aioipc.LimitError) as caught:
                SharedMemory.create(name + "-2", size=1)
            errors.append(caught.value)
            # What exists is taken over before memory for a new one is looked for.
            with SharedMemory.create(name, size=2**20, exist_ok=True, persist=True) as again:
                assert again.size == 2**20
            with pytest.raises(aioipc.ExistsError):
                SharedMemory.create(name, size=2**20)
        return [error.errno for error in errors], [str(error) for error in errors]

    numbers, texts = with_own_shm("size=1m", fill)
    assert set(numbers) == {errno.ENOSPC}
    assert "no room for 1,048,577 bytes in the shared-memory file system /dev/shm (1,048,576 of 1,048,576" in texts[0]
    assert "(32,768 of 1,048,576 bytes free now" in texts[1]
    assert "(0 of 1,048,576 bytes free now" in texts[3]
    for text in texts:
        assert "mount -o remount,size=BYTES /dev/shm" in text
        assert "docker run --shm-size" in text


def test_more_than_there_is_room_for_is_not_tried(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other programs would be without room while it fails."""
    if os.statvfs("/dev/shm").f_blocks == 0:
        pytest.skip("/dev/shm has no limit here")
    monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: pytest.fail("it is tried"))
    with pytest.raises(aioipc.LimitError, match="no room for 1,152,921,504,606,846,976 bytes") as caught:
        SharedMemory.create(name, size=2**60)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, name)


def test_a_file_system_that_others_fill_meanwhile(name: str) -> None:
    class Room:
        f_blocks = f_bavail = f_frsize = 2**20

    def fill() -> list[tuple[int, str]]:
        errors = []
        now = os.statvfs
        with SharedMemory.create(name, size=PAGE) as segment:
            for attempt in (lambda: SharedMemory.create(name + "-2", size=2**21), lambda: segment.resize(2**21)):
                before = [Room()]
                with pytest.MonkeyPatch.context() as patch, pytest.raises(aioipc.LimitError) as caught:
                    patch.setattr(_shm, "_STEP", 16 * PAGE)
                    patch.setattr(os, "statvfs", lambda place, before=before: before.pop() if before else now(place))
                    attempt()
                errors.append((caught.value.errno, str(caught.value)))
                assert os.statvfs("/dev/shm").f_bfree * PAGE == 2**20 - PAGE
            assert os.listdir("/dev/shm") == [name[1:]]
            assert segment.statistics()[:2] == (PAGE, PAGE)
        return errors

    for number, text in with_own_shm("size=1m", fill):
        assert number == errno.ENOSPC
        assert "no room for 2,097,152 bytes in the shared-memory file system /dev/shm (1,044,480 of 1,048,576" in text


def test_as_many_files_as_the_file_system_allows(name: str) -> None:
    def fill() -> tuple[int, str]:
        with SharedMemory.create(name, size=1):  # the other is the root of the file system
            with pytest.raises(aioipc.LimitError) as caught:
                SharedMemory.create(name + "-2", size=1)
            return caught.value.errno, str(caught.value)

    number, text = with_own_shm("nr_inodes=2", fill)
    assert number == errno.ENOSPC
    assert "no room for one more file in the shared-memory file system /dev/shm (0 of 2 free now" in text
    assert "remount,nr_inodes=NUMBER" in text


@pytest.mark.parametrize(
    ("limit", "value", "number", "words"),
    [
        ("RLIMIT_FSIZE", 10 * PAGE, errno.EFBIG, r"RLIMIT_FSIZE \(40,960 bytes now.*ulimit -f"),
        ("RLIMIT_NOFILE", 0, errno.EMFILE, r"RLIMIT_NOFILE \(0 open descriptors now.*ulimit -n"),
    ],
)
def test_limits_of_the_process(name: str, limit: str, value: int, number: int, words: str) -> None:
    def create() -> None:
        resource.setrlimit(getattr(resource, limit), (value, value))
        SharedMemory.create(name, size=11 * PAGE)

    with pytest.raises(aioipc.LimitError, match=words) as caught:
        in_child(create)
    assert (caught.value.errno, caught.value.filename) == (number, name)
    assert not exists(name)


def test_no_address_space(name: str) -> None:
    def open_it() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**38, 2**38))
        SharedMemory.open(name)

    with SharedMemory.create(name, size=PAGE):
        os.truncate(path(name), 2**40)  # which takes no memory
        with pytest.raises(aioipc.LimitError, match=r"RLIMIT_AS \(274,877,906,944 bytes now") as caught:
            in_child(open_it)
        assert "no address space for 1,099,511,627,776 bytes" in str(caught.value)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOMEM, name)


# Other users ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "umask", "result"), [(None, 0, 0o600), (0o666, 0o022, 0o644), (0o440, 0, 0o440)])
def test_mode(name: str, mode: int | None, umask: int, result: int) -> None:
    before = os.umask(umask)
    try:
        with SharedMemory.create(name, size=10, **({} if mode is None else {"mode": mode})) as segment:
            segment.buffer[0] = 1  # whatever the mode
            assert segment.statistics().mode == stat.S_IMODE(os.stat(path(name)).st_mode) == result
    finally:
        os.umask(before)


def test_another_user_may_read(name: str) -> None:
    def read() -> None:
        with SharedMemory.open(name, read_only=True) as other:
            assert other.buffer[:5] == b"hello"
            assert other.statistics().owner == owner
            with pytest.raises(aioipc.AccessError, match="only its owner may remove"):
                other.unlink()

    owner = os.geteuid()
    with SharedMemory.create(name, size=10, mode=0o644) as segment:
        segment.buffer[:5] = b"hello"
        as_nobody(read)
        with pytest.raises(aioipc.AccessError, match=f"{NOBODY} read and write it .read_only=True asks") as caught:
            as_nobody(lambda: SharedMemory.open(name))
        assert (caught.value.errno, caught.value.filename) == (errno.EACCES, name)
        assert exists(name)


def test_another_user_may_not(name: str) -> None:
    with SharedMemory.create(name, size=10):
        for attempt in (
            lambda: SharedMemory.open(name),
            lambda: SharedMemory.open(name, read_only=True),
            lambda: SharedMemory.create(name, size=10, exist_ok=True),
        ):
            with pytest.raises(aioipc.AccessError, match=f"do not let user {NOBODY} read"):
                as_nobody(attempt)
        with pytest.raises(aioipc.ExistsError):
            as_nobody(lambda: SharedMemory.create(name, size=10))
        with pytest.raises(aioipc.AccessError, match="only its owner may remove"):
            as_nobody(SharedMemory.unlink, lambda: SharedMemory.open(name))
        assert exists(name)


def test_another_user_may_write_and_take_over_what_the_mode_says(name: str) -> None:
    """Not with O_CREAT: fs.protected_regular forbids that in /dev/shm, whatever the mode says."""

    def write() -> None:
        with SharedMemory.create(name, size=10, exist_ok=True, persist=True) as other:
            other.buffer[0] = 1
            other.resize(20)

    before = os.umask(0)
    try:
        with SharedMemory.create(name, size=10, mode=0o666) as segment:
            as_nobody(write)
            assert (segment.buffer[0], segment.statistics().size) == (1, 20)
    finally:
        os.umask(before)


def test_another_user_creates(name: str) -> None:
    def create() -> tuple[int, int]:
        with SharedMemory.create(name, size=10, mode=0o400) as segment:
            segment.buffer[0] = 1
            status = os.stat(path(name))
            assert segment.statistics()[2:5] == (status.st_uid, status.st_gid, 0o400)
            return status.st_uid, status.st_gid

    assert as_nobody(create) == (NOBODY, NOBODY)
    assert not exists(name)


# Looking --------------------------------------------------------------------------------------------------------


def test_statistics(name: str, shm: str) -> None:
    peer(shm, "create", name, 3 * PAGE, "0640")
    with SharedMemory.open(name) as segment:
        status = os.stat(path(name))
        assert segment.statistics() == (3 * PAGE, 0, os.geteuid(), os.getegid(), 0o640, status.st_ctime, False)
        segment.buffer[PAGE] = 1
        assert segment.statistics().reserved == PAGE
        os.chmod(path(name), 0o600)
        assert segment.statistics().mode == 0o600
        segment.unlink()
        assert segment.statistics().removed
