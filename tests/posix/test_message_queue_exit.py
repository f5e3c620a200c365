"""A process with waits pending ends at once, whatever ends it, and without a word."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from aioipc.posix import MessageQueue

CHILD = """
import asyncio, os, signal, sys, threading, time
import trio, uvloop
from aioipc.posix import MessageQueue

name, loop, way, thread = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

queue, full = MessageQueue.open(name), MessageQueue.open(name + "-full")

async def iterate():
    async for message in queue:
        pass

waits = [queue.receive, queue.receive, iterate, lambda: full.send(b"")]

def waiting():
    return queue.statistics().tasks_waiting_receive + full.statistics().tasks_waiting_send

async def on_asyncio():
    tasks = [asyncio.ensure_future(each()) for each in waits]
    while waiting() < len(waits):
        await asyncio.sleep(0)
    await end()
    if way in ("SIGINT", "SIGTERM"):
        await asyncio.sleep(60)

async def on_trio():
    async with trio.open_nursery() as nursery:
        for each in waits:
            nursery.start_soon(each)
        while waiting() < len(waits):
            await trio.lowlevel.checkpoint()
        await end()
        if way in ("SIGINT", "SIGTERM"):
            await trio.sleep(60)
        nursery.cancel_scope.cancel()

async def end():
    print("ready", flush=True)
    if way == "exception":
        raise ZeroDivisionError

def main():
    with queue, full:
        if loop == "trio":
            trio.run(on_trio)
        else:
            (uvloop if loop == "uvloop" else asyncio).run(on_asyncio())

if thread == "thread":
    worker = threading.Thread(target=main)
    worker.start()
    worker.join()
else:
    main()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize(
    ("way", "thread"),
    [
        ("return", "main"),
        ("exception", "main"),
        ("SIGINT", "main"),
        ("SIGTERM", "main"),
        ("return", "thread"),
    ],
)
def test_exit_with_waits_pending(new_name: Callable[[], str], loop: str, way: str, thread: str) -> None:
    name = new_name()
    with (
        MessageQueue.create(name, max_messages=1, max_message_size=1),
        MessageQueue.create(name + "-full", max_messages=1, max_message_size=1) as full,
    ):
        full.send_nowait(b"")
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", CHILD, name, loop, way, thread]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            if way.startswith("SIG"):
                child.send_signal(getattr(signal, way))
            # What holds up an exit does so for ever: a thread in the kernel, a wait nobody ends.
            _, errors = child.communicate(timeout=30)
        if way == "return":
            assert (child.returncode, errors) == (0, "")
        elif way == "exception":
            assert child.returncode == 1
            assert "ZeroDivisionError" in errors
        elif way == "SIGINT":
            assert "KeyboardInterrupt" in errors
        else:
            assert (child.returncode, errors) == (-signal.SIGTERM, "")
        for noise in ("Warning", "never awaited", "never retrieved", "was destroyed", "Exception ignored"):
            assert noise not in errors


def test_import_starts_no_thread() -> None:
    code = "import aioipc, os; print(len(os.listdir('/proc/self/task')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
