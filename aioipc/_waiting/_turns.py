"""What a task of asyncio awaits until it is its turn: a future, and how to make it done.

An ordinary callback of the loop would call `set_result`; then the loop goes round once more, and asks its selector for
what is known already, before the task runs.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

Turn = asyncio.Future[None]


def come(turn: Turn) -> None:
    """Take the next step of the task that awaits it, unless it is done already: cancelled, and the task about to hear.

    Called by the loop, and never within a task's step.
    """
    loop = turn.get_loop()
    callbacks: list[Any] = getattr(turn, "_callbacks", None) or []  # what asyncio's own repr of a future reads
    # Somebody else waits for its end, too; or nest_asyncio has patched the loop, and the step may run that.
    if len(callbacks) != 1 or hasattr(loop, "_nest_patched"):
        come_soon(turn)
        return
    ((wake_up, context),) = callbacks
    del callbacks
    try:
        if not turn.remove_done_callback(wake_up):
            return  # it was cancelled just now, by a signal handler
        turn.set_result(None)
    except asyncio.InvalidStateError:  # the same, a moment later; so nobody has been told
        loop.call_soon(wake_up, turn, context=context)
        return
    except BaseException:  # what a signal handler has raised
        if turn.done():
            loop.call_soon(wake_up, turn, context=context)
        else:
            turn.add_done_callback(wake_up, context=context)
        raise
    try:
        context.run(wake_up, turn)
    finally:
        # From 3.12 on what is raised in the step leads to this frame, and so it would lead to itself.
        del wake_up, context


def come_soon(turn: Turn) -> None:
    """Have the loop do so, unless it is done already."""
    with suppress(asyncio.InvalidStateError):
        turn.set_result(None)
