"""Eight producers and one consumer as they are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import complaints

EXAMPLE = Path(__file__).parents[2] / "examples" / "fan_in.py"


def test_all_messages_arrive() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, complaints(result.stderr)) == (0, [])
    first, second = result.stdout.splitlines()
    assert re.fullmatch(r"8 producers: [\d,]+ messages, 0 left", first)
    assert re.fullmatch(r"[\d,]+ messages a second", second)
