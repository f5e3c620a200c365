"""Producers and consumers in processes of their own: each message arrives once, whole, and in order."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from conftest import running

from aioipc import Channel

PEER = str(Path(__file__).parent / "peer.py")


@pytest.mark.parametrize("capacity", [64 * 1024, 2**20])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_three_producers_and_three_consumers(
    name: str, capacity: int, loop: str, races: int, rng: random.Random, tmp_path: Path
) -> None:
    """The small channel is full most of the time: senders and receivers sleep."""
    count = races // 2
    seed = str(rng.randrange(2**32))
    end = ["uvloop"] if loop == "uvloop" else []
    with Channel.create(name, capacity=capacity) as channel, ExitStack() as stack:
        outputs = [stack.enter_context(open(tmp_path / f"{n}", "w+")) for n in range(3)]
        with ExitStack() as consumers:
            for number, output in enumerate(outputs):
                command = [sys.executable, PEER, "consume", name, f"{seed} {number}", *end]
                consumers.enter_context(running(*command, stdout=output))
            with ExitStack() as producers:
                for number in range(3):
                    command = [sys.executable, PEER, "produce", name, str(number), str(count), f"{seed} {number}", *end]
                    producers.enter_context(running(*command))
            anyio.run(channel.end)
        statistics = channel.statistics()
        assert (statistics.messages, statistics.bytes, statistics.dead_peers, statistics.senders) == (0, 0, 0, 0)
        received = defaultdict(list)
        for consumer, output in enumerate(outputs):
            output.seek(0)
            for line in output:
                producer, number = map(int, line.split())
                received[consumer, producer].append(number)
    for numbers in received.values():
        assert numbers == sorted(numbers)
    for producer in range(3):
        all_of_it = [number for consumer in range(3) for number in received[consumer, producer]]
        assert len(all_of_it) >= count
        assert sorted(all_of_it) == list(range(len(all_of_it)))


@pytest.mark.anyio
async def test_many_handles_of_one_small_channel(name: str, races: int) -> None:
    """Senders of one size that sleep for room, receivers that sleep for messages: nobody sleeps for ever."""
    count = races // 2
    async with Channel.create(name, capacity=128) as channel:
        command = [sys.executable, PEER, "count", name, str(count)]
        with running(*command), running(*command), running(*command):
            with anyio.fail_after(240):
                received = [int(await channel.receive()) for _ in range(3 * count)]
    assert sorted(received) == sorted(list(range(count)) * 3)
