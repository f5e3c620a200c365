"""Treats the library as an adversary would: see docs/reliability.md.

    python tests/torture/run.py [--only WORDS] [--rounds N | --seconds S] [--seed SEED] [--shrink S] [--json FILE]

Without an end it does a brief run, as the tests do.  A finding is shrunk, and printed with what repeats it; then the
exit status is 1.  As root it works in an IPC namespace of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import kills
import limits
import neighbours
import soak
from harness import SHRINK_SECONDS, Outcome, Scenario, Schedule, circumstances, failures, never_done, torture
from storms import SCENARIOS as STORMS
from world import end_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
MS_REC_PRIVATE = 0x4000 | 0x40000
SCENARIOS: tuple[Scenario, ...] = (
    *STORMS,
    *kills.SCENARIOS,
    *faults.SCENARIOS,
    *limits.SCENARIOS,
    *neighbours.SCENARIOS,
    *soak.SCENARIOS,
)
"""Of all parts."""


def in_own_namespace() -> None:
    """Go where nobody else's objects and limits are, with file systems that show them, if that is allowed.

    :raises OSError: if it is half of the way there
    """
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0 and libc.unshare(CLONE_NEWIPC | CLONE_NEWNS) == 0:
        mount("/", None, MS_REC_PRIVATE)
        mount("/dev/shm", "tmpfs")
        # Any folder will do: nobody else sees it there.
        mount("/dev/mqueue" if os.path.isdir("/dev/mqueue") else "/mnt", "mqueue")
        for limit in ("kernel/msgmax", "fs/mqueue/msgsize_max"):  # for long messages
            with suppress(OSError):  # a container may not let it be written
                Path("/proc/sys", limit).write_text("1000000")


def mount(folder: str, kind: str | None, flags: int = 0) -> None:
    """
    :raises OSError: if that is not possible
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", folder.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())}: mount", folder)


def until(arguments: argparse.Namespace) -> Callable[[Scenario, Outcome], bool]:
    """Whether a scenario is to go on."""
    if arguments.seconds is not None:
        deadline = time.monotonic() + arguments.seconds
        return lambda _, __: time.monotonic() < deadline
    return lambda scenario, outcome: outcome.rounds < (arguments.rounds or scenario.brief)


def show(scenario: Scenario, outcome: Outcome) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{scenario.name}: round {outcome.rounds + 1}")
        sys.stderr.flush()


def table(outcomes: dict[Scenario, Outcome]) -> str:
    width = max(len(scenario.name) for scenario in outcomes)
    return "\n".join(
        f"{scenario.name:{width}}  {outcome.rounds:>7,} rounds  {outcome.seconds:7.1f} s  "
        + ", ".join(f"{count:,} {what}" for what, count in outcome.counts.items())
        + ("  FAILED" if outcome.finding else "")
        + "".join(f"  NEVER {what}" for what in never_done(scenario, outcome))
        for scenario, outcome in outcomes.items()
    )


def as_json(seed: str, outcomes: dict[Scenario, Outcome]) -> dict[str, Any]:
    return {
        **circumstances(),
        "seed": seed,
        "scenarios": {
            scenario.name: {
                "rounds": outcome.rounds,
                "seconds": round(outcome.seconds, 3),
                "counts": outcome.counts,
                "finding": outcome.finding and str(outcome.finding),
            }
            for scenario, outcome in outcomes.items()
        },
    }


def main() -> None:
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORDS", help="the scenarios whose names have one of these words")
    parser.add_argument("--list", action="store_true", help="print the names of the scenarios")
    parser.add_argument("--rounds", type=int, help="of each scenario")
    parser.add_argument("--seconds", type=float, help="of all scenarios together, in turn")
    parser.add_argument("--seed", default=str(random.randrange(2**32)), help="repeat a run that printed this seed")
    parser.add_argument("--schedule", metavar="JSON", help="run one scenario with this")
    parser.add_argument(
        "--shrink", type=float, default=SHRINK_SECONDS, metavar="S", help="seconds to shrink a finding in"
    )
    parser.add_argument("--json", metavar="FILE", help="write what came of it there")
    arguments = parser.parse_args()
    words = arguments.only.split(",")
    scenarios = [scenario for scenario in SCENARIOS if any(word in scenario.name for word in words)]
    if not scenarios:
        parser.error("there is no such scenario")
    if arguments.list:
        print(*(scenario.name for scenario in scenarios), sep="\n")
        return
    in_own_namespace()
    if arguments.schedule:
        tries = failures(scenarios[0], Schedule.parse(arguments.schedule), arguments.rounds or 100)
        if error := next(tries, None):
            raise error
        return
    print(f"--seed {arguments.seed}", flush=True)
    outcomes = torture(scenarios, arguments.seed, until(arguments), show, arguments.shrink)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    print(table(outcomes))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_json(arguments.seed, outcomes), indent=1) + "\n")
    findings = [outcome.finding for outcome in outcomes.values() if outcome.finding]
    for finding in findings:
        print(f"\n{finding}")
    sys.exit(bool(findings) or any(never_done(*found) for found in outcomes.items()))


if __name__ == "__main__":
    main()
