"""A peer in Python, which ends when it has sent back as much as it was told to.

soak_peer.py mq IN OUT COUNT                 as mq.c echo, by posix_ipc
soak_peer.py sem IN OUT COUNT                as sem.c echo, by posix_ipc
soak_peer.py sysv KEY_IN KEY_OUT COUNT       as sysv.c echo, by sysv_ipc
soak_peer.py channel IN OUT COUNT            by aioipc, in an event loop of its own
"""

from __future__ import annotations

import sys


def mq(there: str, back: str, count: str) -> None:
    import posix_ipc

    incoming, outgoing = posix_ipc.MessageQueue(there), posix_ipc.MessageQueue(back)
    for _ in range(int(count)):
        data, priority = incoming.receive()
        outgoing.send(data, priority=priority)


def sem(there: str, back: str, count: str) -> None:
    import posix_ipc

    incoming, outgoing = posix_ipc.Semaphore(there), posix_ipc.Semaphore(back)
    for _ in range(int(count)):
        incoming.acquire()
        outgoing.release()


def sysv(there: str, back: str, count: str) -> None:
    import sysv_ipc

    incoming, outgoing = sysv_ipc.MessageQueue(int(there)), sysv_ipc.MessageQueue(int(back))
    for _ in range(int(count)):
        data, type = incoming.receive()
        outgoing.send(data, type=type)


def channel(there: str, back: str, count: str) -> None:
    import asyncio

    from aioipc import Channel

    async def echo() -> None:
        async with Channel.open(there) as incoming, Channel.open(back) as outgoing:
            for _ in range(int(count)):
                await outgoing.send(await incoming.receive())

    asyncio.run(echo())


if __name__ == "__main__":
    {"mq": mq, "sem": sem, "sysv": sysv, "channel": channel}[sys.argv[1]](*sys.argv[2:])
