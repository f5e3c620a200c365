"""Eight producers, one consumer.

    python examples/fan_in.py

Eight processes send messages of 64 bytes into one channel, each as fast as it can, and this one receives them. It
prints how fast that went, and that all have arrived, those of each producer in their order.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time

from aioipc import Channel

PRODUCERS = 8
COUNT = 20_000
MESSAGE = struct.Struct("<II56x")
"""Of which producer, and its number."""


async def produce(name: str, producer: int) -> None:
    async with Channel.open(name) as channel:
        for number in range(COUNT):
            await channel.send(MESSAGE.pack(producer, number))


async def consume(channel: Channel) -> float:
    """How many seconds it took from the first message to the last."""
    expected = [0] * PRODUCERS
    left = PRODUCERS * COUNT
    began = 0.0
    async for message in channel:
        began = began or time.perf_counter()
        producer, number = MESSAGE.unpack(message)
        if number != expected[producer]:
            sys.exit(f"message {number} of producer {producer} has come instead of {expected[producer]}")
        expected[producer] += 1
        left -= 1
        if left == 0:
            break
    return time.perf_counter() - began


async def main() -> None:
    name = f"/fan-in-{os.getpid()}"
    async with Channel.create(name, capacity=2**20) as channel, asyncio.timeout(60):
        producers = []
        try:
            for producer in range(PRODUCERS):
                command = (sys.executable, __file__, name, str(producer))
                producers.append(await asyncio.create_subprocess_exec(*command))
            seconds = await consume(channel)
            statuses = [await producer.wait() for producer in producers]
        finally:
            for process in producers:
                if process.returncode is None:  # only if something has failed
                    process.kill()
                    await process.wait()
        if any(statuses):
            sys.exit("a producer has failed")
        print(f"{PRODUCERS} producers: {PRODUCERS * COUNT:,} messages, {channel.statistics().messages} left")
        print(f"{PRODUCERS * COUNT / seconds:,.0f} messages a second")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(produce(sys.argv[1], int(sys.argv[2])))
    else:
        asyncio.run(main())
