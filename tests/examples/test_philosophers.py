"""The dining philosophers as they are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import complaints

import aioipc
from aioipc.sysv import SemaphoreSet

EXAMPLE = Path(__file__).parents[2] / "examples" / "philosophers.py"


def test_the_kernel_undoes_what_a_dead_philosopher_did() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLE)]
    environment = os.environ | {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}  # for the philosophers
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, complaints(result.stderr)) == (0, [])
    before, killed, after = result.stdout.partition("Plato is killed by SIGKILL")
    assert killed
    assert "Plato has fallen asleep over his meal, with two forks" in before
    assert before.count("Plato     eats with forks 1 and 2") == 1
    for name in ("Socrates", "Kant", "Hume", "Arendt"):
        meals = len(re.findall(f"{name} +eats", after))
        assert meals >= 2
        assert f"{name:9} {len(re.findall(f'{name} +eats', result.stdout))} meals, went home" in after
    assert "Plato     1 meals, SIGKILL" in after
    assert "forks on the table: (1, 1, 1, 1, 1)" in after
    found = re.search(r"semaphore set (\d+)", before)
    assert found is not None
    with pytest.raises(aioipc.NotFoundError):
        SemaphoreSet.open(id=int(found[1]))
