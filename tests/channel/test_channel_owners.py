"""Whose a channel's handle is: a loop's, a thread's, a process's; and what is left when it is closed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import uvloop
from conftest import doorbells, in_child, until

import aioipc
from aioipc import Channel
from aioipc._ring import _binding, _deaths, _files

LOOPS = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
    "trio": lambda coroutine: trio.run(lambda: coroutine),
}


def exists(name: str) -> bool:
    return os.path.lexists("/dev/shm" + name)


# Loops and threads --------------------------------------------------------------------


async def wait_in_vain(channel: Channel) -> None:
    with anyio.move_on_after(0.001):
        await channel.receive()


@pytest.mark.parametrize("second", LOOPS)
@pytest.mark.parametrize("first", LOOPS)
def test_a_handle_belongs_to_the_first_loop_that_waits(name: str, first: str, second: str) -> None:
    with Channel.create(name) as channel:
        LOOPS[first](wait_in_vain(channel))
        with pytest.raises(RuntimeError, match=f"{name} belongs to another event loop: open it again"):
            LOOPS[second](wait_in_vain(channel))
        channel.send_nowait(b"x")
        assert channel.receive_nowait() == b"x"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_and_a_handle_in_each_of_several_threads(name: str, new_name: Callable[[], str], loop: str) -> None:
    count, threads = 500, 4

    async def forward(source: str, target: str) -> None:
        async with Channel.open(source) as receiver, Channel.open(target) as sender:
            for _ in range(count):
                await sender.send(await receiver.receive())

    names = [name, *(new_name() for _ in range(threads))]
    with ExitStack() as stack:
        channels = [stack.enter_context(Channel.create(each, capacity=128)) for each in names]
        workers = [
            threading.Thread(target=LOOPS[loop], args=[forward(source, target)])
            for source, target in itertools.pairwise(names)
        ]
        for worker in workers:
            worker.start()

        async def feed_and_collect() -> list[int]:
            async def feed() -> None:
                for number in range(count):
                    await channels[0].send(b"%d" % number)

            async with anyio.create_task_group() as group:
                group.start_soon(feed)
                return [int(await channels[-1].receive()) for _ in range(count)]

        received = LOOPS[loop](feed_and_collect())
        for worker in workers:
            worker.join()
        assert received == list(range(count))


def test_news_of_a_death_while_another_thread_opens_a_handle(name: str) -> None:
    """The watch is the process's: what one thread reads there concerns the handles of all."""

    class Opening(Channel):
        def _join_ring(self, files: _files.Files) -> None:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            looked.append(True)
            super()._join_ring(files)

    def elsewhere() -> None:
        Channel.open(name).close()  # news
        with pytest.raises(aioipc.WouldBlock):
            channel.receive_nowait()  # reads it

    looked: list[bool] = []
    with Channel.create(name) as channel:
        Opening.open(name).close()
        assert looked


