"""System V queues, sets and segments: /proc/sysvipc, which lists all, and IPC_STAT for what that does not say."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from aioipc.errors import NotFoundError
from aioipc.inspect._records import SetMember, SysvMessageQueue, SysvSemaphoreSet, SysvSharedMemory
from aioipc.sysv import _calls

_DIRECTORY = "/proc/sysvipc"
_MODE, _REMOVED = 0o777, 0o1000  # SHM_DEST: see shmctl(2)


def message_queues() -> Iterator[SysvMessageQueue]:
    """All queues.

    :raises NotFoundError: if there is no /proc/sysvipc
    """
    for row in _rows("msg"):
        yield SysvMessageQueue(
            **_common(row, "msqid"),
            messages=row["qnum"],
            bytes=row["cbytes"],
            max_bytes=_max_bytes(row["msqid"]),
            last_send_pid=row["lspid"],
            last_receive_pid=row["lrpid"],
            sent_at=row["stime"] or None,
            received_at=row["rtime"] or None,
        )


def semaphore_sets() -> Iterator[SysvSemaphoreSet]:
    """All sets.

    :raises NotFoundError: if there is no /proc/sysvipc
    """
    for row in _rows("sem"):
        yield SysvSemaphoreSet(
            **_common(row, "semid"),
            size=row["nsems"],
            members=_members(row["semid"], row["nsems"]),
            operated_at=row["otime"] or None,
        )


def segments() -> Iterator[SysvSharedMemory]:
    """All segments.

    :raises NotFoundError: if there is no /proc/sysvipc
    """
    for row in _rows("shm"):
        yield SysvSharedMemory(
            **_common(row, "shmid"),
            size=row["size"],
            reserved=row["rss"],
            swapped=row["swap"],
            attached=row["nattch"],
            creator_pid=row["cpid"],
            last_pid=row["lpid"],
            attached_at=row["atime"] or None,
            detached_at=row["dtime"] or None,
            removed=bool(row["perms"] & _REMOVED),
        )


def _rows(kind: str) -> Iterator[dict[str, int]]:
    try:
        with open(f"{_DIRECTORY}/{kind}", encoding="ascii") as file:
            names, *lines = map(str.split, file)
    except FileNotFoundError:
        raise NotFoundError(errno.ENOENT, "the kernel does not list System V objects here", _DIRECTORY) from None
    for line in lines:
        yield {name: int(word, 8 if name == "perms" else 10) for name, word in zip(names, line, strict=True)}


def _common(row: dict[str, int], id: str) -> dict[str, Any]:
    return {
        "owner": row["uid"],
        "group": row["gid"],
        "mode": row["perms"] & _MODE,
        "changed_at": row["ctime"],
        # The id alone is used again, after some ten thousand others.
        "identity": (row[id], row["key"], row["cuid"], row.get("cpid", 0)),
        "key": row["key"],
        "id": row[id],
        "creator": row["cuid"],
        "creator_group": row["cgid"],
    }


def _max_bytes(id: int) -> int | None:
    try:
        return _calls.msg_stat(id)[8]
    except OSError:  # it may not be read, or is gone
        return None


def _members(id: int, size: int) -> tuple[SetMember, ...] | None:
    asked = (_calls.GETVAL, _calls.GETNCNT, _calls.GETZCNT, _calls.GETPID)
    try:
        return tuple(SetMember(*(_calls.semctl(id, number, what) for what in asked)) for number in range(size))
    except OSError:
        return None
