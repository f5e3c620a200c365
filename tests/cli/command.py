"""The aioipc command as a shell starts it: with pipes, or at a terminal."""

from __future__ import annotations

import codecs
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest
from conftest import as_nobody

from aioipc.cli import _main

AIOIPC = [sys.executable, "-m", "aioipc"]

_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])")


class Result(NamedTuple):
    """What a command wrote, and its exit code."""

    output: str
    errors: str
    code: int

    @property
    def rows(self) -> list[dict[str, str]]:
        """The lines of a table, by the titles of the columns."""
        titles, *lines = (line.split("\t") for line in self.output.splitlines())
        return [dict(zip(titles, line, strict=True)) for line in lines]


def aioipc(*arguments: str, input: bytes = b"", prefix: list[str] | None = None, **options: Any) -> Result:
    """Run the command with pipes."""
    command = [*(prefix or []), *AIOIPC, *arguments]
    result = subprocess.run(command, input=input, capture_output=True, check=False, **options)
    return Result(result.stdout.decode(), result.stderr.decode(), result.returncode)


def aioipc_as_nobody(*arguments: str) -> Result:
    """Run the command in a child of this process, which is another user: that one may not be able to start Python."""

    def call() -> Result:
        output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        sys.argv, sys.stdout, sys.stderr = ["aioipc", *arguments], output, errors
        code = _main.run()
        for stream in (output, errors):
            stream.seek(0)
        return Result(output.read(), errors.read(), code)

    codecs.lookup("ascii")  # of /proc: it is in a module
    return as_nobody(call)


class Terminal:
    """A terminal with the command at it, which has both its output and its errors there."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.master = master
        self.output = ""

    def read_until(self, text: str) -> None:
        """Read what it writes until this has come."""
        while text not in self.output:
            assert self._read(), f"{text!r} did not come: {self.output!r}"

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C until it ends: what is about to call read(2) just then does not notice."""
        while self.process.poll() is None:
            self.type("\x03")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)

    def finish(self) -> tuple[str, int]:
        """What it has written to its end, and the exit code."""
        while self._read():
            pass
        return self.output.replace("\r\n", "\n"), self.process.wait()

    def _read(self) -> bool:
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other side open
            return False
        self.output += data.decode()
        return bool(data)


@contextmanager
def terminal(*arguments: str, columns: int = 100, prefix: list[str] | None = None) -> Iterator[Terminal]:
    """The command at a terminal of its own, which is the one that its Ctrl-C comes from."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [*(prefix or []), *AIOIPC, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment, "TERM": "xterm"},
        preexec_fn=_take_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def plain(output: str) -> str:
    """What a terminal was sent, without colours and what moves the cursor."""
    return _SEQUENCE.sub("", output)


def _unshare(*options: str) -> list[str]:
    unshare = ["unshare", *options]
    if os.geteuid() != 0 or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("it takes root to make such namespaces")
    return unshare


def with_mqueue() -> list[str]:
    """What starts a command so that it sees an mqueue file system."""
    # The mount goes with the namespace, so any folder will do.
    return [*_unshare("--mount"), "sh", "-c", 'mount -t mqueue none "$0" && exec "$@"', "/var/tmp"]


def without_mqueue() -> list[str]:
    """What starts a command so that it sees none."""
    script = 'while umount -t mqueue -a 2>/dev/null && grep -q " - mqueue " /proc/self/mountinfo; do :; done; exec "$@"'
    return [*_unshare("--mount"), "sh", "-c", script, "sh"]


def in_pid_namespace() -> list[str]:
    """What starts a command where it sees no other process."""
    return _unshare("--pid", "--fork", "--mount-proc")
