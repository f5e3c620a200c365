"""What the Open POSIX test suite demands of sem_*, for POSIX named semaphores: see docs/conformance.md."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import posix_ipc
import pytest
from conftest import NOBODY, Task, as_nobody, in_child, running, times_out, until
from together import long_ago, outcome, signalled, umask, winners

import aioipc
from aioipc.posix import Semaphore

NewName = Callable[[], str]


def value(sem: str, name: str) -> int:
    """The value as a C program finds it."""
    return int(subprocess.check_output([sem, "value", name]))


async def until_waiting(semaphore: Semaphore, tasks: int) -> None:
    await until(lambda: semaphore.statistics().tasks_waiting_acquire == tasks)


# Opening and closing


def test_a_new_semaphore_is_the_users(name: str) -> None:
    def create() -> tuple[object, ...]:
        with umask(0), Semaphore.create(name, value=3, mode=0o640) as semaphore:
            return semaphore.statistics()[2:]

    assert as_nobody(create) == (NOBODY, NOBODY, 0o640)


def test_a_mode_does_not_bind_its_creator(name: str) -> None:
    def create_and_use() -> object:
        with Semaphore.create(name, value=1, mode=0) as semaphore:
            semaphore.acquire_nowait()
            semaphore.release()
            return outcome(lambda: Semaphore.open(name))

    assert as_nobody(create_and_use) is aioipc.AccessError


def test_creating_what_exists_changes_nothing(name: str, sem: str) -> None:
    with Semaphore.create(name, value=3) as semaphore:
        before = semaphore.statistics()
        Semaphore.create(name, value=7, mode=0o666, exist_ok=True).close()
        assert outcome(lambda: Semaphore.create(name, value=7)) is aioipc.ExistsError
        assert semaphore.statistics() == before
        assert value(sem, name) == 3


def test_one_of_many_creates_it(new_name: NewName) -> None:
    names = [new_name() for _ in range(50)]
    assert winners(lambda number: Semaphore.create(names[number])) == [1] * 50


@pytest.mark.anyio
async def test_handles_of_one_semaphore_are_closed_one_by_one(name: str, sem: str) -> None:
    """To the C library they are one, which it counts."""

    def mappings() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(line.split()[3:5] == [device, str(file.st_ino)] for line in lines)

    semaphore = Semaphore.create(name, value=0, persist=True)
    file = os.stat("/dev/shm/sem." + name[1:])
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    others = [Semaphore.open(name) for _ in range(3)]
    assert mappings() == 1
    for other in others:
        other.release()
        other.close()
        other.close()
        with pytest.raises(aioipc.ClosedError):
            other.release()
    assert semaphore.value == value(sem, name) == 3
    await semaphore.acquire()
    semaphore.close()
    assert mappings() == 0
    assert value(sem, name) == 2
    with Semaphore.open(name) as again:
        assert again.value == 2


# Acquiring


@pytest.mark.anyio
async def test_it_is_held_until_it_is_released(name: str) -> None:
    with Semaphore.create(name) as semaphore, Semaphore.open(name) as other:
        async with anyio.create_task_group() as group:
            await semaphore.acquire()
            task = Task(group, other.acquire)
            await until_waiting(other, 1)
            for handle in (semaphore, other):
                with pytest.raises(aioipc.WouldBlock):
                    handle.acquire_nowait()
                assert handle.value == 0
            assert not task.done.is_set()
            semaphore.release()
            await task.done.wait()
            assert semaphore.value == 0
            other.release()
            assert semaphore.value == 1


@pytest.mark.anyio
async def test_looking_at_the_value_changes_nothing(name: str, sem: str) -> None:
    """And who waits is not counted in it."""
    with Semaphore.create(name, value=2) as semaphore, Semaphore.open(name) as other:
        assert [semaphore.value, other.value, semaphore.statistics().value, value(sem, name)] == [2] * 4
        semaphore.acquire_nowait()
        semaphore.acquire_nowait()
        async with anyio.create_task_group() as group:
            tasks = [Task(group, handle.acquire) for handle in (semaphore, other)]
            await until_waiting(semaphore, 1)
            await until_waiting(other, 1)
            assert [semaphore.value, other.value, semaphore.statistics().value, value(sem, name)] == [0] * 4
            semaphore.release(3)
            for task in tasks:
                await task.done.wait()
        assert [semaphore.value, other.value, semaphore.statistics().value, value(sem, name)] == [1] * 4


@pytest.mark.anyio
async def test_a_signal_does_not_end_a_wait(name: str) -> None:
    with Semaphore.create(name, value=0) as semaphore:
        async with anyio.create_task_group() as group:
            task = Task(group, semaphore.acquire)
            await until_waiting(semaphore, 1)
            with signalled() as interrupt:
                for _ in range(3):
                    await interrupt()
            assert not task.done.is_set()
            await until_waiting(semaphore, 1)
            posix_ipc.Semaphore(name).release()
            await task.done.wait()
        assert semaphore.value == 0


@pytest.mark.anyio
async def test_a_signal_handler_may_release(name: str) -> None:
    with Semaphore.create(name, value=0) as semaphore:
        async with anyio.create_task_group() as group:
            task = Task(group, semaphore.acquire)
            await until_waiting(semaphore, 1)
            with signalled(semaphore.release, semaphore.release) as interrupt:
                await interrupt()
            await task.done.wait()
        assert semaphore.value == 1


def test_one_that_is_killed_as_it_waits_takes_nothing(name: str) -> None:
    with Semaphore.create(name, value=0) as semaphore:
        in_child(lambda: _kill_one_that_waits(name))
        semaphore.release()
        assert semaphore.value == 1
        semaphore.acquire_nowait()


def _kill_one_that_waits(name: str) -> None:
    """In a process that has no other threads, and so can fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with Semaphore.open(name) as own:
                asyncio.run(_say_that_it_waits(own, writing))
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read(1) == b"."
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


