"""A camera: films a bright spot that wanders, straight into shared memory.

python camera.py /frames 200
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

import aioipc
from aioipc import Channel

HEIGHT, WIDTH = 480, 640
HEAD = 8
"""Bytes before the pixels: the number of the frame."""
SIZE = HEAD + HEIGHT * WIDTH


def spot(number: int) -> tuple[int, int]:
    """Row and column of the bright spot."""
    return number * 7 % HEIGHT, number * 11 % WIDTH


async def main(name: str, count: int) -> None:
    async with Channel.open(name) as frames:
        for number in range(count):
            async with frames.reserve(SIZE) as buffer:  # waits while the workers have too much to do
                buffer[:HEAD] = number.to_bytes(HEAD, "little")
                picture = np.frombuffer(buffer, np.uint8, offset=HEAD).reshape(HEIGHT, WIDTH)
                picture[:] = number % 200
                picture[spot(number)] = 255
                del picture  # or it could still write to the frame when that is published
        await frames.end()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} FRAMES COUNT")
    try:
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    except (aioipc.Error, ValueError) as error:
        sys.exit(str(error))
