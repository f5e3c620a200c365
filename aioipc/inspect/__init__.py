"""What IPC objects there are on this system, whoever made them, and how near its limits are.

Looking changes nothing: no object is created, joined, locked or written to.
"""

from __future__ import annotations

from aioipc.inspect._addresses import KINDS, Address, Kind, parse_address
from aioipc.inspect._finding import Gap, Listing, find, look, orphans
from aioipc.inspect._records import (
    Channel,
    Doorbell,
    Keyed,
    Named,
    Object,
    PosixMessageQueue,
    PosixSemaphore,
    PosixSharedMemory,
    SetMember,
    SysvMessageQueue,
    SysvSemaphoreSet,
    SysvSharedMemory,
)
from aioipc.inspect._usage import Limit, limits
from aioipc.inspect._users import Users, users

__all__ = [
    "KINDS",
    "Address",
    "Channel",
    "Doorbell",
    "Gap",
    "Keyed",
    "Kind",
    "Limit",
    "Listing",
    "Named",
    "Object",
    "PosixMessageQueue",
    "PosixSemaphore",
    "PosixSharedMemory",
    "SetMember",
    "SysvMessageQueue",
    "SysvSemaphoreSet",
    "SysvSharedMemory",
    "Users",
    "find",
    "limits",
    "look",
    "orphans",
    "parse_address",
    "users",
]
