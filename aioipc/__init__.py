"""Kernel IPC as awaitables: the objects of POSIX and System V on asyncio, uvloop and trio."""

from typing import TYPE_CHECKING

from aioipc import _lazy, posix, sysv
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

if TYPE_CHECKING:
    from aioipc.channel import Channel, ChannelStatistics
else:
    __getattr__, __dir__ = _lazy.names_of(__name__, channel=("Channel", "ChannelStatistics"))

__all__ = [
    "AccessError",
    "BrokenError",
    "Channel",
    "ChannelStatistics",
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
