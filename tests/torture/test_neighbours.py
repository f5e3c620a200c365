"""The hostile neighbours do what they are told to."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import neighbours_channel
import neighbours_floods
import posix_ipc
import pytest
import responsive
from world import Failed, World, finished

from aioipc import Channel

ENDED, HEAD, DATA = 576, 320, 65536


def vandalised(world: World, *steps: list[Any]) -> tuple[str, int]:
    """The name of a channel with three messages, to which a vandal has done this, and how many steps it was."""
    name, bells = neighbours_channel.channel(world, 4096, 3)
    vandal = neighbours_channel.vandal(world, {"as_nobody": False}, name, bells, list(steps))
    return name, neighbours_channel.steps_done(vandal)


def held_up(loop: str, hold_up: Callable[[], object]) -> None:
    async def main(_: Counter[str]) -> None:
        hold_up()
        await anyio.sleep(0.01)

    responsive.responsive(loop, main)


@pytest.mark.parametrize("loop", responsive.LOOPS)
@pytest.mark.parametrize("works", [False, True])
def test_a_loop_that_does_not_go_on_is_found(loop: str, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass

    monkeypatch.setattr(responsive, "BLOCKED", 0.2)
    with World() as world, pytest.raises(Failed, match="the loop was held up"):
        world.fork(held_up, loop, work if works else lambda: time.sleep(0.3)).result()


def test_a_processor_that_others_have_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def spin() -> None:
        while True:
            pass

    def work() -> None:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass

    monkeypatch.setattr(responsive, "BLOCKED", 0.6)
    processors = os.sched_getaffinity(0)
    with World() as world:
        os.sched_setaffinity(0, {min(processors)})
        try:
            others = [world.fork(spin) for _ in range(9)]
            world.fork(held_up, "asyncio", work).result()  # it takes two seconds
        finally:
            os.sched_setaffinity(0, processors)
        assert not any(other.has_ended for other in others)


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
