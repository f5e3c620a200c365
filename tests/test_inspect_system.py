"""aioipc.inspect: the limits and their use, and who uses an object."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import as_nobody, in_own_namespace, running, with_mqueue, with_own_shm

from aioipc import Channel, inspect, posix, sysv

NewName = Callable[[], str]


def limits() -> dict[str, inspect.Limit]:
    return {limit.name: limit for limit in inspect.limits()}


# Limits


def test_limits_are_those_of_the_kernel() -> None:
    found = limits()
    for name in ("fs.mqueue.queues_max", "fs.mqueue.msg_max", "kernel.msgmni", "kernel.msgmnb", "kernel.shmmni"):
        value = int(Path("/proc/sys", name.replace(".", "/")).read_text())
        assert found[name].value == value
        assert found[name].command == f"sysctl -w {name}={min(2 * value, 32768 if name.endswith('mni') else 2**31)}"
    values = [int(word) for word in Path("/proc/sys/kernel/sem").read_text().split()]
    assert [found[f"kernel.sem {name}"].value for name in ("SEMMSL", "SEMMNS", "SEMOPM", "SEMMNI")] == values
    soft, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    assert found["RLIMIT_MSGQUEUE"].value == (None if soft == resource.RLIM_INFINITY else soft)
    room = os.statvfs("/dev/shm")
    assert found["/dev/shm size"].value == room.f_blocks * room.f_frsize


def test_what_raises_one_of_four_keeps_the_others() -> None:
    def look() -> inspect.Limit:
        return limits()["kernel.sem SEMOPM"]

    limit = in_own_namespace(look, sem="100 2000 30 40")
    assert (limit.value, limit.command) == (30, 'sysctl -w kernel.sem="100 2000 60 40"')


def test_the_most_that_the_kernel_allows_is_not_raised() -> None:
    def look() -> tuple[inspect.Limit, inspect.Limit]:
        found = limits()
        return found["kernel.msgmni"], found["kernel.shmmax"]

    queues, size = in_own_namespace(look, msgmni="32768", shmmax=str(2**64 - 1))
    assert (queues.value, queues.command) == (32768, None)
    assert (size.value, size.command) == (None, None)


def test_what_is_used() -> None:
    def look() -> list[tuple[int | None, ...]]:
        names = ("kernel.msgmni", "kernel.sem SEMMNI", "kernel.sem SEMMNS", "kernel.shmmni", "kernel.shmall")
        seen = [tuple(limits()[name].used for name in names)]
        with (
            sysv.MessageQueue.create(None),
            sysv.SemaphoreSet.create(None, values=[1, 2, 3]),
            sysv.SharedMemory.create(None, size=os.sysconf("SC_PAGE_SIZE") + 1),
        ):
            seen.append(tuple(limits()[name].used for name in names))
        return seen

    assert in_own_namespace(look) == [(0, 0, 0, 0, 0), (1, 1, 3, 1, 2)]


def test_queues_that_are_used(new_name: NewName) -> None:
    name = new_name()

    def use() -> tuple[int | None, int | None]:
        found = limits()
        return found["fs.mqueue.queues_max"].used, found["RLIMIT_MSGQUEUE"].used

    def look(_: Path) -> list[tuple[int | None, int | None]]:
        before = use()
        with posix.MessageQueue.create(name, max_messages=2, max_message_size=100):
            return [before, use()]

    (count, size), (one_more, larger) = with_mqueue(look)
    assert one_more == count + 1
    assert larger == size + 2 * (100 + 96)


def test_the_room_of_shared_memory() -> None:
    def look() -> tuple[int | None, ...]:
        with Channel.create("/room", capacity=500_000):
            found = limits()
        size, files = found["/dev/shm size"], found["/dev/shm files"]
        assert size.command == f"mount -o remount,size={2 * 2**20} /dev/shm"
        return size.value, size.used, files.value, files.used

    size, used, files, used_files = with_own_shm("size=1m,nr_inodes=100", look)
    assert (size, files, used_files) == (2**20, 100, 4)  # the directory, too
    assert 500_000 < used < 700_000


# Users


def test_who_has_it_open(shm: str, sem: str, new_name: NewName, key: int) -> None:
    name, lock = new_name(), new_name()
    with (
        posix.SharedMemory.create(name, size=10),
        posix.Semaphore.create(lock),
        sysv.SharedMemory.create(key, size=10) as segment,
    ):
        objects = [inspect.find(address) for address in (f"shm:{name}", f"sem:{lock}", f"segment:{key:#x}")]
        holds = [(shm, "hold", name), (sem, "hold", lock), (shm, "hold", f"={segment.id}")]
        for found, command in zip(objects, holds, strict=True):
            assert inspect.users([found]) == {found.address: ((os.getpid(),), True)}
            with running(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
                holder.stdout.readline()
                users = inspect.users([found])[found.address]
                assert {*users.pids} == {os.getpid(), holder.pid}
                assert not users.none
                holder.stdin.close()


def test_nobody_has_it_open(new_name: NewName, key: int) -> None:
    names = [new_name() for _ in range(3)]
    posix.SharedMemory.create(names[0], size=10, persist=True).close()
    posix.Semaphore.create(names[1], persist=True).close()
    Channel.create(names[2], persist=True).close()
    gc.collect()  # a closed channel stays in the address space until then
    sysv.SharedMemory.create(key, size=10, persist=True).close()
    objects = [inspect.find(address) for address in (*names[:1], f"sem:{names[1]}", names[2], f"segment:{key:#x}")]
    assert [each for each in inspect.users(objects).items() if not each[1].none] == []


def test_who_has_a_queue_open(mq: str, name: str) -> None:
    with posix.MessageQueue.create(name), running(mq, "drain", name, "end", stdout=subprocess.DEVNULL) as other:
        found = inspect.find(f"mq:{name}")
        while other.pid not in inspect.users([found])[found.address].pids:
            os.sched_yield()
        subprocess.run([mq, "send", name, "0", "end"], check=True)


def test_a_queue_that_only_the_dead_have_used(sysv_peer: str, key: int) -> None:
    id = int(subprocess.check_output([sysv_peer, "msgget", str(key), "0600"]))

    def users() -> inspect.Users:
        return inspect.users([inspect.find(f"msg:id={id}")])[f"msg:{key:#x}"]

    assert users() == ((), False)  # nobody has used it, but somebody may wait for a message
    subprocess.run([sysv_peer, "msgsnd", str(id), "1", "x"], check=True)
    assert users() == ((), True)
    with sysv.MessageQueue.open(id=id) as queue:
        queue.send_nowait(b"y")
        assert users() == ((os.getpid(),), True)


def test_a_queue_that_somebody_waits_for(sysv_peer: str, key: int) -> None:
    if Path("/proc/self/wchan").read_text() == "":
        pytest.skip("this kernel does not tell what its threads wait for")
    id = int(subprocess.check_output([sysv_peer, "msgget", str(key), "0600"]))
    subprocess.run([sysv_peer, "msgsnd", str(id), "1", "x"], check=True)

    def users() -> inspect.Users:
        return inspect.users([inspect.find(f"msg:id={id}")])[f"msg:{key:#x}"]

    assert users().none
    with running(sysv_peer, "msgrcv", str(id), "1", "2", "100", "-", stdout=subprocess.DEVNULL) as waiter:
        while users() != ((waiter.pid,), True):
            os.sched_yield()
        subprocess.run([sysv_peer, "msgsnd", str(id), "2", "y"], check=True)


def test_a_set_that_somebody_waits_for(sysv_peer: str, key: int) -> None:
    id = int(subprocess.check_output([sysv_peer, "semget", str(key), "0600", "0"]))

    def users() -> inspect.Users:
        return inspect.users([inspect.find(f"semset:id={id}")])[f"semset:{key:#x}"]

    assert users().none
    with running(sysv_peer, "semop", str(id), "0", "-1", "-", stdout=subprocess.DEVNULL):
        while users().none:
            os.sched_yield()
        subprocess.run([sysv_peer, "semop", str(id), "0", "1", "-"], check=True, stdout=subprocess.DEVNULL)


def test_what_may_be_open_in_processes_that_this_user_can_not_look_at(new_name: NewName) -> None:
    shared, own = new_name(), new_name()

    def look() -> list[bool]:
        for name, mode in (shared, 0o666), (own, 0o600):
            posix.SharedMemory.create(name, size=1, persist=True, mode=mode).close()
        os.chmod("/dev/shm" + shared, 0o666)
        users = inspect.users(inspect.look("shm").objects)
        return [users[f"shm:{name}"].none for name in (shared, own)]

    if os.geteuid() != 0:
        pytest.skip("it takes root to become another user")
    with subprocess.Popen(["sleep", "60"], user="daemon") as other:
        try:
            assert as_nobody(look) == [False, True]
        finally:
            other.kill()
