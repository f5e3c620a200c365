"""Two programs that have nothing in common but the name of a message queue.

    python examples/quickstart.py

A POSIX message queue is a mailbox inside the kernel.  One program creates it under a
name; any program on the machine that knows the name, in any language, can put messages
in, and the kernel hands them out again, those with the highest priority first.

This program creates a queue and starts another process, which does not use aioipc.
The other one sends a few messages and ends; this one receives them in an event loop,
where it could serve web requests meanwhile.  Nothing is left behind.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from aioipc.posix import MessageQueue

# The other program.  It uses posix_ipc, which is to Python what <mqueue.h> is to C.
SENDER = """
import sys, time
import posix_ipc

queue = posix_ipc.MessageQueue(sys.argv[1])
orders = [("an espresso", 1), ("two coffees", 1), ("the fire alarm!", 9), ("a cup of tea", 1)]
for order, priority in orders:
    sent = time.monotonic()
    queue.send(f"{sent} {order}", priority=priority)
    time.sleep(0.2)
for order, priority in orders:                      # now all at once
    queue.send(f"{time.monotonic()} {order}", priority=priority)
queue.send(f"{time.monotonic()} that is all", priority=0)
queue.close()
"""


async def main() -> None:
    name = f"/quickstart-{os.getpid()}"
    async with MessageQueue.create(name, max_messages=10, max_message_size=100) as queue:
        print(f"This process, {os.getpid()}, has created the message queue {name} and waits.")
        sender = await asyncio.create_subprocess_exec(sys.executable, "-c", SENDER, name)
        print(f"Another process, {sender.pid}, sends: first one message after the other, then all at once.\n")
        # Should it fail, there is nothing to wait for: the iteration ends when the queue is closed.
        watch = asyncio.create_task(sender.wait())
        watch.add_done_callback(lambda _: queue.close() if sender.returncode else None)
        print("priority  on its way   message")
        async for message in queue:
            sent, text = message.data.decode().split(" ", 1)
            on_its_way = (time.monotonic() - float(sent)) * 1e6
            print(f"{message.priority:8}  {on_its_way:7.0f} us   {text}")
            if text == "that is all":
                break
        if await watch != 0:
            sys.exit("the other process has failed")
    print("\nThe queue is removed again.  What was sent all at once was sorted by priority,")
    print("as far as it was in the queue together.")


asyncio.run(main())
