"""Kernel IPC as awaitables: the objects of POSIX and System V on asyncio, uvloop and trio."""

from aioipc import posix
from aioipc.errors import (
    AccessError,
    ClosedError,
    CorruptError,
    EndOfStream,
    Error,
    ExistsError,
    KernelError,
    LimitError,
    MessageTooLongError,
    NotFoundError,
    RemovedError,
    WouldBlock,
)

__all__ = [
    "AccessError",
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
    "posix",
]
