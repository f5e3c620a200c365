"""Functions run in processes of their own, that start what they measure at the same moment."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

CONTEXT = get_context("forkserver")  # a fork of a process that has imported what all need: faster than spawn
CONTEXT.set_forkserver_preload(["transfers", "alone", "uvloop"])
PROCESSORS = sorted(os.sched_getaffinity(0))
SECONDS = 60
"""What takes longer has failed."""

Job = Callable[["Barrier"], Any]
"""Gets a barrier for all jobs that are run together."""


class Failed(Exception):  # noqa: N818
    """Something could not be measured."""


class NotPossible(Failed):
    """A candidate does not do this."""


def _run(job: Job, barrier: Barrier, result: Connection, processor: int | None) -> None:
    try:
        if processor is not None:
            os.sched_setaffinity(0, {processor})
        outcome = job(barrier)
    except BaseException:  # noqa: BLE001 -- it is reported
        barrier.abort()
        result.send((traceback.format_exc(), None))
    else:
        result.send((None, outcome))


def perform(jobs: Sequence[Job]) -> list[Any]:
    """What the jobs return.

    One or two are bound to a processor each: left to itself the scheduler puts two processes that take turns on
    one processor or on two, as it likes, and a round trip takes ten microseconds or eighty.

    :raises Failed: if one raises, dies or hangs
    """
    processors = [PROCESSORS[0], PROCESSORS[-1]] if len(jobs) <= 2 else [None] * len(jobs)
    barrier = CONTEXT.Barrier(len(jobs))
    with ExitStack() as stack:
        readers = []
        for job, processor in zip(jobs, processors, strict=False):
            reader, writer = CONTEXT.Pipe(duplex=False)
            stack.enter_context(reader)
            with writer:
                process = CONTEXT.Process(target=_run, args=(job, barrier, writer, processor), daemon=True)
                process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            readers.append(reader)
        return _collect(readers)


def _collect(readers: list[Connection]) -> list[Any]:
    outcomes: dict[Connection, Any] = {}
    errors = []
    deadline = time.monotonic() + SECONDS
    while len(outcomes) < len(readers):
        ready = wait([reader for reader in readers if reader not in outcomes], max(0, deadline - time.monotonic()))
        if not ready:
            errors.append(f"it hung: nothing for {SECONDS} s")
            break
        for reader in ready:
            assert isinstance(reader, Connection)
            try:
                error, outcomes[reader] = reader.recv()
            except EOFError:
                error, outcomes[reader] = "a process died", None
            if error:
                errors.append(error)
                deadline = min(deadline, time.monotonic() + 1)  # for the others, who may say more
    if errors:
        raise Failed(min(errors, key=lambda error: "BrokenBarrierError" in error))
    return [outcomes[reader] for reader in readers]
