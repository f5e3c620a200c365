"""The camera as it is run: no frame is lost when a worker is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import complaints

import aioipc
from aioipc import Channel

EXAMPLE = Path(__file__).parents[2] / "examples" / "camera" / "demo.py"


def test_each_frame_is_seen_once() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLE)]
    environment = os.environ | {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}  # for the workers
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, complaints(result.stderr)) == (0, [])
    killed = re.search(r"^worker (\d+) hangs over frame (\d+), and is killed$", result.stdout, re.MULTILINE)
    assert killed is not None
    again = re.search(r"^worker (\d+) has got frame (\d+) instead$", result.stdout, re.MULTILINE)
    assert again is not None
    assert again[2] == killed[2]
    assert again[1] != killed[1]
    workers = re.findall(r"^worker (\d+): +(\d+) frames, status (-?\d+)$", result.stdout, re.MULTILINE)
    assert sorted(int(status) for _, _, status in workers) == [-signal.SIGKILL, 0, 0]
    assert (killed[1], "20", str(-signal.SIGKILL)) in workers
    assert sum(int(frames) for _, frames, _ in workers) == 300
    assert "300 of 300 frames seen, 0 left" in result.stdout
    name = re.search(r"the channel (\S+)", result.stdout)
    assert name is not None
    with pytest.raises(aioipc.NotFoundError):
        Channel.open(name[1])
