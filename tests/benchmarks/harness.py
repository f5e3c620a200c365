"""What the benchmarks share: rounds in turn, ratios with their bounds, peers on the other processor."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

PEERS = Path(__file__).parent.parent / "peers"
PROCESSORS = os.sched_getaffinity(0)
CLONE_NEWIPC = 0x08000000
MISSED: list[str] = []
"""The candidates over their bound; the program then ends with status 1."""

Measure = Callable[[], float]
"""One round: the seconds that one operation took."""

Measurement = Callable[[int], None]
"""Takes the number of rounds, and reports."""

LOOPS: dict[str, Callable[[Awaitable[float]], float]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}


def own_namespace() -> bool:
    """Move to an IPC namespace of our own, where limits can be raised, if that is allowed."""
    return os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWIPC) == 0


@contextmanager
def compiled(peer: str) -> Iterator[str]:
    """A program of tests/peers."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/{peer}"
        command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", str(PEERS / f"{peer}.c"), "-o", program, "-lrt"]
        subprocess.run(command, check=True)
        yield program


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a peer on the other processor.

    Left to itself the scheduler puts two processes that take turns on one processor or
    on two, as it likes, and a round trip takes ten microseconds or eighty.
    """
    process = subprocess.Popen(command, **options)
    os.sched_setaffinity(process.pid, {max(PROCESSORS)})
    return process


def report(title: str, bound: float, rounds: int, baseline: Measure, candidates: dict[str, Measure]) -> None:
    """Measure in turn, print each candidate's ratio to the baseline."""
    times: dict[str, list[float]] = {name: [] for name in ("baseline", *candidates)}
    for _ in range(rounds):
        times["baseline"].append(baseline())
        for name, measure in candidates.items():
            times[name].append(measure())
    base = statistics.median(times["baseline"])
    MISSED.extend(name for name in candidates if statistics.median(times[name]) / base > bound)
    for name in candidates:
        own = statistics.median(times[name])
        ratios = [a / b for a, b in zip(times[name], times["baseline"], strict=True)]
        print(
            f"{title + ', ' + name:<58} {own / base:5.2f} (bound {bound}, "
            f"rounds {min(ratios):.2f} to {max(ratios):.2f}; {own * 1e6:.2f} us against {base * 1e6:.2f} us)",
            flush=True,
        )


def report_speed(title: str, at_least: float, rounds: int, baseline: Measure, candidates: dict[str, Measure]) -> None:
    """Measure in turn, print how many times as fast as the baseline each candidate is."""
    times: dict[str, list[float]] = {name: [] for name in ("baseline", *candidates)}
    for _ in range(rounds):
        times["baseline"].append(baseline())
        for name, measure in candidates.items():
            times[name].append(measure())
    base = statistics.median(times["baseline"])
    for name in candidates:
        own = statistics.median(times[name])
        if base / own < at_least:
            MISSED.append(name)
        ratios = [a / b for a, b in zip(times["baseline"], times[name], strict=True)]
        print(
            f"{title + ', ' + name:<58} {base / own:5.1f} times as fast (bound {at_least}, "
            f"rounds {min(ratios):.1f} to {max(ratios):.1f}; {own * 1e6:.2f} us against {base * 1e6:.2f} us)",
            flush=True,
        )


def report_idle(loop: str, processor_seconds: float) -> None:
    """Print what ten seconds of waiting took of the processor."""
    if processor_seconds > 0.01:
        MISSED.append("idle")
    print(f"{'idle for 10 s, ' + loop:<58} {processor_seconds * 1e3:5.2f} ms of processor time (bound 10)", flush=True)


def run(doc: str | None, measurements: tuple[Measurement, ...]) -> None:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", metavar="WORD", help="of " + ", ".join(m.__name__ for m in measurements))
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} processors")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # measure imports as users see them
    os.sched_setaffinity(0, {min(PROCESSORS)})
    for measurement in measurements:
        if arguments.only in measurement.__name__:
            measurement(arguments.rounds)
    sys.exit(1 if MISSED else 0)
