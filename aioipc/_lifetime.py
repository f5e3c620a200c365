"""Lexical lifetimes: what `with` means for an object that lives in the system."""

from __future__ import annotations

import warnings
from abc import ABC, ABCMeta, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from anyio.abc import ObjectStream

from aioipc.errors import ClosedError, ExistsError, NotFoundError, RemovedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Any, NoReturn, Self

    from aioipc._waiting.handle import Handle


_T = TypeVar("_T")


def create_or_find(create: Callable[[], _T], find: Callable[[], _T], exist_ok: bool) -> tuple[_T, bool]:
    """What `create` or `find` returns about an object, and whether it is a new one.

    :param create: creates one, or raises ExistsError; or RemovedError if others have removed it again
    :param find: finds one, or raises NotFoundError
    """
    while True:
        try:
            return create(), True
        except RemovedError:  # by somebody who had found it before it was complete
            continue
        except ExistsError:
            if not exist_ok:
                raise
        with suppress(NotFoundError):  # removed just now
            return find(), False


class Made(ABCMeta):
    """The type of classes that have other ways to be made than a call."""

    _made_by: str
    """These ways, with {0} where the name of the class is to be."""

    def __call__(cls, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"{cls.__name__} can't be called: use {cls._made_by.format(cls.__name__)}")

    def _make(cls: type[_T], *arguments: Any, **options: Any) -> _T:
        return cast("_T", type.__call__(cls, *arguments, **options))


class Lifetime(metaclass=Made):
    """A handle whose `with` block ends with the removal of the object if it created that, and with `close`."""

    _made_by: ClassVar[str] = "{0}.create or {0}.open"

    _handle: Handle
    _label: str
    """What tells it from others of its kind: a name or a key."""
    _removes: bool
    """Whether leaving the block removes the object."""

    @abstractmethod
    def close(self) -> None:
        """Close the handle; the object stays."""

    @abstractmethod
    def _remove_object(self) -> None:
        """Remove the object from the system.

        :raises NotFoundError: if it is gone
        :raises RemovedError: if it is gone
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._removes and not self._handle.inherited:
                with suppress(NotFoundError, RemovedError):
                    self._remove_object()
        finally:
            self.close()

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)  # None if it could not be made
        if handle is not None and not handle.closed:
            if not handle.inherited:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be pickled or copied: let the other process open it by its name or id")

    def __repr__(self) -> str:
        package = type(self).__module__.rpartition(".")[0]
        state = "closed" if self._handle.closed else "open"
        return f"<{package}.{type(self).__qualname__} {self._label} {state}>"


class AsyncLifetime(Lifetime):
    """One whose `async with` means the same."""

    async def aclose(self) -> None:
        """Do what `close` does, at once."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc_value, traceback)


class Messages(AsyncLifetime, ObjectStream[_T]):
    """A message queue: an anyio object stream without an end."""

    async def send_eof(self) -> None:
        """Not possible: a message queue has no end that a receiver could see.

        :raises NotImplementedError: always
        """
        raise NotImplementedError(
            "a message queue has no end of file: agree with the receivers on a message that means the end"
        )

    async def __anext__(self) -> _T:
        return await until_closed(self.receive)


async def until_closed(receive: Callable[[], Awaitable[_T]]) -> _T:
    """A step of an `async for`, which ends when the handle is closed."""
    try:
        return await receive()
    except ClosedError:
        raise StopAsyncIteration from None


class Acquirable(ABC):
    """What `async with` acquires for the length of a block."""

    @abstractmethod
    async def acquire(self) -> None:
        """Take one, waiting for it."""

    @abstractmethod
    def release(self) -> None:
        """Give one back."""

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
