"""Lexical lifetimes: what `with` means for an object that lives in the system."""

from __future__ import annotations

import warnings
from abc import ABC, ABCMeta, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypeVar

from anyio.abc import ObjectStream

from aioipc.errors import ClosedError, Error, ExistsError, NotFoundError, RemovedError

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
        raise TypeError(cls._refusal())

    @property
    def __signature__(cls) -> NoReturn:
        """There is none, which inspect.signature() and help() would take from `__call__`.

        :raises ValueError: always, as inspect.signature() does of what has none
        """
        raise ValueError(cls._refusal())

    def _refusal(cls) -> str:
        return f"{cls.__name__} can't be called: use {cls._made_by.format(cls.__name__)}"


class Lifetime(metaclass=Made):
    """A handle whose `with` block ends with the removal of the object if it created that, and with `close`."""

    _made_by: ClassVar[str] = "{0}.create or {0}.open"

    _handle: Handle
    """What an `__init__` sets when it has taken what was opened: `close` works from then on."""
    _label: str
    """What tells it from others of its kind: a name or a key."""
    _removes: bool
    """Whether leaving the block removes the object."""

    @classmethod
    def _make(cls, *arguments: Any, is_new: bool = False, **options: Any) -> Self:
        """A handle of what was opened.  If a subclass lets none be made, that is closed.

        :param is_new: whether the object was created for this handle; then it is removed as well
        :raises TypeError: if the class is abstract
        """
        handle = None
        try:
            if missing := ", ".join(sorted(cls.__abstractmethods__)):  # what is written in C does not look
                raise TypeError(f"{cls.__name__} is abstract: it lacks {missing}")
            handle = cls.__new__(cls, *arguments, **options)
            handle.__init__(*arguments, **options)  # type: ignore[misc]
        except BaseException:
            with suppress(Error):  # what went wrong at first tells more
                cls._unmake(handle, is_new, *arguments, **options)
            raise
        return handle

    @classmethod
    def _unmake(cls, handle: Self | None, is_new: bool, *arguments: Any, **options: Any) -> None:
        """Undo the opening of an object, without what the subclass has not made ready.

        :param handle: what there is of one
        """
        own = next(kind for kind in cls.__mro__ if issubclass(kind, Lifetime) and _is_own(kind))
        if not hasattr(handle, "_handle"):  # nobody has taken what was opened
            handle = type.__call__(own, *arguments, **options)
        assert handle is not None
        try:
            if is_new:
                own._remove_object(handle)  # noqa: SLF001
        finally:
            own.close(handle)

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
        """:raises ClosedError: if it is closed"""
        if not self._handle.inherited:  # which can only be closed
            self._handle.check()
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
            try:
                if not handle.inherited:
                    warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:  # also if warnings are errors
                self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be pickled or copied: let the other process open it by its name or id")

    def __repr__(self) -> str:
        kind = type(self)
        place = kind.__module__.rpartition(".")[0] if _is_own(kind) else kind.__module__
        prefix = "" if place == "__main__" else f"{place}."
        state = "closed" if self._handle.closed else "open"
        return f"<{prefix}{kind.__qualname__} {self._label} {state}>"


def _is_own(kind: type) -> bool:
    """Whether a class is this package's."""
    return kind.__module__.startswith("aioipc.")


class AsyncLifetime(Lifetime):
    """One whose `async with` means the same."""

    async def aclose(self) -> None:
        """Do what `close` does, at once."""
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

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
