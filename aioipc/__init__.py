"""Kernel IPC as awaitables: the objects of POSIX and System V on asyncio, uvloop and trio."""

from aioipc import posix, sysv
from aioipc._waiting.workers import set_interrupt_signal
from aioipc.errors import (
    AccessError,
    BrokenError,
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
    "posix",
    "set_interrupt_signal",
    "sysv",
]
