"""What the tables say of results that are known."""

from __future__ import annotations

import re
from typing import Any

import pytest
import report

OWN, STREAMS, FLOOR = "aioipc.Channel (asyncio)", "asyncio unix streams (uvloop)", "C, blocking, FIFO"


def row(kind: str, *seconds: float, missing: str | None = None, failed: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"kind": kind, "rounds": [{"seconds": one} for one in seconds], "missing": missing, "failed": list(failed)}


def results(**rows: dict[str, Any]) -> dict[str, Any]:
    return {"tables": {"one-way-64": {"title": "One way, 64 B", "rows": rows}}}


MEASURED = results(
    **{
        STREAMS: row("peer", 10e-6, 12e-6, 11e-6),
        OWN: row("own", 1e-6, 2e-6, 9e-6),
        FLOOR: row("floor", 4e-6),
        "lost": row("peer", 5e-6, failed=("it hung",)),
        "never": row("peer", failed=("Traceback\nKaputt",)),
        "absent": row("peer", missing="zmq is not installed"),
    }
)


def test_no_row_is_left_out_and_the_best_is_first() -> None:
    head, lines = report.lines("one-way-64", MEASURED["tables"]["one-way-64"])
    cells = {line.cells[0]: dict(zip(head[1:], line.cells[1:], strict=True)) for line in lines}
    assert list(cells) == [OWN, FLOOR, "lost", STREAMS, "never", "absent"]
    assert cells[OWN] | {"processor s per million": ""} == {
        "median": "500,000/s",
        "worst to best round": "111,111/s to 1,000,000/s",
        "to the best peer": "2.5",
        "to the floor": "2",
        "processor s per million": "",
    }
    assert cells["lost"]["median"] == "200,000/s (1 failed)"
    assert cells["never"]["median"] == "failed: Kaputt"
    assert cells["absent"]["median"] == "zmq is not installed"


def figure(measured: dict[str, Any]) -> list[str]:
    (line,) = report.figure_lines(measured)
    return line


def test_figures_are_ratios_of_medians() -> None:
    assert figure(MEASURED)[1:] == ["5.50", "≥ 5", "1.22 to 10.00", ""]
    slower = results(**{STREAMS: row("peer", 10e-6), OWN: row("own", 3e-6)})
    assert figure(slower)[1:] == ["3.33", "≥ 5", "3.33 to 3.33", "missed"]


def test_figures_that_are_to_be_small() -> None:
    own, one = row("own", 1.3), row("own", 1.0)
    measured = {"tables": {"queues": {"title": "", "rows": {"1,000": own, "1": one}}}}
    assert figure(measured)[1:] == ["1.30", "≤ 1.2", "1.30 to 1.30", "missed"]
    measured["tables"]["queues"]["rows"]["1,000"] = row("own", 1.1)
    assert figure(measured)[4] == ""


def test_figures_in_seconds() -> None:
    measured = {"tables": {"import": {"title": "", "rows": {"aioipc": row("own", 0.02, 0.03, 0.026)}}}}
    assert figure(measured)[1:] == ["26.00 ms", "≤ 25.00 ms", "20.00 ms to 30.00 ms", "missed"]


def test_what_is_promised_has_a_row_in_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure whose rows were renamed would be silently gone."""
    import compare

    monkeypatch.setattr(compare, "read_limit", lambda _: 10_000)  # as root has it, in a namespace
    tables = [*compare.transfers(quick=False), *compare.others(quick=False)]
    rows = {(table.key, row.name) for table in tables for row in table.rows}
    for promised in report.FIGURES:
        assert (promised.table, promised.own) in rows
        assert (promised.table, promised.other) in rows
    for table, name, *_ in report.ABSOLUTE:
        assert (table, name) in rows


def test_text_and_markdown_tell_the_same() -> None:
    environment = dict.fromkeys(("date", "python", "linux", "machine", "processor"), "x")
    whole = MEASURED | {
        "environment": environment | {"packages": {}, "processors": 2, "load before": 0.5},
        "rounds": 3,
        "quick": False,
    }
    words = re.findall(r"[\w.,/]+", report.text(whole))
    page = "\n".join(report.markdown(whole))
    assert "500,000/s" in words
    assert [word for word in words if word not in page] == []
