"""What a user of POSIX semaphores relies on, on every event loop."""

from __future__ import annotations

import gc
import os
import subprocess
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import posix_ipc
import pytest
from conftest import call_soon, in_child, running, times_out, until, worker_threads

import aioipc
from aioipc._waiting import workers
from aioipc.posix import Semaphore

pytestmark = pytest.mark.anyio

NewName = Callable[[], str]


def exists(name: str) -> bool:
    try:
        posix_ipc.Semaphore(name).close()
    except posix_ipc.ExistentialError:
        return False
    return True


async def until_waiting(semaphore: Semaphore, tasks: int) -> None:
    await until(lambda: semaphore.statistics().tasks_waiting_acquire == tasks)


# Acquiring and releasing ------------------------------------------------------------------


async def test_permits_are_counted(name: str) -> None:
    with Semaphore.create(name, value=2) as semaphore, Semaphore.open(name) as other:
        assert (semaphore.value, other.value) == (2, 2)
        await semaphore.acquire()
        await other.acquire()
        assert (semaphore.value, other.value) == (0, 0)
        with pytest.raises(aioipc.WouldBlock, match=f"semaphore {name} has no permit left") as caught:
            semaphore.acquire_nowait()
        assert isinstance(caught.value, anyio.WouldBlock)
        other.release()
        semaphore.acquire_nowait()
        semaphore.release(7)
        assert other.value == 7


async def test_one_permit_by_default(name: str) -> None:
    with Semaphore.create(name) as semaphore:
        assert semaphore.value == 1


