"""What a user of System V semaphore sets relies on, on every event loop."""

from __future__ import annotations

import gc
import os
import subprocess

import anyio
import pytest
import sysv_ipc
from conftest import in_proc, running, until

import aioipc
from aioipc.sysv import SemaphoreSet

pytestmark = pytest.mark.anyio


async def until_waiting(semaphores: SemaphoreSet, tasks: int) -> None:
    await until(lambda: semaphores.statistics().tasks_waiting == tasks)


def exists(id: int) -> bool:
    return in_proc("sem", id) is not None


def run(*command: object) -> str:
    """What the C program prints."""
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


# Operations -----------------------------------------------------------------------------


async def test_both_or_none() -> None:
    with SemaphoreSet.create(None, values=[1, 0, 5]) as forks:
        for operations in ([(0, -1), (1, -1)], [(1, -1), (0, -1)], [(2, -5), (0, -2)], [(0, 0), (2, -1)]):
            with pytest.raises(aioipc.WouldBlock, match="does not allow these operations now"):
                forks.operate_nowait(*operations)
            assert forks.values == (1, 0, 5)
        await forks.operate((0, -1), (1, 3), (2, -4))
        assert forks.values == (0, 3, 1)


async def test_operations_take_effect_in_order() -> None:
    with SemaphoreSet.create(None, values=[0, 2]) as semaphores:
        await semaphores.operate((0, 0), (0, 1), (1, -1), (1, -1), (1, 0))
        assert semaphores.values == (1, 0)
        with pytest.raises(aioipc.WouldBlock):
            semaphores.operate_nowait((0, 1), (0, 0))
        assert semaphores.values == (1, 0)


async def test_several_are_waited_for_together() -> None:
    """A part of what is wanted is not taken while the rest is missing."""
    done = []

    async def operate() -> None:
        await semaphores.operate((0, -1), (1, -2), (2, 0))
        done.append(semaphores.values)

    with SemaphoreSet.create(None, values=[1, 0, 1]) as semaphores:
        async with anyio.create_task_group() as group:
            group.start_soon(operate)
            await until_waiting(semaphores, 1)
            semaphores[1].release()
            semaphores[1].release()
            assert semaphores.values == (1, 2, 1)
            assert not done
            semaphores[2].acquire_nowait()
        assert done == [(0, 0, 0)]


@pytest.mark.parametrize("amount", [1, 2, 32767])
async def test_amounts(amount: int) -> None:
    with SemaphoreSet.create(None, values=[amount - 1]) as semaphores:
        with pytest.raises(aioipc.WouldBlock):
            semaphores[0].acquire_nowait(amount)
        async with anyio.create_task_group() as group:
            group.start_soon(semaphores[0].acquire, amount)
            await until_waiting(semaphores, 1)
            semaphores[0].release()
        assert semaphores[0].value == 0
        semaphores[0].release(amount)
        assert semaphores[0].value == amount
        await semaphores[0].acquire(amount)
        assert semaphores[0].value == 0


async def test_wait_for_zero() -> None:
    zero_at = []

    async def wait(number: int) -> None:
        await semaphores[0].wait_for_zero()
        zero_at.append((number, semaphores[0].value))

    with SemaphoreSet.create(None, values=[2]) as semaphores:
        with pytest.raises(aioipc.WouldBlock):
            semaphores[0].wait_for_zero_nowait()
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(wait, number)
                await until_waiting(semaphores, number + 1)
            await until(lambda: semaphores[0].waiting_for_zero == 1)  # one thread for all
            assert semaphores[0].waiting_for_nonzero == 0
            await semaphores[0].acquire()
            assert not zero_at
            await semaphores[0].acquire()
        # All of them pass: zero is not used up.
        assert sorted(zero_at) == [(0, 0), (1, 0), (2, 0)]
        semaphores[0].wait_for_zero_nowait()
        await semaphores[0].wait_for_zero()


async def test_a_member_as_a_semaphore() -> None:
    inside = []

    async def work(number: int) -> None:
        async with semaphores[1] as semaphore:
            assert semaphore.value == 0
            inside.append(number)
            await anyio.lowlevel.checkpoint()
            assert inside[-1] == number

    with SemaphoreSet.create(None, values=[5, 1]) as semaphores:
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(work, number)
        assert sorted(inside) == list(range(10))
        with pytest.raises(ZeroDivisionError):
            async with semaphores[1]:
                raise ZeroDivisionError
        assert semaphores.values == (5, 1)


