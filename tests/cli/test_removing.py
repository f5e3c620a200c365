"""aioipc rm: it removes what it was told to, and nothing else."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command import aioipc, in_pid_namespace, plain, terminal, with_mqueue, without_mqueue
from conftest import doorbells, running

from aioipc import Channel, NotFoundError, inspect, posix, sysv
from aioipc.cli import _removing

NewName = Callable[[], str]


def exists(address: str) -> bool:
    try:
        inspect.find(address)
    except NotFoundError:
        return False
    return True


@pytest.fixture
def objects(name: str, new_key: Callable[[], int]) -> list[str]:
    """One of each kind, which nobody uses, by their addresses."""
    key = new_key()
    posix.MessageQueue.create(name, persist=True).close()
    posix.Semaphore.create(name, persist=True).close()
    Channel.create(name, persist=True).close()
    sysv.MessageQueue.create(key, persist=True).close()
    sysv.SemaphoreSet.create(key, values=[1], persist=True).close()
    sysv.SharedMemory.create(key, size=1, persist=True).close()
    gc.collect()  # a closed channel stays in the address space until then
    named = [f"{kind}:{name}" for kind in ("mq", "sem", "channel")]
    return [*named, *(f"{kind}:{key:#x}" for kind in ("msg", "semset", "segment"))]


def test_each_kind_by_its_address(objects: list[str], new_name: NewName) -> None:
    other = new_name()
    bells = doorbells(objects[2].partition(":")[2])
    with posix.Semaphore.create(other), posix.SharedMemory.create(other, size=1):
        for address in objects:
            assert aioipc("rm", "--yes", address) == (f"removed {address}\n", "", 0)
            assert [each for each in objects if exists(each)] == objects[objects.index(address) + 1 :]
        assert exists(f"sem:{other}")
        assert exists(f"shm:{other}")
    assert not any(bell.exists() for bell in bells)


def test_by_id_and_shared_memory(name: str) -> None:
    with posix.SharedMemory.create(name, size=1), sysv.MessageQueue.create(None) as queue:
        result = aioipc("rm", "--yes", name, f"msg:id={queue.id}")
        assert result == (f"removed shm:{name}\nremoved msg:id={queue.id}\n", "", 0)
        assert not exists(f"shm:{name}")
        assert not exists(f"msg:id={queue.id}")


def test_it_asks_at_a_terminal(objects: list[str]) -> None:
    for answer, is_left in ("n\n", True), ("\n", True), ("y\n", False):
        with terminal("rm", *objects[:2]) as screen:
            screen.read_until("Remove these 2 objects? [y/N]")
            assert all(address in screen.output for address in objects[:2])
            screen.type(answer)
            _, code = screen.finish()
        assert code == (3 if is_left else 0)
        assert [exists(address) for address in objects] == [is_left] * 2 + [True] * 4


def test_ctrl_c_and_the_end_of_input_are_no_yes(objects: list[str]) -> None:
    for keys, exit_code in ("interrupt", -signal.SIGINT), ("end", 3):
        with terminal("rm", objects[1]) as screen:
            screen.read_until("Remove this object?")
            if keys == "end":
                screen.type("\x04")
            else:
                screen.interrupt()
            output, code = screen.finish()
        assert code == exit_code
        assert "Traceback" not in plain(output)
    assert exists(objects[1])


def test_where_it_can_not_look_it_says_so(name: str) -> None:
    with posix.MessageQueue.create(name):
        result = aioipc("rm", "--yes", "--unused", f"mq:{name}", prefix=without_mqueue())
        assert result.code == 1
        assert "mq: " in result.errors
        assert "mount -t mqueue none /dev/mqueue" in result.errors


def test_without_a_terminal_it_refuses(objects: list[str]) -> None:
    for input in b"", b"y\n":
        result = aioipc("rm", *objects, input=input)
        assert (result.output, result.code) == ("", 3)
        assert "nothing was removed: there is no terminal to ask at, and no --yes" in result.errors
    assert all(map(exists, objects))


def test_one_that_is_not_there_keeps_all_the_others(objects: list[str], new_name: NewName) -> None:
    assert aioipc("rm", "--yes", objects[0], f"sem:{new_name()}").code == 1
    assert exists(objects[0])


# --unused


def test_unused(objects: list[str], name: str, sem: str, new_name: NewName) -> None:
    used, other = name + "-used", new_name()
    with (
        posix.Semaphore.create(used),
        running(sem, "hold", used, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder,
    ):
        holder.stdout.readline()
        posix.Semaphore.create(other, persist=True).close()
        result = aioipc("rm", "--yes", "--unused", f"*{name}*", prefix=with_mqueue())
        assert {*result.output.splitlines()} == {f"removed {address}" for address in objects[:3]}
        assert f"sem:{used} is left alone: it is used by " in result.errors
        assert f"{os.getpid()} (" in result.errors
        assert f"{holder.pid} (sem)" in result.errors
        assert exists(f"sem:{used}")
        assert exists(f"sem:{other}")
        assert all(map(exists, objects[3:]))
        assert aioipc("rm", "--yes", "--unused", f"*{name}*").code == 1
        holder.stdin.close()


def test_unused_of_a_kind_and_an_owner(objects: list[str], name: str) -> None:
    nothing = aioipc("rm", "--yes", "--unused", f"*{name}*", "--kind", "sem", "--owner", "daemon")
    assert (nothing.output, nothing.code) == ("", 1)
    result = aioipc("rm", "--yes", "--unused", f"*{name}*", "--kind", "sem")
    assert (result.output, result.code) == (f"removed sem:{name}\n", 0)


def test_system_v_objects_are_unused_when_their_users_are_gone(sysv_peer: str, key: int) -> None:
    id = int(subprocess.check_output([sysv_peer, "msgget", str(key), "0600"]))
    address = f"msg:{key:#x}"
    unknown = aioipc("rm", "--yes", "--unused", address)
    assert unknown.code == 1
    assert "it can't be told whether somebody uses it" in unknown.errors
    with sysv.MessageQueue.open(id=id) as queue:
        queue.send_nowait(b"x")
    assert aioipc("rm", "--yes", "--unused", address).code == 1  # by this process
    subprocess.run([sysv_peer, "msgsnd", str(id), "1", "x"], check=True)
    assert aioipc("rm", "--yes", "--unused", address).code == 0
    assert not exists(address)


def test_a_queue_that_another_pid_namespace_has_used(key: int) -> None:
    """There the process that sent last has the number 0."""
    with sysv.MessageQueue.create(key) as queue:
        queue.send_nowait(b"x")
        queue.send_nowait(b"y")
        queue.receive_nowait()
        result = aioipc("rm", "--yes", "--unused", f"msg:{key:#x}", prefix=in_pid_namespace())
        assert result.code == 1
        assert "it can't be told whether somebody uses it" in result.errors


def test_a_segment_that_is_attached(shm: str, key: int) -> None:
    subprocess.run([shm, "create", str(key), "100", "0600"], check=True, stdout=subprocess.DEVNULL)
    with running(shm, "hold", str(key), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        assert aioipc("rm", "--yes", "--unused", f"segment:{key:#x}").code == 1
        holder.stdin.close()
    assert aioipc("rm", "--yes", "--unused", f"segment:{key:#x}").code == 0


def test_somebody_sends_while_it_asks(sysv_peer: str, key: int) -> None:
    id = int(subprocess.check_output([sysv_peer, "msgget", str(key), "0600"]))
    subprocess.run([sysv_peer, "msgsnd", str(id), "1", "x"], check=True)
    with terminal("rm", "--unused", f"msg:{key:#x}") as screen:
        screen.read_until("Remove this object?")
        with sysv.MessageQueue.open(id=id) as queue:
            queue.send_nowait(b"y")
        screen.type("y\n")
        output, code = screen.finish()
    assert code == 1
    assert f"used by {os.getpid()} (" in output
    assert exists(f"msg:{key:#x}")


def test_somebody_comes_while_it_asks(name: str, sem: str) -> None:
    posix.Semaphore.create(name, persist=True).close()
    with terminal("rm", "--unused", f"sem:{name}") as screen:
        screen.read_until("Remove this object?")
        with running(sem, "hold", name, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            holder.stdout.readline()
            screen.type("y\n")
            output, code = screen.finish()
            holder.stdin.close()
    assert code == 1
    assert f"used by {holder.pid} (sem)" in output
    assert exists(f"sem:{name}")


# Another object of the name


def replace_with_another(address: str, name: str, key: int) -> Callable[[], None]:
    """Make an object, and return what puts another one in its place."""

    def make() -> None:
        match address.partition(":")[0]:
            case "mq":
                posix.MessageQueue.create(name, persist=True).close()
            case "sem":
                posix.Semaphore.create(name, persist=True).close()
            case "shm":
                posix.SharedMemory.create(name, size=1, persist=True).close()
            case "channel":
                Channel.create(name, persist=True).close()
            case "msg":
                sysv.MessageQueue.create(key, persist=True).close()
            case "semset":
                sysv.SemaphoreSet.create(key, values=[1], persist=True).close()
            case "segment":
                sysv.SharedMemory.create(key, size=1, persist=True).close()

    def replace() -> None:
        _removing._remove(inspect.find(address))
        make()

    make()
    return replace


@pytest.mark.parametrize("kind", ["mq", "sem", "shm", "channel", "msg", "semset", "segment"])
def test_one_that_was_replaced_while_it_asks(kind: str, name: str, key: int) -> None:
    address = f"{kind}:{name}" if kind in ("mq", "sem", "shm", "channel") else f"{kind}:{key:#x}"
    replace = replace_with_another(address, name, key)
    with terminal("rm", address) as screen:
        screen.read_until("Remove this object?")
        replace()
        screen.type("y\n")
        output, code = screen.finish()
    assert code == 1
    assert f"{address} is gone already" in output
    assert exists(address)


# Doorbells


def test_orphans(name: str, new_name: NewName) -> None:
    with Channel.create(name, persist=True):
        bells = doorbells(name)
    os.unlink("/dev/shm" + name)
    other = new_name()
    try:
        with Channel.create(other):
            # Young ones may be of a channel that is about to get its name.
            result = aioipc("rm", "--orphans")
            assert result.code in {1, 3}, result  # nothing to remove, or some of others, and nobody to ask
            assert not any(bell.name in result.errors for bell in [*bells, *doorbells(other)])
    finally:
        for bell in bells:
            bell.unlink()


def test_old_orphans(name: str, new_name: NewName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect._shm, "_SECONDS_TO_CREATE", -1)
    with Channel.create(name, persist=True):
        bells = doorbells(name)
    os.unlink("/dev/shm" + name)
    try:
        with Channel.create(new_name()):
            for orphan in inspect.orphans():
                if Path("/dev/shm" + orphan.name) in bells:
                    _removing._remove(orphan)
            assert not any(bell.exists() for bell in bells)
    finally:
        for bell in bells:
            bell.unlink(missing_ok=True)
