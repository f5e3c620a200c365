"""System V calls as the C library makes them, without aioipc: the view from outside."""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import c_char_p, c_int, c_long, c_size_t, c_void_p

IPC_CREAT = 0o1000
IPC_EXCL = 0o2000
IPC_NOWAIT = 0o4000
MSG_EXCEPT = 0o20000
SEM_UNDO = 0o10000
GETVAL = 12
_LONG = ctypes.sizeof(c_long)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.msgsnd.argtypes = [c_int, c_char_p, c_size_t, c_int]
_libc.msgrcv.argtypes = [c_int, c_void_p, c_size_t, c_long, c_int]
_libc.msgrcv.restype = ctypes.c_ssize_t


class _Sembuf(ctypes.Structure):
    _fields_ = [("number", ctypes.c_ushort), ("amount", ctypes.c_short), ("flags", ctypes.c_short)]


def _check(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def msgsnd(id: int, type: int, data: bytes, flags: int = IPC_NOWAIT) -> None:
    message = type.to_bytes(_LONG, sys.byteorder) + data
    _check(_libc.msgsnd(id, message, len(data), flags))


def msgrcv(id: int, type: int = 0, flags: int = IPC_NOWAIT, size: int = 8192) -> tuple[bytes, int]:
    room = ctypes.create_string_buffer(_LONG + size)
    received = _check(_libc.msgrcv(id, room, size, type, flags))
    return room.raw[_LONG : _LONG + received], int.from_bytes(room.raw[:_LONG], sys.byteorder)


def semop(id: int, *operations: tuple[int, int], flags: int = IPC_NOWAIT) -> None:
    packed = (_Sembuf * len(operations))(*((number, amount, flags) for number, amount in operations))
    _check(_libc.semop(id, packed, len(operations)))


def semget(key: int, count: int) -> int:
    """Make a set whose values are zero; its id."""
    return _check(_libc.semget(key, count, IPC_CREAT | IPC_EXCL | 0o600))


def semvalue(id: int, number: int) -> int:
    return _check(_libc.semctl(id, number, GETVAL))
