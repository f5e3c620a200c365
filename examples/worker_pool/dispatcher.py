"""A dispatcher with a pool of workers, two in Python and one in C.

    python examples/worker_pool/dispatcher.py          (needs a C compiler)

The jobs go into one System V message queue, and what comes of them back through another.  The type
of a message is the class of the job.  A worker asks for type=-3, which means: of the types 1
to 3, the lowest there is.  So it takes urgent jobs (1) first, then normal ones (2), and only when
there is nothing else to do, the message that it may go home (3).  The kernel does the dispatching.

All jobs are in the queue before the workers start, the urgent ones last.  The first job of each
worker is addressed to it alone, by its pid: a type that the others do not ask for.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from worker import GO_HOME, NORMAL, READY, URGENT

import aioipc
from aioipc.sysv import MessageQueue

HERE = Path(__file__).parent
CLASSES = {URGENT: "urgent", NORMAL: "normal"}


@asynccontextmanager
async def pool(jobs: MessageQueue, results: MessageQueue) -> AsyncIterator[dict[int, str]]:
    """Workers by their pid.  They must have ended well when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        compiler = await asyncio.create_subprocess_exec("cc", str(HERE / "worker.c"), "-o", f"{folder}/worker")
        if await compiler.wait() != 0:
            sys.exit("worker.c can't be compiled")
        in_python = (sys.executable, str(HERE / "worker.py"))
        processes = []
        try:
            async with asyncio.timeout(60):
                for command in (in_python, in_python, (f"{folder}/worker",)):
                    process = await asyncio.create_subprocess_exec(*command, str(jobs.id), str(results.id))
                    processes.append(process)
                names = ("Python worker 1", "Python worker 2", "C worker")
                watch = [asyncio.create_task(process.wait()) for process in processes]
                for task in watch:  # if one fails, there is nothing to wait for
                    task.add_done_callback(lambda task: results.close() if task.result() != 0 else None)
                yield {process.pid: name for process, name in zip(processes, names, strict=True)}
                if any(await asyncio.gather(*watch)):
                    sys.exit("a worker has failed")
        except aioipc.ClosedError:
            sys.exit("a worker has failed")
        finally:
            for process in processes:
                if process.returncode is None:  # only if something has failed
                    process.kill()
                    await process.wait()


async def main() -> None:
    async with MessageQueue.create(None) as jobs, MessageQueue.create(None) as results:
        print(f"message queues (see ipcs -q): {jobs.id} for jobs, {results.id} for results")
        number = 0

        async def submit(job_class: int, below: int) -> None:
            nonlocal number
            number += 1
            await jobs.send(b"%d %d" % (number, below), type=job_class)

        for below in range(1000, 13000, 1000):
            await submit(NORMAL, below)
        for below in (100, 500, 10000, 20000):
            await submit(URGENT, below)
        statistics = jobs.statistics()
        print(f"{statistics.messages} jobs of {statistics.bytes} bytes are in the queue, the urgent ones last\n")

        async with pool(jobs, results) as workers:
            for _ in workers:
                await results.receive(type=READY)
            for pid in workers:
                await submit(pid, 1000)
            for _ in workers:
                await jobs.send(b"", type=GO_HOME)

            at_work = set(workers)
            done = {}
            async for result in results:
                pid, *numbers = map(int, result.data.split())
                if result.type == GO_HOME:
                    at_work.discard(pid)
                    done[pid] = numbers[0]
                    if not at_work:
                        break
                else:
                    kind = CLASSES.get(result.type, "first")
                    print(f"{workers[pid]:15}   {kind} job {numbers[0]:2}: {numbers[1]:4} primes", flush=True)
        print()
        for pid, count in done.items():
            print(f"{workers[pid]:15}   {count} jobs, went home")
        print(f"{sum(done.values())} of {number} jobs done, {jobs.statistics().messages} left")


if __name__ == "__main__":
    asyncio.run(main())
