"""The hostile neighbours do what they are told to."""

from __future__ import annotations

import os
from typing import Any

import neighbours_channel
import neighbours_floods
import posix_ipc
from world import World, finished

from aioipc import Channel

ENDED, HEAD, DATA = 576, 320, 65536


def vandalised(world: World, *steps: list[Any]) -> tuple[str, int]:
    """The name of a channel with three messages, to which a vandal has done this, and how many steps it was."""
    name, bells = neighbours_channel.channel(world, 4096, 3)
    vandal = neighbours_channel.vandal(world, {"as_nobody": False}, name, bells, list(steps))
    return name, neighbours_channel.steps_done(vandal)


def read(name: str, place: int) -> int:
    with open("/dev/shm" + name, "rb") as file:
        file.seek(place)
        return int.from_bytes(file.read(8), "little")


def test_it_writes_over_the_memory() -> None:
    with World() as world:
        name, done = vandalised(
            world,
            [0, "s", "f", ENDED, 4, 7, 1, 0],
            [0, "s", "f", HEAD, 8, 12345, 2, 0],  # and back
            [0, "s", "t", 0, 8, 99, 1, 0],
            [0, "m", "h", 64, 8, 2 | 5 << 8, 1, 1000],
        )
        assert done >= 4
        assert (read(name, ENDED) & 0xFFFFFFFF, read(name, HEAD)) == (7, 0)
        assert read(name, DATA + 192) == 99
        # The mark of the second record: see docs/ring.md.
        assert read(name, DATA + 64) == (2 * 0x9E3779B97F4A7C15 % 2**64) & ~0xFFFFFF | 2 | 5 << 8


def test_it_cuts_the_file_and_fills_the_doorbells() -> None:
    with World() as world:
        name, _ = vandalised(world, [0, "t", "f", DATA, 1, 0, 1, 0], [0, "w", "m", 0, 1, 65536, 3, 1000])
        assert os.stat("/dev/shm" + name).st_size == 2 * DATA
        assert read(name, DATA) == 0
        Channel.open(name).close()


def test_a_flood_counts_for_itself() -> None:
    with World() as world:
        name, key = world.name(), world.key()
        neighbours_floods.make("mq", name, key)
        flood = neighbours_floods.flood(world, "mq", "send", name)
        queue = posix_ipc.MessageQueue(name)
        received = [queue.receive() for _ in range(100)]
        flood.terminate()
        assert int(finished(flood)) == len(received) + queue.current_messages
        queue.close()
        assert flood.wait() == 0
