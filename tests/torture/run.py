"""Treats the library as an adversary would: see docs/reliability.md.

    python tests/torture/run.py [--only WORDS] [--rounds N | --seconds S] [--seed SEED] [--json FILE]

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import kills
import limits
import neighbours
import soak
from harness import Outcome, Scenario, Schedule, failure, torture
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
    """Go where nobody else's objects and limits are, with file systems that show them, if that is allowed."""
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0 and libc.unshare(CLONE_NEWIPC | CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None)
        libc.mount(b"none", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), None)
        # Any folder will do: nobody else sees it there.
        mqueue = b"/dev/mqueue" if os.path.isdir("/dev/mqueue") else b"/mnt"
        libc.mount(b"none", mqueue, b"mqueue", ctypes.c_ulong(0), None)


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
        for scenario, outcome in outcomes.items()
    )


def as_json(seed: str, outcomes: dict[Scenario, Outcome]) -> dict[str, Any]:
    return {
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
        if error := failure(scenarios[0], Schedule.parse(arguments.schedule), arguments.rounds or 100):
            raise error
        return
    print(f"--seed {arguments.seed}", flush=True)
    outcomes = torture(scenarios, arguments.seed, until(arguments), show)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    print(table(outcomes))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_json(arguments.seed, outcomes), indent=1) + "\n")
    findings = [outcome.finding for outcome in outcomes.values() if outcome.finding]
    for finding in findings:
        print(f"\n{finding}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