def test_threads_that_open_and_close_the_same_channel(name: str) -> None:
    def open_and_close() -> None:
        try:
            for _ in range(300):
                with Channel.open(name) as handle, pytest.raises(aioipc.WouldBlock):
                    handle.receive_nowait()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    errors: list[BaseException] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Channel.create(name) as channel:
            threads = [threading.Thread(target=open_and_close) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            watch = _deaths.watch(name)
            assert [[peer() for peer in peers.values()] for peers in watch._peers.values()] == [[channel]] * 2
        assert watch._peers == {}
    finally:
        sys.setswitchinterval(before)


# Fork -----------------------------------------------------------------------------------


OPERATIONS: dict[str, Callable[[Channel], object]] = {
    "send_nowait": lambda channel: channel.send_nowait(b""),
    "send_many_nowait": lambda channel: channel.send_many_nowait([b""]),
    "receive_nowait": lambda channel: channel.receive_nowait(),
    "receive_many_nowait": lambda channel: channel.receive_many_nowait(1),
    "end_nowait": lambda channel: channel.end_nowait(),
    "reserve_nowait": lambda channel: channel.reserve_nowait(1).__enter__(),
    "borrow_nowait": lambda channel: channel.borrow_nowait().__enter__(),
    "statistics": lambda channel: channel.statistics(),
    "send": lambda channel: channel.send(b"").send(None),
    "send_many": lambda channel: channel.send_many([b""]).send(None),
    "receive": lambda channel: channel.receive().send(None),
    "receive_many": lambda channel: channel.receive_many(1).send(None),
    "anext": lambda channel: anext(aiter(channel)).send(None),
    "end": lambda channel: channel.end().send(None),
    "reserve": lambda channel: channel.reserve(1).__aenter__().send(None),
    "borrow": lambda channel: channel.borrow().__aenter__().send(None),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_inherited_handle_says_so(name: str, operation: str) -> None:
    with Channel.create(name) as channel:
        channel.send_nowait(b"a")

        def use() -> None:
            with pytest.raises(RuntimeError, match=f"{name} was opened before a fork .* open it again in the child"):
                OPERATIONS[operation](channel)

        in_child(use)
        assert channel.receive_nowait() == b"a"
        assert channel.statistics().messages == 0


@pytest.mark.parametrize("way", ["close", "with", "collected", "exit"])
def test_what_a_child_does_with_it_harms_nothing(name: str, way: str) -> None:
    channels = [Channel.create(name)]
    channels[0].send_nowait(b"a")

    def leave() -> None:
        if way == "close":
            channels[0].close()
        elif way == "with":
            with channels[0]:
                pass
        elif way == "collected":
            channels.clear()
            gc.collect()
        with Channel.open(name) as own:
            assert own.receive_nowait() == b"a"
            own.send_nowait(b"b")

    in_child(leave)
    with channels[0] as channel:
        assert exists(name)
        assert channel.receive_nowait() == b"b"
        asyncio.run(wait_in_vain(channel))


def test_a_child_has_no_descriptor_of_the_ring(name: str) -> None:
    with Channel.create(name) as channel:
        asyncio.run(wait_in_vain(channel))

        def left() -> list[str]:
            found = []
            for number in os.listdir("/proc/self/fd"):
                with suppress(FileNotFoundError):  # that of the listing itself
                    found.append(os.readlink(f"/proc/self/fd/{number}"))
            return [target for target in found if name in target or "aioipc." in target]

        assert in_child(left) == []


FORKS = """
import os, sys, time
from aioipc import Channel
channel = Channel.open(sys.argv[1])
block = channel.borrow_nowait()
view = block.__enter__()
if os.fork() == 0:
    time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""

FORKS_AS_IT_OPENS = """
import os, sys, threading, time
from aioipc import Channel
from aioipc._ring import _deaths

def forks():
    opening.wait()
    if os.fork() == 0:
        time.sleep(600)
    forked.set()

def slow(name):
    opening.set()
    forked.wait()
    return watch(name)

opening, forked = threading.Event(), threading.Event()
watch, _deaths.watch = _deaths.watch, slow
threading.Thread(target=forks).start()
channel = Channel.open(sys.argv[1])
block = channel.borrow_nowait()
view = block.__enter__()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("program", [FORKS, FORKS_AS_IT_OPENS], ids=["forks", "forks as it opens"])
@pytest.mark.anyio
async def test_a_death_is_noticed_though_a_forked_child_lives_on(name: str, program: str) -> None:
    async with Channel.create(name) as channel:
        channel.send_nowait(b"a")
        command = [sys.executable, "-W", "ignore", "-c", program, name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            try:
                with anyio.fail_after(30):
                    async with anyio.create_task_group() as group:
                        received: list[bytes] = []

                        async def receive() -> None:
                            received.append(await channel.receive())

                        group.start_soon(receive)
                        await until(lambda: channel.statistics().tasks_waiting_receive == 1)
                        parent.kill()
                assert received == [b"a"]
                assert channel.statistics().dead_peers == 1
            finally:
                os.killpg(parent.pid, signal.SIGKILL)


# Lifetimes ----------------------------------------------------------------------------------


def test_the_creator_removes_on_exit_and_an_opener_does_not(name: str) -> None:
    with Channel.create(name):
        bells = doorbells(name)
        assert len(bells) == 2
        with Channel.open(name) as other:
            other.send_nowait(b"still there")
        assert exists(name)
        assert all(map(Path.exists, bells))
    assert not exists(name)
    assert not any(map(Path.exists, bells))


def test_removed_when_the_block_raises(name: str) -> None:
    with pytest.raises(ZeroDivisionError), Channel.create(name):
        raise ZeroDivisionError
    assert not exists(name)


def test_persist_and_take_over(name: str) -> None:
    with Channel.create(name, capacity=128, persist=True) as channel:
        channel.send_nowait(b"kept")
    assert exists(name)
    with Channel.create(name, capacity=4096, exist_ok=True) as again:
        assert (again.capacity, again.receive_nowait()) == (128, b"kept")
    assert not exists(name)
    with Channel.create(name, capacity=4096, exist_ok=True) as again:
        assert again.capacity == 4096
    assert not exists(name)


def test_the_name_alone_was_removed(name: str) -> None:
    with Channel.create(name):
        bells = doorbells(name)
        os.unlink("/dev/shm" + name)  # as a program does that knows of shared memory only
    assert not any(bell.exists() for bell in bells)


def test_unlink(name: str) -> None:
    with Channel.create(name) as old:
        old.unlink()
        with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
            old.unlink()
        with Channel.create(name) as new:
            with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
                old.unlink()
            old.send_nowait(b"old")
            new.send_nowait(b"new")
            assert (old.receive_nowait(), new.receive_nowait()) == (b"old", b"new")
            old.__exit__(None, None, None)
            assert exists(name)
            assert len(doorbells(name)) == 2
    closed = Channel.create(name)
    closed.close()
    assert exists(name)
    closed.unlink()
    assert not exists(name)


@pytest.mark.anyio
async def test_collected_unclosed_it_warns_and_leaks_nothing(name: str, descriptors: Callable[[], int]) -> None:
    gc.collect()  # what other tests have left
    async with Channel.create(name) as channel:
        before = descriptors()
        handle = Channel.open(name)
        async with anyio.create_task_group() as group:
            group.start_soon(wait_in_vain, handle)
        handle.send_nowait(b"")
        assert channel.statistics().senders == 1
        with pytest.warns(ResourceWarning, match=f"unclosed <aioipc.Channel '{name}' open>"):
            del handle
            gc.collect()
        assert descriptors() == before
        assert channel.statistics().senders == 0


def mappings(file: int) -> int:
    """How often this inode is in the address space."""
    return [int(line.split()[4]) for line in Path("/proc/self/maps").read_text().splitlines()].count(file)


@pytest.mark.anyio
async def test_closed_its_memory_is_given_back_at_once(name: str) -> None:
    async with Channel.create(name) as channel:
        file = os.stat(f"/dev/shm{name}").st_ino
        await wait_in_vain(channel)
        assert mappings(file) == 2
    assert mappings(file) == 0
    assert "closed" in repr(channel)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["borrow", "reserve"])
async def test_closed_its_memory_stays_as_long_as_a_view_of_it(name: str, way: str) -> None:
    with Channel.create(name) as channel:
        file = os.stat(f"/dev/shm{name}").st_ino
        channel.send_nowait(b"abc")
        view = await getattr(channel, way)(*[3] * (way == "reserve")).__aenter__()
        other = memoryview(view)
        channel.close()
        view.release()
        assert mappings(file) == 2
        assert len(bytes(other)) == 3
        other.release()
        assert mappings(file) == 0


@pytest.mark.anyio
async def test_nothing_but_the_last_reference_keeps_a_closed_handle(name: str) -> None:
    gc.collect()
    gc.disable()
    try:
        channel = Channel.create(name)
        await wait_in_vain(channel)
        await anyio.lowlevel.checkpoint()  # the scope's own callback has the traceback
        channel.unlink()
        channel.close()
        gone = weakref.ref(channel)
        del channel
        assert gone() is None
    finally:
        gc.enable()


def test_descriptors_are_close_on_exec(name: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Channel.create(name) as channel:
        asyncio.run(wait_in_vain(channel))
        opened = [
            number for number in set(os.listdir("/proc/self/fd")) - before if os.path.exists(f"/proc/self/fd/{number}")
        ]
        assert len(opened) >= 5
        assert not any(os.get_inheritable(int(number)) for number in opened)


@pytest.mark.parametrize("loop", LOOPS)
def test_no_descriptor_is_left_over(name: str, descriptors: Callable[[], int], loop: str) -> None:
    before = descriptors()
    for _ in range(3):
        with Channel.create(name) as channel, Channel.open(name) as other:
            for handle in (channel, other):
                LOOPS[loop](wait_in_vain(handle))
    assert descriptors() == before


def test_a_closed_handle_touches_no_descriptor(name: str) -> None:
    """Neither on its own nor because a message's own method has closed it."""

    class Closes:
        def __buffer__(self, flags: int) -> memoryview:
            handle.close()
            return memoryview(b"data")

    if sys.version_info < (3, 12):
        pytest.skip("Python code can't be asked for a buffer before 3.12")
    with Channel.create(name) as channel:
        sends: list[Callable[[Channel, Any], object]] = [
            lambda handle, item: handle.send(item).send(None),
            lambda handle, item: handle.send_nowait(item),
            lambda handle, item: handle.send_many_nowait([item]),
        ]
        for send in sends:
            handle = Channel.open(name)
            with pytest.raises(aioipc.ClosedError):
                send(handle, Closes())
            assert channel.statistics().messages == 0


def test_as_many_handles_as_there_can_be(name: str, descriptors: Callable[[], int]) -> None:
    with ExitStack() as stack:
        stack.enter_context(Channel.create(name))
        for _ in range(_binding.PEERS - 1):
            stack.enter_context(Channel.open(name))
        before = descriptors()
        with pytest.raises(aioipc.LimitError, match="256"):
            Channel.open(name)
        assert descriptors() == before
