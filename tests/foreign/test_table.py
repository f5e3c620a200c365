"""docs/conformance.md names the tests that there are, and all that are in this folder."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "conformance.md"
RESULT = re.compile(r"(holds)([:,;] .+)?|(differs|does not apply): .+")


class Row(NamedTuple):
    demand: str
    tests: list[tuple[Path, str]]
    result: str


def rows() -> Iterator[Row]:
    """The rows of all tables of tests."""
    for section in PAGE.read_text().split("\n## ")[1:]:
        [default] = re.findall(r"Tests are in `tests/(\S+\.py)`", section)
        for line in section.splitlines():
            if line.startswith("| ") and not line.startswith(("| assertion |", "| their test |")):
                demand, _, cell, result = (cell.strip() for cell in line.strip("|").split("|"))
                names = [name.rpartition("::") for name in re.findall(r"`([^`]+)`", cell)]
                yield Row(demand, [(TESTS / (file or default), name) for file, _, name in names], result)


@functools.cache
def defined_in(file: Path) -> set[str]:
    body = ast.parse(file.read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


def test_it_names_tests_that_there_are() -> None:
    for row in rows():
        for file, name in row.tests:
            assert name in defined_in(file), row


def test_it_names_all_tests_of_this_folder() -> None:
    named = {test for row in rows() for test in row.tests}
    others = Path(__file__).parent.glob("test_*.py")
    assert {(file, name) for file in others if file != Path(__file__) for name in defined_in(file)} <= named


def test_each_row_has_a_result() -> None:
    """One that a test shows, or that says why there is nothing to show."""
    for row in rows():
        found = RESULT.fullmatch(row.result)
        assert found, row
        assert bool(row.tests) == (found[3] != "does not apply"), row
