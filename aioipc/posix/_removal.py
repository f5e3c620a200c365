"""Turns of those who remove an object: to look what a name stands for, and to remove that, are two calls.

Between them another could remove the object too, and somebody make a new one, which the second call would take.
"""

from __future__ import annotations

import fcntl
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 0.25
"""How many seconds others are waited for.  A removal takes them some microseconds."""


@contextmanager
def turn(descriptor: int | None) -> Iterator[None]:
    """Keep others who remove the object, as this does, waiting until the block ends: flock(2).

    Whoever may open the object can lock it, for reasons of his own, and must not keep its owner from removing it: a
    lock that stays is passed over.  One that the user has by this descriptor is left as it is: it keeps others waiting
    as well, and a second one would take its place.

    :param descriptor: an open one of the object; None if it can't be opened: then it is removed without a turn
    """
    if descriptor is None or _has_lock(descriptor):
        yield
        return
    deadline = time.monotonic() + _PATIENCE
    while not _lock(descriptor) and time.monotonic() < deadline:
        time.sleep(0.001)
    try:
        yield
    finally:
        with suppress(OSError):  # not left to close(2): a child that was forked meanwhile would keep the lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _has_lock(descriptor: int) -> bool:
    """Whether it has a lock already: proc_pid_fdinfo(5).  False where that can't be seen."""
    try:
        # As bytes: a process that has given up its rights may not be able to load an encoding any more.
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            return any(line.startswith(b"lock:") and b"FLOCK" in line for line in file)
    except OSError:
        return False


def _lock(descriptor: int) -> bool:
    """Whether there is nobody to wait for."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the kernel has no locks left
        return True
    return True
