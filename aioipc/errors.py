"""The exceptions of aioipc.

Each is a subclass of `Error` and of the built-in or anyio exception that a caller
would expect, so that `except FileNotFoundError` and `except anyio.WouldBlock` work
as they do elsewhere.  Those that come from the kernel carry its `errno`.
"""

from __future__ import annotations

import errno
import os

import anyio

from aioipc import _limits

__all__ = [
    "AccessError",
    "BrokenError",
    "ClosedError",
    "CorruptError",
    "EndOfStream",
    "Error",
    "ExistsError",
    "KernelError",
    "LimitError",
    "MessageTooLongError",
    "NotFoundError",
    "RemovedError",
    "WouldBlock",
]


class Error(Exception):
    """The base of all exceptions that aioipc defines."""


class NotFoundError(Error, FileNotFoundError):
    """No object has this name, key or id (ENOENT)."""


class ExistsError(Error, FileExistsError):
    """An object with this name or key exists already (EEXIST)."""


class AccessError(Error, PermissionError):
    """The mode and owner of the object, or the way it was opened, forbid this (EACCES, EPERM, EBADF)."""


class MessageTooLongError(Error, ValueError):
    """The message is longer than the object takes (EMSGSIZE)."""

    errno = errno.EMSGSIZE


class LimitError(Error, OSError):
    """A limit of the system, the user or the process is reached; the message names it and the way to raise it."""


class RemovedError(Error, OSError):
    """The object was removed from the system while the operation waited (EIDRM)."""


class CorruptError(Error, OSError):
    """What another process wrote into shared memory is not valid."""


class KernelError(Error, OSError):
    """The kernel refused for a reason that has no exception of its own here; see `errno`."""


class ClosedError(Error, anyio.ClosedResourceError):
    """The handle is closed, or was closed while the operation waited."""


class BrokenError(Error, anyio.BrokenResourceError):
    """Nobody is at the other end any more (EPIPE)."""

    errno = errno.EPIPE


class WouldBlock(Error, anyio.WouldBlock):  # noqa: N818, after anyio's
    """The operation would have to wait, and was asked not to (EAGAIN)."""

    errno = errno.EAGAIN


class EndOfStream(Error, anyio.EndOfStream):  # noqa: N818, after anyio's
    """There is no more to receive: the other side has ended the stream."""


_BY_ERRNO: dict[int, type[Error]] = {
    errno.ENOENT: NotFoundError,
    errno.EEXIST: ExistsError,
    errno.EACCES: AccessError,
    errno.EPERM: AccessError,
    errno.EIDRM: RemovedError,
    errno.EMFILE: LimitError,
    errno.ENFILE: LimitError,
    errno.ENOSPC: LimitError,
    errno.ENOMEM: LimitError,
}


def from_errno(number: int, filename: str, explanation: str | None = None) -> Error:
    """The exception for an error number of the kernel.

    `filename` is the name, key or path that the call was about; `explanation` takes
    the place of the C library's words where there is more to say.
    """
    if explanation is None and number in (errno.EMFILE, errno.ENFILE):
        explanation = f"no descriptor left: {_limits.explain_open_files(number)}"
    kind = _BY_ERRNO.get(number, KernelError)
    return kind(number, explanation or os.strerror(number), filename)
