"""What sets of semaphores are when they begin, and when they, a handle, a thread or a process end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import anyio
import libc
import pytest
import sysv_ipc
from conftest import Task, as_nobody, in_child, running, until

import aioipc
from aioipc.sysv import SemaphoreSet, _calls, semaphore

pytestmark = pytest.mark.anyio

HOLDER = """
import sys
import anyio
from aioipc.sysv import SemaphoreSet

async def hold():
    with SemaphoreSet.open(id=int(sys.argv[1]), undo=True) as semaphores:
        await semaphores.operate((0, -1), (1, -2))
        print("done", flush=True)
        await anyio.sleep_forever()

anyio.run(hold)
"""

RACER = """
import sys
from aioipc import NotFoundError
from aioipc.sysv import SemaphoreSet

role, size, *keys = sys.argv[1:]
values = range(1, int(size) + 1)
seen = []
print("ready", flush=True)
sys.stdin.read()
for key in map(int, keys):
    if role == "create":
        semaphores = SemaphoreSet.create(key, values=values, exist_ok=True, persist=True)
    while role == "open":
        try:
            semaphores = SemaphoreSet.open(key)
            break
        except NotFoundError:
            pass
    with semaphores:
        seen.append(semaphores.values)
print(*seen, sep="\\n")
"""

TAKER = """
import sys
from aioipc import sysv

kind, key = getattr(sysv, sys.argv[1]), int(sys.argv[2])
how = {sysv.MessageQueue: {"max_bytes": 100}, sysv.SemaphoreSet: {"values": [1]}, sysv.SharedMemory: {"size": 1}}[kind]
for _ in range(1000):
    with kind.create(key, exist_ok=True, **how):
        pass
