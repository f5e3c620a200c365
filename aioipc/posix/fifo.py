"""FIFOs, also called named pipes: mkfifo(3), fifo(7), pipe(7).

An open end has a descriptor, which the event loop watches.  To open one is another matter: the
kernel blocks until the other end is opened, so that a thread does it: see aioipc/_waiting/blocking.py.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Generic, TypeVar

from aioipc import _limits
from aioipc._arguments import check_mode
from aioipc._lifetime import AsyncLifetime
from aioipc._waiting import _interrupt
from aioipc._waiting.blocking import Calls
from aioipc._waiting.handle import Handle
from aioipc._waiting.workers import Call
from aioipc.errors import (
    Error,
    ExistsError,
    NotFoundError,
    WouldBlock,
    from_errno,
)
from aioipc.posix.fifo_ends import FifoEnd, FifoReader, FifoWriter

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


_End = TypeVar("_End", bound="FifoEnd")
_Path = str | os.PathLike[str]


class Fifo(AsyncLifetime):
    """A FIFO in the file system, usable as a path.  Make one with `create`; open its ends with `open_reader`
    and `open_writer`, which take any path.
    """

    _made_by = "{0}.create"
    path: str
    """Where it is, as an absolute path."""

    def __init__(self, path: str, place: int, *, remove: bool) -> None:
        """Not for use: see `create`."""
        self.path = _absolute(path)
        self._label = repr(path)
        self._removes = remove
        # A descriptor of the place in the file system.  As long as it is open, no file can be made
        # there that looks the same, with the same inode number.
        self._place = place
        self._file = os.fstat(place)
        self._handle = Handle(f"FIFO {path}")

    @classmethod
    def create(cls, path: _Path, *, mode: int = 0o600, exist_ok: bool = False, persist: bool = False) -> Self:
        """Create a FIFO: mkfifo(3).

        Leaving the `with` block removes the FIFO from the file system again, also one that
        was taken over, unless `persist` is true.  Ends that are open stay connected.

        :param path: where, in a folder that exists
        :param mode: permission bits, less those of the process's umask: 0o600 means nobody but this user
        :param exist_ok: take over the FIFO that exists, with its mode as it is
        :param persist: leave the FIFO in the file system
        :raises ExistsError: if there is something at this path, and it is not a FIFO or `exist_ok` is false
        :raises NotFoundError: if the folder does not exist
        :raises AccessError: if the folder may not be written
        :raises LimitError: if the process has no descriptor left
        :raises ValueError: if an argument can't be right
        """
        name = os.fsdecode(path)
        check_mode(mode)
        if not name or name.endswith("/"):
            # The kernel finds no place for it, or takes one for it that open(2) does not find.
            raise ValueError(f"the path {name!r} ends with a slash" if name else "the path is empty")
        place, is_new = _make_or_find(name, mode)
        is_fifo = _is_fifo(os.fstat(place))
        if not is_fifo or not (is_new or exist_ok):
            os.close(place)
            what = "a FIFO, perhaps left by a program that was killed: open its ends, or pass exist_ok=True"
            text = f"there is {what if is_fifo else 'something else than a FIFO'}"
            raise ExistsError(errno.EEXIST, text, name)
        return cls._make(name, place, remove=not persist, is_new=is_new)

    @staticmethod
    def open_reader(path: _Path, *, keep_open: bool = False) -> Opening[FifoReader]:
        """Open the end to read from, once somebody has opened the other: open(2) with O_RDONLY.

        The result can be awaited, or entered with `async with`, which closes it.  Cancelled, it is as
        if it had never been opened; if the other end was quicker than the cancellation, this one is
        open, and the cancellation is delivered at the task's next suspension.

        :param path: any path of a FIFO, whoever made it
        :param keep_open: do not wait, and do not end when the last writer goes: others may
            come.  This takes the right to write to the FIFO, too
        :raises NotFoundError: if there is nothing at this path
        :raises AccessError: if its mode and owner forbid it
        :raises LimitError: if the process has no descriptor left, or no thread can be started to wait
        :raises ValueError: if it is not a FIFO
        """
        return Opening(os.fsdecode(path), _open_both if keep_open else _open_reader)

    @staticmethod
    def open_writer(path: _Path) -> Opening[FifoWriter]:
        """Open the end to write to, once somebody has opened the other: open(2) with O_WRONLY.

        For the rest see `open_reader`.
        """
        return Opening(os.fsdecode(path), _open_writer)

    def __fspath__(self) -> str:
        return self.path

    def close(self) -> None:
        """Close the handle: close(2).  The FIFO stays: leaving the `with` block removes it, and so does `unlink`."""
        if not self._handle.closed:
            self._handle.closed = True
            os.close(self._place)

    def unlink(self) -> None:
        """Remove the FIFO from the file system: unlink(2).  Something else that is at its path is left alone.

        That is looked at just before: if two remove the same FIFO at once, and a third makes something at the path
        between, the slower one can take that.

        Works on a closed handle too, which can take another FIFO for its own, though, if that was made at
        the same path after this one had been removed: file systems use their numbers again.

        :raises NotFoundError: if this FIFO is not to be found at its path any more
        :raises AccessError: if the folder may not be written
        :raises RuntimeError: if it was inherited by a fork
        """
        self._handle.check_process()
        try:
            if not os.path.samestat(os.lstat(self.path), self._file):
                raise FileNotFoundError
            os.unlink(self.path)
        except FileNotFoundError:
            raise NotFoundError(errno.ENOENT, "the FIFO has been removed already", self.path) from None
        except OSError as error:
            raise _explain_folder(error, self.path) from None

    _remove_object = unlink


def _make_or_find(path: str, mode: int) -> tuple[int, bool]:
    """A descriptor of the place of what is at this path, and whether it is a new FIFO."""
    while True:
        try:
            os.mkfifo(path, mode)
            is_new = True
        except FileExistsError:
            is_new = False
        except FileNotFoundError:
            raise from_errno(errno.ENOENT, path, "the folder does not exist") from None
        except OSError as error:
            raise _explain_folder(error, path) from None
        try:
            # This opens neither the FIFO nor, if it is something else, that.
            return os.open(path, os.O_PATH | os.O_NOFOLLOW), is_new
        except FileNotFoundError:
            continue  # removed just now
        except OSError as error:
            if is_new:
                os.unlink(path)
            raise _explain(error, path) from None


class Opening(Awaitable[_End], AbstractAsyncContextManager[_End, None], Generic[_End]):
    """An end of a FIFO that is to be opened: `await` it, or enter it with `async with`."""

    def __init__(self, path: str, open_end: Callable[[str], Awaitable[_End]]) -> None:
        """Not for use: see `Fifo`."""
        self._path = path
        self._open_end = open_end
        self._end: _End | None = None
        self._is_used = False

    def __await__(self) -> Generator[None, None, _End]:
        return self._open().__await__()

    async def _open(self) -> _End:
        if self._is_used:
            raise RuntimeError(f"this opening of FIFO {self._path} has been awaited or entered before: make another")
        self._is_used = True
        return await self._open_end(self._path)

    async def __aenter__(self) -> _End:
        self._end = await self._open()
        return self._end

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._end is not None:
            self._end.close()


async def _open_reader(path: str) -> FifoReader:
    return FifoReader._make(path, await _opened(path, os.O_RDONLY))


async def _open_writer(path: str) -> FifoWriter:
    return FifoWriter._make(path, await _opened(path, os.O_WRONLY))


async def _open_both(path: str) -> FifoReader:
    # By one call: from one to the next the path can become that of another FIFO.
    return FifoReader._make(path, _Open(path, os.O_RDWR).at_once())


async def _opened(path: str, flags: int) -> int:
    handle = Calls(f"FIFO {path}")
    line = handle.line("open", lambda: _Open(path, flags))
    try:
        descriptor: int = await line.perform(line.call)
    finally:
        handle.close()
    os.set_blocking(descriptor, False)
    return descriptor


class _Open(Call[int]):
    """open(2) of one end."""

    def __init__(self, path: str, flags: int) -> None:
        self._path = path
        self._flags = flags

    def __call__(self) -> int:
        if self._flags == os.O_RDONLY:
            # Without waiting it would succeed in any case, and so would writers from then on.
            self._check()
            raise WouldBlock
        return self.at_once()

    def at_once(self) -> int:
        """Open it without waiting."""
        try:
            return self._open(self._flags | os.O_NONBLOCK)
        except InterruptedError:
            return self.at_once()

    def block(self) -> int:
        return self._open(self._flags)

    def revoke(self, result: int) -> bool:
        return False  # the peer's open(2) has returned, and it may have written, or closed its end

    def discard(self, result: int) -> None:
        os.close(result)

    def _open(self, flags: int) -> int:
        # Not of what it is not meant for: to open a terminal or a tape has effects.
        self._check()
        try:
            descriptor: int = _interrupt.open(self._path, flags)
        except InterruptedError:
            raise
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise WouldBlock(f"nobody has FIFO {self._path} open for reading") from None
            raise _explain(error, self._path) from None
        try:
            self._check(descriptor)  # it may have been replaced just now
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, file: int | None = None) -> None:
        try:
            found = os.stat(self._path if file is None else file)
        except OSError as error:
            raise _explain(error, self._path) from None
        if not _is_fifo(found):
            raise ValueError(f"{self._path} is not a FIFO")


def _explain(error: OSError, path: str) -> Error:
    if error.errno == errno.ENOENT:
        return from_errno(error.errno, path, "there is no FIFO at this path; Fifo.create() makes one")
    if error.errno == errno.EACCES:
        text = f"owner and mode of the FIFO, or of a folder on the way to it, do not let user {os.geteuid()} open it so"
        return from_errno(error.errno, path, text)
    return from_errno(error.errno or 0, path)


def _explain_folder(error: OSError, path: str) -> Error:
    """What an error means of a call that changes the folder: mkfifo(3), unlink(2)."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return from_errno(error.errno, path, f"owner and mode of the folder do not let user {os.geteuid()} do this")
    if error.errno == errno.ENOSPC:
        limit = _limits.explain_folder(os.path.dirname(_absolute(path)))
        return from_errno(error.errno, path, f"no room for one more file in {limit}")
    return from_errno(error.errno or 0, path)


def _absolute(path: str) -> str:
    # os.path.abspath() makes another path of `link/..`.
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def _is_fifo(file: os.stat_result) -> bool:
    return stat.S_ISFIFO(file.st_mode)
