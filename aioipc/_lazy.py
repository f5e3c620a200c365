"""Names of a package whose modules are imported when they are first asked for: not every program uses every kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module


def names_of(package: str, **modules: tuple[str, ...]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package that has these names from these modules of its own."""
    namespace = vars(sys.modules[package])
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        namespace[name] = getattr(import_module(f"{package}.{module_of[name]}"), name)
        return namespace[name]

    def list_all() -> list[str]:
        return sorted({*namespace, *module_of})

    return get, list_all
