"""POSIX semaphores: lifetimes, rights, bad input and limits reached."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import posix_ipc
import pytest
from conftest import NOBODY, as_nobody, in_child, no_descriptor_left, with_own_mounts

import aioipc
from aioipc.posix import Semaphore, _sem

NewName = Callable[[], str]

VALUE_MAX = posix_ipc.SEMAPHORE_VALUE_MAX


def exists(name: str) -> bool:
    return os.path.exists("/dev/shm/sem." + name[1:])


# Lifetimes ----------------------------------------------------------------------------------


def test_the_creator_removes_on_exit_and_an_opener_does_not(name: str) -> None:
    with Semaphore.create(name):
        with Semaphore.open(name):
            pass
        assert exists(name)
    assert not exists(name)
    with pytest.raises(ZeroDivisionError):
        with Semaphore.create(name):
            raise ZeroDivisionError
    assert not exists(name)


def test_persist_and_take_over(name: str) -> None:
    with Semaphore.create(name, value=5, persist=True) as semaphore:
        semaphore.acquire_nowait()
    assert exists(name)
    with Semaphore.create(name, value=9, exist_ok=True) as again:
        assert again.value == 4
    assert not exists(name)
    with Semaphore.create(name, value=9, exist_ok=True) as new:
        assert new.value == 9
    assert not exists(name)


def test_close_alone_removes_nothing(name: str) -> None:
    semaphore = Semaphore.create(name)
    semaphore.close()
    semaphore.close()
    assert exists(name)
    semaphore.unlink()
    assert not exists(name)


def test_unlink(name: str) -> None:
    with Semaphore.create(name, value=0) as semaphore, Semaphore.open(name) as other:
        semaphore.unlink()
        assert not exists(name)
        for handle in (semaphore, other):
            with pytest.raises(aioipc.NotFoundError, match="has been removed already") as caught:
                handle.unlink()
            assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)
        semaphore.release()
        other.acquire_nowait()


def test_a_semaphore_made_anew_under_the_name_is_left_alone(name: str, sem: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        subprocess.run([sem, "unlink", name], check=True)
        subprocess.run([sem, "create", name, "7"], check=True)
        with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
            semaphore.unlink()
        assert semaphore.value == 1
    semaphore_left = subprocess.check_output([sem, "value", name])
    assert semaphore_left == b"7\n"
    with pytest.raises(aioipc.NotFoundError):
        semaphore.unlink()
    assert exists(name)


# Names and arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("printer", ValueError, "must begin with a slash: '/printer'"),
        ("", ValueError, "must begin with a slash"),
        ("/", ValueError, "nothing after the slash"),
        ("/..", ValueError, "nothing after the slash"),
        ("/a/b", ValueError, "slash inside"),
        ("/a\0b", ValueError, "NUL"),
        ("/\ud800", ValueError, "can't be encoded"),
        ("/" + "n" * 252, ValueError, "name of 252 bytes after the slash; 251 at most"),
        (None, TypeError, "must be a string, not NoneType"),
        (b"/printer", TypeError, "must be a string, not bytes"),
    ],
)
def test_names(name: Any, error: type[Exception], words: str) -> None:
    for make in (Semaphore.create, Semaphore.open):
        with pytest.raises(error, match=words):
            make(name)


def test_the_longest_name(name: str) -> None:
    longest = name + "n" * (252 - len(name))
    with Semaphore.create(longest), Semaphore.open(longest) as other:
        other.acquire_nowait()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"value": -1}, ValueError, "value -1 must be 0 to 2,147,483,647"),
        ({"value": VALUE_MAX + 1}, ValueError, "value 2147483648 must be"),
        ({"value": 2**70}, ValueError, "must be 0 to"),
        ({"value": "1"}, TypeError, "str"),
        ({"value": 1.5}, TypeError, "float"),
        ({"mode": 0o10000}, ValueError, "permission bits"),
        ({"mode": -1}, ValueError, "permission bits"),
        ({"mode": "rw"}, TypeError, "str"),
    ],
)
def test_arguments_of_create(name: str, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Semaphore.create(name, **options)
    assert not exists(name)


@pytest.mark.parametrize(
    ("n", "error", "words"),
    [
        (0, ValueError, "n 0 must be 1 to"),
        (-1, ValueError, "n -1 must be"),
        (VALUE_MAX + 1, ValueError, "must be 1 to"),
        ("1", TypeError, "str"),
        (1.0, TypeError, "float"),
    ],
)
def test_arguments_of_release(name: str, n: Any, error: type[Exception], words: str) -> None:
    with Semaphore.create(name, value=3) as semaphore:
        with pytest.raises(error, match=words):
            semaphore.release(n)
        assert semaphore.value == 3


@pytest.mark.parametrize("what", ["empty", "short", "long", "folder", "link", "fifo"])
def test_what_is_no_semaphore(name: str, what: str, tmp_path: Path) -> None:
    """The C library takes it for one, and ends the process."""
    path = Path("/dev/shm/sem." + name[1:])
    if what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(tmp_path)
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(bytes({"empty": 0, "short": 31, "long": 65536}[what]))
    try:
        for way in (lambda: Semaphore.open(name), lambda: Semaphore.create(name, exist_ok=True)):
            with pytest.raises(
                aioipc.CorruptError, match=f"it is not a semaphore; to remove it: `rm {path}`"
            ) as caught:
                way()
            assert (caught.value.errno, caught.value.filename) == (errno.EUCLEAN, name)
        with pytest.raises(aioipc.ExistsError):
            Semaphore.create(name)
    finally:
        path.rmdir() if what == "folder" else path.unlink()


def test_replaced_while_it_is_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/dev/shm/sem." + name[1:])
    Semaphore.create(name, value=1, persist=True).close()
    unlucky = [True]

    def opened(*args: Any) -> Any:
        found = posix_ipc.Semaphore(*args)
        if unlucky.pop() if unlucky else False:
            path.unlink()
            posix_ipc.Semaphore(name, posix_ipc.O_CREX, 0o600, 2).close()
        return found

    monkeypatch.setattr(_sem, "posix_ipc", SimpleNamespace(**vars(posix_ipc) | {"Semaphore": opened}))
    with Semaphore.open(name) as new:
        assert new.value == 2
        new.unlink()
    assert not exists(name)


def test_a_c_library_that_keeps_its_files_elsewhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is known by its name alone, and can't be removed by this handle."""
    with monkeypatch.context() as patch:
        patch.setattr(_sem, "sem_file", lambda name: None)
        with Semaphore.create(name, value=2, persist=True), Semaphore.open(name) as semaphore:
            assert semaphore.value == 2
            with pytest.raises(aioipc.NotFoundError):
                semaphore.unlink()


