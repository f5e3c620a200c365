"""Completion of addresses in shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aioipc import Channel, posix, sysv

# What bash does when the tab key is pressed, without a terminal.
_PRESS_TAB = """
eval "$(_AIOIPC_COMPLETE=bash_source aioipc)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=(aioipc) COMP_CWORD=0
_aioipc_completion aioipc
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(line: str, **environment: str) -> set[str]:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "--norc", "-c", _PRESS_TAB, "bash", line]
    output = subprocess.check_output(command, text=True, env={**os.environ, "PATH": path, **environment})
    return {*output.split()}


def test_commands_and_options() -> None:
    assert complete("aioipc s") == {"send", "stat"}
    assert {"--json", "--kind", "--owner"} <= complete("aioipc ls --")
    assert {"sem", "shm", "semset", "segment"} == complete("aioipc ls --kind s")


def test_addresses(name: str, key: int) -> None:
    with Channel.create(name), posix.Semaphore.create(name), sysv.MessageQueue.create(key):
        assert {f"sem:{name}", f"channel:{name}", f"msg:{key:#x}"} <= complete("aioipc stat ")
        assert complete(f"aioipc stat {name[:-1]}") >= {name}
        assert f"sem:{name}" not in complete("aioipc receive ")
        # What stands before the colon is not replaced.
        assert complete(f"aioipc stat channel:{name[:-1]}") >= {name}
        assert complete(f"aioipc receive msg:{key:#x}"[:-1]) == {f"{key:#x}"}


def test_ids() -> None:
    with sysv.SemaphoreSet.create(None, values=[1]) as semaphores:
        assert str(semaphores.id) in complete("aioipc stat semset:id=")
        assert f"id={semaphores.id}" in complete("aioipc stat semset:i")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell: str, name: str) -> None:
    """The shell itself need not be installed: this is what its function asks for."""
    with posix.Semaphore.create(name):
        words = {"COMP_WORDS": "aioipc stat sem:", "COMP_CWORD": "sem:" if shell == "fish" else "2"}
        command = [sys.executable, "-m", "aioipc"]
        environment = {**os.environ, **words, "_AIOIPC_COMPLETE": f"{shell}_complete"}
        assert f"sem:{name}" in subprocess.check_output(command, env=environment, text=True)
