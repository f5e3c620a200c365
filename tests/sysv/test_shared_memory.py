"""System V shared memory: keys and ids, removal, what the kernel knows, other users, limits.

For the rest see tests/test_memory.py.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import sysv_ipc
from conftest import NOBODY, as_nobody, in_child, in_own_namespace, in_proc, kernel, running

import aioipc
from aioipc import _memory
from aioipc.sysv import PRIVATE, SharedMemory, _calls

PAGE = os.sysconf("SC_PAGE_SIZE")


def exists(id: int) -> bool:
    return in_proc("shm", id) is not None


def peer(shm: str, *words: object) -> str:
    """What the C program prints."""
    return subprocess.check_output([shm, *map(str, words)], text=True)


# Keys and ids ------------------------------------------------------------------------------------------


def test_by_key_and_by_id(key: int) -> None:
    with SharedMemory.create(key, size=10) as segment:
        assert segment.key == key
        with SharedMemory.open(key) as by_key, SharedMemory.open(id=segment.id) as by_id:
            assert (by_key.key, by_key.id, by_id.key, by_id.id) == (key, segment.id) * 2
            by_key.buffer[0] = 1
            assert by_id.buffer[0] == segment.buffer[0] == 1


def test_private(shm: str) -> None:
    with SharedMemory.create(None, size=10) as segment, SharedMemory.create(PRIVATE, size=10) as other:
        assert segment.key == other.key == PRIVATE
        assert segment.id != other.id
        assert repr(segment) == f"<aioipc.sysv.SharedMemory private, id {segment.id} open>"
        with SharedMemory.open(id=segment.id) as same:
            same.buffer[0] = ord("x")
        assert (peer(shm, "read", f"={segment.id}", 0, 1), other.buffer[0]) == ("x", 0)
    assert not exists(segment.id)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "by its key or by its id"),
        ({"key": 1, "id": 1}, ValueError, "by its key or by its id"),
        ({"key": PRIVATE}, ValueError, "by its id only"),
        ({"id": -1}, ValueError, "id -1 must be"),
        ({"id": 2**31}, ValueError, "must be"),
        ({"key": "1"}, TypeError, "str"),
        ({"key": 2**32}, ValueError, "key"),
    ],
)
def test_arguments_of_open(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SharedMemory.open(**arguments)


def test_an_id_that_is_not_known() -> None:
    with SharedMemory.create(None, size=10) as segment:
        pass
    with pytest.raises(aioipc.NotFoundError, match="no shared memory segment has this key or id") as caught:
        SharedMemory.open(id=segment.id)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, f"id {segment.id}")


# Removal ---------------------------------------------------------------------------------------------


def test_removal_marks_what_is_attached(key: int, shm: str) -> None:
    with SharedMemory.create(key, size=10) as segment:
        with running(shm, "hold", str(key), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"attached\n"
            assert not segment.statistics().removed
            segment.remove()
            row = in_proc("shm", segment.id)
            assert (row["key"], row["perms"], row["nattch"]) == (PRIVATE, 0o1600, 2)
            assert (segment.statistics().removed, segment.statistics().mode) == (True, 0o600)
            with pytest.raises(aioipc.RemovedError, match="has been removed already") as caught:
                segment.remove()
            assert (caught.value.errno, str(key and f"{key:#x}") in caught.value.filename) == (errno.EIDRM, True)
            with pytest.raises(aioipc.NotFoundError):
                SharedMemory.open(key)
            with SharedMemory.open(id=segment.id) as late:  # Linux allows it
                assert (late.key, late.statistics().removed) == (PRIVATE, True)
                late.buffer[0] = 1
            assert segment.buffer[0] == 1
            segment.close()
            assert exists(segment.id)
            holder.stdin.close()
    assert not exists(segment.id)


def test_a_view_keeps_what_is_removed(key: int) -> None:
    with SharedMemory.create(key, size=10) as segment:
        view = segment.buffer
    assert in_proc("shm", segment.id)["nattch"] == 1
    view[0] = 1
    view.release()
    assert not exists(segment.id)


def test_a_closed_handle_can_remove(key: int) -> None:
    segment = SharedMemory.create(key, size=10)
    segment.close()
    assert exists(segment.id)
    segment.remove()
    assert not exists(segment.id)
    with pytest.raises(aioipc.RemovedError):
        segment.remove()


def test_one_made_anew_under_the_key_is_left_alone(key: int, shm: str) -> None:
    with SharedMemory.create(key, size=10) as segment:
        peer(shm, "remove", key)
        id = int(peer(shm, "create", key, 20, "0600"))
    with pytest.raises(aioipc.RemovedError):
        segment.remove()
    assert exists(id)


def test_one_to_take_over_that_is_removed_meanwhile(key: int, shm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is attached it is gone; after that it has no key any more."""
    for is_held in (False, True):
        peer(shm, "create", key, 10, "0600")
        holder = _memory.attach(_calls.shmget(key, 0, 0), True) if is_held else None

        def attach(id: int, read_only: bool) -> _memory.Memory:
            monkeypatch.undo()
            peer(shm, "remove", key)
            return _memory.attach(id, read_only)

        monkeypatch.setattr("aioipc.sysv.shared_memory._memory.attach", attach)
        with SharedMemory.create(key, size=20, exist_ok=True) as segment:
            assert segment.size == 20
        del holder


