from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import complaints

import aioipc
from aioipc.posix import MessageQueue

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.py"


def test_it_shows_what_arrives_and_leaves_nothing() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert complaints(result.stderr) == []
    lines = re.findall(r"^ +(\d+) +\d+ us +(.*)$", result.stdout, re.MULTILINE)
    assert lines[:4] == [("1", "an espresso"), ("1", "two coffees"), ("9", "the fire alarm!"), ("1", "a cup of tea")]
    assert sorted(lines[4:]) == sorted([*lines[:4], ("0", "that is all")])
    name = re.search(r"the message queue (\S+)", result.stdout)
    assert name is not None
    with pytest.raises(aioipc.NotFoundError):
        MessageQueue.open(name[1])
