"""The event loops: which one runs, and how to let it run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])

_whole: list[Callable[..., Any]] = []
"""What trio has not been told of yet."""


def whole(function: _F) -> _F:
    """Have Ctrl-C not come in the midst of a function, on trio, but as it waits or when it is over.

    It would be lost there what was taken already.  On asyncio Ctrl-C cancels, and nothing more.
    """
    _whole.append(function)
    return function


def protect_on_trio() -> None:
    """Tell trio of them.  It runs."""
    while _whole:
        sys.modules["trio"].lowlevel.enable_ki_protection(_whole.pop())


def running_loop() -> tuple[object, bool]:
    """What identifies the running event loop, and whether it is trio's.

    For trio that is its token, else it is the loop.

    :raises RuntimeError: if there is none
    """
    # trio first: in guest mode it runs inside another loop, maybe asyncio's.  It is not
    # imported here: a task of trio's can't be running in a process that has not done so.
    # The default stands for another thread that is about to import it.
    lowlevel = sys.modules.get("trio.lowlevel")
    in_trio_task = getattr(lowlevel, "in_trio_task", None)
    if lowlevel is not None and in_trio_task is not None and in_trio_task():
        return lowlevel.current_trio_token(), True
    return asyncio.get_running_loop(), False


async def let_the_loop_run() -> None:
    """Let the loop do its other work, and deliver a cancellation."""
    try:
        _, on_trio = running_loop()
    except RuntimeError:
        return  # driven without a loop, by hand: there is nobody to give way to
    if on_trio:
        await sys.modules["trio"].lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)
