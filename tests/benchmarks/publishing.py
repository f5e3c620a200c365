"""How figures get into the documentation: as tables between marks, and as plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DOCUMENTS = Path(__file__).parents[2] / "docs"
END = "<!-- until here -->"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    every = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


def fill(page: Path, begin: str, parts: Iterable[str]) -> None:
    """Put these between a mark and the next end."""
    before, rest = page.read_text().split(begin)
    _, after = rest.split(END, 1)
    page.write_text(f"{before}{begin}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


@contextmanager
def plot(path: Path, title: str, height: float) -> Iterator[Any]:
    """Axes of a plot that is written there in the end, the same bytes for the same figures."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "aioipc", "font.size": 8})
    path.parent.mkdir(exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(7, height), layout="constrained")
    axes.set_title(title)
    yield axes
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
