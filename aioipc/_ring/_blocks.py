"""Blocks in which a message is written or read where it lies in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from aioipc._ring._binding import Loan
    from aioipc._waiting.readiness import Direction


class _Block:
    """A block in which a message is written or read in place."""

    def __init__(self, line: Direction, attempt: Callable[[bool], Loan]) -> None:
        """Not for use: see `Channel.reserve` and `Channel.borrow`."""
        self._line = line
        self._attempt = attempt
        self._is_entered = False
        self._loan: Loan | None = None
        self._view: memoryview | None = None

    @contextmanager
    def _entering(self) -> Iterator[None]:
        if self._is_entered:
            raise RuntimeError("this block has been entered already, and not left: each `with` needs one of its own")
        self._is_entered = True
        try:
            yield
        except BaseException:
            self._is_entered = False
            raise

    def _enter(self, loan: Loan) -> memoryview:
        self._loan = loan
        self._view = memoryview(loan)
        return self._view

    def _exit(self, *, ends_well: bool) -> None:
        loan, self._loan = self._loan, None
        view, self._view = self._view, None
        self._is_entered = False
        if loan is None or view is None:
            return
        with suppress(BufferError):  # arrays made of it: the loan knows
            view.release()
        del view
        try:
            if ends_well and not loan.end():
                self._line.check()  # the channel was closed within the block, or this is a child of a fork
        finally:
            loan.undo()


class AsyncBlock(_Block, AbstractAsyncContextManager[memoryview, None]):
    """A block in which a message is written or read in place, for `async with`."""

    async def __aenter__(self) -> memoryview:
        with self._entering():
            return self._enter(await self._line.perform(self._attempt, True))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit(ends_well=exc_type is None)


class Block(_Block, AbstractContextManager[memoryview, None]):
    """A block in which a message is written or read in place, for `with`."""

    def __enter__(self) -> memoryview:
        with self._entering():
            return self._enter(self._line.perform_nowait(self._attempt, False))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit(ends_well=exc_type is None)