"""

NewKey = Callable[[], int]


async def until_waiting(semaphores: SemaphoreSet, tasks: int) -> None:
    await until(lambda: semaphores.statistics().tasks_waiting == tasks)


# Creation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 600], ids=["one", "three", "more than semop(2) takes"])
def test_nobody_sees_a_half_made_set(new_key: NewKey, size: int) -> None:
    """Other processes open the set, or want to make it too, as soon as it is there; 200 times."""
    keys = [new_key() for _ in range(200)]
    values = tuple(range(1, size + 1))
    with ExitStack() as stack:
        racers = [
            stack.enter_context(
                running(
                    *(sys.executable, "-c", RACER, role, str(size), *map(str, keys)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for role in ("open", "create", "create")
        ]
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.close()
        for racer in racers:
            assert racer.stdout.read().splitlines() == [str(values)] * len(keys)


@pytest.mark.parametrize("values", [(0, 3), (0, 0), (1, 3)])
def test_what_is_released_before_the_values_are_set_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, values: tuple[int, int]
) -> None:
    def make_and_release(*args: int) -> int:
        id = semget(*args)
        libc.semop(id, (0, 1), (1, 2))
        return id

    semget = semaphore.semget
    monkeypatch.setattr(semaphore, "semget", make_and_release)
    with SemaphoreSet.create(None, values=values) as semaphores:
        assert semaphores.values == (values[0] + 1, values[1] + 2)


@pytest.mark.parametrize("kind", ["MessageQueue", "SemaphoreSet", "SharedMemory"])
def test_taken_over_and_removed_by_several_at_once(key: int, kind: str) -> None:
    """Whatever the others do, each has an object in the end: one that exists, or a new one."""
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(running(sys.executable, "-c", TAKER, kind, str(key)))


def test_a_set_whose_values_nobody_sets_can_be_opened_too(key: int) -> None:
    """Made by a program that means the zeros to stay, or died."""
    subprocess.run([sys.executable, "-c", f"import sysv_ipc; sysv_ipc.Semaphore({key}, sysv_ipc.IPC_CREX)"], check=True)
    with SemaphoreSet.open(key) as semaphores:
        assert semaphores.values == (0,)
        semaphores[0].release()
    with SemaphoreSet.create(key, values=[5], exist_ok=True) as semaphores:
        assert semaphores.values == (1,)


def test_a_set_whose_creator_died_before_it_set_the_values_is_made_anew(key: int) -> None:
    half_made = _calls.semget(key, 2, sysv_ipc.IPC_CREX | 0o600)
    with SemaphoreSet.create(key, values=[0, 0], exist_ok=True, persist=True) as semaphores:
        assert semaphores.id == half_made  # nothing is missing
    with pytest.raises(ValueError, match="has 2 semaphores, not 1"):
        SemaphoreSet.create(key, values=[1], exist_ok=True)
    with SemaphoreSet.open(key) as waiting, SemaphoreSet.create(key, values=[0, 5], exist_ok=True) as semaphores:
        assert semaphores.values == (0, 5)
        with pytest.raises(aioipc.RemovedError):
            waiting[0].acquire_nowait()
        with SemaphoreSet.create(key, values=[0, 5], exist_ok=True) as again:
            assert again.id == semaphores.id


def test_a_set_of_zeros_for_which_a_program_waits_is_taken_over_as_it_is(key: int, sysv_peer: str) -> None:
    id = _calls.semget(key, 2, sysv_ipc.IPC_CREX | 0o600)
    with running(sysv_peer, "semop", str(id), "1", "-1", "-", stdout=subprocess.DEVNULL):
        while not _calls.semctl(id, 1, _calls.GETNCNT):
            os.sched_yield()
        with SemaphoreSet.create(key, values=[0, 5], exist_ok=True, persist=True) as semaphores:
            assert semaphores.values == (0, 0)
            semaphores[1].release()


def test_another_users_set_without_values_is_taken_over_as_it_is(key: int) -> None:
    _calls.semget(key, 1, sysv_ipc.IPC_CREX | 0o666)

    def take_over() -> tuple[int, ...]:
        with SemaphoreSet.create(key, values=[5], exist_ok=True, persist=True) as semaphores:
            return semaphores.values

    assert as_nobody(take_over) == (0,)


def test_who_is_late_to_set_the_values_does_not_do_so_twice(monkeypatch: pytest.MonkeyPatch, key: int) -> None:
    """Another one has taken the set for that of a dead creator, and made a new one."""

    def set_late(*args: Any) -> None:
        monkeypatch.undo()
        others.append(SemaphoreSet.create(key, values=[3], exist_ok=True))
        others[0][0].acquire_nowait()
        set_initial(*args)

    others: list[SemaphoreSet] = []
    set_initial = semaphore.set_initial
    monkeypatch.setattr(semaphore, "set_initial", set_late)
    with SemaphoreSet.create(key, values=[3], exist_ok=True) as semaphores, others[0]:
        assert semaphores.values == (2,)


def test_all_zero_from_the_beginning(key: int) -> None:
    with SemaphoreSet.create(key, values=[0, 0]) as semaphores, SemaphoreSet.open(key) as other:
        assert semaphores.values == other.values == (0, 0)
        assert other.statistics().operated_at is not None  # which is how an opener knows that it is made


# SEM_UNDO ---------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["C", "Python"])
async def test_a_holder_that_is_killed_frees_its_lock_for_a_task_that_waits(sysv_peer: str, language: str) -> None:
    with SemaphoreSet.create(None, values=[1, 2]) as semaphores:
        id = str(semaphores.id)
        if language == "C":
            command = [sysv_peer, "hold", id, "0", "-1", "u", "1", "-2", "u"]
        else:
            command = [sys.executable, "-c", HOLDER, id]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout.readline() == b"done\n"
                assert semaphores.values == (0, 0)
                async with anyio.create_task_group() as group:
                    group.start_soon(semaphores.operate, (0, -1), (1, -1))
                    await until_waiting(semaphores, 1)
                    holder.send_signal(signal.SIGKILL)
            finally:
                holder.kill()
        assert semaphores.values == (0, 1)


@pytest.mark.parametrize("how", ["set", "open", "argument", "member"])
def test_what_is_undone(how: str) -> None:
    def acquire() -> tuple[int, ...]:
        with SemaphoreSet.open(id=semaphores.id, undo=how == "open") as own:
            if how == "member":
                own[0].acquire_nowait(3, undo=True)
                own[1].release(2, undo=True)
            else:
                own.operate_nowait((0, -3), (1, 2), **({"undo": True} if how == "argument" else {}))
            own.operate_nowait((0, -1), undo=False)
            return own.values

    with SemaphoreSet.create(None, values=[5, 5], undo=how == "set") as semaphores:
        assert in_child(acquire) == (1, 7)
        # `undo` is that of a handle, not of the set.
        assert semaphores.values == ((1, 7) if how == "set" else (4, 5))


def test_setting_a_value_forgets_what_was_to_be_undone() -> None:
    def acquire() -> None:
        with SemaphoreSet.open(id=semaphores.id, undo=True) as own:
            own.operate_nowait((0, -1), (1, -1))
            own[0].value = 3

    with SemaphoreSet.create(None, values=[1, 1]) as semaphores:
        in_child(acquire)
        assert semaphores.values == (3, 1)


def test_what_a_thread_acquired_is_undone_at_the_end_of_the_process(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    backend, options = anyio_backend

    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    async def acquire(own: SemaphoreSet) -> None:
        before = threads()
        async with anyio.create_task_group() as group:
            group.start_soon(own[0].acquire)
            await until(lambda: own[0].waiting_for_nonzero == 1)
            (waiting,) = threads() - before
            own[1].release(undo=False)
            own.operate_nowait((0, 1), undo=False)
        await until(lambda: waiting not in threads())

    def wait_and_leave() -> tuple[int, ...]:
        with SemaphoreSet.open(id=semaphores.id, undo=True) as own:
            anyio.run(acquire, own, backend=backend, backend_options=options)
            return own.values

    with SemaphoreSet.create(None, values=[0, 0]) as semaphores:
        assert in_child(wait_and_leave) == (0, 1)
        assert semaphores.values == (1, 1)


def test_undo_waits_for_the_end_of_the_process_not_of_the_handle() -> None:
    def acquire() -> int:
        with SemaphoreSet.open(id=semaphores.id, undo=True) as own:
            own[0].acquire_nowait()
        with SemaphoreSet.open(id=semaphores.id) as own:
            return own[0].value

    with SemaphoreSet.create(None, values=[1]) as semaphores:
        assert in_child(acquire) == 0
        assert semaphores[0].value == 1


def test_async_with_undoes_what_the_handle_says(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    backend, options = anyio_backend

    async def leave_locked() -> int:
        with SemaphoreSet.open(id=semaphores.id, undo=True) as own:
            async with own[0]:
                pass
            await own[0].__aenter__()
            return own[0].value

    with SemaphoreSet.create(None, values=[1]) as semaphores:
        assert in_child(lambda: anyio.run(leave_locked, backend=backend, backend_options=options)) == 0
        assert semaphores[0].value == 1


# Closing, removal -----------------------------------------------------------------------------


async def test_close_wakes_every_waiter() -> None:
    closed = []

    async def expect_closed(wait: Callable[[], object]) -> None:
        with pytest.raises(aioipc.ClosedError) as caught:
            await wait()
        assert isinstance(caught.value, anyio.ClosedResourceError)
        closed.append(wait)

    with SemaphoreSet.create(None, values=[0, 1]) as semaphores:
        id = semaphores.id
        async with anyio.create_task_group() as group:
            for wait in (
                semaphores[0].acquire,
                semaphores[0].acquire,
                semaphores[1].wait_for_zero,
                semaphores[0].__aenter__,
                partial(semaphores.operate, (0, -1), (1, -1)),
            ):
                group.start_soon(expect_closed, wait)
            await until_waiting(semaphores, 5)
            semaphores.close()
            semaphores.close()
            await semaphores.aclose()
        assert len(closed) == 5
        with SemaphoreSet.open(id=id) as other:
            await until(lambda: other.statistics().waiting_for_nonzero == (0, 0))
            assert other.values == (0, 1)


def use_all(semaphores: SemaphoreSet) -> list[Callable[[], object]]:
    return [
        partial(semaphores.operate_nowait, (0, -1)),
        semaphores[0].acquire_nowait,
        semaphores[0].release,
        semaphores[0].wait_for_zero_nowait,
        semaphores.statistics,
        lambda: semaphores.values,
        lambda: setattr(semaphores, "values", [1]),
        lambda: semaphores[0].value,
        lambda: setattr(semaphores[0], "value", 1),
        lambda: semaphores[0].last_pid,
        lambda: semaphores[0].waiting_for_zero,
        lambda: semaphores[0].waiting_for_nonzero,
        partial(semaphores.change, mode=0o666),
        lambda: semaphores.operate((0, -1)).send(None),
        lambda: semaphores[0].acquire().send(None),
        lambda: semaphores[0].wait_for_zero().send(None),
        lambda: semaphores[0].__aenter__().send(None),
    ]


def test_use_after_close() -> None:
    with SemaphoreSet.create(None, values=[1]) as semaphores:
        pass
    for use in use_all(semaphores):
        with pytest.raises(aioipc.ClosedError, match=f"id {semaphores.id}. is closed"):
            use()
    assert len(semaphores) == 1
    assert repr(semaphores) == f"<aioipc.sysv.SemaphoreSet private, id {semaphores.id} closed>"


@pytest.mark.parametrize("remove", ["here", "by a bare program"])
async def test_removed_under_waiters(remove: str) -> None:
    removed = []

    async def expect_removed(wait: Callable[[], object]) -> None:
        with pytest.raises(aioipc.RemovedError, match=f"id {semaphores.id}") as caught:
            await wait()
        assert caught.value.errno == errno.EIDRM
        removed.append(wait)

    with SemaphoreSet.create(None, values=[0]) as semaphores:
        async with anyio.create_task_group() as group:
            for wait in (
                semaphores[0].acquire,
                semaphores[0].acquire,
                partial(semaphores[0].acquire, 2),
                partial(semaphores[0].acquire, undo=True),
                partial(semaphores.operate, (0, -1), (0, 0)),
            ):
                group.start_soon(expect_removed, wait)
            await until_waiting(semaphores, 5)
            if remove == "here":
                semaphores.remove()
            else:
                subprocess.run(["ipcrm", "-s", str(semaphores.id)], check=True)
        assert len(removed) == 5
        for use in use_all(semaphores):
            with pytest.raises(aioipc.RemovedError, match="it was removed from the system"):
                use()


def test_a_set_made_anew_under_the_key_is_left_alone(key: int) -> None:
    with SemaphoreSet.create(key, values=[1]) as old:
        old.remove()
        with SemaphoreSet.create(key, values=[1]) as new:
            with pytest.raises(aioipc.RemovedError):
                old[0].acquire_nowait()
            old.__exit__(None, None, None)
            assert new.values == (1,)


# One loop, one process ---------------------------------------------------------------------------


def test_another_loop(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    async def wait_shortly(semaphores: SemaphoreSet) -> None:
        with anyio.move_on_after(0.001):
            await semaphores[0].acquire()

    backend, options = anyio_backend
    with SemaphoreSet.create(None, values=[0]) as semaphores:
        anyio.run(wait_shortly, semaphores, backend=backend, backend_options=options)
        with pytest.raises(RuntimeError, match=f"id {semaphores.id}. belongs to another event loop: open it again"):
            anyio.run(wait_shortly, semaphores, backend=backend, backend_options=options)
        with SemaphoreSet.open(id=semaphores.id) as again:
            anyio.run(wait_shortly, again, backend=backend, backend_options=options)


async def test_a_handle_inherited_by_a_fork_says_so() -> None:
    def in_the_child() -> set[str]:
        words = set()
        for use in use_all(semaphores):
            with pytest.raises(RuntimeError) as caught:
                use()
            words.add(str(caught.value))
        semaphores.__exit__(None, None, None)
        with SemaphoreSet.open(id=semaphores.id) as own:
            own[0].release()
        return words

    with SemaphoreSet.create(None, values=[0]) as semaphores:
        async with anyio.create_task_group() as group:
            group.start_soon(semaphores[0].acquire, 2)
            await until_waiting(semaphores, 1)
            words = in_child(in_the_child)
            assert semaphores.values == (1,)
            semaphores[0].release()
        assert words == {
            f"semaphore set (private, id {semaphores.id}) was opened before a fork and belongs to the parent process: "
            "open it again in the child"
        }
        assert semaphores.values == (0,)


async def test_that_it_was_zero_is_told_to_nobody_who_came_later() -> None:
    """Also if who has waited until then is cancelled: nothing has been taken that would be another's now."""
    with SemaphoreSet.create(None, values=[1]) as semaphores:
        member = semaphores[0]
        async with anyio.create_task_group() as group:
            first = Task(group, member.wait_for_zero)
            await until(lambda: member.waiting_for_zero == 1)
            second = Task(group, member.wait_for_zero)  # which has not begun yet
            member.acquire_nowait()
            while member.waiting_for_zero:  # its thread hears of it
                pass
            member.release()
            first.scope.cancel()
            await until(lambda: first.done.is_set() and (second.done.is_set() or member.waiting_for_zero == 1))
            assert not second.done.is_set()
            member.acquire_nowait()
            await second.done.wait()


async def test_what_was_done_as_the_handle_was_closed_is_told_whoever_leaves_first() -> None:
    with SemaphoreSet.create(None, values=[0, 0]) as semaphores, SemaphoreSet.open(id=semaphores.id) as handle:
        done = []

        async def hand_over() -> None:
            with suppress(aioipc.ClosedError):
                await handle.operate((0, -1), (1, 1))
                done.append(1)

        async with anyio.create_task_group() as group:
            first = Task(group, hand_over)
            await until(lambda: semaphores[0].waiting_for_nonzero == 1)
            second = Task(group, hand_over)
            await until(lambda: handle.statistics().tasks_waiting == 2)
            semaphores[0].release()  # so it has been done now, and nobody has heard of it
            second.scope.cancel()
            first.scope.cancel()
            handle.close()
        assert semaphores.values == (0, len(done)) == (0, 1)
