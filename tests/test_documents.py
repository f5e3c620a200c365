"""What README and docs show is what happens.

* A block of `python` is a program: it runs, alone, and prints no warning.
* A block that begins with a file name in a comment is a file.  A page with files is walked through from top to
  bottom, as by a reader with one terminal: files are saved, blocks of `sh` are typed in.
* A block of `text` that follows one of these directly is what it prints.

Other blocks (`console`, `ini`, `c` without a file name) only show.  All this takes place in an IPC namespace of its own
where that can be had: so names such as /orders meet nobody else's, and nothing is left.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest
from conftest import complaints

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECONDS = 60
"""How long a program, or a page, may take."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:# |/\* )([\w-]+\.(?:py|c|sh))(?: \*/)?\n")
_DONE = "--- done ---\n"


class Block(NamedTuple):
    language: str
    text: str
    file: str | None
    """The name of the file that it is."""
    output: str | None
    """What it prints, if the page says so."""


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fences = list(_FENCE.finditer(text))
    result = []
    for number, fence in enumerate(fences):
        after = fences[number + 1] if number + 1 < len(fences) else None
        has_output = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
        file = _FILE.match(fence[2])
        result.append(Block(fence[1], fence[2], file and file[1], after[2] if after and has_output else None))
    return result


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


PROGRAMS = [
    pytest.param(block, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(block for block in blocks(page) if block.language == "python")
    if block.file is None
]
WALKS = [pytest.param(page, id=name_of(page)) for page in PAGES if any(block.file for block in blocks(page))]


@functools.cache
def own_namespace() -> tuple[str, ...]:
    """A command that has another run with IPC objects of its own; nothing if that is not allowed here."""
    for options in (["--ipc", "--mount"], ["--map-root-user", "--ipc", "--mount"]):
        command = ("unshare", *options, "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh")
        with suppress(FileNotFoundError):
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
    return ()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs(program: Block, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program.text)
    command = [*own_namespace(), sys.executable, "-X", "dev", "-W", "error", "program.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (result.returncode, complaints(result.stderr)) == (0, [])
    assert program.output in (None, result.stdout)


class Terminal:
    """A shell that ends when a command fails."""

    def __init__(self, process: subprocess.Popen[str], output: Iterator[str]) -> None:
        assert process.stdin is not None
        self._process = process
        self._input = process.stdin
        self._output = output

    def type(self, text: str, lines: int) -> str:
        """What is printed until this is done, and so many lines are there: some come from the background."""
        self._input.write(f"{{\n{text}}} </dev/null\necho '{_DONE[:-1]}'\n")
        self._input.flush()
        is_done, found = False, ""
        while not is_done or found.count("\n") < lines:
            line = next(self._output, None)
            if line is None:
                break
            is_done = is_done or line == _DONE
            found += line if line != _DONE else ""
        return found

    def leave(self) -> tuple[str, int]:
        """What is printed until all that runs in the background has ended, too, and the status of the shell."""
        self._input.close()
        output = "".join(self._output)
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return output, ended.si_status


def _lines(screen: TextIO) -> Iterator[str]:
    with suppress(OSError):  # EIO: nobody has the other end any more
        yield from screen


@contextmanager
def terminal(folder: Path) -> Iterator[Terminal]:
    """A terminal.  What was started in it is killed if the block fails, or its time is up."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": ""}
    # A true one, where programs print whole lines.
    screen, far_end = os.openpty()
    tty.setraw(far_end)
    with subprocess.Popen(
        [*own_namespace(), "bash", "-e"],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=far_end,
        stderr=far_end,
        text=True,
        start_new_session=True,
    ) as process:
        os.close(far_end)
        alarm = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        try:
            with open(screen) as output:
                yield Terminal(process, _lines(output))
        finally:
            alarm.cancel()
            os.killpg(process.pid, signal.SIGKILL)  # before the number can be another's: it has not been waited for


@pytest.mark.parametrize("page", WALKS)
def test_a_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    with terminal(tmp_path) as shell:
        for block in blocks(page):
            if block.file is not None:
                (tmp_path / block.file).write_text(block.text)
            elif block.language == "sh":
                expected = block.output or ""
                assert shell.type(block.text, expected.count("\n")) == expected, block.text
        assert shell.leave() == ("", 0)


def test_links_within_the_repository_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / link).exists(), f"{name_of(page)}: {link}"


def test_each_page_can_be_reached_from_the_first() -> None:
    docs = ROOT / "docs"
    linked = set(re.findall(r"\]\(([^)#:]+)\)", (docs / "index.md").read_text()))
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {"index.md"}
    assert linked >= pages


def test_tests_that_are_named_are_there() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(\S+\.py::test_\w+)`", page.read_text())}
    assert named
    for file, test in (name.split("::") for name in sorted(named)):
        assert re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), (file, test)
