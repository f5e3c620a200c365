"""A process whose loop must go on, whatever its neighbours do, and that must keep within its means."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from aioipc._ring import _deaths

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio", "backend_options": {"use_uvloop": False}},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
"""What anyio.run takes for each."""

SECONDS = 60
"""How long a round may take; it takes about one."""
BLOCKED = 2.0
"""Seconds between two turns of a task that has nothing to do: the loop was held up, be it at work or asleep."""
_SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""Nanoseconds on the processor, and waiting for it; a kernel need not keep them."""
_MEMORY = 2**30
"""Bytes that a process may come to use: far more than all messages."""


def responsive(loop: str, main: Callable[[Counter[str]], Awaitable[None]]) -> Counter[str]:
    """Run something on a loop that is watched; what it has counted, with the ticks of the loop.

    :raises AssertionError: if it has held up the loop, or left descriptors open
    :raises MemoryError: if it takes more memory than it can need
    """
    counts: Counter[str] = Counter()

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_tick, counts)
            await anyio.sleep(0.001)
            before = _descriptors()
            await main(counts)
            assert _descriptors() == before
            group.cancel_scope.cancel()

    _deaths.watch("")  # which the process keeps
    _limit_memory()
    anyio.run(run, **LOOPS[loop])
    return counts


async def _tick(counts: Counter[str]) -> None:
    while True:
        before = _own_time()
        await anyio.sleep(0.001)
        spent = _own_time() - before
        assert spent < BLOCKED, f"the loop was held up for {spent:.1f} s"
        counts["ticks"] += 1


def _own_time() -> float:
    """Seconds, but for those in which others had the processor that this thread was ready to run on."""
    in_queue = int(_SCHEDSTAT.read_text().split()[1]) if _SCHEDSTAT.exists() else 0
    return time.monotonic() - in_queue / 1e9


def _limit_memory() -> None:
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # which has terabytes of addresses
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))
