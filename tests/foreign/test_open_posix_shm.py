"""What the Open POSIX test suite demands of shm_*, for POSIX shared memory: see docs/conformance.md."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial

import pytest
from conftest import NOBODY, as_nobody, become, in_child, with_own_shm
from together import outcome, umask, winners

import aioipc
from aioipc import Channel
from aioipc.posix import Semaphore, SharedMemory


def peer(shm: str, *words: object) -> bytes:
    """What the C program prints."""
    return subprocess.check_output([shm, *map(str, words)])


# Opening


def test_no_descriptor_is_inherited_by_other_programs(name: str) -> None:
    with SharedMemory.create(name, size=10), SharedMemory.open(name), SharedMemory.open(name, read_only=True):
        command = ["ls", "-l", "/proc/self/fd"]
        assert b"/dev/shm" not in subprocess.check_output(command, close_fds=False)


def test_a_new_object_is_the_users(name: str) -> None:
    def create() -> tuple[int, ...]:
        with umask(0o022), SharedMemory.create(name, size=10, mode=0o666) as segment:
            return segment.statistics()[2:5]

    assert as_nobody(create) == (NOBODY, NOBODY, 0o644)


@pytest.mark.parametrize("mode", [0, 0o200, 0o400])
def test_a_mode_does_not_bind_its_creator(name: str, mode: int) -> None:
    def create_and_use() -> list[object]:
        with SharedMemory.create(name, size=10, mode=mode) as segment:
            segment.buffer[:] = b"0123456789"
            segment.resize(20)
            assert bytes(segment.buffer[:10]) == b"0123456789"
            return [outcome(lambda way=way: SharedMemory.open(name, read_only=way).close()) for way in (False, True)]

    assert as_nobody(create_and_use) == [aioipc.AccessError, None if mode == 0o400 else aioipc.AccessError]


@pytest.mark.parametrize("create", [partial(SharedMemory.create, size=10), Channel.create], ids=["plain", "channel"])
def test_one_of_many_creates_it(new_name: Callable[[], str], create: Callable[[str], object]) -> None:
    names = [new_name() for _ in range(50)]
    assert winners(lambda number: create(names[number])) == [1] * 50


def test_what_is_in_it_stays_while_nobody_has_it_open(name: str, shm: str) -> None:
    def create() -> None:
        with SharedMemory.create(name, size=10, persist=True) as segment:
            segment.buffer[:5] = b"hello"

    in_child(create)
    assert peer(shm, "read", name, 0, 5) == b"hello"
    with SharedMemory.open(name, read_only=True) as segment:
        assert segment.buffer[:5] == b"hello"


@pytest.mark.parametrize(
    "create",
    [
        partial(SharedMemory.create, size=10),
        partial(SharedMemory.create, size=10, exist_ok=True),
        Channel.create,
        Semaphore.create,
        partial(Semaphore.create, exist_ok=True),
    ],
    ids=["plain", "plain, exist_ok", "channel", "semaphore", "semaphore, exist_ok"],
)
def test_where_only_others_may_create_anything(name: str, create: Callable[[str], object]) -> None:
    def try_to_create() -> None:
        become(NOBODY)
        create(name)

    with pytest.raises(aioipc.AccessError, match=f"user {NOBODY} may not create anything in /dev/shm") as caught:
        with_own_shm("mode=755", try_to_create)
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, name)


def test_signals_do_not_end_a_creation(name: str) -> None:
    size = 64 * 2**20
    received = []
    before = signal.signal(signal.SIGALRM, lambda *_: received.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.01)
    try:
        with SharedMemory.create(name, size=size) as segment:
            assert segment.statistics()[:2] == (size, size)
            while not received:
                segment.resize(size // 2)
                segment.resize(size)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Removing


def test_a_name_is_free_at_once(name: str, shm: str) -> None:
    with SharedMemory.create(name, size=10) as old:
        old.buffer[:3] = b"old"
        old.unlink()
        assert outcome(lambda: SharedMemory.open(name)) is aioipc.NotFoundError
        with SharedMemory.create(name, size=20) as new:
            new.buffer[:3] = b"new"
            assert peer(shm, "read", name, 0, 3) == b"new"
            assert old.buffer[:3] == b"old"


def test_a_view_is_as_good_as_a_descriptor(name: str) -> None:
    with SharedMemory.create(name, size=10) as segment:
        view = segment.buffer
        view[:4] = b"kept"
    assert not os.path.exists("/dev/shm" + name)
    assert view[:4] == b"kept"
    view[:4] = b"used"
    assert view[:4] == b"used"


def test_who_may_not_remove_it_changes_nothing(name: str) -> None:
    def remove() -> None:
        with SharedMemory.open(name) as other:
            other.unlink()

    with umask(0), SharedMemory.create(name, size=10, mode=0o666) as segment:
        segment.buffer[:4] = b"kept"
        before = segment.statistics()
        assert as_nobody(lambda: outcome(remove)) is aioipc.AccessError
        assert segment.statistics() == before
        with SharedMemory.open(name) as again:
            assert again.buffer[:4] == b"kept"