def test_a_set_is_a_sequence_of_its_members() -> None:
    with SemaphoreSet.create(None, values=[7, 8, 9]) as semaphores:
        assert len(semaphores) == 3
        assert [semaphore.value for semaphore in semaphores] == [7, 8, 9]
        assert [semaphore.index for semaphore in reversed(semaphores)] == [2, 1, 0]
        assert (semaphores[-1].index, semaphores[-3].index) == (2, 0)
        semaphores[-1].acquire_nowait(9)
        assert semaphores.values == (7, 8, 0)
        assert semaphores[1] == semaphores[-2]
        assert semaphores[1] != semaphores[2]
        assert semaphores[1] in semaphores
        assert semaphores.index(semaphores[2]) == 2
        assert len({*semaphores, *semaphores}) == 3
        with SemaphoreSet.open(id=semaphores.id) as other:
            assert other[1] not in semaphores  # another handle waits in other lines
        assert repr(semaphores[1]) == f"<1 of <aioipc.sysv.SemaphoreSet private, id {semaphores.id} open>>"
        for index in (3, -4):
            with pytest.raises(IndexError, match=f"semaphore {index} of a set of 3"):
                semaphores[index]
        for index in ("0", 1.0, None, slice(0, 2)):
            with pytest.raises(TypeError):
                semaphores[index]


def test_without_waiting_there_is_no_loop() -> None:
    with SemaphoreSet.create(None, values=[2, 0]) as semaphores:
        for coroutine in (
            semaphores.operate((0, -1), (1, 1)),
            semaphores[0].acquire(),
            semaphores[0].wait_for_zero(),
            semaphores[1].__aenter__(),
            semaphores[1].__aexit__(None, None, None),
        ):
            with pytest.raises(StopIteration):
                coroutine.send(None)
        assert semaphores.values == (0, 1)


# Values ---------------------------------------------------------------------------------


def test_values_are_got_and_set() -> None:
    with SemaphoreSet.create(None, values=[0, 1, 32767]) as semaphores:
        assert semaphores.values == (0, 1, 32767)
        semaphores.values = [32767, 0, 3]
        assert semaphores.values == (32767, 0, 3)
        semaphores[1].value = 32767
        semaphores[0].value = 0
        assert [semaphore.value for semaphore in semaphores] == [0, 32767, 3]
        semaphores.values = range(3)
        assert semaphores.values == (0, 1, 2)


async def test_values_that_are_set_wake_who_waits_for_them() -> None:
    def set_all() -> None:
        semaphores.values = [2, 0]

    def set_both() -> None:
        semaphores[0].value = 2
        semaphores[1].value = 0

    with SemaphoreSet.create(None, values=[0, 1]) as semaphores:
        for set_values in (set_all, set_both):
            async with anyio.create_task_group() as group:
                group.start_soon(semaphores[0].acquire)
                group.start_soon(semaphores[0].acquire)
                group.start_soon(semaphores[1].wait_for_zero)
                await until_waiting(semaphores, 3)
                set_values()
            assert semaphores.values == (0, 0)
            semaphores[1].value = 1


# First come, first served ------------------------------------------------------------------


async def test_a_thousand_tasks_on_one_semaphore_are_one_thread_and_served_in_order() -> None:
    came, served = [], []

    async def acquire(number: int) -> None:
        came.append(number)
        await semaphores[0].acquire()
        served.append(number)

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    with SemaphoreSet.create(None, values=[0]) as semaphores:
        # Threads of earlier tests may still wait for something to do.
        async with anyio.create_task_group() as group:
            group.start_soon(acquire, 0)
            await until(lambda: semaphores[0].waiting_for_nonzero == 1)
            one = threads()
            for number in range(1, 1000):
                group.start_soon(acquire, number)
            await until_waiting(semaphores, 1000)
            assert semaphores[0].waiting_for_nonzero == 1
            assert threads() <= one
            for number in range(500):
                semaphores[0].release()
                await until(lambda number=number: len(served) > number)
            assert served == came[:500]
            assert semaphores.statistics().tasks_waiting == 500
            semaphores[0].release(500)
        # trio runs those that are woken at the same time in any order.
        assert sorted(served) == list(range(1000))
        assert semaphores[0].value == 0


