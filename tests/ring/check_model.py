"""Check the model of the ring with spin: what must hold, and that faults put in are found.

    python tests/ring/check_model.py [--short]

Exit status: 0 all is as it must be, 1 something is not, 77 spin or a C compiler is not installed.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = Path(__file__).with_name("ring.pml")
SKIPPED = 77
MEGABYTES = 3500
DEPTH = 3_000_000

# (name, what is set in ring.pml, whether it is checked in a short run too)
HOLDS = [
    ("one sender, one receiver, a death", "SENDS0=2 SENDS1=0 TAKES3=0", True),
    ("one sender, two receivers, a death", "SENDS1=0 TAKES2=1 TAKES3=1", False),
    ("reserve, borrow, a death", "SENDS0=3 SENDS1=0 CAPACITY=2 TAKES3=0 RESERVE0=1 BORROW2=1", False),
    ("borrowed by one of two, its death", "SENDS1=0 TAKES3=1 BORROW2=1 VICTIM=2", False),
    ("two reserve, the rewind", "CRASHES=0 CAPACITY=2 RESERVE0=1 RESERVE1=1 TAKES3=0", False),
    ("two senders", "CRASHES=0 TAKES3=0", False),
    ("two receivers", "CRASHES=0 SENDS0=2 SENDS1=0 CAPACITY=2 TAKES3=1", False),
    ("a receiver stopped in its lock", "CRASHES=0 SENDS1=0 TAKES2=1 TAKES3=1 STOPS=1", False),
    ("the end, another sender", "CRASHES=0 SENDS0=2 SENDS1=0 END=1 TAKES3=0", False),
    ("the end, a death", "SENDS0=0 END=1 TAKES3=0", True),
    ("the end, a borrowed message", "CRASHES=0 SENDS0=0 END=1 BORROW2=1 TAKES3=1", False),
    ("one needs more room than the other", "CRASHES=0 SENDS0=3 LENGTH1=2 CAPACITY=2 TAKES2=1 TAKES3=0", False),
    ("the end, no room", "CRASHES=0 SENDS0=2 SENDS1=0 END=1 TAKES2=0 TAKES3=0", False),
    ("a dead sender, two reap it, one is cancelled", "RESERVE1=1 TAKES2=1 TAKES3=0 VICTIM=1 CANCELS=1", False),
]
BREAKS = [
    ("no fence in ring_arm", "NO_FENCE_ARM CRASHES=0 SENDS1=0 TAKES3=0", True),
    ("no fence in wake", "NO_FENCE_WAKE CRASHES=0 SENDS1=0 TAKES3=0", True),
    (
        "rewind not written if it is lower",
        "REWIND_LOAD_ONLY CRASHES=0 CAPACITY=2 RESERVE0=1 RESERVE1=1 TAKES3=0",
        False,
    ),
    ("a rewind before head ignored", "IGNORE_BELOW_HEAD CRASHES=0 CAPACITY=2 RESERVE0=1 RESERVE1=1 TAKES3=0", False),
    ("flag before emptying the bell", "DRAIN_LAST CRASHES=0 SENDS0=2 SENDS1=0 CAPACITY=2 TAKES3=1", False),
    (
        "a bell emptied by who needs more room",
        "ONE_BELL CRASHES=0 SENDS0=3 LENGTH1=2 CAPACITY=2 TAKES2=1 TAKES3=0",
        False,
    ),
    ("a bell emptied under who ends the ring", "ONE_BELL CRASHES=0 SENDS0=2 SENDS1=0 END=1 TAKES2=0 TAKES3=0", True),
    ("reaping before arming", "REAP_FIRST REAP_IF_TOLD SENDS1=1 RESERVE1=1 TAKES2=1 TAKES3=0 VICTIM=1", False),
    ("reaping only when told", "REAP_IF_TOLD SENDS0=2 RESERVE1=1 CAPACITY=2 TAKES2=1 TAKES3=0 VICTIM=1", False),
    ("no ring after a burial in vain", "NO_RING_AFTER RESERVE1=1 TAKES2=1 TAKES3=0 VICTIM=1 CANCELS=1", False),
    ("rewind taken before next is stored", "NEXT_AFTER_CAS SENDS1=0 RESERVE0=1 VICTIM=3", False),
    # Without the fault this has too many states to be looked at to the end: it is not known to hold.
    ("a dead peer's slot free too early", "FREE_FIRST SENDS1=0 BORROW3=1 TAKES3=1 CRASHES=2", False),
    ("deaths not reported", "NO_DEATH_REPORT SENDS1=0 TAKES3=0", False),
    ("a lock waited for without CONTENDED", "NO_CONTENDED CRASHES=0 CAPACITY=2 TAKES2=0 TAKES3=0", False),
    ("no rewind for who died before its own", "NO_REWIND_HEAD SENDS1=0 TAKES3=0 RESERVE0=1", False),
]


class UnfinishedError(Exception):
    """The verifier has not looked at all states, and found no fault in those it has looked at."""


def run(command: list[str], directory: str) -> str:
    memory = (MEGABYTES + 500) * 2**20
    done = subprocess.run(
        command,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
    )
    if command[0] != "./pan" and done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}")
    return done.stdout


def processor_time() -> float:
    """What has been used by the commands run so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def verify(settings: str) -> tuple[str | None, int, int]:
    """The fault that was found, if any; how many states there are, and how deep the search was."""
    with tempfile.TemporaryDirectory() as directory:
        run(["spin", "-a", *("-D" + setting for setting in settings.split()), str(MODEL)], directory)
        options = ["-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DNOREDUCE", f"-DMEMLIM={MEGABYTES}"]
        run(["cc", *options, "-o", "pan", "pan.c"], directory)
        # -E: whether everybody who sleeps may do so is for the model's judge.
        output = run(["./pan", "-E", f"-m{DEPTH}", "-w24"], directory)
    fault = re.search(r"^pan:1: (.*) \(at depth", output, re.MULTILINE)
    states = re.search(r"^\s*(\d+) states, stored", output, re.MULTILINE)
    depth = re.search(r"depth reached (\d+), errors: (\d+)", output)
    if states is None or depth is None:
        raise UnfinishedError(output)
    if fault is None and (depth[2] != "0" or re.search("max search depth|out of memory|not completed", output)):
        raise UnfinishedError(output)
    return (fault[1] if fault else None), int(states[1]), int(depth[1])


def main() -> int:
    if shutil.which("spin") is None or shutil.which("cc") is None:
        print("skipped: the model of the ring needs spin and a C compiler")
        return SKIPPED
    short = "--short" in sys.argv[1:]
    failed = 0
    for must_hold, what, cases in (
        (True, "must hold", HOLDS),
        (False, "put in, must be found", BREAKS),
    ):
        print(f"--- {what}", flush=True)
        for name, settings, is_short in cases:
            if short and not is_short:
                continue
            began, processor = time.monotonic(), processor_time()
            try:
                fault, states, depth = verify(settings)
            except UnfinishedError as unfinished:
                print(f"FAILED  {name}: the search was not complete ({settings})\n{unfinished}", flush=True)
                failed += 1
                continue
            good = (fault is None) == must_hold
            failed += not good
            print(
                f"{'ok' if good else 'FAILED':7} {name}: {states:,} states, depth {depth:,}, "
                f"{time.monotonic() - began:.1f} s ({processor_time() - processor:.1f} s of a processor): "
                f"{fault or 'no fault'} ({settings})",
                flush=True,
            )
    print(f"{failed} not as they must be" if failed else "all is as it must be")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
