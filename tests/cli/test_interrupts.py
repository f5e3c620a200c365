"""Ctrl-C at any moment of a command that runs an event loop: it ends quietly, with its exit code."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from conftest import in_child

from aioipc import Channel, posix
from aioipc.cli import _main, _receiving, _sending

LINES = b"one\ntwo\n"


class Steps:
    """Sends SIGINT to this process before a bytecode, counted in the function that opens the command's queue."""

    def __init__(self, number: int | None) -> None:
        self.count = 0
        self.place = ""
        self._number = number
        self._function: types.FrameType | None = None

    def begin_after(self, opening: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = opening(*arguments, **options)
            self._function = sys._getframe(1)
            self._follow(self._function)
            sys.settrace(self._trace)
            return result

        return call

    def _follow(self, frame: types.FrameType) -> None:
        frame.f_trace = self._trace
        frame.f_trace_opcodes = True

    def _trace(self, frame: types.FrameType, event: str, _: Any) -> Any:
        self._follow(frame)
        if event == "opcode":
            self.count += 1
            if self.count == self._number:
                sys.settrace(None)
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        elif event == "return" and frame is self._function:
            sys.settrace(None)
        return self._trace


class Result(NamedTuple):
    steps: int
    place: str
    """Where it was when the signal came."""
    code: int
    output: bytes
    errors: str


def run(arguments: Sequence[str], step: int | None) -> Result:
    """Run the command in a child, and interrupt it there."""
    steps = Steps(step)

    def main() -> Result:
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(LINES)
            files[0].seek(0)
            for number, file in enumerate(files):
                os.dup2(file.fileno(), number)
            sys.stdin, sys.stdout, sys.stderr = (
                io.TextIOWrapper(open(number, mode, closefd=False))  # noqa: SIM115 -- of this child alone
                for number, mode in enumerate(["rb", "wb", "wb"])
            )
            sys.argv = ["aioipc", *arguments]
            for module in (_receiving, _sending):
                module.open_queue = steps.begin_after(module.open_queue)  # type: ignore[attr-defined]
            code = _main.run()
            sys.settrace(None)
            gc.collect()  # what is complained of at the end of the interpreter
            for file in (sys.stdout, sys.stderr):
                file.flush()
            output, errors = (os.pread(file.fileno(), 2**16, 0) for file in files[1:])
            return Result(steps.count, steps.place, code, output, errors.decode())

    return in_child(main)


@pytest.mark.parametrize("kind", ["mq", "channel"])
@pytest.mark.parametrize("command", ["receive --timeout 0.001", "tail --count 1", "send --lines"])
def test_ctrl_c_at_any_moment(command: str, kind: str, name: str, races: int, rng: random.Random) -> None:
    """Nothing is lost, and nothing is said but what is said without it."""
    word, *options = command.split()

    def attempt(step: int | None) -> tuple[Result, list[bytes]]:
        if word == "tail":
            queue.send_nowait(b"followed")
        result = run([word, f"{kind}:{name}", *options], step)
        left = [queue.receive_nowait() for _ in range(queue.statistics().messages)]
        return result, [each if isinstance(each, bytes) else each.data for each in left]

    queue: posix.MessageQueue | Channel = {"mq": posix.MessageQueue, "channel": Channel}[kind].create(name)
    with queue:
        whole, _ = attempt(None)
        assert whole.code == (1 if word == "receive" else 0)
        interrupted = 0
        for _ in range(races // 60):
            step = rng.randint(1, whole.steps)
            result, left = attempt(step)
            if result.steps == step:  # it did not end before
                interrupted += 1
                assert result.code == 130, result
                # Where click hears of it itself, it ends the line of the ^C.
                assert result.errors.strip() in {"", whole.errors.strip()}, result
                if word == "tail":
                    assert (result.output, left) in [(b"", [b"followed"]), (b"followed\n", [])], result
                else:
                    assert left == LINES.splitlines()[: len(left)], result
        assert interrupted