def test_nothing_is_left_of_one_that_can_not_be_attached(key: int) -> None:
    def create() -> None:
        SharedMemory.create(key, size=10, mode=0o400)

    with pytest.raises(aioipc.AccessError, match=r"read and write it \(read_only=True asks for less"):
        as_nobody(create)
    with pytest.raises(aioipc.NotFoundError):
        SharedMemory.open(key)


# Looking ---------------------------------------------------------------------------------------------


def test_statistics_agree_with_the_kernel(key: int, shm: str) -> None:
    began = int(time.time())
    creator = subprocess.Popen([shm, "create", str(key), "5000", "0640"], stdout=subprocess.PIPE)
    id = int(creator.communicate()[0])
    with SharedMemory.open(id=id) as segment, SharedMemory.open(key, read_only=True):
        seen = segment.statistics()
        size, mode, attached, creator_pid, last_pid = peer(shm, "stat", key).split()
        assert (seen.size, seen.mode, seen.attached) == (int(size), int(mode, 8), int(attached)) == (5000, 0o640, 2)
        assert seen.creator_pid == int(creator_pid) == creator.pid
        assert seen.last_pid == int(last_pid) == os.getpid()
        row = in_proc("shm", id)
        assert (seen.attached_at, seen.detached_at, seen.changed_at) == (row["atime"], None, row["ctime"])
        assert began <= seen.changed_at <= seen.attached_at <= time.time()
        assert (seen.owner, seen.group, seen.creator, seen.creator_group) == (
            row["uid"],
            row["gid"],
            row["cuid"],
            row["cgid"],
        )
        with running(shm, "hold", str(key), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            holder.stdout.readline()
            assert (segment.statistics().attached, segment.statistics().last_pid) == (3, holder.pid)
            holder.stdin.close()
        assert segment.statistics().attached == 2
        assert segment.statistics().detached_at == in_proc("shm", id)["dtime"] >= began


def test_an_inherited_attachment_is_counted(key: int) -> None:
    with SharedMemory.create(key, size=10) as segment:
        id = segment.id
        assert in_child(lambda: in_proc("shm", id)["nattch"]) == 2
        assert segment.statistics().attached == 1


def test_bare_sysv_ipc_at_the_other_end(key: int) -> None:
    with SharedMemory.create(key, size=10) as segment:
        bare = sysv_ipc.SharedMemory(key)
        bare.write(b"hello", 2)
        assert bytes(segment.buffer) == b"\0\0hello\0\0\0"
        assert bare.number_attached == segment.statistics().attached == 2
        bare.detach()


# Owners and rights ----------------------------------------------------------------------------------------


def test_change(key: int) -> None:
    def give_away() -> None:
        with SharedMemory.open(key) as other:
            other.change(owner="root", group=NOBODY)
            with pytest.raises(aioipc.AccessError, match="only its owner"):
                other.change(mode=0o666)

    with SharedMemory.create(key, size=10) as segment:
        segment.change(mode=0o640)
        assert in_proc("shm", segment.id)["perms"] == 0o640
        if os.geteuid() != 0:
            pytest.skip("it takes root to give something away")
        segment.change(owner="nobody", group=NOBODY)
        seen = segment.statistics()
        assert (seen.owner, seen.group, seen.creator, seen.creator_group, seen.mode) == (NOBODY, NOBODY, 0, 0, 0o640)
        as_nobody(give_away)
        assert (segment.statistics().owner, segment.statistics().group) == (0, NOBODY)
        segment.remove()
        segment.change(mode=0o600)
        assert (segment.statistics().mode, segment.statistics().removed) == (0o600, True)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"owner": "no such user"}, aioipc.NotFoundError),
        ({"group": "no such group"}, aioipc.NotFoundError),
        ({"owner": -1}, ValueError),
        ({"group": 2**32 - 1}, ValueError),
        ({"mode": 0o1000}, ValueError),
    ],
)
def test_arguments_of_change(key: int, arguments: dict[str, Any], error: type[Exception]) -> None:
    with SharedMemory.create(key, size=10) as segment:
        before = segment.statistics()
        with pytest.raises(error):
            segment.change(**arguments)
        assert segment.statistics() == before
    with pytest.raises(aioipc.ClosedError):
        segment.change(mode=0o600)


