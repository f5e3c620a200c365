"""A worker: looks for the bright spot in each frame, where that lies in shared memory.

    python worker.py /frames /results [STALL]

It sends "PID" when it is ready, and what it found as the text "PID NUMBER ROW COLUMN".  With STALL it finds
nothing in the frame after so many: it sends "PID NUMBER", and hangs.

The result is sent before the frame is consumed.  A worker that dies in between has done its work, and somebody
does it again; the other way round it might never be done.
"""

from __future__ import annotations

import asyncio
import os
import sys

import numpy as np
from camera import HEAD, HEIGHT, WIDTH

import aioipc
from aioipc import Channel


def find_spot(view: memoryview) -> tuple[int, int]:
    # A function of its own, so that the array is gone when it ends.  As long as there is one, the frame takes up
    # room, and who keeps one while it waits for the next may wait for ever.
    picture = np.frombuffer(view, np.uint8, offset=HEAD).reshape(HEIGHT, WIDTH)
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    return int(row), int(column)


async def main(frames_name: str, results_name: str, stall: int | None) -> None:
    pid, done = os.getpid(), 0
    async with Channel.open(frames_name) as frames, Channel.open(results_name) as results:
        await results.send(b"%d" % pid)
        while True:
            try:
                async with frames.borrow() as view:
                    number = int.from_bytes(view[:HEAD], "little")
                    if done == stall:
                        await results.send(b"%d %d" % (pid, number))
                        await asyncio.sleep(3600)
                    await asyncio.sleep(0.005)  # stands for more work
                    await results.send(b"%d %d %d %d" % (pid, number, *find_spot(view)))
            except aioipc.EndOfStream:
                break
            done += 1


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} FRAMES RESULTS [STALL]")
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))
    except (aioipc.Error, ValueError) as error:
        sys.exit(str(error))
