"""aioipc.inspect: what it says of objects that others made, and that looking changes nothing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import posix_ipc
import pytest
from conftest import NOBODY, as_nobody, become, in_proc, kernel, running, with_mqueue, with_own_mounts
from hypothesis import given
from hypothesis import strategies as st

import aioipc
from aioipc import Channel, inspect, posix, sysv
from aioipc.inspect import parse_address
from aioipc.inspect._addresses import address_of_id, address_of_key, address_of_name

NewName = Callable[[], str]

MOUNT = "mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue"


def only(kind: inspect.Kind, name: str) -> list[Any]:
    """The objects of this kind that have a name of this test."""
    return [each for each in inspect.look(kind).objects if isinstance(each, inspect.Named) and each.name == name]


def by_id(kind: inspect.Kind, id: int) -> Any:
    found = inspect.find(f"{kind}:id={id}")
    # Nothing else of it: it may have changed in between.
    assert id in [each.id for each in inspect.look(kind).objects if isinstance(each, inspect.Keyed)]
    return found


# Each kind, made by a program that knows nothing of aioipc


def test_posix_message_queue(mq: str, name: str) -> None:
    subprocess.run([mq, "create", name, "7", "100"], check=True)
    subprocess.run([mq, "send", name, "3", "one", "three"], check=True)

    (found,) = with_mqueue(lambda _: only("mq", name))
    assert (found.messages, found.bytes, found.max_messages, found.max_message_size) == (2, 8, 7, 100)
    assert (found.owner, found.group, found.mode, found.notify_pid) == (os.geteuid(), os.getegid(), 0o600, 0)
    assert found.address == f"mq:{name}"
    # Also where it can't be listed.
    assert with_own_mounts(lambda: inspect.find(f"mq:{name}")) == found


def test_posix_semaphore(sem: str, name: str) -> None:
    subprocess.run([sem, "create", name, "2"], check=True)
    (found,) = only("sem", name)
    assert (found.value, found.waiting, found.owner) == (2, 0, os.geteuid())
    with running(sem, "wait", name, "3", stdout=subprocess.PIPE) as waiter:
        assert [waiter.stdout.readline() for _ in range(2)] == [b"got 0\n", b"got 1\n"]
        while (found := inspect.find(f"sem:{name}")).waiting == 0:
            os.sched_yield()
        assert isinstance(found, inspect.PosixSemaphore)
        assert (found.value, found.waiting) == (0, 1)
        subprocess.run([sem, "post", name, "1"], check=True)
        assert waiter.stdout.readline() == b"got 2\n"
    assert only("sem", name)[0].waiting == 0


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1])
def test_the_value_of_a_semaphore_is_that_of_the_c_library(name: str, value: int) -> None:
    with posix.Semaphore.create(name, value=value) as semaphore:
        assert only("sem", name)[0].value == semaphore.value == value


def test_posix_shared_memory(shm: str, name: str) -> None:
    subprocess.run([shm, "create", name, "10000", "0640"], check=True)
    subprocess.run([shm, "write", name, "5000", "x"], check=True)
    (found,) = only("shm", name)
    assert (found.size, found.reserved, found.mode) == (10_000, os.sysconf("SC_PAGE_SIZE"), 0o640)
    assert type(found) is inspect.PosixSharedMemory


def test_sysv_message_queue(sysv_peer: str, key: int) -> None:
    id = int(subprocess.check_output([sysv_peer, "msgget", str(key), "0640"]))
    with subprocess.Popen([sysv_peer, "msgsnd", str(id), "3", "one", "three"]) as sender:
        pass
    found = by_id("msg", id)
    assert inspect.find(f"msg:{key:#x}") == found
    assert (found.key, found.id, found.messages, found.bytes) == (key, id, 2, 8)
    assert (found.last_send_pid, found.last_receive_pid, found.received_at) == (sender.pid, 0, None)
    assert found.sent_at == in_proc("msg", id)["stime"]
    assert (found.max_bytes, found.mode, found.creator) == (kernel("msgmnb"), 0o640, os.geteuid())
    assert found.pids == (sender.pid,)


def test_sysv_semaphore_set(sysv_peer: str, key: int) -> None:
    id = int(subprocess.check_output([sysv_peer, "semget", str(key), "0600", "1", "0", "5"]))
    assert by_id("semset", id).values == (1, 0, 5)
    with running(sysv_peer, "semop", str(id), "1", "-1", "-", stdout=subprocess.DEVNULL) as waiter:
        while (found := by_id("semset", id)).waiting == 0:
            os.sched_yield()
        assert found.members[1] == (0, 1, 0, found.members[1].last_pid)
        subprocess.run([sysv_peer, "semop", str(id), "1", "1", "-"], check=True, stdout=subprocess.DEVNULL)
    found = by_id("semset", id)
    assert (found.waiting, found.size, found.members[1].last_pid) == (0, 3, waiter.pid)


def test_sysv_shared_memory(shm: str, key: int) -> None:
    id = int(subprocess.check_output([shm, "create", str(key), "10000", "0600"]))
    with running(shm, "hold", f"={id}", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"attached\n"
        found = by_id("segment", id)
        assert (found.size, found.attached, found.last_pid, found.removed) == (10_000, 1, holder.pid, False)
        subprocess.run([shm, "remove", f"={id}"], check=True)
        found = by_id("segment", id)
        assert (found.removed, found.key, found.address) == (True, sysv.PRIVATE, f"segment:id={id}")
        holder.stdin.close()
    with pytest.raises(aioipc.NotFoundError):
        by_id("segment", id)


def test_a_key_that_ipcs_shows_with_its_highest_bit(new_key: Callable[[], int]) -> None:
    key = new_key() | 2**31
    with sysv.MessageQueue.create(key) as queue:
        found = inspect.find(f"msg:{key:#x}")
        assert isinstance(found, inspect.SysvMessageQueue)
        assert (found.id, found.key, found.address) == (queue.id, key - 2**32, f"msg:{key:#x}")


# Finding


def test_a_name_alone(new_name: NewName) -> None:
    one, both = new_name(), new_name()
    with posix.SharedMemory.create(one, size=1), posix.MessageQueue.create(both), posix.Semaphore.create(both):
        assert inspect.find(one).address == f"shm:{one}"
        with pytest.raises(ValueError, match=f"several objects have this name: mq:{both}, sem:{both}"):
            inspect.find(both)
    with pytest.raises(aioipc.NotFoundError, match="no object has this name"):
        inspect.find(one)


def test_another_kind_has_the_name(name: str) -> None:
    with Channel.create(name):
        with pytest.raises(aioipc.NotFoundError, match=f"not of this kind, but channel:{name}"):
            inspect.find(f"shm:{name}")
        for kind in ("mq", "sem"):
            with pytest.raises(aioipc.NotFoundError):
                inspect.find(f"{kind}:{name}")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("orders", "no address"),
        ("queue:/orders", "no address: it is a kind"),
        ("", "no address"),
        ("mq:orders", "must begin with a slash"),
        ("mq:/a%2Fb", "slash inside"),
        ("mq:/a%00b", "NUL"),
        ("/", "nothing after the slash"),
        ("msg:0x", "is no number"),
        ("msg:/orders", "is no number"),
        ("msg:id=x", "id 'x' is no number"),
        ("msg:id=-1", "id -1 must be"),
        ("msg:0", "objects without a key have an address of their id"),
        ("msg:0x100000000", "key 4294967296 must be"),
    ],
)
def test_what_is_no_address(address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        inspect.find(address)


@given(
    st.binary(min_size=1, max_size=200).filter(lambda name: not {0, ord("/")} & {*name} and name not in (b".", b".."))
)
def test_every_name_has_an_address_that_can_be_copied(rest: bytes) -> None:
    name = "/" + os.fsdecode(rest)
    address = address_of_name("shm", name)
    assert parse_address(address) == ("shm", name, None, None)
    assert parse_address(address.removeprefix("shm:")) == (None, name, None, None)
    assert address.isprintable()
    letters = "".join(letter for letter in address if letter.isascii())
    assert shlex.quote(letters.replace("%", "")) == letters.replace("%", "")
    assert shlex.split(address) == [address]


@given(st.integers(-(2**31), 2**31 - 1).filter(bool), st.integers(0, 2**31 - 1))
def test_addresses_of_keys_and_ids(key: int, id: int) -> None:
    assert parse_address(address_of_key("msg", key)) == ("msg", None, key, None)
    assert parse_address(address_of_id("msg", id)) == ("msg", None, None, id)


def test_there_is_no_such_kind() -> None:
    with pytest.raises(ValueError, match="there is no kind 'queue': there are mq, sem"):
        inspect.look("queue")  # type: ignore[arg-type]


# Names of all sorts, and many of them

ODD_NAMES = [
    b"a b",
    b"a\nb",
    b"\x1b[31mred",
    b"\xff\xfe",
    "é".encode(),
    b"100%",
    b"%41",
    b"$(x)`;'\"",
    b"\xe2\x80\xaegnp.exe",
]


def test_odd_names(name: str) -> None:
    memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=1)
    memory.close_fd()
    path = Path("/dev/shm" + name)
    try:
        for odd in ODD_NAMES:
            path = path.rename(os.fsdecode(os.fsencode("/dev/shm" + name) + odd))
            (found,) = only("shm", path.as_posix().removeprefix("/dev/shm"))
            assert inspect.find(found.address) == found
            assert found.address.isprintable()
    finally:
        path.unlink()


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_odd_names_of_queues(name: str, odd: bytes) -> None:
    def look(folder: Path) -> None:
        # The kernel calls a queue what the file is called.
        path = os.fsencode(f"{folder}{name}") + odd
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        try:
            whole = name + os.fsdecode(odd)
            (found,) = only("mq", whole)
            assert (found.messages, found.mode) == (0, 0o600)
            assert inspect.find(found.address) == found
        finally:
            os.unlink(path)

    with_mqueue(look)


def test_hundreds_of_objects(new_name: NewName, new_key: Callable[[], int]) -> None:
    names = {new_name() for _ in range(300)}
    for each in names:
        posix.Semaphore.create(each, persist=True).close()
        posix.SharedMemory.create(each, size=1, persist=True).close()
    keys = {new_key() for _ in range(100)}
    for key in keys:
        sysv.MessageQueue.create(key, persist=True).close()
    found = inspect.look()
    for kind in (inspect.PosixSemaphore, inspect.PosixSharedMemory):
        assert names <= {each.name for each in found.objects if isinstance(each, kind)}
    assert keys <= {each.key for each in found.objects if isinstance(each, inspect.SysvMessageQueue)}
    assert [each.kind for each in found.objects] == sorted(
        (each.kind for each in found.objects), key=inspect.KINDS.index
    )


def test_objects_that_vanish_while_they_are_listed(new_name: NewName, races: int) -> None:
    stays, comes = new_name(), new_name()
    program = f"""
