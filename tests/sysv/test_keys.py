"""Keys: those of files as the C library makes them, and what is no key."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from conftest import as_nobody

import aioipc
from aioipc.sysv import PRIVATE, MessageQueue, SemaphoreSet, ftok

TOO_LARGE = 2**32


@pytest.mark.parametrize("project", [1, 7, 127, 128, 255])
def test_ftok_is_that_of_the_c_library(tmp_path: Path, sysv_peer: str, project: int) -> None:
    for file in (tmp_path / "file", tmp_path / "other"):
        file.touch()
        printed = subprocess.run([sysv_peer, "ftok", file, str(project)], check=True, capture_output=True).stdout
        assert ftok(file, project) == int(printed)


def test_ftok_takes_any_kind_of_path(tmp_path: Path) -> None:
    key = ftok(tmp_path, 3)
    assert ftok(str(tmp_path), 3) == ftok(os.fsencode(tmp_path), 3) == key
    assert ftok(tmp_path / ".." / tmp_path.name, 3) == key
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert ftok(link, 3) == key


def test_ftok_of_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(name)).touch()
    inode, device = os.stat(name).st_ino, os.stat(name).st_dev
    assert ftok(name, 3) == ftok(os.fsdecode(name), 3) == 3 << 24 | (device & 0xFF) << 16 | inode & 0xFFFF


def test_the_project_is_part_of_the_key(tmp_path: Path) -> None:
    assert len({ftok(tmp_path, project) for project in range(1, 256)}) == 255


def test_ftok_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "missing" / "deeper"):
        with pytest.raises(aioipc.NotFoundError, match="a file that exists") as caught:
            ftok(path, 1)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))


def test_ftok_of_what_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(aioipc.KernelError) as caught:
        ftok(tmp_path / "file" / "below", 1)
    assert caught.value.errno == errno.ENOTDIR


def test_ftok_where_one_may_not_look(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(0)
    try:
        with pytest.raises(aioipc.AccessError) as caught:
            as_nobody(lambda: ftok(tmp_path / "file", 1))
    finally:
        tmp_path.chmod(0o700)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize(
    ("path", "project", "error"),
    [
        ("/", 0, ValueError),
        ("/", 256, ValueError),
        ("/", -1, ValueError),
        ("/", "7", TypeError),
        ("/", 1.5, TypeError),
        ("/a\0b", 1, ValueError),
        (None, 1, TypeError),
        (1, 1, TypeError),
    ],
)
def test_arguments_of_ftok(path: str, project: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        ftok(path, project)


def test_a_key_of_a_file_finds_what_was_made_with_it(tmp_path: Path, sysv_peer: str) -> None:
    key = ftok(tmp_path, 200)  # negative, as the kernel sees it
    with MessageQueue.create(key) as queue, MessageQueue.open(key) as other:
        assert other.id == queue.id
    printed = subprocess.run([sysv_peer, "msgget", str(key), "0600"], check=True, capture_output=True).stdout
    with MessageQueue.create(key, exist_ok=True) as queue:
        assert (queue.key, queue.id) == (key, int(printed))


def test_keys_may_be_written_as_ipcs_shows_them(key: int) -> None:
    unsigned = key | 0x80000000
    with MessageQueue.create(unsigned) as queue, SemaphoreSet.create(unsigned, values=[1]) as semaphores:
        assert queue.key == semaphores.key == unsigned - 2**32
        assert f"key {unsigned:#x}, id {queue.id}" in repr(queue)
        for spelling in (unsigned, unsigned - 2**32):
            with MessageQueue.open(spelling) as other:
                assert other.id == queue.id
            with SemaphoreSet.open(spelling) as opened:
                assert opened.id == semaphores.id


def test_private_objects_have_no_key() -> None:
    assert PRIVATE == 0
    with MessageQueue.create(None) as first, MessageQueue.create(PRIVATE) as second:
        assert first.id != second.id
        assert first.key == second.key == PRIVATE
        assert repr(first) == f"<aioipc.sysv.MessageQueue private, id {first.id} open>"
    with SemaphoreSet.create(None, values=[1]) as one, SemaphoreSet.create(PRIVATE, values=[1]) as two:
        assert one.id != two.id
        assert one.key == two.key == PRIVATE
        assert repr(one) == f"<aioipc.sysv.SemaphoreSet private, id {one.id} open>"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "by its key or by its id"),
        ({"key": 1, "id": 1}, ValueError, "by its key or by its id"),
        ({"key": PRIVATE}, ValueError, "by its id only"),
        ({"key": TOO_LARGE}, ValueError, "key 4294967296 must be"),
        ({"key": -(2**31) - 1}, ValueError, "key -2147483649 must be"),
        ({"key": "orders"}, TypeError, "str"),
        ({"key": 1.5}, TypeError, "float"),
        ({"id": -1}, ValueError, "id -1 must be"),
        ({"id": 2**31}, ValueError, "id 2147483648 must be"),
        ({"id": "1"}, TypeError, "str"),
    ],
)
def test_what_opens_nothing(arguments: dict[str, int], error: type[Exception], words: str) -> None:
    for kind in (MessageQueue, SemaphoreSet):
        with pytest.raises(error, match=words):
            kind.open(**arguments)


@pytest.mark.parametrize(
    ("key", "error"), [(TOO_LARGE, ValueError), (-(2**31) - 1, ValueError), ("orders", TypeError), (1.5, TypeError)]
)
def test_what_nothing_can_be_created_with(key: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        MessageQueue.create(key)
    with pytest.raises(error):
        SemaphoreSet.create(key, values=[1])


def test_nothing_has_this_key_or_id(key: int) -> None:
    for kind, create in ((MessageQueue, {}), (SemaphoreSet, {"values": [1]})):
        with kind.create(None, **create) as gone:
            pass
        for arguments in ({"key": key}, {"id": gone.id}):
            with pytest.raises(aioipc.NotFoundError, match=r"create\(\) makes one") as caught:
                kind.open(**arguments)
            assert caught.value.errno == errno.ENOENT


def test_a_key_that_is_taken(key: int) -> None:
    for kind, create in ((MessageQueue, {}), (SemaphoreSet, {"values": [1]})):
        with kind.create(key, **create):
            with pytest.raises(aioipc.ExistsError, match="exist_ok=True") as caught:
                kind.create(key, **create)
            assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, f"key {key:#x}")
