"""The aioipc command: what IPC objects there are, and their messages, from a shell.

It needs click and rich, which are an extra: this module is all that is imported without them.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Do what the command line says, and exit."""
    interrupt = signal.getsignal(signal.SIGINT)  # the shell has it ignored if it starts this in the background
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # quiet also while it starts
    try:
        from aioipc.cli._main import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        sys.stderr.write(f"aioipc: the command needs {missing}: pip install 'aioipc[cli]'\n")
        sys.exit(1)
    signal.signal(signal.SIGINT, interrupt)
    sys.exit(run())
