"""System V semaphore sets: bad input, limits reached, owners and modes, and words that help."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio
import pytest
from conftest import NOBODY, as_nobody, in_own_namespace, in_proc, until

import aioipc
from aioipc.sysv import SemaphoreSet

SEMMSL, SEMMNS, SEMOPM, SEMMNI = map(int, Path("/proc/sys/kernel/sem").read_text().split())
RAISE = 'with `sysctl -w kernel.sem="SEMMSL SEMMNS SEMOPM SEMMNI"` as root)'


# Arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"values": []}, ValueError, "at least one semaphore"),
        ({"values": [-1]}, ValueError, "value -1 must be 0 to 32,767"),
        ({"values": [1, 32768]}, ValueError, "value 32768 must be 0 to 32,767"),
        ({"values": [2**70]}, ValueError, "must be 0 to 32,767"),
        ({"values": ["1"]}, TypeError, "str"),
        ({"values": "11"}, TypeError, "str"),
        ({"values": [1.5]}, TypeError, "float"),
        ({"values": 3}, TypeError, "values must be a sequence of integers, not int"),
        ({}, TypeError, "values"),
        ({"values": [1], "mode": 0o1000}, ValueError, "permission bits"),
        ({"values": [1], "mode": "rw"}, TypeError, "str"),
    ],
)
def test_arguments_of_create(key: int, options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SemaphoreSet.create(key, **options)
    with pytest.raises(aioipc.NotFoundError):
        SemaphoreSet.open(key)


@pytest.mark.parametrize(
    ("operations", "error", "words"),
    [
        ([], ValueError, "at least one operation"),
        ([(2, -1)], IndexError, "semaphore 2 of a set of 2"),
        ([(-1, -1)], IndexError, "semaphore -1 of a set of 2"),
        ([(0, -1), (2**40, -1)], IndexError, "semaphore 1099511627776 of a set of 2"),
        ([(0, 32768)], ValueError, "amount 32768 must be -32,768 to 32,767"),
        ([(0, -32769)], ValueError, "amount -32769 must be -32,768 to 32,767"),
        ([(0, "1")], TypeError, "str"),
        ([(0, 1.5)], TypeError, "float"),
        ([("0", 1)], TypeError, "str"),
        ([(0.5, 1)], TypeError, "float"),
        ([0, -1], TypeError, "int"),
        ([(0,)], ValueError, "must be a tuple of two integers"),
        ([[0, -1]], TypeError, "must be tuples of two integers, .*, each an argument of its own"),
    ],
)
def test_arguments_of_operate(operations: list[tuple[int, int]], error: type[Exception], words: str) -> None:
    with SemaphoreSet.create(None, values=[5, 5]) as semaphores:
        for operate in (semaphores.operate_nowait, lambda *operations: semaphores.operate(*operations).send(None)):
            with pytest.raises(error, match=words):
                operate(*operations)
        assert semaphores.values == (5, 5)


@pytest.mark.parametrize(
    ("amount", "error"), [(0, ValueError), (-1, ValueError), (32768, ValueError), ("1", TypeError), (1.5, TypeError)]
)
def test_amounts_of_a_member(amount: int, error: type[Exception]) -> None:
    with SemaphoreSet.create(None, values=[5]) as semaphores:
        for use in (
            semaphores[0].acquire_nowait,
            semaphores[0].release,
            lambda amount: semaphores[0].acquire(amount).send(None),
        ):
            with pytest.raises(error):
                use(amount)
        assert semaphores.values == (5,)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ([], ValueError, "0 values for a set of 2"),
        ([1], ValueError, "1 values for a set of 2"),
        ([1, 2, 3], ValueError, "3 values for a set of 2"),
        ([1, 32768], ValueError, "value 32768 must be"),
        ([1, -1], ValueError, "value -1 must be"),
        ([1, "2"], TypeError, "str"),
    ],
)
def test_values(values: list[int], error: type[Exception], words: str) -> None:
    with SemaphoreSet.create(None, values=[5, 5]) as semaphores:
        with pytest.raises(error, match=words):
            semaphores.values = values
        if len(values) == 2:
            with pytest.raises(error, match=words):
                semaphores[1].value = values[1]
        assert semaphores.values == (5, 5)


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"mode": 0o1000}, ValueError), ({"owner": -1}, ValueError), ({"group": "no such group"}, aioipc.NotFoundError)],
)
def test_arguments_of_change(changes: dict[str, object], error: type[Exception]) -> None:
    with SemaphoreSet.create(None, values=[1]) as semaphores:
        before = semaphores.statistics()
        with pytest.raises(error):
            semaphores.change(**{"mode": 0o666} | changes)
        assert semaphores.statistics() == before


# Owners and modes ---------------------------------------------------------------------------


def test_change() -> None:
    if os.geteuid() != 0:
        pytest.skip("it takes root to give a set to somebody else")
    with SemaphoreSet.create(None, values=[1]) as semaphores:
        assert in_proc("sem", semaphores.id)["perms"] == semaphores.statistics().mode == 0o600
        semaphores.change(mode=0o640)
        semaphores.change(owner=NOBODY, group=12345)
        row, statistics = in_proc("sem", semaphores.id), semaphores.statistics()
        assert (row["uid"], row["gid"], row["cuid"], row["cgid"], row["perms"]) == (NOBODY, 12345, 0, 0, 0o640)
        assert (statistics.owner, statistics.group, statistics.mode) == (NOBODY, 12345, 0o640)
        assert (statistics.creator, statistics.creator_group) == (0, 0)
        semaphores.change(owner="root", group="root")
        assert (semaphores.statistics().owner, semaphores.statistics().group) == (0, 0)
        assert semaphores.values == (1,)


def test_another_user_may_not(key: int) -> None:
    with SemaphoreSet.create(key, values=[1]) as semaphores:
        for use in (
            lambda: SemaphoreSet.open(key),
            lambda: SemaphoreSet.open(id=semaphores.id),
            lambda: SemaphoreSet.create(key, values=[1], exist_ok=True),
        ):
            with pytest.raises(aioipc.AccessError, match=f"owner and mode .* do not let user {NOBODY}") as caught:
                as_nobody(use)
            assert caught.value.errno == errno.EACCES
        with pytest.raises(aioipc.AccessError, match="only its owner, its creator or root may remove it") as caught:
            as_nobody(SemaphoreSet.remove, lambda: SemaphoreSet.open(key))
        assert caught.value.errno == errno.EPERM
        assert semaphores.values == (1,)


def refused(uses: list[Callable[[], object]], words: str) -> None:
    for use in uses:
        with pytest.raises(aioipc.AccessError, match=words):
            use()


def test_another_user_may_what_the_mode_says(key: int) -> None:
    def look_only() -> None:
        with SemaphoreSet.open(key) as own, SemaphoreSet.open(id=own.id) as same:
            assert own.values == same.values == (1, 0)
            assert own.statistics().mode == 0o604
            anyio.run(own[1].wait_for_zero)
            refused(
                [
                    own[0].acquire_nowait,
                    own[0].release,
                    partial(anyio.run, own[0].acquire),
                    partial(anyio.run, own.operate, (0, -1), (1, 0)),
                    lambda: setattr(own[0], "value", 5),
                    lambda: setattr(own, "values", [5, 5]),
                ],
                f"do not let user {NOBODY}",
            )
            refused([partial(own.change, mode=0o666), partial(own.change, owner=NOBODY), own.remove], "only its owner")

    def use() -> None:
        with SemaphoreSet.open(key) as own:
            own[0].acquire_nowait()
            own[1].value = 7
            refused([partial(own.change, mode=0o666), own.remove], "only its owner")

    with SemaphoreSet.create(key, values=[1, 0], mode=0o604) as semaphores:
        as_nobody(look_only)
        assert semaphores.values == (1, 0)
        semaphores.change(mode=0o606)
        as_nobody(use)
        assert semaphores.values == (0, 7)


# Limits -----------------------------------------------------------------------------------------


def test_semmsl(key: int) -> None:
    with pytest.raises(aioipc.LimitError) as caught:
        SemaphoreSet.create(key, values=[0] * (SEMMSL + 1))
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, f"key {key:#x}")
    assert caught.value.strerror == (
        f"a set of {SEMMSL + 1:,} semaphores is over SEMMSL ({SEMMSL:,} now; raise it, number 1 of four, {RAISE}"
    )


def test_the_largest_set() -> None:
    def create() -> tuple[int, int]:
        with SemaphoreSet.create(None, values=[7] * 20) as semaphores:
            assert semaphores.values == (7,) * 20
            with pytest.raises(aioipc.LimitError) as caught:
                SemaphoreSet.create(None, values=[7] * 21)
            assert "a set of 21 semaphores is over SEMMSL (20 now; " in caught.value.strerror
            return len(semaphores), caught.value.errno

    assert in_own_namespace(create, sem="20 1000 10 10") == (20, errno.EINVAL)


def test_semopm() -> None:
    with SemaphoreSet.create(None, values=[0]) as semaphores:
        semaphores.operate_nowait(*[(0, 1)] * SEMOPM)
        assert semaphores.values == (SEMOPM,)
        for operate in (semaphores.operate_nowait, lambda *operations: semaphores.operate(*operations).send(None)):
            with pytest.raises(aioipc.LimitError) as caught:
                operate(*[(0, -1)] * (SEMOPM + 1))
            assert caught.value.errno == errno.E2BIG
            assert caught.value.strerror == (
                f"{SEMOPM + 1:,} operations at once are over "
                f"SEMOPM ({SEMOPM:,} now; raise it, number 3 of four, {RAISE}"
            )
        assert semaphores.values == (SEMOPM,)


def test_semvmx() -> None:
    with SemaphoreSet.create(None, values=[32767, 32766]) as semaphores:
        for use in (
            semaphores[0].release,
            partial(semaphores.operate_nowait, (0, 1)),
            partial(semaphores[1].release, 2),
            lambda: semaphores.operate((1, 1), (0, 1)).send(None),
        ):
            with pytest.raises(aioipc.LimitError, match=r"would pass SEMVMX \(32,767\), which is fixed") as caught:
                use()
            assert caught.value.errno == errno.ERANGE
        assert semaphores.values == (32767, 32766)


def test_what_undo_can_not_note() -> None:
    with SemaphoreSet.create(None, values=[32767], undo=True) as semaphores:
        semaphores[0].acquire_nowait(32767)
        semaphores[0].release(1, undo=False)
        with pytest.raises(aioipc.LimitError, match="what undo has to note, would pass SEMVMX") as caught:
            semaphores[0].acquire_nowait(1)
        assert caught.value.errno == errno.ERANGE
        assert semaphores.values == (1,)
        semaphores[0].acquire_nowait(1, undo=False)


@pytest.mark.anyio
async def test_a_limit_met_while_one_waits() -> None:
    """Who waits for zero and wants to add: the value passes SEMVMX only when the wait is over."""

    async def expect_limit() -> None:
        with pytest.raises(aioipc.LimitError, match="SEMVMX"):
            await semaphores.operate((0, 0), (1, 1))
        failed.append(True)

    failed: list[bool] = []
    with SemaphoreSet.create(None, values=[1, 32767]) as semaphores:
        async with anyio.create_task_group() as group:
            group.start_soon(expect_limit)
            await until(lambda: semaphores.statistics().waiting_for_zero == (1, 0))
            assert not failed
            await semaphores[0].acquire()
        assert failed
        assert semaphores.values == (0, 32767)


@pytest.mark.parametrize(
    ("limits", "words"),
    [("100 1000 10 3", "SEMMNI (3 now; raise it, number 4 of four"), ("100 6 10 99", "SEMMNS (6 now")],
    ids=["SEMMNI", "SEMMNS"],
)
def test_as_many_sets_or_semaphores_as_the_system_allows(limits: str, words: str) -> None:
    def one_too_many() -> None:
        with ExitStack() as stack:
            for number in range(4):
                stack.enter_context(SemaphoreSet.create(number or None, values=[1, 1]))

    with pytest.raises(aioipc.LimitError) as caught:
        in_own_namespace(one_too_many, sem=limits)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "key 0x3")
    assert words in caught.value.strerror
    assert RAISE in caught.value.strerror
