"""A worker in Python: takes jobs from one System V queue, and sends what comes of them to another.

    python worker.py JOBS RESULTS          (ids of the queues, as ipcs -q shows them)

A job is the text "NUMBER BELOW": how many primes are there below BELOW?  Its type is its class, URGENT
or NORMAL.  The answer has the same type, and the text "PID NUMBER ANSWER".  Who receives
GO_HOME answers with that type and the text "PID DONE", how many jobs he has done, and ends.

A worker begins with the answer READY, "PID".  Its first job is for it alone: the type is that pid.
"""

from __future__ import annotations

import asyncio
import os
import sys

import aioipc
from aioipc.sysv import Message, MessageQueue

URGENT, NORMAL, GO_HOME, READY = 1, 2, 3, 4


def count_primes(below: int) -> int:
    return sum(all(n % divisor for divisor in range(2, int(n**0.5) + 1)) for n in range(2, below))


async def work(jobs: MessageQueue, results: MessageQueue) -> None:
    pid = os.getpid()
    done = 0

    async def do(job: Message) -> None:
        number, below = map(int, job.data.split())
        await asyncio.sleep(0.02)  # stands for what real jobs wait for
        await results.send(b"%d %d %d" % (pid, number, count_primes(below)), type=job.type)

    await results.send(b"%d" % pid, type=READY)
    await do(await jobs.receive(type=pid))
    done += 1
    async for job in jobs.messages(type=-GO_HOME):  # of types 1 to 3, the lowest there is
        if job.type == GO_HOME:
            break
        await do(job)
        done += 1
    await results.send(b"%d %d" % (pid, done), type=GO_HOME)


async def main(jobs_id: int, results_id: int) -> None:
    with MessageQueue.open(id=jobs_id) as jobs, MessageQueue.open(id=results_id) as results:
        await work(jobs, results)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} JOBS RESULTS")
    try:
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
    except aioipc.RemovedError:
        pass  # the dispatcher has gone, and with it the queues
    except aioipc.Error as error:
        sys.exit(str(error))
