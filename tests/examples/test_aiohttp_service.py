"""The coffee bar as it is run: no order is lost between two servers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import complaints

import aioipc
from aioipc import Channel
from aioipc.posix import MessageQueue

DEMO = Path(__file__).parents[2] / "examples" / "aiohttp_service" / "demo.py"


def test_what_one_server_leaves_the_next_prepares() -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        output, errors = demo.communicate(timeout=60)
    assert (demo.returncode, complaints(errors)) == (0, [])
    assert "urgent, an espresso for the fire brigade" in output
    [(first, failed), (second, _)] = re.findall(r"ended with 0; (\d+) orders prepared, (\d) failed, 0 given up", output)
    assert failed == "1"
    assert int(first) + int(second) == 3 + 9
    assert output.endswith("12 of 12 orders were prepared, and browsers were told of each once\n")
    for name, kind in ((f"/orders-{demo.pid}", MessageQueue), (f"/ready-{demo.pid}", Channel)):
        with pytest.raises(aioipc.NotFoundError):
            kind.open(name)
