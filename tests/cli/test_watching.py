"""aioipc watch."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable

import pytest
from command import AIOIPC, aioipc, plain, terminal

from aioipc import Channel, posix, sysv


def test_in_a_pipe(name: str) -> None:
    with posix.MessageQueue.create(name) as queue:
        queue.send_nowait(b"one")
        result = aioipc("watch", f"mq:{name}", "--count", "3", "--interval", "0.01")
        assert (result.errors, result.code) == ("", 0)
        assert [(row["LEVEL"], row["BYTES"]) for row in result.rows] == [("1", "3")] * 3
        assert [row["CHANGE/S"] for row in result.rows] == ["-", "+0.0", "+0.0"]
        # Nothing was taken.
        assert queue.receive_nowait().data == b"one"


@pytest.mark.parametrize("kind", ["sem", "shm", "semset", "segment"])
def test_other_levels(kind: str, name: str, key: int) -> None:
    made: dict[str, Callable[[], posix.Semaphore | posix.SharedMemory | sysv.SemaphoreSet | sysv.SharedMemory]] = {
        "sem": lambda: posix.Semaphore.create(name, value=5),
        "shm": lambda: posix.SharedMemory.create(name, size=10),
        "semset": lambda: sysv.SemaphoreSet.create(key, values=[1, 2]),
        "segment": lambda: sysv.SharedMemory.create(key, size=10),
    }
    level = {"sem": "5", "shm": str(os.sysconf("SC_PAGE_SIZE")), "semset": "3", "segment": "1"}
    with made[kind]():
        address = f"{kind}:{name}" if kind in ("sem", "shm") else f"{kind}:{key:#x}"
        assert [row["LEVEL"] for row in aioipc("watch", address, "--count", "1").rows] == [level[kind]]


def test_what_is_sent_to_a_channel(name: str) -> None:
    with Channel.create(name) as channel:
        command = [*AIOIPC, "watch", f"channel:{name}", "--interval", "0.01"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            assert watcher.stdout.readline().split("\t")[1:] == ["0", "-", "0", "-\n"]
            for _ in range(100):
                channel.send_nowait(b"x")
                channel.receive_nowait()
            # Emptied as fast as it is filled: its level says nothing of that.
            while float(watcher.stdout.readline().split("\t")[4]) == 0:
                pass
            watcher.terminate()
        assert channel.statistics().messages == 0


def test_at_a_terminal(name: str) -> None:
    with Channel.create(name) as channel, terminal("watch", f"channel:{name}", "--interval", "0.01") as screen:
        screen.read_until("▁")
        channel.send_nowait(b"abc")
        screen.read_until("3 bytes")
        screen.read_until("█")
        screen.type("\x03")
        output, code = screen.finish()
        assert code == -signal.SIGINT
        assert "Traceback" not in output
        assert re.search(rf"channel:{name}  1  \+[\d,.]+/s  3 bytes  [\d,.]+/s sent\n▁+█", plain(output))


def test_it_ends_when_the_object_is_removed(name: str) -> None:
    for replaces in False, True:
        posix.Semaphore.create(name, persist=True).close()
        command = [*AIOIPC, "watch", f"sem:{name}", "--interval", "0.01"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            assert watcher.stderr is not None
            for _ in range(2):
                watcher.stdout.readline()
            os.rename(f"/dev/shm/sem.{name[1:]}", f"/dev/shm/sem.{name[1:]}-old")
            if replaces:
                os.link(f"/dev/shm/sem.{name[1:]}-old", f"/dev/shm/sem.{name[1:]}-kept")
                os.unlink(f"/dev/shm/sem.{name[1:]}-kept")
                posix.Semaphore.create(name, persist=True).close()
            assert name in watcher.stderr.read()
            watcher.stdout.read()
        os.unlink(f"/dev/shm/sem.{name[1:]}-old")
        assert watcher.returncode == 1


def test_it_does_not_use_the_processor_while_it_waits(name: str) -> None:
    with posix.Semaphore.create(name):
        command = [*AIOIPC, "watch", f"sem:{name}"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert subprocess.run([*command, "--count", "1"], stdout=subprocess.DEVNULL, check=True).returncode == 0
        once = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "--count", "3", "--interval", "1"], stdout=subprocess.DEVNULL, check=True)
        waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of two seconds; a busy loop would use all of them.
    assert (waited.ru_utime - once.ru_utime) < (once.ru_utime - before.ru_utime) + 1


def test_an_interval_that_is_none(name: str) -> None:
    for interval in ("nan", "inf", "0"):
        result = aioipc("watch", f"sem:{name}", "--interval", interval)
        assert (result.output, result.code) == ("", 2)
        assert "Invalid value for '--interval'" in result.errors
