"""A process with waits of every kind pending ends at once, whatever ends it, and without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import libc
import posix_ipc
import pytest

from aioipc import Channel, posix, sysv

CHILD = """
import asyncio, os, signal, sys, threading, time
import trio, uvloop
from aioipc import Channel, posix, sysv

loop, way, thread, name, semaphore_name, queue_id, full_id, set_id, folder = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

mqueue, full_mqueue = posix.MessageQueue.open(name), posix.MessageQueue.open(name + "-full")
semaphore = posix.Semaphore.open(semaphore_name)
queue, full_queue = sysv.MessageQueue.open(id=int(queue_id)), sysv.MessageQueue.open(id=int(full_id))
members = sysv.SemaphoreSet.open(id=int(set_id))
channel, full_channel = Channel.open(name), Channel.open(name + "-full-channel")
handles = [mqueue, full_mqueue, semaphore, queue, full_queue, members, channel, full_channel]

async def iterate(messages):
    async for message in messages:
        pass

async def borrow():
    async with channel.borrow():
        pass

async def reserve():
    async with full_channel.reserve(1):
        pass

async def write():
    async with posix.Fifo.open_writer(folder + "/no-reader"):
        pass

async def read():
    async with posix.Fifo.open_reader(folder + "/silent", keep_open=True) as reader:
        await reader.receive()

waits = [
    mqueue.receive, mqueue.receive, lambda: iterate(mqueue), lambda: full_mqueue.send(b""),
    semaphore.acquire, semaphore.acquire,
    members[0].acquire, lambda: members[0].acquire(2, undo=True), members[1].wait_for_zero,
    lambda: members.operate((0, -1), (1, 0)), lambda: members.operate((0, -1), (1, 1)),
    queue.receive, lambda: queue.receive(5), lambda: queue.receive(-5), lambda: queue.receive(exclude=5),
    lambda: iterate(queue.messages(7)), lambda: full_queue.send(b"more"),
    channel.receive, lambda: iterate(channel), lambda: channel.receive_many(2), borrow,
    lambda: full_channel.send(b"more"), lambda: full_channel.send_many([b"more"]), reserve,
    lambda: posix.Fifo.open_reader(folder + "/no-writer").__aenter__(), write, read,
]
OPENINGS = 3  # what no statistics tell

def waiting():
    statistics = [handle.statistics() for handle in handles]
    return sum(getattr(each, field) for each in statistics for field in each._fields if field.startswith("tasks_"))

def threads():
    return len(os.listdir("/proc/self/task"))

async def on_asyncio():
    asyncio.get_running_loop().slow_callback_duration = 60  # -X dev tells of slow machines, too
    tasks = [asyncio.ensure_future(each()) for each in waits]
    while waiting() < len(waits) - OPENINGS:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await end()
    if way in ("SIGINT", "SIGTERM"):
        await asyncio.sleep(60)

async def on_trio():
    async with trio.open_nursery() as nursery:
        for each in waits:
            nursery.start_soon(each)
        while waiting() < len(waits) - OPENINGS:
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        await end()
        if way in ("SIGINT", "SIGTERM"):
            await trio.sleep(60)
        nursery.cancel_scope.cancel()

async def end():
    print("ready", flush=True)
    if way == "exception":
        raise ZeroDivisionError
    if way == "sys.exit":
        sys.exit(3)

def main():
    before = threads()
    try:
        if loop == "trio":
            trio.run(on_trio)
        elif way == "no cleanup":
            # What a program does that knows nothing of tasks: the loop is closed under them.
            new = uvloop.new_event_loop() if loop == "uvloop" else asyncio.new_event_loop()
            new.run_until_complete(on_asyncio())
            new.close()
        else:
            (uvloop if loop == "uvloop" else asyncio).run(on_asyncio())
        while way != "no cleanup" and threads() > before:
            time.sleep(0.001)
    finally:
        if way != "no cleanup":
            for handle in handles:
                handle.close()

if thread == "thread":
    worker = threading.Thread(target=main, daemon=way.startswith("SIG"))
    worker.start()
    while worker.is_alive():
        worker.join(0.1)  # a signal that comes when join() is just about to sleep does not wake it
else:
    main()