import select
from aioipc import Channel, posix, sysv
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:  # until it is to end, which leaves nothing, as a killed one might
    with posix.SharedMemory.create({comes!r}, size=1), posix.Semaphore.create({comes!r}): pass
    with Channel.create({comes!r}), posix.MessageQueue.create({comes!r}): pass
    with sysv.SemaphoreSet.create(None, values=[0, 1]), sysv.SharedMemory.create(None, size=1): pass
"""

    def look(_: Path) -> set[str]:
        kinds: set[str] = set()
        looks = 0
        pipe = subprocess.PIPE  # which is closed in the end
        with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as other:
            assert other.stdout is not None
            other.stdout.readline()
            while looks < races // 40 or len(kinds) < 2:
                looks += 1
                found, gaps = inspect.look()
                assert gaps == []
                assert [each for each in found if each.address == f"channel:{stays}"] != []
                kinds |= {each.kind for each in found if isinstance(each, inspect.Named) and each.name == comes}
        return kinds

    with Channel.create(stays):
        assert with_mqueue(look) <= {"shm", "sem", "channel", "mq"}


# What this user may not know


def test_objects_of_somebody_else(new_name: NewName) -> None:
    name, channel = new_name(), new_name()
    with (
        posix.MessageQueue.create(name),
        posix.Semaphore.create(name),
        posix.SharedMemory.create(channel, size=100),
        Channel.create(name),
        sysv.MessageQueue.create(None) as queue,
        sysv.SemaphoreSet.create(None, values=[1]) as semaphores,
        sysv.SharedMemory.create(None, size=100) as segment,
    ):

        def look(_: Path) -> tuple[Any, ...]:
            become(NOBODY)
            found = [
                only("mq", name),
                only("sem", name),
                only("shm", channel),
                only("shm", name),
                only("channel", name),
            ]
            ids = [by_id("msg", queue.id), by_id("semset", semaphores.id), by_id("segment", segment.id)]
            return *found, *ids

        ((mq,), (sem,), (shm,), (hidden,), none, msg, semset, memory) = with_mqueue(look)
        assert {each.owner for each in (mq, sem, shm, msg, semset, memory)} == {os.geteuid()}
        assert {each.mode for each in (mq, sem, shm, msg, semset, memory)} == {0o600}
        assert (mq.messages, mq.bytes, mq.max_messages) == (None, None, None)
        assert (sem.value, sem.waiting) == (None, None)
        assert shm.size == 100
        # A channel can't be told from other memory.
        assert (none, type(hidden)) == ([], inspect.PosixSharedMemory)
        assert (msg.messages, msg.max_bytes) == (0, None)
        assert (semset.size, semset.members, semset.values, semset.waiting) == (1, None, None, None)
        assert (memory.size, memory.creator_pid) == (100, os.getpid())


def test_a_queue_for_others_to_send_to_only(name: str) -> None:
    with posix.MessageQueue.create(name) as queue:
        os.fchmod(queue.fileno(), 0o622)
        queue.send_nowait(b"x")

        def look() -> Any:
            return inspect.find(f"mq:{name}")

        found = as_nobody(look)
        assert (found.messages, found.bytes, found.notify_pid) == (1, None, None)


def test_no_mqueue_file_system(name: str) -> None:
    def look() -> inspect.Listing:
        import conftest

        conftest.unmount_mqueue()
        return inspect.look("mq", "sem")

    with posix.Semaphore.create(name):
        objects, gaps = with_own_mounts(look)
        assert [(gap.kind, gap.command) for gap in gaps] == [("mq", MOUNT)]
        assert "mount -t mqueue none /dev/mqueue" in gaps[0].reason
        assert f"sem:{name}" in [each.address for each in objects]


def test_the_mqueue_file_system_of_another_namespace(name: str) -> None:
    def look(_: Path) -> tuple[inspect.Listing, inspect.Listing]:
        import ctypes

        here = inspect.look("mq")
        assert ctypes.CDLL(None).unshare(0x08000000) == 0  # CLONE_NEWIPC
        return here, inspect.look("mq")

    with posix.MessageQueue.create(name):
        here, there = with_mqueue(look)
        assert f"mq:{name}" in [each.address for each in here.objects]
        assert there.objects == []
        assert [(gap.kind, gap.command) for gap in there.gaps] == [("mq", MOUNT)]
        assert "of another IPC namespace" in there.gaps[0].reason


# Looking changes nothing


def test_looking_changes_nothing(new_name: NewName) -> None:
    name = new_name()
    with (
        Channel.create(name) as channel,
        posix.MessageQueue.create(name) as queue,
        posix.Semaphore.create(name),
        sysv.MessageQueue.create(None) as jobs,
        sysv.SemaphoreSet.create(None, values=[1]) as semaphores,
    ):
        channel.send_nowait(b"x")
        queue.send_nowait(b"x")
        jobs.send_nowait(b"x")
        files = [Path("/dev/shm" + name), Path(f"/dev/shm/sem.{name[1:]}")]

        def state() -> object:
            stats = [path.stat() for path in files]
            return (
                [path.read_bytes() for path in files],
                [(each.st_mtime_ns, each.st_ctime_ns) for each in stats],
                channel.statistics(),
                queue.statistics(),
                in_proc("msg", jobs.id),
                in_proc("sem", semaphores.id),
            )

        before = state()
        with_mqueue(lambda _: (inspect.look(), inspect.limits(), inspect.orphans()))
        inspect.users(inspect.look().objects)
        assert state() == before


def test_it_is_imported_by_those_who_use_it() -> None:
    command = [sys.executable, "-c", "import aioipc, sys; print(*sys.modules)"]
    modules = subprocess.check_output(command, text=True).split()
    assert not [name for name in modules if name.startswith(("aioipc.inspect", "aioipc.cli", "click", "rich"))]
