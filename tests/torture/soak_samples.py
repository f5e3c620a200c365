"""What a process of the soak takes, and what objects there are: as seen from outside, in /proc and /dev/shm."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def of_process(pid: int) -> dict[str, int]:
    """What a process takes now.  Memory is in bytes."""
    process = Path(f"/proc/{pid}")
    parts = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
    return {
        "descriptors": len(os.listdir(process / "fd")),
        "threads": len(os.listdir(process / "task")),
        "mappings": (process / "maps").read_text().count("\n"),
        "memory": int((process / "statm").read_text().split()[1]) * PAGE,
        "shared memory": int(parts["Pss_Shmem"].split()[0]) * 1024,
    }


def of_system(names: Collection[str], keys: Collection[int], *, alone: bool) -> dict[str, int]:
    """How many objects there are that have one of these names or keys.

    :param alone: whether all in /dev/shm counts: the doorbells of channels have names of their own
    """
    files = os.listdir("/dev/shm")
    found = {"in /dev/shm": sum(alone or "/" + file.removeprefix("sem.") in names for file in files)}
    if (mqueue := mqueue_files()) is not None:
        found["POSIX queues"] = sum("/" + file in names for file in os.listdir(mqueue))
    for kind, what in (("msg", "System V queues"), ("sem", "System V sets"), ("shm", "System V segments")):
        rows = Path("/proc/sysvipc", kind).read_text().splitlines()[1:]
        found[what] = sum(int(row.split()[0]) in keys for row in rows)
    return found


def mqueue_files() -> Path | None:
    """Where an mqueue file system is mounted, if it is."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        words = line.split()
        if words[words.index("-") + 1] == "mqueue":
            return Path(words[4])
    return None
