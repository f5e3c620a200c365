"""aioipc.inspect: channels, without becoming a peer of them; and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import as_nobody, become, doorbells, in_child

import aioipc
from aioipc import Channel, inspect
from aioipc.inspect import _shm

NewName = Callable[[], str]


def channel_of(name: str) -> inspect.Channel:
    found = inspect.find(f"channel:{name}")
    assert isinstance(found, inspect.Channel)
    return found


def test_what_a_peer_sees_and_what_is_seen_from_outside(name: str) -> None:
    with Channel.create(name, capacity=1000) as channel:
        for _ in range(50):  # round the ring several times
            for size in (0, 30, 90):
                channel.send_nowait(bytes(size))
                found, statistics = channel_of(name), channel.statistics()
                assert (found.messages, found.bytes) == (statistics.messages, statistics.bytes)
            channel.receive_nowait()
            with channel.borrow_nowait(), channel.reserve_nowait(5):
                channel.receive_nowait()
                # One is borrowed, and that counts; one is consumed behind it, one reserved.
                found, statistics = channel_of(name), channel.statistics()
                assert (found.messages, found.bytes) == (statistics.messages, statistics.bytes) == (1, 30)
            channel.receive_nowait()
        assert (found.fault, found.capacity, found.senders, found.receivers) == (None, 1000, 1, 1)
        assert (channel_of(name).sent, found.ended, found.dead_peers) == (200, False, 0)
        channel.end_nowait()
        assert channel_of(name).ended


def test_peers_are_those_alive(name: str) -> None:
    program = f"""
import sys
from aioipc import Channel
with Channel.open({name!r}):
    print("open", flush=True)
    sys.stdin.read()
"""
    with Channel.create(name):
        assert channel_of(name).peers == (os.getpid(),)
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert sorted(channel_of(name).peers or ()) == sorted([os.getpid(), other.pid])
            other.kill()
        # Nobody has cleaned up after it: this process has not run its loop.
        assert (channel_of(name).peers, channel_of(name).dead_peers) == ((os.getpid(),), 0)


def test_many_messages(name: str) -> None:
    with Channel.create(name, capacity=2**21) as channel:
        channel.send_many_nowait([b"x"] * 20_000)
        for _ in range(5000):
            channel.receive_nowait()
        assert (channel_of(name).messages, channel_of(name).bytes, channel_of(name).sent) == (15_000, 15_000, 20_000)


@contextmanager
def peer(*words: str) -> Iterator[None]:
    """The other process of the tests of channels, which is killed in the end."""
    command = [sys.executable, str(Path(__file__).parent / "channel" / "peer.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("capacity", [64, 1000, 2**20])
def test_a_channel_in_use_has_no_fault(name: str, capacity: int, races: int) -> None:
    """However quick the others are, nothing is mistaken for what can't be right."""
    seen = set()
    looks = 0
    with Channel.create(name, capacity=capacity), peer("count", name, "1000000000"), peer("drain", name):
        while channel_of(name).receivers != 1 or channel_of(name).senders != 1:
            os.sched_yield()
        while looks < races // 20 or len(seen) < 10:
            looks += 1
            found = channel_of(name)
            assert found.fault is None
            assert found.messages is None or (0 <= found.messages <= capacity // 64 and found.bytes is not None)
            seen.add(found.sent)


def test_a_peer_that_is_stopped_holds_up_nobody_who_looks(name: str) -> None:
    with (
        Channel.create(name) as channel,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "channel" / "peer.py"), "count", name, "1000000000"]
        ) as other,
    ):
        try:
            while channel_of(name).messages != channel.capacity // 64:
                os.sched_yield()
            other.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, other.pid, os.WSTOPPED)
            assert other.pid in (channel_of(name).peers or ())
        finally:
            other.kill()


# What can't be right


def overwrite(name: str, place: int, data: bytes) -> None:
    with open("/dev/shm" + name, "r+b") as file:
        os.pwrite(file.fileno(), data, place)


@pytest.mark.parametrize(
    ("place", "data", "fault"),
    [
        (8, b"\x02", "another version"),
        (12, b"\x04\x03\x02\x01", "another byte order"),
        (40, b"\x01", "can't be right"),  # the capacity; it is in the check sum
        (192, b"\x01", "can't be right"),  # the tail
        (320, b"\xff" * 8, "can't be right"),  # the head
        (65536, b"\x00" * 8, "can't be right"),  # the first record
        (65536 + 8, b"\xff" * 8, "can't be right"),  # its size
    ],
)
def test_a_channel_that_somebody_has_overwritten(name: str, place: int, data: bytes, fault: str) -> None:
    with Channel.create(name) as channel:
        channel.send_nowait(b"x")
        overwrite(name, place, data)
        found = channel_of(name)
        assert found.fault is not None
        assert fault in found.fault
        assert (found.messages, found.capacity, found.peers) == (None, None, None)
        assert found.size == os.stat("/dev/shm" + name).st_size


