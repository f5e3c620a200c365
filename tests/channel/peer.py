"""The other process of the tests of channels.

count NAME COUNT [end]: send the numbers, each once.
drain NAME: print each message until the end.
produce NAME NUMBER COUNT SEED: send messages that tell who sent them, the how manieth it is, and their check sum.
consume NAME SEED: receive such messages until the end, and print who sent them and the how manieth they were.
"""

from __future__ import annotations

import asyncio
import random
import sys
import zlib
from collections.abc import Callable

from aioipc import Channel, EndOfStream

SIZES = (0, 1, 15, 16, 17, 60, 100, 1000, 4050, 4100, 5000, 20_000)


async def count(channel: Channel, number: str, *end: str) -> None:
    for n in range(int(number)):
        await channel.send(b"%d" % n)
    if end:
        await channel.end()


async def drain(channel: Channel) -> None:
    async for message in channel:
        print(message.decode())


def message(producer: int, number: int, size: int) -> bytes:
    data = producer.to_bytes(4, "little") + number.to_bytes(4, "little") + bytes([number % 251]) * size
    return zlib.crc32(data).to_bytes(4, "little") + data


async def produce(channel: Channel, producer: str, how_many: str, seed: str) -> None:
    rng = random.Random(seed)
    number = 0
    while number < int(how_many):
        items = [message(int(producer), number + n, rng.choice(SIZES)) for n in range(rng.choice((1, 1, 1, 2, 3)))]
        if len(items) > 1:
            await channel.send_many(items)
        elif rng.random() < 0.5:
            await channel.send(items[0])
        else:
            if rng.random() < 0.1:
                try:
                    async with channel.reserve(50):
                        raise KeyError
                except KeyError:
                    pass
            async with channel.reserve(len(items[0])) as buffer:
                if rng.random() < 0.1:
                    await asyncio.sleep(0)
                buffer[:] = items[0]
        number += len(items)


async def consume(channel: Channel, seed: str) -> None:
    def take(data: bytes) -> None:
        check, rest = data[:4], data[4:]
        assert zlib.crc32(rest) == int.from_bytes(check, "little"), "a message is not as it was sent"
        print(int.from_bytes(rest[:4], "little"), int.from_bytes(rest[4:8], "little"))

    rng = random.Random(seed)
    try:
        while True:
            way = rng.randrange(4)
            if way == 0:
                take(await channel.receive())
            elif way == 1:
                for item in await channel.receive_many(rng.randrange(1, 10)):
                    take(item)
            elif way == 2:
                async with channel.borrow() as view:
                    if rng.random() < 0.1:
                        await asyncio.sleep(0)
                    take(bytes(view))
            else:
                async for item in channel:
                    take(item)
                    if rng.random() < 0.1:
                        break
    except EndOfStream:
        pass


async def main(what: str, name: str, *arguments: str) -> None:
    functions: dict[str, Callable[..., object]] = {
        "count": count, "drain": drain, "produce": produce, "consume": consume,
    }  # fmt: skip
    async with Channel.open(name) as channel:
        await functions[what](channel, *arguments)  # type: ignore[misc]


if __name__ == "__main__":
    if "uvloop" in sys.argv[-1]:
        import uvloop

        uvloop.run(main(*sys.argv[1:-1]))
    else:
        asyncio.run(main(*sys.argv[1:]))