def test_mode_without_a_look_at_the_umask(key: int) -> None:
    before = os.umask(0o777)
    try:
        with SharedMemory.create(key, size=10, mode=0o664) as segment:
            assert segment.statistics().mode == 0o664
    finally:
        os.umask(before)


def test_another_user_may_read(key: int) -> None:
    def read() -> None:
        with SharedMemory.open(key, read_only=True) as other, SharedMemory.open(id=id, read_only=True):
            assert other.buffer[:5] == b"hello"
            assert other.statistics().attached == 4  # one of them was inherited by the fork
            for attempt in (other.remove, lambda: other.change(mode=0o666)):
                with pytest.raises(aioipc.AccessError, match="only its owner"):
                    attempt()

    with SharedMemory.create(key, size=10, mode=0o644) as segment:
        id = segment.id
        segment.buffer[:5] = b"hello"
        as_nobody(read)
        for attempt in (lambda: SharedMemory.open(key), lambda: SharedMemory.open(id=id)):
            with pytest.raises(aioipc.AccessError, match="read_only=True asks for less") as caught:
                as_nobody(attempt)
            assert caught.value.errno == errno.EACCES
        assert exists(id)


def test_another_user_may_not(key: int) -> None:
    attempts: list[Callable[[], Any]] = [
        lambda: SharedMemory.open(key, read_only=True),
        lambda: SharedMemory.open(id=id, read_only=True),
        lambda: SharedMemory.create(key, size=10, exist_ok=True),
    ]
    with SharedMemory.create(key, size=10) as segment:
        id = segment.id
        for attempt in attempts:
            with pytest.raises(aioipc.AccessError, match=f"do not let user {NOBODY} read"):
                as_nobody(attempt)
        with pytest.raises(aioipc.ExistsError):
            as_nobody(lambda: SharedMemory.create(key, size=10))
        segment.change(mode=0o666)
        as_nobody(lambda: SharedMemory.open(key).buffer.__setitem__(0, 1))
        assert segment.buffer[0] == 1


def test_what_may_not_be_read_any_more(key: int) -> None:
    def change_and_look() -> None:
        with SharedMemory.create(key, size=10) as segment:
            view = segment.buffer
            segment.change(mode=0)
            with pytest.raises(aioipc.AccessError, match="its owner and mode"):
                segment.statistics()
            view[0] = 1

    as_nobody(change_and_look)
    with pytest.raises(aioipc.NotFoundError):
        SharedMemory.open(key)


# Limits -------------------------------------------------------------------------------------------------


def refused(**options: Any) -> tuple[int, str]:
    with pytest.raises(aioipc.LimitError) as caught:
        SharedMemory.create(None, **options)
    return caught.value.errno, str(caught.value)


def test_the_largest_segment() -> None:
    def fill() -> tuple[int, str]:
        with SharedMemory.create(None, size=10_000):
            return refused(size=10_001)

    number, text = in_own_namespace(fill, shmmax="10000")
    assert number == errno.EINVAL
    assert "a segment of 10,001 bytes is over kernel.shmmax (10,000 now; raise it with `sysctl -w" in text


@pytest.mark.parametrize(("limit", "value", "words"), [("shmmni", "2", "(2 now"), ("shmall", "2", "(2 now")])
def test_as_many_as_the_system_allows(limit: str, value: str, words: str) -> None:
    def fill() -> tuple[int, str]:
        with SharedMemory.create(None, size=1), SharedMemory.create(None, size=PAGE):
            return refused(size=1)

    number, text = in_own_namespace(fill, **{limit: value})
    assert number == errno.ENOSPC
    assert f"kernel.{limit} {words}" in text
    assert "pages of 4,096 bytes" in text


def test_more_than_the_system_promises() -> None:
    # A file can't be that large: it makes no difference how memory is promised.
    size = sys.maxsize - PAGE
    if kernel("shmmax") < size:
        pytest.skip("kernel.shmmax is less")
    number, text = refused(size=size)
    assert (number, "vm.overcommit_memory" in text) == (errno.ENOMEM, True)


def test_no_address_space(key: int) -> None:
    def limited(attempt: Callable[[], object]) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**20, 2**20))
        attempt()

    with SharedMemory.create(key, size=PAGE) as segment:
        with pytest.raises(aioipc.LimitError, match=r"RLIMIT_AS \(1,048,576 bytes now") as caught:
            in_child(lambda: limited(lambda: SharedMemory.open(key)))
        assert caught.value.errno == errno.ENOMEM
        before = segment.statistics().attached
        assert before == 1
