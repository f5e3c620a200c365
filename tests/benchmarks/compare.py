"""This library beside everything that a user might take instead, on the same work, in the same run.

    python tests/benchmarks/compare.py [--quick] [--only WORDS] [--json FILE]

The candidates take turns: each round measures every one of them once, and what counts is the median of the rounds.
Messages cross the border of a process, and receivers compare them with what was sent.  A package that is not
installed is reported as missing.  As root it works in an IPC namespace of its own, where it may raise the limits of
queues.  report.py makes the tables and plots of the documentation from the JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import alone
import report
from candidate import Candidate, read_limit
from candidates import CANDIDATES
from candidates_others import PosixQueueInC, Program
from candidates_own import OwnPosixQueueToC
from processes import PROCESSORS, Failed, NotPossible
from transfers import Measured, round_trips, transfer

ROUNDS = 5
SIZES = (8, 64, 1024, 2**16, 2**20)
PEERS = Path(__file__).parent.parent / "peers"
PACKAGES = (
    *("aioipc", "posix-ipc", "sysv-ipc", "anyio", "uvloop"),
    *("pyzmq", "pynng", "faster-fifo", "iceoryx2", "aioprocessing"),
)
CLONE_NEWIPC = 0x08000000

Values = dict[str, float]
"""What one round found: "seconds" for one message or operation, and what else there is to tell."""


@dataclass
class Row:
    """A candidate at a work."""

    name: str
    kind: str
    """own, peer, or floor."""
    measure: Callable[[], Values]
    rounds: list[Values] = field(default_factory=list)
    missing: str | None = None
    failed: list[str] = field(default_factory=list)


@dataclass
class Table:
    """A work, and who does it."""

    key: str
    title: str
    rows: list[Row]
    rounds: int | None = None
    """How often, if not in all rounds."""


class Calibrated:
    """A measurement that is long enough to tell something, and no longer."""

    def __init__(self, run: Callable[[int], Measured], count: int, seconds: float) -> None:
        self.run, self.count, self.seconds = run, count, seconds
        self.is_calibrated = False

    def __call__(self) -> Values:
        measured = self.run(self.count)
        while not self.is_calibrated:
            self.is_calibrated = measured.seconds > self.seconds / 4 or self.count >= 10**6
            wanted = self.seconds / measured.seconds * self.count
            self.count = int(min(wanted, 30 * self.count, 10**6)) or 1
            if not self.is_calibrated or wanted > 1.5 * measured.messages:
                measured = self.run(self.count)
        values = {
            "seconds": measured.seconds / measured.messages,
            "processor_seconds": measured.processor_seconds / measured.messages,
        }
        if trips := sorted(measured.trips):
            for percent in (50, 99, 99.9):
                values[f"p{percent:g}"] = trips[int(len(trips) * percent / 100)] / 1e9
        return values


def row_of(candidate: Candidate, run: Callable[[int], Measured], count: int, seconds: float) -> Row:
    kind = "own" if candidate.own else "floor" if isinstance(candidate, Program) else "peer"
    return Row(candidate.name, kind, Calibrated(run, count, seconds), missing=candidate.missing())


def transfers(*, quick: bool) -> Iterator[Table]:
    seconds = 0.06 if quick else 0.3
    for size in (64, 2**16) if quick else SIZES:
        count = max(20, min(1000, 2**22 // size))
        rows = [row_of(one, partial(transfer, one, size), count, seconds) for one in CANDIDATES]
        if not quick:
            rows.append(Row("memcpy", "floor", partial(copy, size)))
        yield Table(f"one-way-{size}", f"One way, {report.bytes_text(size)}", rows)
    shapes = {"fan-in": (4, 1), "fan-out": (1, 4)}
    for key in shapes:
        if quick and key == "fan-out":
            continue
        senders, receivers = shapes[key]
        title = f"{senders} {'producers' if senders > 1 else 'producer'} to {receivers}, 64 B"
        runs = [(one, partial(transfer, one, 64, senders=senders, receivers=receivers)) for one in CANDIDATES]
        yield Table(key, title, [row_of(one, run, 1000, seconds) for one, run in runs])
    rows = [row_of(one, partial(round_trips, one, 8), 100, seconds) for one in CANDIDATES]
    for loop in ("asyncio", "uvloop"):
        own = OwnPosixQueueToC(loop)
        rows.append(row_of(own, partial(round_trips, own, 8, far=PosixQueueInC()), 100, seconds))
    yield Table("round-trip", "Round trip, 8 B", rows)


def copy(size: int) -> Values:
    """What memcpy takes."""
    count = max(10, 2**26 // size)
    command = [os.environ["AIOIPC_FLOOR"], "memory", "copy", str(size), str(count)]
    return {"seconds": int(subprocess.run(command, check=True, capture_output=True).stdout) / 1e9 / count}


def seconds_of(function: Callable[..., float], *arguments: Any) -> Callable[[], Values]:
    return lambda: {"seconds": function(*arguments)}


def others(*, quick: bool) -> Iterator[Table]:
    count = 300 if quick else 2000
    depth = min(read_limit("fs/mqueue/msg_max"), 2000)
    for kind, package in (("posix", "posix_ipc"), ("sysv", "sysv_ipc")):
        repeat = (2 if quick else 10) * 2000 // depth
        rows = [
            Row(f"{package}, bare loop", "floor", seconds_of(alone.take_from_full, kind, "bare", depth, repeat)),
            Row(f"aioipc.{kind}, async for", "own", seconds_of(alone.take_from_full, kind, "own", depth, repeat)),
        ]
        yield Table(f"take-{kind}", f"Take 8 B from a {package} queue that is never empty", rows)
    for kind, package in (("posix", "posix_ipc"), ("sysv", "sysv_ipc")):
        rows = [
            Row(f"{name} ({loop})", how_kind, seconds_of(alone.hand_over, kind, how, loop, count))
            for loop in ("asyncio", "uvloop")
            for name, how, how_kind in (
                (f"aioipc.{kind}", "own", "own"),
                (f"run_in_executor, {package}", "executor", "peer"),
            )
        ]
        yield Table(f"hand-over-{kind}", f"Hand-over of a {package} semaphore and back", rows)
    numbers = (1, 1000) if quick else (1, 10, 100, 1000)
    numbers = tuple(number for number in numbers if number + 4 <= read_limit("fs/mqueue/queues_max"))
    queue_rows = [Row(f"{n:,}", "own", seconds_of(alone.beside_queues, n, count)) for n in numbers]
    yield Table("queues", "Round trip through POSIX queues, one busy of so many waited for", queue_rows)
    task_rows = [
        Row(f"{n:,} ({loop})", "own", seconds_of(alone.among_tasks, n, loop, 10 * count))
        for loop in ("asyncio", "uvloop")
        for n in ((10, 10_000) if quick else (10, 100, 1000, 10_000))
    ]
    yield Table("tasks", "Wake one of so many tasks that wait for a POSIX queue", task_rows)
    idle_rows = [Row(loop, "own", seconds_of(alone.idle, loop, 1 if quick else 10)) for loop in ("asyncio", "uvloop")]
    yield Table("idle", "Processor time of 10 s with each kind of wait pending", idle_rows, rounds=1)
    imports = {name: f"import {name}" for name in ("asyncio, anyio", "aioipc")}
    imports["aioipc, all kinds"] = "from aioipc import *; from aioipc.posix import *; from aioipc.sysv import *"
    for name in ("multiprocessing", "zmq.asyncio", "pynng", "aioprocessing", "faster_fifo"):
        imports[name] = f"import {name}"
    import_rows = [
        Row(name, "own" if name.startswith("aioipc") else "peer", seconds_of(alone.importing, statement))
        for name, statement in imports.items()
    ]
    yield Table("import", "Import, beyond asyncio and anyio", import_rows)
    if not quick:
        names = [f"aioipc.posix.{name}" for name in ("MessageQueue", "Semaphore", "SharedMemory")]
        names += [f"aioipc.sysv.{name}" for name in ("MessageQueue", "SemaphoreSet", "SharedMemory")]
        names += ["aioipc.Channel", "posix_ipc.MessageQueue", "multiprocessing.Queue"]
        memory_rows = [
            Row(name, "own" if name.startswith("aioipc") else "peer", lambda name=name: {"bytes": alone.memory(name)})
            for name in names
        ]
        yield Table("memory", "Memory of this process for an open object", memory_rows, rounds=1)


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    packages = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    with open("/proc/cpuinfo") as lines:
        models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    limits = ("fs/mqueue/msg_max", "fs/mqueue/msgsize_max", "kernel/msgmax", "kernel/msgmnb")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "linux": platform.release().partition("-")[0],
        "machine": platform.machine(),
        "processor": ", ".join(sorted(models)) or "unknown",
        "processors": len(PROCESSORS),
        "packages": packages,
        "limits": {name: read_limit(name) for name in limits},
        "load before": os.getloadavg()[0],
    }


def raise_limits() -> None:
    """Make room for larger and more messages, if that is allowed."""
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWIPC) == 0:
        wanted = {"fs/mqueue/msg_max": 2000, "fs/mqueue/msgsize_max": 2**20, "fs/mqueue/queues_max": 2000}
        wanted |= {"kernel/msgmax": 2**20, "kernel/msgmnb": 2**22}
        for name, value in wanted.items():
            with suppress(OSError):
                Path("/proc/sys", name).write_text(str(value))


@contextmanager
def floor() -> Iterator[None]:
    """The program of blocking calls in C."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/floor"
        command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", str(PEERS / "floor.c"), "-o", program, "-lrt"]
        subprocess.run(command, check=True)
        os.environ["AIOIPC_FLOOR"] = program
        yield


