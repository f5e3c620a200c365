"""What a scenario works with: names that are free, C programs, and processes that are watched over.

All of it is gone when the world ends, whatever happened.  The harness itself uses no object of aioipc and has one
thread, so that it can fork.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Self

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS))

import libc as libc  # noqa: E402 -- and the last for others, who need not know where it is
from conftest import NOBODY, become, compile_c, doorbells, remove_keyed, remove_named, unused_key  # noqa: E402
from conftest import worker_threads as worker_threads  # noqa: E402

SECONDS = 60
"""What takes longer has hung."""
AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
"""Options of `World.spawn` for a program of another user, without rights."""
_PR_SET_PDEATHSIG = 1


def become_nobody() -> None:
    """Give up all rights of this process, which is a child."""
    become(NOBODY)


class Failed(Exception):  # noqa: N818
    """A process of the scenario failed: its traceback, or what it wrote to standard error."""


class Hung(Failed):
    """A process did not end: where its threads were."""


class Child:
    """A fork that calls a function and ends.  What it has started itself, and left, ends with it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], errors: IO[bytes]) -> None:
        self._errors = errors
        self._status: int | None = None
        self._pipe, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(function, arguments, writing, errors.fileno())
        os.close(writing)
        self._pidfd = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """A descriptor that can be read when it has ended."""
        return self._pidfd

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if self._status is None:
            signal.pidfd_send_signal(self._pidfd, number)

    @property
    def has_ended(self) -> bool:
        """Whether it is no more; its result may be asked for then."""
        return self._status is not None or bool(select.select([self._pidfd], [], [], 0)[0])

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = SECONDS) -> int:
        """Its status when it has ended, as of subprocess.

        :raises Hung: if it does not
        """
        if self._status is None:
            if not select.select([self._pidfd], [], [], seconds)[0]:
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGABRT)  # faulthandler says where it is
                select.select([self._pidfd], [], [], 5)
                self.signal(signal.SIGKILL)
                self._reap()
                raise Hung(f"after {seconds} s:\n{self.errors()}")
            return self._reap()
        return self._status

    def _reap(self) -> int:
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError):  # it was killed before it had a group
            os.killpg(self.pid, signal.SIGKILL)  # before its number can be another's
        self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def result(self, seconds: float = SECONDS) -> Any:
        """What the function returned.

        :raises Failed: if it raised, or the process died
        :raises Hung: if it does not end
        """
        status, answer = None, b""
        deadline = time.monotonic() + seconds
        while True:  # what does not fit the pipe must be read before it ends
            readable, _, _ = select.select([self._pipe, self._pidfd], [], [], max(0, deadline - time.monotonic()))
            part = os.read(self._pipe, 2**16) if self._pipe in readable else b""
            answer += part
            if not part:
                status = self.wait(max(0, deadline - time.monotonic()))
                break
        if status != 0 or not answer:
            raise Failed(f"it ended with {status}:\n{self.errors()}")
        return pickle.loads(answer)

    def errors(self) -> str:
        """What it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.kill()
        os.close(self._pidfd)
        os.close(self._pipe)


def die_with_parent() -> None:
    """Let this process be killed when the thread that has forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_child(function: Callable[..., Any], arguments: tuple[Any, ...], writing: int, errors: int) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        die_with_parent()
        os.dup2(errors, 2)
        faulthandler.enable(errors)
        answer = pickle.dumps(function(*arguments))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
        status = 0
    except BaseException:  # noqa: BLE001 -- it is reported
        os.write(errors, traceback.format_exc().encode())
    finally:
        os._exit(status)


def end_on_sigterm() -> None:
    """Have SIGTERM, as of timeout(1), end the worlds that there are: nothing they have made is left then."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class World:
    """Where one round of a scenario happens."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._names = 0

    def __enter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def name(self) -> str:
        """A name for POSIX objects and channels."""
        self._names += 1
        name = f"/aioipc-torture-{os.getpid()}-{self._names}"
        self._stack.callback(remove_named, name)
        return name

    def key(self) -> int:
        """A key for System V objects."""
        key = unused_key()
        self._stack.callback(remove_keyed, key)
        return key

    def path(self) -> str:
        """A path where nothing is yet."""
        self._names += 1
        return str(self.folder / str(self._names))

    def later(self, function: Callable[..., object], *arguments: object) -> None:
        """Have a function called in the end."""
        self._stack.callback(function, *arguments)

    def fork(self, function: Callable[..., Any], *arguments: Any) -> Child:
        """Have a function called in a process of its own; what it returns must be possible to pickle."""
        errors = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        child = Child(function, arguments, errors)
        self._stack.callback(child.close)
        return child

    def doorbells(self, name: str) -> list[str]:
        """Those of a channel, which are removed in the end, also if it does not tell any more which they are."""
        paths = doorbells(name)
        for path in paths:
            self._stack.callback(path.unlink, missing_ok=True)
        return list(map(str, paths))

    def defer(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have a function called when the world ends."""
        self._stack.callback(function, *arguments)

    def spawn(self, *command: object, **options: Any) -> subprocess.Popen[Any]:
        """Start a program, which is killed in the end if it has not ended before."""
        process = subprocess.Popen(list(map(str, command)), **options)
        self._stack.callback(_end, process)
        return process


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def finished(process: subprocess.Popen[Any], seconds: float = SECONDS) -> Any:
    """What a program wrote to its standard output, when it has ended well.

    :raises Failed: if it has not
    :raises Hung: if it does not end
    """
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Hung(f"{process.args} after {seconds} s") from None
    if process.returncode != 0:
        raise Failed(f"{process.args} ended with {process.returncode}")
    return output


@functools.cache
def _programs() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    os.chmod(folder.name, 0o755)  # other users run them, too
    return folder


@functools.cache
def program(source: str, *others: Path | str) -> str:
    """The path of a compiled C program, by its file in tests, such as "peers/mq.c"."""
    return compile_c(TESTS / source, Path(_programs().name) / Path(source).stem, *others)


@functools.cache
def library(source: str) -> str:
    """The path of a compiled shared library, likewise."""
    return compile_c(TESTS / source, Path(_programs().name) / f"{Path(source).stem}.so", "-shared", "-fPIC")