def test_a_name_that_is_not_utf_8(name: str) -> None:
    with Semaphore.create(f"{name}\udc80"):
        assert exists(f"{name}\udc80")
    assert not exists(f"{name}\udc80")


def test_not_found(name: str) -> None:
    with pytest.raises(aioipc.NotFoundError, match=r"create\(\) makes one") as caught:
        Semaphore.open(name)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)


def test_exists(name: str) -> None:
    with Semaphore.create(name, value=4) as semaphore:
        with pytest.raises(aioipc.ExistsError, match="exist_ok=True") as caught:
            Semaphore.create(name, value=1)
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
        assert semaphore.value == 4


def test_no_shared_memory_file_system(name: str) -> None:
    """That is not to be taken for a name that exists: who then opens it would never find it."""

    def create(exist_ok: bool) -> None:
        assert ctypes.CDLL(None).mount(b"none", b"/dev", b"tmpfs", ctypes.c_ulong(0), None) == 0
        Semaphore.create(name, exist_ok=exist_ok)

    for exist_ok in (False, True):
        with pytest.raises(aioipc.KernelError, match="no shared-memory file system at /dev/shm") as caught:
            with_own_mounts(lambda exist_ok=exist_ok: create(exist_ok))
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)


# Limits -----------------------------------------------------------------------------------------


