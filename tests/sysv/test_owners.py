"""Owners of System V objects that the kernel refuses."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from functools import partial

import pytest
from conftest import in_child

import aioipc
from aioipc.sysv import MessageQueue, SemaphoreSet, SharedMemory

CLONE_NEWUSER = 0x10000000


@pytest.mark.parametrize(
    "create",
    [
        pytest.param(partial(MessageQueue.create, None), id="queue"),
        pytest.param(partial(SemaphoreSet.create, None, values=[1]), id="set"),
        pytest.param(partial(SharedMemory.create, None, size=1), id="segment"),
    ],
)
def test_an_owner_that_a_user_namespace_does_not_know(
    create: Callable[[], MessageQueue | SemaphoreSet | SharedMemory],
) -> None:
    def change() -> int | None:
        if ctypes.CDLL(None).unshare(CLONE_NEWUSER) != 0:  # in which nobody is known at first
            return None
        with create() as made, pytest.raises(aioipc.KernelError, match="unknown in this user namespace") as caught:
            made.change(mode=0o640)
        return caught.value.errno

    found = in_child(change)
    if found is None:
        pytest.skip("a user namespace of one's own is not to be had here")
    assert found == errno.EINVAL