async def test_nobody_overtakes_those_in_line() -> None:
    with SemaphoreSet.create(None, values=[0]) as semaphores:
        async with anyio.create_task_group() as group:
            group.start_soon(semaphores[0].acquire)
            await until_waiting(semaphores, 1)
            semaphores[0].release()
            with pytest.raises(aioipc.WouldBlock):
                semaphores[0].acquire_nowait()
        semaphores[0].release()
        semaphores[0].acquire_nowait()


async def test_those_who_want_different_things_do_not_wait_for_each_other() -> None:
    with SemaphoreSet.create(None, values=[0, 1]) as semaphores:
        async with anyio.create_task_group() as group:
            group.start_soon(semaphores[0].acquire)
            await until_waiting(semaphores, 1)
            await semaphores[1].acquire()
            group.start_soon(semaphores[0].acquire, 2)
            await until_waiting(semaphores, 2)
            await until(lambda: semaphores[0].waiting_for_nonzero == 2)
            semaphores[0].release(3)
        assert semaphores.values == (0, 0)


# Peers ------------------------------------------------------------------------------------


async def test_a_c_program_takes_turns(sysv_peer: str) -> None:
    with SemaphoreSet.create(None, values=[1, 0]) as semaphores:
        id = str(semaphores.id)
        for _ in range(5):
            command = (sysv_peer, "hold", id, "0", "-1", "u", "1", "1", "-")
            with running(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
                await semaphores[1].acquire()  # it has its lock
                async with anyio.create_task_group() as group:
                    group.start_soon(semaphores[0].acquire)
                    await until(lambda: semaphores[0].waiting_for_nonzero == 1)
                    assert semaphores[0].last_pid == peer.pid
                    peer.stdin.close()
            assert semaphores[0].value == 0
            with running(sysv_peer, "semop", id, "0", "-1", "u", stdout=subprocess.PIPE, text=True) as peer:
                await until(lambda: semaphores[0].waiting_for_nonzero == 1)
                semaphores[0].release()
                assert peer.stdout.read() == "done\n"
            await until(lambda: semaphores[0].value == 1)


async def test_a_c_program_waits_for_zero(sysv_peer: str) -> None:
    with SemaphoreSet.create(None, values=[1, 3]) as semaphores:
        with running(sysv_peer, "semop", str(semaphores.id), "0", "0", "-", "1", "-3", "-", stdout=subprocess.DEVNULL):
            await until(lambda: semaphores[0].waiting_for_zero == 1)
            assert semaphores.statistics().waiting_for_zero == (1, 0)
            await semaphores[0].acquire()
        assert semaphores.values == (0, 0)


async def test_a_set_that_a_c_program_made(key: int, sysv_peer: str) -> None:
    id = int(run(sysv_peer, "semget", key, "0640", 3, 0, 7))
    with SemaphoreSet.open(key) as semaphores, SemaphoreSet.open(id=id) as same:
        assert (semaphores.key, semaphores.id, same.key, same.id) == (key, id, key, id)
        assert (semaphores.values, same.statistics().mode) == ((3, 0, 7), 0o640)
        await same.operate((0, -3), (1, 3), (2, 1))
        assert run(sysv_peer, "getall", id, 3).split() == ["0", "3", "8"]
        async with anyio.create_task_group() as group:
            group.start_soon(semaphores[0].acquire, 5)
            await until_waiting(semaphores, 1)
            run(sysv_peer, "setall", id, 6, 0, 0)
        assert semaphores.values == (1, 0, 0)
    assert exists(id)


async def test_bare_sysv_ipc_at_the_other_end(key: int) -> None:
    with SemaphoreSet.create(key, values=[1]) as semaphores:
        bare = sysv_ipc.Semaphore(key)
        bare.acquire()
        async with anyio.create_task_group() as group:
            group.start_soon(semaphores[0].acquire)
            await until_waiting(semaphores, 1)
            bare.release()
        assert bare.value == 0


# C11: lifetimes -----------------------------------------------------------------------------


async def test_the_creator_removes_on_exit_and_an_opener_does_not(key: int) -> None:
    async with SemaphoreSet.create(key, values=[1]) as semaphores:
        async with SemaphoreSet.open(key):
            pass
        with SemaphoreSet.open(id=semaphores.id) as other:
            other[0].acquire_nowait()
        assert exists(semaphores.id)
        assert semaphores.values == (0,)
    assert not exists(semaphores.id)


def test_persist_and_take_over(key: int) -> None:
    with SemaphoreSet.create(key, values=[1, 2], persist=True) as semaphores:
        semaphores[1].acquire_nowait()
    assert exists(semaphores.id)
    with pytest.raises(ValueError, match="the set with this key has 2 semaphores, not 3"):
        SemaphoreSet.create(key, values=[9, 9, 9], exist_ok=True)
    with SemaphoreSet.create(key, values=[9, 9], exist_ok=True, mode=0o666) as again:
        assert (again.id, again.values, again.statistics().mode) == (semaphores.id, (1, 1), 0o600)
    assert not exists(semaphores.id)
    with SemaphoreSet.create(key, values=[9, 9], exist_ok=True, mode=0o660) as new:
        assert (new.values, new.statistics().mode) == ((9, 9), 0o660)


def test_close_alone_removes_nothing(key: int) -> None:
    semaphores = SemaphoreSet.create(key, values=[1])
    semaphores.close()
    assert exists(semaphores.id)
    semaphores.remove()
    assert not exists(semaphores.id)
    with pytest.raises(aioipc.RemovedError, match="has been removed already"):
        semaphores.remove()


def test_collected_unclosed_it_warns(key: int) -> None:
    semaphores = SemaphoreSet.create(key, values=[1])
    words = f"unclosed <aioipc.sysv.SemaphoreSet key {key:#x}, id {semaphores.id} open>"
    with pytest.warns(ResourceWarning, match=words):
        del semaphores
        gc.collect()


# C12: looking -----------------------------------------------------------------------------------


async def test_statistics_are_what_the_kernel_shows(key: int, sysv_peer: str) -> None:
    with SemaphoreSet.create(key, values=[1, 0, 5], mode=0o640) as semaphores:
        async with anyio.create_task_group() as group:
            before = semaphores.statistics()
            assert (before.values, before.waiting_for_nonzero, before.waiting_for_zero) == (
                (1, 0, 5),
                (0,) * 3,
                (0,) * 3,
            )
            made = in_proc("sem", semaphores.id)
            assert made is not None
            assert before.changed_at == made["ctime"]
            with running(sysv_peer, "semop", str(semaphores.id), "2", "1", "-", stdout=subprocess.DEVNULL) as peer:
                pass
            group.start_soon(semaphores[1].acquire)
            group.start_soon(semaphores[1].acquire)
            group.start_soon(semaphores[1].acquire, 2)
            group.start_soon(semaphores[0].wait_for_zero)
            await until(lambda: semaphores.statistics().waiting_for_nonzero == (0, 2, 0))
            await until(lambda: semaphores.statistics().waiting_for_zero == (1, 0, 0))
            statistics = semaphores.statistics()
            assert (statistics.values, statistics.tasks_waiting) == ((1, 0, 6), 4)
            assert statistics.last_pids == (os.getpid(), os.getpid(), peer.pid)
            assert [semaphore.last_pid for semaphore in semaphores] == list(statistics.last_pids)
            assert [semaphore.waiting_for_nonzero for semaphore in semaphores] == [0, 2, 0]
            assert [semaphore.waiting_for_zero for semaphore in semaphores] == [1, 0, 0]
            assert in_proc("sem", semaphores.id) == {
                "key": semaphores.key,
                "semid": semaphores.id,
                "perms": statistics.mode,
                "nsems": len(semaphores),
                "uid": statistics.owner,
                "gid": statistics.group,
                "cuid": statistics.creator,
                "cgid": statistics.creator_group,
                "otime": statistics.operated_at,
                "ctime": statistics.changed_at,
            }
            table = run("ipcs", "-s", "-i", semaphores.id)
            assert "mode=0640, access_perms=0640\nnsems = 3\n" in table
            rows = [line.split() for line in table.splitlines() if line.strip()[:1].isdigit()]
            assert [tuple(map(int, row)) for row in rows] == [
                (number, statistics.values[number], *waiting, statistics.last_pids[number])
                for number, waiting in enumerate([(0, 1), (2, 0), (0, 0)])
            ]
            group.cancel_scope.cancel()
        assert semaphores.statistics().tasks_waiting == 0
        assert semaphores.statistics().waiting_for_nonzero == (0, 0, 0)
