"""Tables and plots of what compare.py has found.

    python tests/benchmarks/report.py FILE.json

writes them into docs/benchmarks.md, between its marks, and docs/benchmarks/*.svg.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from publishing import DOCUMENTS, fill, markdown_table, plot

BEGIN = "<!-- made by tests/benchmarks/report.py -->"

Results = dict[str, Any]


def bytes_text(size: int) -> str:
    """As 64 B, 64 KiB."""
    for power, unit in ((20, "MiB"), (10, "KiB")):
        if size >= 2**power:
            return f"{size >> power} {unit}"
    return f"{size} B"


# What a table of results says


def values(results: Results, table: str, row: str, what: str = "seconds") -> list[float]:
    """Of each round; empty if it was not measured."""
    rounds = results["tables"].get(table, {}).get("rows", {}).get(row, {}).get("rounds", [])
    return [found[what] for found in rounds if what in found]


def median(results: Results, table: str, row: str, what: str = "seconds") -> float | None:
    found = values(results, table, row, what)
    return statistics.median(found) if found else None


class Figure(NamedTuple):
    """A ratio that is promised: the time of `own` by that of `other`, or the other way round."""

    text: str
    table: str
    own: str
    other: str
    at_most: float | None = None
    at_least: float | None = None

    def ratios(self, results: Results) -> list[float]:
        """Of the medians first, then of each round."""
        pairs = [values(results, self.table, row) for row in (self.own, self.other)]
        if not all(pairs):
            return []
        own, other = ([statistics.median(found), *found] for found in pairs)
        ratios = [a / b for a, b in zip(own, other, strict=False)]
        return ratios if self.at_most is not None else [1 / ratio for ratio in ratios]

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.at_most if self.at_most is not None else ratio >= (self.at_least or 0)

    @property
    def bound(self) -> str:
        return f"≤ {self.at_most}" if self.at_most is not None else f"≥ {self.at_least}"


def _figures() -> Iterator[Figure]:
    for kind, package in (("posix", "posix_ipc"), ("sysv", "sysv_ipc")):
        own, bare = f"aioipc.{kind}, async for", f"{package}, bare loop"
        yield Figure(f"{own}, by {bare}", f"take-{kind}", own, bare, at_most=1.25)
    for loop in ("asyncio", "uvloop"):
        for own in (f"aioipc.posix.MessageQueue to C ({loop})", f"aioipc.posix.MessageQueue ({loop})"):
            other = "C, blocking, POSIX queue"
            yield Figure(f"round trip, {own}, by {other}", "round-trip", own, other, at_most=1.5)
    for kind, package in (("posix", "posix_ipc"), ("sysv", "sysv_ipc")):
        for loop in ("asyncio", "uvloop"):
            own, other = f"aioipc.{kind} ({loop})", f"run_in_executor, {package} ({loop})"
            yield Figure(f"hand-over, {own}, by {other}", f"hand-over-{kind}", own, other, at_most=1.2)
    streams = "asyncio unix streams (uvloop)"
    for kind in ("", ", many"):
        for loop in ("asyncio", "uvloop"):
            own = f"aioipc.Channel{kind} ({loop})"
            yield Figure(f"64 B, {own}, to {streams}", "one-way-64", own, streams, at_least=5)
    for loop in ("asyncio", "uvloop"):
        own, zmq = f"aioipc.Channel ({loop})", "pyzmq (asyncio)"
        yield Figure(f"64 B, {own}, to {zmq}", "one-way-64", own, zmq, at_least=50)
    for loop in ("asyncio", "uvloop"):
        own = f"aioipc.Channel ({loop})"
        yield Figure(f"64 KiB, {own}, to {streams}", "one-way-65536", own, streams, at_least=4)
    yield Figure("1,000 queues, one busy, by one", "queues", "1,000", "1", at_most=1.2)
    for loop in ("asyncio", "uvloop"):
        yield Figure(
            f"wake one of 10,000 tasks, by 10 ({loop})", "tasks", f"10,000 ({loop})", f"10 ({loop})", at_most=1.5
        )


FIGURES = tuple(_figures())
ABSOLUTE = (
    ("idle", "asyncio", 0.010, "processor time of 10 s of all kinds of waits (asyncio)"),
    ("idle", "uvloop", 0.010, "processor time of 10 s of all kinds of waits (uvloop)"),
    ("import", "aioipc", 0.025, "import aioipc, beyond asyncio and anyio"),
)
"""Figures in seconds: table, row, bound, text."""


class Line(NamedTuple):
    """A line of a table."""

    cells: list[str]
    kind: str


def rate(seconds: float) -> str:
    return f"{1 / seconds:,.0f}/s"


def time_text(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.2f} µs"


def ratio_text(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


def lines(key: str, table: Results) -> tuple[list[str], list[Line]]:
    """The head and the lines of a table, the best first."""
    rows = table["rows"]
    show, columns = _shape(key)
    medians = {
        name: statistics.median(found["seconds" if "seconds" in found else "bytes"] for found in row["rounds"])
        for name, row in rows.items()
        if row["rounds"]
    }
    best_peer = min((medians[name] for name in medians if rows[name]["kind"] == "peer"), default=None)
    best_floor = min((medians[name] for name in medians if rows[name]["kind"] == "floor"), default=None)
    found = []
    for name in sorted(medians, key=lambda name: medians[name]):
        rounds = rows[name]["rounds"]
        of_rounds = [one.get("seconds", one.get("bytes")) for one in rounds]
        cells = [name, show(medians[name]), f"{show(max(of_rounds))} to {show(min(of_rounds))}"]
        for base in (best_peer, best_floor):
            if base is not None:
                cells.append(
                    f"{base / medians[name]:.2g}" if base / medians[name] < 10 else f"{base / medians[name]:.0f}"
                )
        for what, show_more in columns:
            more = [one[what] for one in rounds if what in one]
            cells.append(show_more(statistics.median(more)) if more and any(more) else "")
        if rows[name]["failed"]:
            cells[1] += f" ({len(rows[name]['failed'])} failed)"
        found.append(Line(cells, rows[name]["kind"]))
    head = ["", "median", "worst to best round"]
    head += ["to the best peer"] * (best_peer is not None) + ["to the floor"] * (best_floor is not None)
    head += [{"processor_seconds": "processor s per million"}.get(what, what) for what, _ in columns]
    for name, row in rows.items():
        if name not in medians:
            reason = row["missing"] or f"failed: {row['failed'][-1].splitlines()[-1] if row['failed'] else 'not run'}"
            found.append(Line([name, reason] + [""] * (len(head) - 2), row["kind"]))
    return head, found


def _shape(key: str) -> tuple[Callable[[float], str], list[tuple[str, Callable[[float], str]]]]:
    """How values are shown, and what else there is to show."""
    if key.startswith(("one-way", "fan")):
        return rate, [("processor_seconds", lambda seconds: f"{seconds * 1e6:.2f}")]
    if key == "round-trip":
        return time_text, [(what, time_text) for what in ("p50", "p99", "p99.9")]
    if key == "memory":
        return lambda size: f"{size / 1024:,.1f} KiB", []
    return time_text, []


# As text, as Markdown


def figure_lines(results: Results) -> Iterator[list[str]]:
    """The figures that are promised: text, ratio, bound, spread."""
    for figure in FIGURES:
        if ratios := figure.ratios(results):
            state = "" if figure.is_met(ratios[0]) else "missed"
            yield [figure.text, f"{ratios[0]:.2f}", figure.bound, f"{min(ratios):.2f} to {max(ratios):.2f}", state]
    for table, row, bound, what in ABSOLUTE:
        if found := values(results, table, row):
            middle = statistics.median(found)
            span = f"{time_text(min(found))} to {time_text(max(found))}"
            yield [what, time_text(middle), f"≤ {time_text(bound)}", span, "" if middle <= bound else "missed"]


FIGURE_HEAD = ["figure", "measured", "promised", "rounds", ""]


def aligned(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(line[index]) for line in (head, *rows)) for index in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *rows)
    )


def text(results: Results) -> str:
    """All tables, for a terminal."""
    parts = []
    for key, table in results["tables"].items():
        head, found = lines(key, table)
        parts.append(f"{table['title']}\n{aligned(head, [line.cells for line in found])}")
    if figures := list(figure_lines(results)):
        parts.append(f"What is promised\n{aligned(FIGURE_HEAD, figures)}")
    return "\n\n".join(parts)


def markdown(results: Results) -> Iterator[str]:
    found = results["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    yield (
        f"Made on {found['date']} with Python {found['python']} on Linux {found['linux']}, {found['machine']}, "
        f"{found['processors']} processors ({found['processor']}), load {found['load before']:.1f} before; "
        f"{results['rounds']} {'short rounds (--quick)' if results['quick'] else 'rounds'}. {packages}."
    )
    yield "### What is promised"
    yield markdown_table(FIGURE_HEAD, list(figure_lines(results)))
    for key, table in results["tables"].items():
        head, rows = lines(key, table)
        yield f"### {table['title']}"
        if (DOCUMENTS / "benchmarks" / f"{key}.svg").exists():
            yield f"![{table['title']}](benchmarks/{key}.svg)"
        yield markdown_table(
            head, [[f"**{line.cells[0]}**" if line.kind == "own" else line.cells[0], *line.cells[1:]] for line in rows]
        )


# As plots


def draw(results: Results) -> None:
    """A bar for each candidate, with the rounds as dots."""
    colours = {"own": "#2a6fbb", "peer": "#9a9a9a", "floor": "#d9a441"}
    for key, table in results["tables"].items():
        if key.startswith(("one-way", "fan")):
            drawn = {name: [1 / seconds for seconds in values(results, key, name)] for name in table["rows"]}
            label = "messages per second"
        elif key == "round-trip":
            drawn = {name: values(results, key, name, "p50") for name in table["rows"]}
            label = "seconds, half of the round trips are shorter"
        else:
            continue
        names = [name for name in drawn if drawn[name]]
        names.sort(key=lambda name: statistics.median(drawn[name]), reverse=key == "round-trip")
        colour = [colours[table["rows"][name]["kind"]] for name in names]
        with plot(DOCUMENTS / "benchmarks" / f"{key}.svg", table["title"], 0.22 * len(names) + 0.8) as axes:
            axes.barh(names, [statistics.median(drawn[name]) for name in names], color=colour)
            for index, name in enumerate(names):
                axes.plot(drawn[name], [index] * len(drawn[name]), "k.", markersize=2)
            axes.set_xscale("log")
            axes.set_xlabel(label)


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    draw(results)
    fill(DOCUMENTS / "benchmarks.md", BEGIN, markdown(results))


if __name__ == "__main__":
    main()
