"""What those who were killed have left: files that have no use any more, and objects."""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from kills_crowd import Crowd, Me
from world import World

from aioipc import inspect
from aioipc.inspect import _shm

SHM = Path("/dev/shm")


def rows_of(kind: str) -> list[list[str]]:
    """What the kernel says about all System V objects: key, id, and so on."""
    _, *lines = Path("/proc/sysvipc", kind).read_text().splitlines()
    return [line.split() for line in lines]


def note_bells(me: Me) -> None:
    """Have it write down the random number of each channel that it is about to create."""
    draw_one = secrets.randbits

    def randbits(count: int) -> int:
        number = draw_one(count)
        me.notes.words[me.notes.FIRST] += 1
        me.notes.words[me.notes.FIRST + me.notes.words[me.notes.FIRST]] = number
        return number

    secrets.randbits = randbits


def orphans() -> list[str]:
    _shm._SECONDS_TO_CREATE = -1
    return [bell.name for bell in inspect.orphans()]


def doorbells(crowd: Crowd) -> set[Path]:
    """Those of all channels that may have been made."""
    numbers: set[int] = set()
    for member in crowd.all:
        count, *noted = member.notes.words[member.notes.FIRST :]
        numbers.update(noted[:count])
    bells = {SHM / f"aioipc.{number:016x}.{bell}" for number in numbers for bell in ("messages", "room")}
    return {bell for bell in bells if bell.exists()}


def check_doorbells(world: World, bells: set[Path]) -> None:
    """They can be found, and removed."""
    assert bells <= {SHM / name[1:] for name in world.fork(orphans).result()}


def half_made_semaphores(crowd: Crowd) -> set[Path]:
    """The files of which the C library makes semaphores; a process that is killed in sem_open(3) leaves them."""

    def find() -> set[Path]:
        files = set()
        for path in SHM.iterdir():
            with suppress(FileNotFoundError):  # it has been removed just now
                if re.fullmatch(r"sem\.[A-Za-z0-9]{6}", path.name) and path.stat().st_ctime >= crowd.began:
                    files.add(path)
        return files

    found = find()
    if found:
        time.sleep(0.05)  # others may be in sem_open(3) just now
    return found & find()


def check_segments(crowd: Crowd) -> None:
    """None is left that these processes have created, with or without a key."""
    pids = {member.child.pid for member in crowd.all}
    assert [row for row in rows_of("shm") if int(row[4]) in pids] == []


def remove(paths: set[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
