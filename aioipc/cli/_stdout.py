"""The standard output as a descriptor: waiting for it, so that Ctrl-C ends that, and for whoever reads it to go."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reader_needed() -> Iterator[None]:
    """A block that ends, with BrokenPipeError, when nobody can read the output any more."""
    output = sys.stdout.fileno()
    # Of a writing end alone: that it can be read means an error, which is that nobody has the other one.
    is_writing_end = fcntl.fcntl(output, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    if not (is_writing_end and stat.S_ISFIFO(os.fstat(output).st_mode)):
        yield
        return
    task = asyncio.current_task()
    assert task is not None
    is_gone = False

    def leave() -> None:
        nonlocal is_gone
        is_gone = True
        task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_reader(output, leave)
    try:
        yield
    except asyncio.CancelledError:
        if is_gone:
            raise BrokenPipeError from None
        raise
    finally:
        loop.remove_reader(output)


async def write(data: bytes) -> None:
    """Write all of it, in pieces for which there is room, and keep nothing back that would be tried again in the end.

    :raises OSError: if that can't be done
    """
    sys.stdout.flush()
    output = sys.stdout.fileno()
    mode = os.fstat(output).st_mode
    waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(output)  # of others epoll(7) knows nothing
    left = memoryview(data)
    while left:
        if waits:
            await _room(output)
        try:
            left = left[os.write(output, left[: select.PIPE_BUF] if waits else left) :]
        except BlockingIOError:  # others have filled it, and O_NONBLOCK is set
            if not waits:
                raise


async def _room(output: int) -> None:
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_writer(output, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_writer(output)
