"""Puts readings on a queue that somebody else has created.

python client.py /telemetry 5
"""

from __future__ import annotations

import asyncio
import sys

import aioipc
from aioipc.posix import MessageQueue


async def main(name: str, count: int) -> None:
    async with MessageQueue.open(name, read=False) as queue:
        for number in range(count):
            await queue.send(b"humidity=%d number=%d" % (40 + number % 10, number), priority=1)


if len(sys.argv) != 3:
    sys.exit(f"usage: {sys.argv[0]} QUEUE COUNT")
try:
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
except (aioipc.Error, ValueError) as error:
    sys.exit(str(error))
