"""What a task of asyncio awaits until it is its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Self


class Turn(asyncio.Future[None]):
    """A future that can have the task which awaits it go on at once.

    After an ordinary one is done, the loop goes round once more before the task runs, and asks its selector.
    """

    # Kept from the callbacks that the loop is to call.
    _wake_up: Callable[[Any], object] | None = None
    _context: Context

    def add_done_callback(self, fn: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        """The first who asks is the task that awaits it; it always has a context."""
        if self._wake_up is None and context is not None and not self.done():
            self._wake_up, self._context = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def come(self) -> None:
        """Take the task's step.  Called by the loop, and never within a task's step."""
        wake_up = None
        try:
            self.set_result(None)
            wake_up, self._wake_up = self._wake_up, None
            if wake_up is not None:
                self._context.run(wake_up, self)
        finally:
            # From 3.12 on what is raised in the step leads to this frame; so it would lead to itself.
            wake_up = None
            self._wake_up_soon()

    def come_soon(self, error: Exception | None = None) -> None:
        """Have the loop take the task's step, with this error if there is one."""
        try:
            if error is None:
                self.set_result(None)
            else:
                self.set_exception(error)
        finally:
            self._wake_up_soon()

    def cancel(self, msg: Any = None) -> bool:
        try:
            return super().cancel(msg)
        finally:
            self._wake_up_soon()

    def _wake_up_soon(self) -> None:
        """Unless that has been done.  In a `finally` each time: signal handlers may raise anywhere."""
        if self._wake_up is not None and self.done():
            wake_up, self._wake_up = self._wake_up, None
            self.get_loop().call_soon(wake_up, self, context=self._context)
