"""The aioipc command: what IPC objects there are, and their messages, from a shell.

It needs click and rich, which are an extra: this module is all that is imported without them.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Do what the command line says, and exit."""
    _replace_closed_streams()
    interrupt = signal.getsignal(signal.SIGINT)  # the shell has it ignored if it starts this in the background
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet also while it starts
    try:
        from aioipc.cli._codes import INTERRUPTED
        from aioipc.cli._main import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        sys.stderr.write(f"aioipc: the command needs {missing}: install aioipc with its extra `cli`\n")
        sys.exit(1)
    signal.signal(signal.SIGINT, interrupt)
    code = run()
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # and quiet while it ends
        if code == INTERRUPTED:
            signal.raise_signal(signal.SIGINT)  # a shell leaves a loop only if its command ends by the signal
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Have what is closed be there, but fail with EBADF: else what is opened next would be in its place."""
    for number, (name, path, flags, mode) in enumerate(
        [
            ("stdin", "/dev/full", os.O_WRONLY, "r"),
            ("stdout", os.devnull, os.O_RDONLY, "w"),
            ("stderr", os.devnull, os.O_WRONLY, "w"),  # who does not want to hear of errors hears of none
        ]
    ):
        if getattr(sys, name) is None:
            opened = os.open(path, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 -- as long as the process