async def _say_that_it_waits(semaphore: Semaphore, pipe: int) -> None:
    waits = asyncio.create_task(semaphore.acquire())
    await until_waiting(semaphore, 1)
    await until(lambda: semaphore._handle._users - {"handle"} != set())
    os.write(pipe, b".")
    await waits


# Time limits


@pytest.mark.anyio
async def test_a_timeout_ends_a_wait_and_takes_nothing(name: str, sem: str) -> None:
    with Semaphore.create(name, value=0) as semaphore:
        assert await times_out(semaphore.acquire)
        with long_ago() as scope:
            await semaphore.acquire()
        assert scope.cancelled_caught
        assert semaphore.statistics().tasks_waiting_acquire == 0
        semaphore.release()
        assert value(sem, name) == 1


@pytest.mark.anyio
async def test_what_need_not_wait_does_not_time_out(name: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        with long_ago():
            await semaphore.acquire()
        assert semaphore.value == 0


@pytest.mark.anyio
async def test_a_permit_that_comes_in_time_is_taken(name: str, sem: str) -> None:
    with Semaphore.create(name, value=0) as semaphore:
        async with anyio.create_task_group() as group:
            with anyio.fail_after(60):
                task = Task(group, semaphore.acquire)
                await until_waiting(semaphore, 1)
                subprocess.run([sem, "post", name, "1"], check=True)
                await task.done.wait()
        assert semaphore.value == 0


# Removing


@pytest.mark.anyio
async def test_removal_leaves_those_who_use_it(name: str, sem: str) -> None:
    """It waits for nobody, and the name stands for another one from then on."""
    with Semaphore.create(name, value=1) as old:
        with running(sem, "hold", name, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            async with anyio.create_task_group() as group:
                task = Task(group, old.acquire)
                await until_waiting(old, 1)
                old.unlink()
                assert outcome(lambda: Semaphore.open(name)) is aioipc.NotFoundError
                assert not task.done.is_set()
                with Semaphore.create(name, value=5) as new:
                    assert [old.value, new.value, value(sem, name)] == [0, 5, 5]
                    holder.stdin.close()
                    await task.done.wait()
                    assert [old.value, new.value] == [0, 5]
                    new.acquire_nowait()
                    old.release()
                    assert [old.value, new.value] == [1, 4]


def test_who_may_not_remove_it_changes_nothing(name: str, sem: str) -> None:
    with umask(0), Semaphore.create(name, value=3, mode=0o666):

        def remove() -> None:
            with Semaphore.open(name) as other:
                other.unlink()

        assert as_nobody(lambda: outcome(remove)) is aioipc.AccessError
        assert value(sem, name) == 3
