"""Writes what the torture has found into docs/reliability.md, between its marks, and docs/reliability/*.svg.

    python tests/torture/figures.py [--runs FILE.json ...] [--soak FILE.json]

The runs are those of run.py --json, which are added up, the other is that of soak.py --json.  It takes the
packages of the extra "benchmarks".
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from soak_drift import CONTROL, PERCENTILES, Drift, Record, drifts, percentile

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from publishing import DOCUMENTS, fill, markdown_table, plot

PAGE = DOCUMENTS / "reliability.md"
PLOTS = DOCUMENTS / "reliability"
RUNS, SOAK = (f"<!-- {what}: made by tests/torture/figures.py -->" for what in ("runs", "soak"))
WINDOWS = 60
"""How many points a line of a plot has."""


# Runs


def runs_table(runs: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A line for each thing that was tortured, on all loops together."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    loops: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for name, found in run["scenarios"].items():
            part, what, loop = name.split("/")
            row = rows.setdefault((part, what), Counter())
            row["rounds"] += found["rounds"]
            row["seconds"] += found["seconds"]
            row["findings"] += found["finding"] is not None
            row.update(found["counts"])
            if loop not in loops.setdefault((part, what), []):
                loops[part, what].append(loop)
    yield markdown_table(
        ["part", "what", "on", "rounds", "minutes", "findings", "counted"],
        [
            [
                part,
                what,
                ", ".join(loops[part, what]),
                f"{row.pop('rounds'):,}",
                f"{row.pop('seconds') / 60:,.1f}",
                str(row.pop("findings")),
                ", ".join(f"{count:,} {thing}" for thing, count in row.items()),
            ]
            for (part, what), row in rows.items()
        ],
    )


# The soak


def soak_text(record: Record) -> Iterator[str]:
    yield (
        f"{record['seconds'] / 60:.0f} minutes on {record['date']}, Python {record['python']}, Linux "
        f"{record['linux']}, {record['processors']} processors that had other work, too. Done meanwhile:"
    )
    loops = list(record["counts"])
    things = sorted({thing for counts in record["counts"].values() for thing in counts})
    yield markdown_table(
        ["", *loops], [[thing, *(f"{record['counts'][loop].get(thing, 0):,}" for loop in loops)] for thing in things]
    )
    yield "The medians of the first and the last third, after the warm-up:"
    found: dict[str, dict[str, Drift]] = {}
    for drift in drifts(record):
        found.setdefault(drift.what, {})[drift.whose] = drift
    whose = [*loops, "system"]
    yield markdown_table(
        ["", *whose, "may grow"],
        [
            [what, *(_cell(row.get(one)) for one in whose), _bound(next(iter(row.values())))]
            for what, row in found.items()
        ],
    )
    for path, title in draw(record):
        yield f"![{title}](reliability/{path.name})"


def _cell(drift: Drift | None) -> str:
    if drift is None:
        return ""
    text = f"{drift.shown(drift.first.value)}, {drift.shown(drift.last.value)}"
    return text if drift.is_flat else f"**{text}**"


def _bound(drift: Drift) -> str:
    return f"{drift.shown(drift.bound)} times" if drift.is_latency else f"by {drift.shown(drift.bound)}"


def windows(record: Record, times: Sequence[float], values: Sequence[float]) -> list[tuple[float, list[float]]]:
    """The values of equal parts of the run, with the minute of each part's middle."""
    length = record["seconds"] / WINDOWS
    found: list[list[float]] = [[] for _ in range(WINDOWS)]
    for time, value in zip(times, values, strict=True):
        found[min(int(time / length), WINDOWS - 1)].append(value)
    return [((number + 0.5) * length / 60, part) for number, part in enumerate(found) if part]


def draw(record: Record) -> Iterator[tuple[Path, str]]:
    """Plots of all that was measured."""
    for what in next(iter(record["processes"].values())):
        factor, unit = (2**-20, "MiB") if "memory" in what else (1, what)
        lines = {loop: [factor * value for value in found[what]] for loop, found in record["processes"].items()}
        yield _draw_levels(record, what, unit, lines)
    yield _draw_levels(record, "objects on the system", "objects", record["system"])
    for loop, found in record["latency"].items():
        yield _draw_latency(record, loop, found)


def _draw_levels(record: Record, what: str, unit: str, lines: dict[str, list[float]]) -> tuple[Path, str]:
    """Medians of the windows, and between what they were."""
    path = PLOTS / f"{what.replace(' ', '-')}.svg"
    with plot(path, what, 2) as axes:
        for name, values in lines.items():
            parts = windows(record, record["times"], values)
            minutes = [minute for minute, _ in parts]
            axes.fill_between(minutes, *([end(part) for _, part in parts] for end in (min, max)), alpha=0.15)
            axes.plot(minutes, [statistics.median(part) for _, part in parts], label=name)
        _label(axes, unit)
    return path, what


def _draw_latency(record: Record, loop: str, found: dict[str, Any]) -> tuple[Path, str]:
    title = f"latency on {loop}: half of the probes are faster, and 99 in 100"
    path = PLOTS / f"latency-{loop}.svg"
    with plot(path, title, 3) as axes:
        for number, (name, probes) in enumerate(sorted(found.items(), key=lambda item: item[0] != CONTROL)):
            for text, style in (("p50", "-"), ("p99", ":")):
                points = [
                    (minute, 1e3 * percentile(part, PERCENTILES[text][0]))
                    for minute, part in windows(record, probes["times"], probes["seconds"])
                ]
                colour = "black" if name == CONTROL else f"C{number}"
                label = name if style == "-" else None
                axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=1, label=label)
        axes.set_yscale("log")
        _label(axes, "ms")
    return path, title


def _label(axes: Any, unit: str) -> None:
    axes.set_xlabel("minutes")
    axes.set_ylabel(unit)
    if unit != "ms":
        axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[], type=Path)
    parser.add_argument("--soak", type=Path)
    arguments = parser.parse_args()
    if arguments.runs:
        fill(PAGE, RUNS, runs_table(json.loads(path.read_text()) for path in arguments.runs))
    if arguments.soak:
        fill(PAGE, SOAK, soak_text(json.loads(arguments.soak.read_text())))


if __name__ == "__main__":
    main()
