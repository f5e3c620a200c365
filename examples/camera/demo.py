"""A camera, three workers, and a death: frames in shared memory, as numpy arrays.

    python examples/camera/demo.py          (needs numpy)

The camera writes frames of 300 KB into a channel, in place; the workers, processes of their own, look at them in
place.  Nothing is copied on the way.  Each frame goes to one worker, which sends through a second channel
where in it the bright spot is.

One worker hangs while it looks at a frame, and is killed by SIGKILL.  It had only borrowed the frame, so
that is delivered again, to somebody else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

from camera import SIZE, spot

from aioipc import Channel

HERE = Path(__file__).parent
FRAMES, RESULTS = f"/frames-{os.getpid()}", f"/results-{os.getpid()}"
COUNT = 300
STALL = 20


async def start(script: str, *arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, str(HERE / script), *map(str, arguments))


async def collect(results: Channel, processes: dict[int, asyncio.subprocess.Process]) -> Counter[int]:
    """How many frames each worker has seen."""
    seen: dict[int, int] = {}
    again = -1
    async for result in results:
        pid, number, *found = map(int, result.split())
        if not found:
            print(f"worker {pid} hangs over frame {number}, and is killed", flush=True)
            processes[pid].kill()
            again = number
            continue
        if number in seen:
            sys.exit(f"frame {number} was seen twice")
        if tuple(found) != spot(number):
            sys.exit(f"frame {number}: the spot is not at {found}")
        if number == again:
            print(f"worker {pid} has got frame {number} instead", flush=True)
        seen[number] = pid
        if len(seen) == COUNT:
            break
    return Counter(seen.values())


async def main() -> None:
    async with (
        Channel.create(FRAMES, capacity=16 * SIZE) as frames,
        Channel.create(RESULTS) as results,
        asyncio.timeout(60),
    ):
        print(f"the channel {FRAMES} has room for {frames.capacity:,} bytes of frames")
        workers: dict[int, asyncio.subprocess.Process] = {}
        everybody: list[asyncio.subprocess.Process] = []
        try:
            for stall in ([STALL], [], []):
                worker = await start("worker.py", FRAMES, RESULTS, *stall)
                workers[worker.pid] = worker
                everybody.append(worker)
            for _ in workers:
                await results.receive()  # it is ready
            everybody.append(await start("camera.py", FRAMES, COUNT))
            seen = await collect(results, workers)
            statuses = [await process.wait() for process in everybody]
        finally:
            for process in everybody:
                if process.returncode is None:  # only if something has failed
                    process.kill()
                    await process.wait()
        for pid, worker in workers.items():
            print(f"worker {pid}: {seen[pid]:3} frames, status {worker.returncode}")
        print(f"{seen.total()} of {COUNT} frames seen, {frames.statistics().messages} left")
        if any(statuses[1:]):
            sys.exit("a process has failed")


asyncio.run(main())
