"""Writes what the torture has found into docs/reliability.md, between its marks, and docs/reliability/*.svg.

    python tests/torture/figures.py [--runs FILE.json ...] [--soak FILE.json]

The runs are those of run.py --json, which are added up, the other is that of soak.py --json; also older ones will do,
which tell less.  It takes the packages of the extra "benchmarks".
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from soak_drift import CONTROL, PERCENTILES, Drift, Record, Verdict, drifts, ends, percentile

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from publishing import DOCUMENTS, fill, markdown_table, plot

PAGE = DOCUMENTS / "reliability.md"
PLOTS = DOCUMENTS / "reliability"
RUNS, SOAK = (f"<!-- {what}: made by tests/torture/figures.py -->" for what in ("runs", "soak"))
EVENTS = "races", "kills", "stops", "faults"
"""What a part of the runs is for."""
WINDOWS = 60
"""How many points a line of a plot has."""


# Runs


def runs_text(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """When and where they were, what each part has reached, and a line for each thing that was tortured."""
    yield (
        "; ".join(
            f"{count} {'run' if count == 1 else 'runs'} {where}"
            for where, count in Counter(map(where_of, runs)).items()
        )
        + "."
    )
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
        ["part", "things", "in all", "least of one, on all its loops", "of which", "none of"], list(sums(rows))
    )
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


def where_of(run: Record) -> str:
    """When and where it was, if it tells."""
    if "date" not in run:
        return "of which it is not recorded when and where"
    return f"on {run['date']}, Python {run['python']}, Linux {run['linux']}, {run['processors']} processors"


def sums(rows: dict[tuple[str, str], Counter[str]]) -> Iterator[list[str]]:
    """What the parts are for, of all that was tortured, and of what had the least of it; else their rounds."""
    parts: defaultdict[str, dict[str, Counter[str]]] = defaultdict(dict)
    for (part, what), row in rows.items():
        parts[part][what] = row
    for part, of in parts.items():
        for event in [event for event in EVENTS if any(row[event] for row in of.values())] or ["rounds"]:
            counts = {what: row[event] for what, row in of.items() if row[event]}
            least = min(counts, key=counts.__getitem__)
            none = ", ".join(what for what in of if what not in counts)
            yield [part, str(len(of)), f"{sum(counts.values()):,} {event}", f"{counts[least]:,}", least, none]


# The soak


def soak_text(record: Record) -> Iterator[str]:
    yield f"{record['seconds'] / 60:.0f} minutes {where_of(record)} that had other work, too. Done meanwhile:"
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
            [what, *(_cell(row.get(one)) for one in whose), (one := next(iter(row.values()))).change(one.bound)]
            for what, row in found.items()
        ],
    )
    yield from judgement(record, [drift for row in found.values() for drift in row.values()])
    for path, title in draw(record):
        yield f"![{title}](reliability/{path.name})"


def _cell(drift: Drift | None) -> str:
    if drift is None:
        return ""
    text = f"{drift.shown(drift.first.value)}, {drift.shown(drift.last.value)}"
    return {Verdict.FLAT: text, Verdict.GROWN: f"**{text}: grown**", Verdict.NOT_KNOWN: f"*{text}: not known*"}[
        drift.verdict
    ]


def judgement(record: Record, found: Sequence[Drift]) -> Iterator[str]:
    """What was compared, and what came of it."""
    by_verdict: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for drift in found:
        by_verdict[drift.verdict].append((drift.what, drift.whose))
    yield (
        f"Of the {len(found)} that were compared, {len(by_verdict[Verdict.FLAT])} are flat. "
        f"Grown: {_listed(by_verdict[Verdict.GROWN])}. "
        f"Not known, because it goes up and down too much to say: {_listed(by_verdict[Verdict.NOT_KNOWN])}."
    )
    compared = {(drift.what, drift.whose) for drift in found}
    rest = []
    for text in PERCENTILES:
        probed = [
            (f"latency {text}, {name}", loop)
            for loop, names in record["latency"].items()
            for name in names
            if name != CONTROL
        ]
        missing = [one for one in probed if one not in compared]
        rest += [f"latency {text} of anything" if missing == probed else _listed(missing)] if missing else []
    yield f"Not compared, for too few probes: {'; '.join(rest) or 'nothing'}."
    yield _about_control(record)


def _listed(found: Sequence[tuple[str, str]]) -> str:
    """Things, and whose they are."""
    whose: defaultdict[str, list[str]] = defaultdict(list)
    for what, one in found:
        whose[what].append(one)
    return "; ".join(f"{what} ({', '.join(ones)})" for what, ones in whose.items()) or "nothing"


def _about_control(record: Record) -> str:
    """What latencies are divided by can change itself."""
    medians = []
    for loop, found in record["latency"].items():
        thirds = ends(record, found[CONTROL]["times"], found[CONTROL]["seconds"])
        before, after = (f"{1e3 * statistics.median(third):.2f}" if third else "?" for third in thirds)
        medians.append(f"{before}, then {after} ms on {loop}")
    text = f"The control itself took {'; '.join(medians)} (the medians of its probes). "
    if "alone" in record:
        return text + (
            "What the library left in the loop would slow it down, too: so the processor time that it takes alone, "
            "before all else is done and after it, is compared."
        )
    return text + (
        "What the library left in the loop would slow it down, too, and be divided away; that was not measured apart "
        "from what other work on the machine does to it."
    )


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
        fill(PAGE, RUNS, runs_text([json.loads(path.read_text()) for path in arguments.runs]))
    if arguments.soak:
        fill(PAGE, SOAK, soak_text(json.loads(arguments.soak.read_text())))


if __name__ == "__main__":
    main()