async def test_async_with_acquires_and_releases(name: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        async with semaphore as entered:
            assert entered is semaphore
            assert semaphore.value == 0
        assert semaphore.value == 1
        with pytest.raises(ZeroDivisionError):
            async with semaphore:
                raise ZeroDivisionError
        assert semaphore.value == 1
    assert not exists(name)


async def test_a_lock_among_tasks(name: str) -> None:
    async def work() -> None:
        for _ in range(5):
            async with semaphore:
                inside.append(1)
                assert len(inside) == 1
                await anyio.lowlevel.checkpoint()
                inside.pop()
                done.append(1)

    inside: list[int] = []
    done: list[int] = []
    with Semaphore.create(name, value=1) as semaphore:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(work)
        assert (len(done), semaphore.value) == (50, 1)


def finish(coroutine: Any) -> None:
    """Drive a coroutine that never suspends, without any event loop."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_without_waiting_there_is_no_loop(name: str) -> None:
    before = worker_threads()
    with Semaphore.create(name, value=3) as semaphore:
        finish(semaphore.acquire())
        finish(semaphore.__aenter__())
        finish(semaphore.__aexit__(None, None, None))
        assert semaphore.value == 2
        semaphore.acquire().close()  # never begun
        assert semaphore.value == 2
    assert worker_threads() <= before


# C2: first come, first served ----------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False], ids=["all at once", "one by one"])
async def test_a_thousand_tasks_are_one_thread_and_served_in_order(name: str, at_once: bool) -> None:
    async def acquire(number: int) -> None:
        await semaphore.acquire()
        served.append(number)

    served: list[int] = []
    with Semaphore.create(name, value=0) as semaphore, Semaphore.open(name) as other:
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(acquire, number)
                await until_waiting(semaphore, number + 1)
            await until(lambda: len(worker_threads()) == 1)  # those that others left behind end
            if at_once:
                other.release(1000)
            else:
                for number in range(1000):
                    other.release()
                    await until(lambda number=number: len(served) > number)
        assert served == list(range(1000))
        assert semaphore.value == 0


async def test_nobody_overtakes_those_in_line(name: str) -> None:
    async def acquire(number: int) -> None:
        await semaphore.acquire()
        served.append(number)

    served: list[int] = []
    with Semaphore.create(name, value=0) as semaphore, Semaphore.open(name) as other:
        async with anyio.create_task_group() as group:
            group.start_soon(acquire, 1)
            await until_waiting(semaphore, 1)
            other.release(2)  # both are there when the newcomers ask
            with pytest.raises(aioipc.WouldBlock, match="other tasks wait"):
                semaphore.acquire_nowait()
            await acquire(2)
        assert served == [1, 2]


async def test_a_cancelled_task_leaves_the_line(name: str) -> None:
    async def acquire(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            await semaphore.acquire()
            served.append(number)

    served: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(5)]
    with Semaphore.create(name, value=0) as semaphore:
        async with anyio.create_task_group() as group:
            for number, scope in enumerate(scopes):
                group.start_soon(acquire, number, scope)
                await until_waiting(semaphore, number + 1)
            for number in (0, 2, 4):  # the first, one between, the last
                scopes[number].cancel()
            await until_waiting(semaphore, 2)
            semaphore.release(3)
        assert served == [1, 3]
        assert semaphore.value == 1


# Cancellation ---------------------------------------------------------------------------------


async def test_a_timeout_takes_nothing(name: str) -> None:
    with Semaphore.create(name, value=0) as semaphore:
        assert await times_out(semaphore.acquire)
        assert not workers.in_the_kernel()
        assert semaphore.statistics().tasks_waiting_acquire == 0
        posix_ipc.Semaphore(name).release()
        assert semaphore.value == 1
        assert not await times_out(semaphore.acquire, 30)
        assert semaphore.value == 0
        await until(lambda: not worker_threads())


async def test_cancelled_in_async_with(name: str) -> None:
    async def hold() -> None:
        async with semaphore:
            await anyio.sleep_forever()

    with Semaphore.create(name, value=1) as semaphore:
        assert await times_out(hold)
        assert semaphore.value == 1
        semaphore.acquire_nowait()
        assert await times_out(hold)
        assert semaphore.value == 0


# C4: closing wakes ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["task", "callback"])
async def test_close_wakes_every_waiter(name: str, how: str) -> None:
    async def acquire() -> None:
        with pytest.raises(aioipc.ClosedError, match=name) as caught:
            await semaphore.acquire()
        assert isinstance(caught.value, anyio.ClosedResourceError)
        woken.append(1)

    woken: list[int] = []
    with Semaphore.create(name, value=0) as semaphore, Semaphore.open(name) as other:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(acquire)
                await until_waiting(semaphore, number + 1)
            if how == "callback":
                call_soon(semaphore.close)
            else:
                semaphore.close()
            await until(lambda: len(woken) == 3)
            semaphore.close()
        # Nobody takes what comes now.
        await until(lambda: not workers.in_the_kernel())
        other.release()
        assert other.value == 1
    assert not exists(name)


async def test_closed_within_the_block_of_a_permit(name: str) -> None:
    """It is told that the permit is lost, whatever else has happened."""
    with Semaphore.create(name, value=1) as semaphore, pytest.raises(aioipc.ClosedError) as caught:
        async with semaphore:
            semaphore.close()
            raise KeyError
    assert isinstance(caught.value.__context__, KeyError)


async def test_use_after_close(name: str) -> None:
    semaphore = Semaphore.create(name)
    with semaphore:
        pass
    for use in (semaphore.acquire_nowait, semaphore.release, semaphore.statistics, lambda: semaphore.value):
        with pytest.raises(aioipc.ClosedError, match=name):
            use()
    with pytest.raises(aioipc.ClosedError, match=name):
        await semaphore.acquire()
    assert semaphore.name == name
    assert repr(semaphore) == f"<aioipc.posix.Semaphore {name!r} closed>"


# C8: any peer ------------------------------------------------------------------------------------


async def test_a_c_program_posts(name: str, sem: str) -> None:
    with Semaphore.create(name, value=0) as semaphore:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(semaphore.acquire)
                await until_waiting(semaphore, number + 1)
            subprocess.run([sem, "post", name, "8"], check=True)
        assert semaphore.value == 3


async def test_a_c_program_waits(name: str, sem: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        with running(sem, "wait", name, "4", stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout.readline() == "got 0\n"
            semaphore.release(3)
            assert peer.stdout.read() == "got 1\ngot 2\ngot 3\n"
        assert semaphore.value == 0


async def test_a_c_program_holds_the_lock(name: str, sem: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        with running(sem, "hold", name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            assert peer.stdout.readline() == "held\n"
            async with anyio.create_task_group() as group:
                group.start_soon(semaphore.acquire)
                await until_waiting(semaphore, 1)
                assert semaphore.value == 0
                peer.stdin.close()
        assert semaphore.value == 0
        semaphore.release()
        assert subprocess.check_output([sem, "value", name]) == b"1\n"


async def test_ping_pong_with_a_c_program(name: str, new_name: NewName, sem: str) -> None:
    with Semaphore.create(name, value=0) as there, Semaphore.create(new_name(), value=0) as back:
        with running(sem, "echo", name, back.name, "200"):
            for _ in range(200):
                there.release()
                await back.acquire()
        assert (there.value, back.value) == (0, 0)


async def test_a_semaphore_that_a_c_program_made(name: str, sem: str) -> None:
    subprocess.run([sem, "create", name, "5"], check=True)
    with Semaphore.open(name) as semaphore:
        assert semaphore.value == 5
        await semaphore.acquire()
        assert subprocess.check_output([sem, "try", name, "9"]) == b"4\n"
    assert exists(name)


# Many -------------------------------------------------------------------------------------------


async def test_a_thousand_semaphores_are_waited_for_at_once(new_name: NewName) -> None:
    async def acquire(number: int) -> None:
        await semaphores[number].acquire()
        served.add(number)

    served: set[int] = set()
    with ExitStack() as stack:
        semaphores = [stack.enter_context(Semaphore.create(new_name(), value=0)) for _ in range(1000)]
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(acquire, number)
            await until(lambda: workers.in_the_kernel() == 1000)
            assert served == set()
            for semaphore in semaphores:
                with closing(posix_ipc.Semaphore(semaphore.name)) as bare:
                    bare.release()
        assert len(served) == 1000
        assert {semaphore.value for semaphore in semaphores} == {0}
    await until(lambda: not worker_threads())


# Looking, and whose it is -------------------------------------------------------------------------


async def test_statistics(name: str) -> None:
    with Semaphore.create(name, value=3, mode=0o640) as semaphore:
        assert semaphore.statistics() == (3, 0, os.geteuid(), os.getegid(), 0o640)
        for _ in range(3):
            await semaphore.acquire()
        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(semaphore.acquire)
                await until_waiting(semaphore, number + 1)
            assert semaphore.statistics()[:2] == (0, 2)
            semaphore.release(2)
        semaphore.unlink()
        assert semaphore.statistics() == (0, 0, None, None, None)
        with Semaphore.create(name, value=9):
            assert semaphore.statistics() == (0, 0, None, None, None)


def test_another_loop(name: str, anyio_backend: Any) -> None:
    async def wait() -> None:
        assert await times_out(semaphore.acquire)

    async def wait_again() -> None:
        with pytest.raises(RuntimeError, match=f"{name} belongs to another event loop"):
            await semaphore.acquire()

    backend, options = anyio_backend
    with Semaphore.create(name, value=0) as semaphore:
        anyio.run(wait, backend=backend, backend_options=options)
        anyio.run(wait_again, backend=backend, backend_options=options)
        semaphore.release()
        semaphore.acquire_nowait()  # that needs no loop


async def test_after_a_fork(name: str) -> None:
    with Semaphore.create(name, value=1) as semaphore:
        for use in (semaphore.acquire_nowait, semaphore.release, semaphore.statistics, lambda: semaphore.value):
            with pytest.raises(RuntimeError, match="opened before a fork"):
                in_child(use)
        with pytest.raises(RuntimeError, match="opened before a fork"):
            in_child(lambda: semaphore.acquire().send(None))
        in_child(partial(semaphore.__exit__, None, None, None))
        assert exists(name)
        assert semaphore.value == 1


async def test_a_child_opens_its_own(name: str) -> None:
    def post() -> None:
        with Semaphore.open(name) as own:
            own.release()

    with Semaphore.create(name, value=0) as semaphore:
        in_child(post)
        await semaphore.acquire()


async def test_collected_unclosed_it_warns(name: str, sem: str) -> None:
    subprocess.run([sem, "create", name, "0"], check=True)
    semaphore = Semaphore.open(name)
    assert await times_out(semaphore.acquire)
    assert is_mapped(name)
    with pytest.warns(ResourceWarning, match=f"unclosed <aioipc.posix.Semaphore '{name}' open>"):
        del semaphore
        gc.collect()
    assert not is_mapped(name)


def is_mapped(name: str) -> bool:
    """Whether this process has it in its memory."""
    return f"/dev/shm/sem.{name[1:]}\n" in Path("/proc/self/maps").read_text()


async def test_a_handle_is_kept_while_a_task_waits(name: str) -> None:
    async def acquire() -> None:
        await Semaphore.open(name).acquire()
        served.append(1)

    served: list[int] = []
    with Semaphore.create(name, value=0) as semaphore:
        async with anyio.create_task_group() as group:
            group.start_soon(acquire)
            await until(lambda: workers.in_the_kernel() > 0)
            gc.collect()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                semaphore.release()
                await until(lambda: bool(served))
                gc.collect()