"""

LOOPS = ["asyncio", "uvloop", "trio"]


@pytest.mark.parametrize(
    ("loop", "way", "thread"),
    [
        *((loop, way, "main") for loop in LOOPS for way in ("return", "exception", "SIGINT", "SIGTERM")),
        ("asyncio", "sys.exit", "main"),
        ("uvloop", "sys.exit", "main"),
        *((loop, way, "thread") for loop in LOOPS for way in ("return", "exception", "SIGINT", "SIGTERM")),
        ("asyncio", "no cleanup", "main"),
        ("uvloop", "no cleanup", "main"),
        ("asyncio", "no cleanup", "thread"),
    ],
)
def test_exit_with_waits_pending(new_name: Callable[[], str], tmp_path: Path, loop: str, way: str, thread: str) -> None:
    with ExitStack() as stack:
        name, semaphore_name = new_name(), new_name()
        stack.enter_context(posix.MessageQueue.create(name, max_messages=1, max_message_size=1))
        full = stack.enter_context(posix.MessageQueue.create(name + "-full", max_messages=1, max_message_size=1))
        full.send_nowait(b"")
        stack.enter_context(posix.Semaphore.create(semaphore_name, value=0))
        channel = stack.enter_context(Channel.create(name, capacity=64))
        full_channel = stack.enter_context(Channel.create(name + "-full-channel", capacity=64))
        full_channel.send_nowait(b"full")
        queue = stack.enter_context(sysv.MessageQueue.create(None))
        full_queue = stack.enter_context(sysv.MessageQueue.create(None, max_bytes=4))
        libc.msgsnd(full_queue.id, 1, b"full")
        members = stack.enter_context(sysv.SemaphoreSet.create(None, values=[0, 1]))
        for fifo in ("no-writer", "no-reader", "silent"):
            os.mkfifo(tmp_path / fifo)

        options = ["-X", "dev", "-W", "error"]
        if way == "no cleanup":  # of which asyncio itself says something
            options = []
        objects = [name, semaphore_name, *(str(each.id) for each in (queue, full_queue, members)), str(tmp_path)]
        command = [sys.executable, *options, "-c", CHILD, loop, way, thread, *objects]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", child.stderr.read()
            if way.startswith("SIG"):
                child.send_signal(getattr(signal, way))
            # What holds up an exit does so for ever: a thread in the kernel, a wait nobody ends.
            _, errors = child.communicate(timeout=30)

        if way == "return":
            assert (child.returncode, errors) == (0, "")
        elif way == "exception":
            assert "ZeroDivisionError" in errors
        elif way == "sys.exit":
            assert (child.returncode, errors) == (3, "")
        elif way == "SIGINT":
            assert "KeyboardInterrupt" in errors
        elif way == "SIGTERM":
            assert (child.returncode, errors) == (-signal.SIGTERM, "")
        else:
            assert child.returncode == 0
        if way != "no cleanup":
            for noise in ("Warning", "never awaited", "never retrieved", "was destroyed", "Exception ignored"):
                assert noise not in errors

        # Nothing was taken on the way out.
        channel.send_nowait(b"whole")
        assert (channel.receive_nowait(), full_channel.receive_nowait()) == (b"whole", b"full")
        assert channel.statistics().messages == full_channel.statistics().messages == 0
        assert not full_channel.statistics().ended
        libc.semop(members.id, (0, 1))
        libc.semop(members.id, (0, -1), (1, -1))
        bare = posix_ipc.Semaphore(semaphore_name)
        bare.release()
        bare.acquire(0)
        bare.close()
        for type in (3, 5, 7):
            libc.msgsnd(queue.id, type, b"")
            assert libc.msgrcv(queue.id) == (b"", type)
        assert [libc.msgrcv(full_queue.id)] == [(b"full", 1)]
        assert full_queue.statistics().messages == 0


def test_import_starts_no_thread_and_takes_no_signal() -> None:
    code = """
import os, signal
before = [signal.getsignal(number) for number in signal.valid_signals()]
import aioipc
assert [signal.getsignal(number) for number in signal.valid_signals()] == before
assert len(os.listdir("/proc/self/task")) == 1
caught = next(line for line in open("/proc/self/status") if line.startswith("SigCgt"))
assert int(caught.split()[1], 16) >> 33 == 0, caught  # no real-time signal has a handler
"""
    subprocess.run([sys.executable, "-c", code], check=True)
