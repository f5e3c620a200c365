"""The API reference is made of docstrings: all that is public has one, and a place there."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import aioipc.aiohttp
import aioipc.inspect

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
PUBLIC = [
    pytest.param(package, name, id=f"{package.__name__}.{name}")
    for package in (aioipc, aioipc.aiohttp, aioipc.inspect, aioipc.posix, aioipc.sysv)
    for name in package.__all__
    if name not in ("posix", "sysv")
]
CLASSES = [param for param in PUBLIC if inspect.isclass(getattr(param.values[0], str(param.values[1])))]


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_it_has_a_place(package: ModuleType, name: str) -> None:
    page = "errors" if name in aioipc.errors.__all__ else package.__name__.rpartition(".")[2]
    text = (REFERENCE / f"{page}.md").read_text()
    assert re.search(rf"^\.\. auto(class|exception|function|data):: {name}$", text, re.MULTILINE)


def own_bases(package: ModuleType, name: str) -> list[type]:
    return [base for base in getattr(package, name).__mro__ if base.__module__.startswith("aioipc")]


@pytest.mark.parametrize(("package", "name"), CLASSES)
def test_classes_and_methods_say_what_they_do(package: ModuleType, name: str) -> None:
    found = getattr(package, name)
    assert inspect.getdoc(found)
    for base in own_bases(package, name):
        for member, value in vars(base).items():
            is_method = callable(value) or isinstance(value, property | classmethod | staticmethod)
            if is_method and not member.startswith("_"):
                assert inspect.getdoc(getattr(found, member)), member


@pytest.mark.parametrize(("package", "name"), CLASSES)
def test_attributes_say_what_they_are(package: ModuleType, name: str) -> None:
    explained = set()
    for base in reversed(own_bases(package, name)):
        if base.__module__.endswith(("._binding", "._calls")):
            continue  # in C: it has no public ones
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign):
                attribute = ast.unparse(statement.target)
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    explained.add(attribute)
                assert attribute in explained or attribute.startswith("_"), attribute
