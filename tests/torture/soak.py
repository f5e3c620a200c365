"""Hours of mixed load on all objects and loops, and whether anything grows: see docs/reliability.md.

    python tests/torture/soak.py [--minutes M] [--json FILE] [--seed SEED]

A process for each loop does everything at once: see soak_activities.py.  Meanwhile this one looks at them, and at the
system, about every second, and they tell how long it takes through each object.  In the end it prints how all of it has
changed; the exit status is 1 if something has grown, and 0 also if of something it is not known.  As root it works
where nobody else's objects are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from harness import Scenario, Schedule, circumstances
from soak_activities import ACTIVITIES
from soak_drift import Record, Verdict, drifts
from soak_place import HANGS, Place, Programs
from soak_process import LOOPS, soaked
from soak_samples import of_process, of_system
from world import Child, World, end_on_sigterm, program

BRIEF = 6
"""Seconds of a scenario."""
PACE = 4
"""For a long run: a machine that has more to do than it can says nothing about latency."""
ENDING = HANGS + 10
"""Seconds that a process may take to come to its end."""


class Grown(Exception):  # noqa: N818
    """Something is not flat."""


class Soak:
    """A run, as seen from outside."""

    def __init__(
        self, world: World, activities: Sequence[str], seconds: float, rng: random.Random, pace: float = 1
    ) -> None:
        """
        :param pace: how many times as long as usual the pauses between activities are
        """
        self._world = world
        self._activities = activities
        self._seconds = seconds
        self._pace = pace
        self._interval = min(1, seconds / 60)
        self._rng = rng
        self._alone = not os.listdir("/dev/shm")
        self._names: set[str] = set()
        self._keys: set[int] = set()
        self._children: dict[str, Child] = {}
        self._news: dict[str, int] = {}
        self._texts: dict[str, bytes] = defaultdict(bytes)
        self._times: list[float] = []
        self._processes: dict[str, dict[str, list[int]]] = {}
        self._system: dict[str, list[int]] = defaultdict(list)
        self._latency: dict[str, Any] = {}

    def run(self, loops: Sequence[str]) -> Record:
        """
        :raises Failed: if something went wrong in a process
        :raises Hung: if one does not end
        """
        for loop in loops:
            self._start(loop)
        self._began = time.monotonic()
        try:
            self._watch()
        finally:
            for reading in self._news.values():
                os.close(reading)
        # First what has failed: the others go on until their time is up.
        children = sorted(self._children.items(), key=lambda item: not item[1].has_ended)
        results = {loop: child.result(ENDING) for loop, child in children}
        left = {what: count for what, count in of_system(self._names, self._keys, alone=self._alone).items() if count}
        assert not left, f"objects are left: {left}"
        return {
            **circumstances(),
            "seconds": self._seconds,
            "counts": {loop: dict(counts) for loop, (counts, _) in results.items()},
            "times": self._times,
            "alone": {loop: alone for loop, (_, alone) in results.items()},
            "processes": self._processes,
            "system": self._system,
            "latency": self._latency,
        }

    def _start(self, loop: str) -> None:
        world = self._world
        programs = Programs(*(program(f"peers/{kind}.c") for kind in Programs._fields))
        names, keys = [world.name() for _ in range(40)], [world.key() for _ in range(20)]
        self._names.update(names)
        self._keys.update(keys)
        place = Place(random.Random(self._rng.random()), programs, names, keys, [world.path() for _ in range(8)])
        reading, writing = os.pipe()
        arguments = loop, place, self._activities, self._pace, self._seconds, self._interval, writing
        self._children[loop] = world.fork(soaked, *arguments)
        os.close(writing)
        self._news[loop] = reading
        self._processes[loop] = defaultdict(list)
        self._latency[loop] = defaultdict(lambda: {"times": [], "seconds": []})

    def _watch(self) -> None:
        """Until a process ends: when its time is up, or because it has failed; or should have."""
        with suppress(FileNotFoundError, ProcessLookupError):
            self._watch_living(self._began + self._seconds + ENDING)

    def _watch_living(self, deadline: float) -> None:
        next_time = self._began
        while (now := time.monotonic()) < deadline:
            if now >= next_time:
                self._sample(now - self._began)
                next_time += self._interval
            ready, _, _ = select.select(self._news.values(), [], [], max(0, next_time - time.monotonic()))
            for loop, reading in self._news.items():
                if reading in ready and not self._read(loop, reading):
                    self._children[loop].wait()  # it is closed just before
                    return

    def _sample(self, now: float) -> None:
        taken = {loop: of_process(child.pid) for loop, child in self._children.items()}
        self._times.append(round(now, 3))
        for loop, found in taken.items():
            for what, value in found.items():
                self._processes[loop][what].append(value)
        for what, count in of_system(self._names, self._keys, alone=self._alone).items():
            self._system[what].append(count)

    def _read(self, loop: str, reading: int) -> bool:
        news = os.read(reading, 2**16)
        *lines, self._texts[loop] = (self._texts[loop] + news).split(b"\n")
        now = round(time.monotonic() - self._began, 3)
        for line in lines:
            for name, seconds in json.loads(line).items():
                found = self._latency[loop][name]
                found["times"] += [now] * len(seconds)
                found["seconds"] += [round(one, 7) for one in seconds]
        return bool(news)


def run(world: World, schedule: Schedule) -> Counter[str]:
    settings = schedule.settings
    record = Soak(world, schedule.steps, settings["seconds"], random.Random(settings["seed"])).run([settings["loop"]])
    grown = [drift for drift in drifts(record) if drift.verdict is Verdict.GROWN]
    if grown:
        raise Grown("\n".join(map(str, grown)))
    return Counter(record["counts"][settings["loop"]])


def draw(loop: str, rng: random.Random) -> Schedule:
    return Schedule({"loop": loop, "seconds": BRIEF, "seed": rng.randrange(2**32)}, list(ACTIVITIES))


SCENARIOS = tuple(Scenario(f"soak/everything/{loop}", partial(draw, loop), run, tries=1) for loop in LOOPS)


def main() -> None:
    end_on_sigterm()
    from run import in_own_namespace

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--json", metavar="FILE", help="write what was measured there")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="repeat a run that printed this seed")
    arguments = parser.parse_args()
    print(f"--seed {arguments.seed}", flush=True)
    in_own_namespace()
    with World() as world:
        soak = Soak(world, list(ACTIVITIES), arguments.minutes * 60, random.Random(arguments.seed), PACE)
        record = soak.run(list(LOOPS))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(record) + "\n")
    for loop, counts in record["counts"].items():
        print(f"{loop}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    found = list(drifts(record))
    print(*found, sep="\n")
    verdicts = Counter(drift.verdict for drift in found)
    print(", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict))
    sys.exit(Verdict.GROWN in verdicts)


if __name__ == "__main__":
    main()