def test_a_channel_that_was_truncated(name: str) -> None:
    files = []
    with Channel.create(name, persist=True):
        files = doorbells(name)
    try:
        os.truncate("/dev/shm" + name, 70_000)
        assert channel_of(name).fault == "it was truncated"
        os.truncate("/dev/shm" + name, 20)
        assert channel_of(name).fault == "it was truncated"
        os.truncate("/dev/shm" + name, 7)
        assert type(inspect.find(f"shm:{name}")) is inspect.PosixSharedMemory
    finally:
        for path in files:
            path.unlink()


def test_a_channel_that_is_truncated_while_it_is_looked_at(name: str, races: int) -> None:
    """Who had it in its address space would be ended by that (SIGBUS)."""
    with Channel.create(name, capacity=10_000) as channel:
        channel.send_many_nowait([b"x"] * 100)
        whole = Path("/dev/shm" + name).read_bytes()
    Path("/dev/shm" + name).write_bytes(whole)
    program = f"""
import os, sys
whole = sys.stdin.buffer.read()
descriptor = os.open("/dev/shm{name}", os.O_RDWR)
while True:
    os.pwrite(descriptor, whole, 0)
    for _ in range(1000): pass
    os.ftruncate(descriptor, 10)
"""
    seen = set()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as other:
        assert other.stdin is not None
        other.stdin.write(whole)
        other.stdin.close()
        try:
            looks = 0
            while looks < races // 4 or not {None, "it was truncated"} <= seen:
                looks += 1
                found = inspect.find(name)
                seen.add(found.fault if isinstance(found, inspect.Channel) else found.kind)
        finally:
            other.kill()


# Doorbells whose channel is gone


@pytest.fixture
def left(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The doorbells of a channel whose name somebody has removed alone; they are old enough to be orphans."""
    monkeypatch.setattr(_shm, "_SECONDS_TO_CREATE", -1)
    with Channel.create(name, persist=True):
        paths = doorbells(name)
    os.unlink("/dev/shm" + name)
    yield paths
    for path in paths:
        path.unlink(missing_ok=True)


def orphans() -> list[Path]:
    return [Path("/dev/shm" + each.name) for each in inspect.orphans()]


def test_orphans(left: list[Path]) -> None:
    assert {*left} <= {*orphans()}
    found = inspect.find(f"doorbell:/{left[0].name}")
    assert (found.address, found.owner, found.mode) == (f"doorbell:/{left[0].name}", os.geteuid(), 0o600)
    # They are no objects of their own.
    assert not [each for each in inspect.look().objects if isinstance(each, inspect.Doorbell)]


def test_doorbells_that_are_open_are_no_orphans(left: list[Path]) -> None:
    descriptor = os.open(left[0], os.O_RDWR | os.O_NONBLOCK)
    try:
        assert left[0] not in orphans()
        assert left[1] in orphans()
        with pytest.raises(aioipc.NotFoundError):
            inspect.find(f"doorbell:/{left[0].name}")
    finally:
        os.close(descriptor)


def test_doorbells_of_a_channel_are_no_orphans(left: list[Path], new_name: NewName) -> None:
    name = new_name()
    Channel.create(name, persist=True).close()  # nobody has it open
    assert not {*doorbells(name)} & {*orphans()}
    assert {*left} <= {*orphans()}


def test_young_doorbells_are_no_orphans(left: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not {*left} & {*orphans()}


def test_who_may_not_read_a_channel_does_not_take_its_doorbells_for_orphans(
    left: list[Path], new_name: NewName
) -> None:
    hidden = new_name()
    Channel.create(hidden, persist=True).close()
    bells = doorbells(hidden)

    def look() -> set[Path]:
        # Its owner may look at its doorbells, but has denied himself the channel.
        os.chown("/dev/shm" + hidden, 65534, -1)
        for path in [*bells, *left]:
            os.chown(path, 65534, -1)
        os.chmod("/dev/shm" + hidden, 0)
        become(65534)
        return {*orphans()}

    if os.geteuid() != 0:
        pytest.skip("it takes root to become another user")
    assert not in_child(look) & {*bells, *left}


def test_another_user_sees_no_orphans_of_this_one(left: list[Path]) -> None:
    assert not {*left} & {*as_nobody(orphans)}
