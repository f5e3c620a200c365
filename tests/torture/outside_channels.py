"""The other side of a channel, as outside.py: read by its format, and used by its C code in other processes."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outside import Queue, brief, mode_of
from world import TESTS, finished, program

PEERS = b"p"
"""Of what peers/channel.c makes its messages."""


class Ring(Queue):
    """Reads the memory of a channel as docs/ring.md says."""

    @classmethod
    def given(cls) -> bytes:
        return PEERS * max(cls.length(), 10)

    def _header(self) -> mmap.mmap:
        with open(f"/dev/shm{self.name}", "rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def contents(self) -> dict[str, Any]:
        memory = self._header()

        def number(place: int) -> int:
            return int(struct.unpack_from("Q", memory, place)[0])

        data, room, tail, position = number(24), number(32), number(192), number(320)
        memory_twice = memory[: data + room] + memory[data : data + room]  # where no record is in two pieces
        messages = []
        while position < tail:
            place = data + position % room
            size = number(place + 8)
            if number(place) & 0xFF in (2, 3):
                messages.append(brief(memory_twice[place + 32 : place + 32 + size]))
            position += (32 + size + 63) // 64 * 64
        return {
            "messages": messages,
            "peers": sum(memory[place] for place in range(640, 640 + 256 * 64, 64)),
            "capacity": number(40),
            "ended": bool(memory[576]),
            "mode": mode_of(f"/dev/shm{self.name}"),
        }

    @staticmethod
    def joined(contents: Any, handles: int = 1) -> Any:
        return {**contents, "peers": contents["peers"] + handles}

    def _do(self, *words: str) -> None:
        peer = program("peers/channel.c", "-Wl,--wrap=write", *ring_sources())
        words = (f"size={len(self.given())}", "join", *words, "leave")
        finished(self.world.spawn(peer, self.name, "-", *words, stdout=subprocess.DEVNULL))

    def send(self) -> None:
        self._do("send")

    def receive(self) -> None:
        self._do("receive")


class LongRing(Ring):
    """Of messages that are copied in pieces."""

    @classmethod
    def length(cls) -> int:
        return 100_000


class SleepingReceiver(Ring):
    """Waits for a message in another process: it takes a doorbell to wake it."""

    _does, _flag = "take", 448

    @classmethod
    def sent(cls) -> bytes:
        """As peers/storm.c has its messages."""
        return b"%016d" % 1

    def contents(self) -> dict[str, Any]:
        """But for the peers: peers/storm.c does not leave, and when somebody cleans up after it is not to be told."""
        return {**super().contents(), "peers": None}

    @staticmethod
    def joined(contents: Any, handles: int = 1) -> Any:
        return contents

    def put(self, contents: Any) -> Any:
        """Let it sleep."""
        record = self.world.path()
        self._sleeper = self.world.spawn(
            program("peers/storm.c", *ring_sources()), self._does, "channel", self.name, record,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._sleeper.stdin.write(b".")
        self._sleeper.stdin.flush()
        header = self._header()
        while not (header[self._flag] and _state(self._sleeper.pid) == "S"):
            assert self._sleeper.poll() is None, "it does not wait"
            os.sched_yield()
        return contents

    def follow(self) -> None:
        finished(self._sleeper)


class SleepingSender(SleepingReceiver):
    """Waits for room, likewise."""

    _does, _flag = "give", 512

    @classmethod
    def given(cls) -> bytes:
        return b"%016d" % 0


class LockedRing(Ring):
    """Of which another process is just about to send something, until it gives way."""

    def prepare(self) -> None:
        command = (program("peers/storm.c", *ring_sources()), "end")
        self._holder = self.world.spawn(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._tell(f"lock {self.name}\n")

    def _tell(self, line: str) -> None:
        self._holder.stdin.write(line.encode())
        self._holder.stdin.flush()
        assert self._holder.stdout.read(1) == b"+", line

    def put(self, contents: Any) -> Any:
        self._tell("unlock -\n")
        return self.joined(contents, -1)


def ring_sources() -> Iterator[Path]:
    """The C files that a peer of a channel needs."""
    return ((TESTS.parent / "aioipc/_ring" / name).with_suffix(".c") for name in ("bells", "file", "peers", "ring"))


def _state(pid: int) -> str:
    """What a process does, as a letter: proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