def test_the_greatest_value(name: str) -> None:
    with Semaphore.create(name, value=VALUE_MAX - 2) as semaphore:
        for n in (3, VALUE_MAX):
            with pytest.raises(aioipc.LimitError, match=r"SEM_VALUE_MAX \(2,147,483,647\)") as caught:
                semaphore.release(n)
            assert (caught.value.errno, caught.value.filename) == (errno.EOVERFLOW, name)
            assert semaphore.value == VALUE_MAX - 2
        semaphore.release(2)
        assert semaphore.value == VALUE_MAX
        with pytest.raises(aioipc.LimitError):
            semaphore.release()
        assert semaphore.value == VALUE_MAX


def test_the_greatest_value_reached_by_others_meanwhile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """sem_post(3) refuses a permit that there was room for a moment before."""

    class Late:
        value = 0

        def __init__(self, semaphore: posix_ipc.Semaphore) -> None:
            self.release = semaphore.release

    with Semaphore.create(name, value=VALUE_MAX) as semaphore, monkeypatch.context() as patch:
        patch.setattr(semaphore, "_semaphore", Late(semaphore._semaphore))
        with pytest.raises(aioipc.LimitError, match="SEM_VALUE_MAX") as caught:
            semaphore.release()
        assert caught.value.errno == errno.EOVERFLOW


def test_descriptors_used_up(name: str, new_name: NewName) -> None:
    with Semaphore.create(name):
        other = new_name()
        for make in (lambda: Semaphore.open(name), lambda: Semaphore.create(other)):
            with no_descriptor_left():
                with pytest.raises(aioipc.LimitError, match=r"RLIMIT_NOFILE \(0 open descriptors.*ulimit -n") as caught:
                    make()
            assert caught.value.errno == errno.EMFILE
        assert not exists(other)


def test_a_semaphore_keeps_no_descriptor(new_name: NewName) -> None:
    before = os.listdir("/proc/self/fd")
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(Semaphore.create(new_name()))
        assert os.listdir("/proc/self/fd") == before


# Other users ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "umask", "result"), [(None, 0, 0o600), (0o666, 0o022, 0o644), (0o640, 0, 0o640)])
def test_mode(name: str, mode: int | None, umask: int, result: int) -> None:
    before = os.umask(umask)
    try:
        with Semaphore.create(name, **({} if mode is None else {"mode": mode})) as semaphore:
            assert semaphore.statistics().mode == result
            assert os.stat("/dev/shm/sem." + name[1:]).st_mode & 0o777 == result
    finally:
        os.umask(before)


def test_another_user_may_not(name: str) -> None:
    with Semaphore.create(name):
        for attempt in (lambda: Semaphore.open(name), lambda: Semaphore.create(name, exist_ok=True)):
            with pytest.raises(aioipc.AccessError, match=f"do not let user {NOBODY} read and write it") as caught:
                as_nobody(lambda attempt=attempt: attempt().close())
            assert (caught.value.errno, caught.value.filename) == (errno.EACCES, name)
        with pytest.raises(aioipc.ExistsError):
            as_nobody(lambda: Semaphore.create(name).close())
        with pytest.raises(aioipc.AccessError, match="only its owner may remove"):
            as_nobody(Semaphore.unlink, lambda: Semaphore.open(name))
        assert exists(name)


def test_another_user_may_what_the_mode_says(name: str) -> None:
    def post() -> None:
        with Semaphore.open(name) as other:
            other.release()
            with pytest.raises(aioipc.AccessError, match="only its owner may remove"):
                other.unlink()

    before = os.umask(0)
    try:
        with Semaphore.create(name, value=0, mode=0o666) as semaphore:
            as_nobody(post)
            semaphore.acquire_nowait()
    finally:
        os.umask(before)


def test_a_child_that_ends_removes_nothing(name: str) -> None:
    with Semaphore.create(name) as semaphore:
        in_child(lambda: semaphore.__exit__(None, None, None))
        assert exists(name)
