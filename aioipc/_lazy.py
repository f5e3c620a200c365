"""Names of a package whose module is imported when they are first asked for: not every program uses every kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module


def names_of(package: str, module: str, *names: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package that has these names from a module of its own."""
    namespace = vars(sys.modules[package])

    def get(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        namespace[name] = getattr(import_module(f"{package}.{module}"), name)
        return namespace[name]

    def list_all() -> list[str]:
        return sorted({*namespace, *names})

    return get, list_all