class Progress:
    """A line of what is going on, on a terminal; else a line for each table."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()
        self.is_terminal = sys.stderr.isatty()

    def show(self, text: str, *, is_first: bool) -> None:
        elapsed = time.monotonic() - self.began
        left = f", about {elapsed / self.done * (self.total - self.done):.0f} s left" if self.done > 20 else ""
        if self.is_terminal:
            sys.stderr.write(f"\r\x1b[K{self.done / self.total:4.0%} {text}{left}")
        elif is_first:
            sys.stderr.write(f"{self.done / self.total:4.0%} {text}{left}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        if self.is_terminal:
            sys.stderr.write("\r\x1b[K")


def measure(tables: list[Table], rounds: int) -> None:
    """Let all candidates take turns."""
    progress = Progress(sum(len(table.rows) * (table.rounds or rounds) for table in tables))
    for number in range(rounds):
        for table in tables:
            if number >= (table.rounds or rounds):
                continue
            for index, row in enumerate(table.rows):
                progress.show(f"round {number + 1} of {rounds}: {table.title}: {row.name}", is_first=index == 0)
                if row.missing is None:
                    try:
                        row.rounds.append(row.measure())
                    except NotPossible as reason:
                        row.missing = str(reason)
                    except Failed as error:
                        row.failed.append(str(error).strip())
                progress.done += 1
    progress.clear()


def as_json(tables: Iterable[Table], rounds: int, *, quick: bool) -> dict[str, Any]:
    return {
        "environment": environment(),
        "rounds": rounds,
        "quick": quick,
        "tables": {
            table.key: {
                "title": table.title,
                "rows": {
                    row.name: {"kind": row.kind, "rounds": row.rounds, "missing": row.missing, "failed": row.failed}
                    for row in table.rows
                },
            }
            for table in tables
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, and less of it: two minutes")
    parser.add_argument("--rounds", type=int, help=f"how often everything is measured ({ROUNDS})")
    parser.add_argument("--only", default="", metavar="WORDS", help="the tables whose key has one of these words")
    parser.add_argument("--json", metavar="FILE", help="write what was found there")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else ROUNDS)
    raise_limits()
    with floor():
        tables = [*transfers(quick=arguments.quick), *others(quick=arguments.quick)]
        words = arguments.only.split(",")
        tables = [table for table in tables if any(word in table.key for word in words)]
        if not tables:
            parser.error("there is no such table")
        measure(tables, rounds)
    results = as_json(tables, rounds, quick=arguments.quick)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    print(report.text(results))
    own_failed = [row.name for table in tables for row in table.rows if row.kind == "own" and row.failed]
    sys.exit(1 if own_failed else 0)


if __name__ == "__main__":
    main()
