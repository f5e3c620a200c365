"""The worker pool as it is run: a dispatcher, two workers in Python, one in C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import compile_c, complaints

import aioipc
from aioipc.sysv import MessageQueue

HERE = Path(__file__).parents[2] / "examples" / "worker_pool"
COMMAND = [sys.executable, "-X", "dev", "-W", "error", str(HERE / "dispatcher.py")]
ENVIRONMENT = os.environ | {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}  # for the workers
READY = 4
WORKERS = ("Python worker 1", "Python worker 2", "C worker")


def assert_nothing_is_left(output: str) -> None:
    found = re.search(r"(\d+) for jobs, (\d+) for results", output)
    assert found is not None
    for number in found.groups():
        with pytest.raises(aioipc.NotFoundError):
            MessageQueue.open(id=int(number))


def primes(below: int) -> int:
    return sum(all(n % divisor for divisor in range(2, n) if divisor * divisor <= n) for n in range(2, below))


def test_all_jobs_are_done_the_urgent_ones_first() -> None:
    result = subprocess.run(COMMAND, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, complaints(result.stderr)) == (0, [])
    lines = re.findall(r"^(.+?) +(first|urgent|normal) job +(\d+): +(\d+) primes$", result.stdout, re.MULTILINE)
    assert sorted(int(number) for _, _, number, _ in lines) == list(range(1, 20))
    answers = {int(number): int(answer) for _, _, number, answer in lines}
    assert {number: answers[number] for number in range(1, 4)} == {1: 168, 2: 303, 3: 430}
    assert (answers[13], answers[14], answers[16]) == (primes(100), primes(500), 2262)
    assert "16 jobs of " in result.stdout
    for worker in WORKERS:
        # Each worker is alone with its order: all its urgent jobs come before its normal ones.
        kinds = [kind for name, kind, _, _ in lines if name == worker]
        assert kinds == sorted(kinds, key=["first", "urgent", "normal"].index)
        assert kinds.count("first") == 1
        assert re.search(rf"^{worker} +{len(kinds)} jobs, went home$", result.stdout, re.MULTILINE)
    assert "19 of 19 jobs done, 0 left" in result.stdout
    assert_nothing_is_left(result.stdout)


def test_interrupted_it_leaves_nothing() -> None:
    options: dict[str, Any] = {"env": ENVIRONMENT, "stdout": -1, "stderr": -1, "text": True}
    # A shell's background job ignores it.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(COMMAND, **options) as dispatcher:
        assert dispatcher.stdout is not None
        output = dispatcher.stdout.readline()
        dispatcher.send_signal(signal.SIGINT)
        dispatcher.communicate(timeout=60)
    assert dispatcher.returncode == -signal.SIGINT
    assert_nothing_is_left(output)


def test_a_worker_ends_when_its_queues_are_gone(tmp_path: Path) -> None:
    for command in ([sys.executable, str(HERE / "worker.py")], [compile_c(HERE / "worker.c", tmp_path / "worker")]):
        with MessageQueue.create(None) as jobs, MessageQueue.create(None) as results:
            with subprocess.Popen([*command, str(jobs.id), str(results.id)], stderr=subprocess.PIPE) as worker:
                jobs.send_nowait(b"1 100", type=worker.pid)
                for answer, kind in ((b"%d", READY), (b"%d 1 25", worker.pid)):
                    while results.statistics().messages == 0:
                        assert worker.poll() is None
                    assert results.receive_nowait() == (answer % worker.pid, kind)
                jobs.remove()
                assert worker.communicate(timeout=60)[1] == b""
            assert worker.returncode == 0
