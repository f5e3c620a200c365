"""An event loop for a command, which Ctrl-C ends wherever it is, without a noise."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")


class Runner:
    """Runs coroutines, one after the other, in an event loop of its own.

    Between them Ctrl-C is a KeyboardInterrupt, as everywhere.  One that comes within the loop's own code would leave
    that half done, which is noisy, and `asyncio.Runner` lets it do so in some places: here the loop hears of it, or the
    signal waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, function: Callable[..., Coroutine[Any, Any, _T]], *arguments: Any) -> _T:
        """Run it to its end.  Ctrl-C cancels it.

        :raises KeyboardInterrupt: if that came meanwhile
        """
        is_interrupted = False

        def note(*_: object) -> None:
            nonlocal is_interrupted
            is_interrupted = True

        with _without_sigint() as mask:
            task = self._loop.create_task(function(*arguments))
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if the shell has it ignored
                self._loop.add_signal_handler(signal.SIGINT, task.cancel)
                signal.signal(signal.SIGINT, note)  # the loop hears of it nevertheless, by its descriptor
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return self._loop.run_until_complete(task)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                self._loop.remove_signal_handler(signal.SIGINT)
                del task  # asyncio hears of that by a callback of a weak reference, which can't raise
                if is_interrupted:
                    raise KeyboardInterrupt


@contextmanager
def event_loop() -> Iterator[Runner]:
    """A block with an event loop."""
    with _without_sigint():
        loop = asyncio.new_event_loop()
    try:
        yield Runner(loop)
    finally:
        with _without_sigint():
            loop.close()


@contextmanager
def _without_sigint() -> Iterator[set[signal.Signals]]:
    """A block in which SIGINT waits, with the mask of before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield mask  # type: ignore[misc]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
