"""Turns of those who remove the same object: see aioipc/posix/_removal.py."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any

import posix_ipc
import pytest
from conftest import as_nobody, no_descriptor_left

import aioipc
from aioipc import Channel
from aioipc.posix import MessageQueue, Semaphore, SharedMemory, _calls, _removal

KINDS: dict[str, tuple[Callable[[str], Any], Any]] = {
    "MessageQueue": (MessageQueue.create, _calls),
    "Semaphore": (Semaphore.create, os),
    "SharedMemory": (lambda name: SharedMemory.create(name, size=1), os),
    "Channel": (Channel.create, os),
}
"""What makes an object, and where the unlink() is that removes it."""


def open_once_more(name: str, handle: Any) -> IO[bytes]:
    if isinstance(handle, MessageQueue):
        return open(os.dup(posix_ipc.MessageQueue(name).mqd), "rb")
    return open(f"/dev/shm/{'sem.' if isinstance(handle, Semaphore) else ''}{name[1:]}", "rb")


class WaitingError(Exception):
    """Somebody has begun to wait."""


def wait(seconds: float) -> None:
    raise WaitingError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("closed", [False, True])
def test_what_is_made_while_two_remove_the_same_is_left_alone(
    name: str, kind: str, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has looked what has the name, and not removed it yet: if the second did, and made another, ..."""

    def meanwhile(path: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(calls, "unlink", unlink)
            patch.setattr(time, "sleep", wait)
            with pytest.raises(WaitingError):
                second.unlink()
        monkeypatch.undo()
        unlink(path)

    make, calls = KINDS[kind]
    unlink = calls.unlink
    with ExitStack() as stack:
        first = stack.enter_context(make(name))
        second = stack.enter_context(type(first).open(name))
        if closed:
            first.close()
            second.close()
        monkeypatch.setattr(calls, "unlink", meanwhile)
        first.unlink()
        with make(name):
            for handle in (first, second):
                with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
                    handle.unlink()
            type(first).open(name).close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_stays_does_not_keep_an_object(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read it can have one."""
    with KINDS[kind][0](name) as handle:
        monkeypatch.setattr(_removal, "_PATIENCE", 0)
        with open_once_more(name, handle) as other:
            fcntl.flock(other, fcntl.LOCK_SH)
            handle.unlink()
        with pytest.raises(aioipc.NotFoundError):
            type(handle).open(name)


@pytest.mark.parametrize("kind", KINDS)
def test_removal_takes_no_descriptor(name: str, kind: str) -> None:
    handle = KINDS[kind][0](name)
    handle.close()
    with no_descriptor_left():
        handle.unlink()
    with pytest.raises(aioipc.NotFoundError):
        type(handle).open(name)


def test_removal_takes_no_right_to_read(name: str) -> None:
    def create_and_leave() -> None:
        with SharedMemory.create(name, size=1, mode=0):
            pass

    as_nobody(create_and_leave)
    assert not os.path.exists("/dev/shm" + name)


@pytest.mark.parametrize("lock", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_lock_that_the_user_has_by_the_handle_stays(name: str, lock: int) -> None:
    with MessageQueue.create(name, max_messages=1, max_message_size=16) as queue, MessageQueue.open(name) as other:
        fcntl.flock(queue.fileno(), lock)
        queue.unlink()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_lock_stays(name: str) -> None:
    with MessageQueue.create(name, max_messages=1, max_message_size=16) as queue, MessageQueue.open(name) as other:
        queue.unlink()
        fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
