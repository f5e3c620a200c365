"""Many channels on which one process waits, and what the others are told of a death."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import anyio
import pytest
import trio
import uvloop
from conftest import until

import aioipc
from aioipc import Channel

LOOPS = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
    "trio": lambda coroutine: trio.run(lambda: coroutine),
}
BORROWER = """
import sys, time
from aioipc import Channel
blocks = []
for name in sys.argv[1:]:
    blocks.append((channel := Channel.open(name), block := channel.borrow_nowait(), block.__enter__()))
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def borrower(*names: str) -> Iterator[Callable[[], None]]:
    """A process that has borrowed a message of each of these channels; call what this gives to kill it."""
    with subprocess.Popen([sys.executable, "-c", BORROWER, *names], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.kill
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip("so many descriptors are forbidden here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.anyio
async def test_six_hundred_channels(new_name: Callable[[], str]) -> None:
    """More than the kernel lets a loop have of one thing to watch behind others."""

    async def receive(number: int) -> None:
        received[number] = await channels[number].receive()
        if number == 599:
            again.append(await channels[number].receive())

    received: dict[int, bytes] = {}
    again: list[bytes] = []
    names = [new_name() for _ in range(600)]
    with many_descriptors(4000), ExitStack() as stack:
        channels = [stack.enter_context(Channel.create(name, capacity=128)) for name in names]
        channels[-1].send_nowait(b"borrowed")
        with borrower(names[-1]) as kill:
            async with anyio.create_task_group() as group:
                for number in range(600):
                    group.start_soon(receive, number)
                await until(lambda: all(channel.statistics().tasks_waiting_receive == 1 for channel in channels))
                for number, channel in enumerate(channels):
                    channel.send_nowait(b"%d" % number)
                await until(lambda: len(received) == 600)
                await until(lambda: channels[-1].statistics().tasks_waiting_receive == 1)
                kill()
        assert received == {number: b"%d" % number for number in range(600)}
        assert again == [b"borrowed"]
        assert [channel.statistics().dead_peers for channel in channels] == [0] * 599 + [1]


@pytest.mark.parametrize("second", LOOPS)
@pytest.mark.parametrize("first", LOOPS)
def test_loops_in_several_threads_hear_of_a_death(new_name: Callable[[], str], first: str, second: str) -> None:
    """Each has the message back, whichever of them reads the news first."""

    async def receive(name: str) -> None:
        with Channel.open(name) as channel, anyio.fail_after(30):
            async with anyio.create_task_group() as group:

                async def take() -> None:
                    received.append(await channel.receive())

                group.start_soon(take)
                await until(lambda: channel.statistics().tasks_waiting_receive == 1)
                waiting.release()

    received: list[bytes] = []
    waiting = threading.Semaphore(0)
    names = [new_name(), new_name()]
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(Channel.create(name)).send_nowait(name.encode())
        with borrower(*names) as kill:
            threads = [
                threading.Thread(target=LOOPS[loop], args=[receive(name)])
                for loop, name in zip((first, second), names, strict=True)
            ]
            for thread in threads:
                thread.start()
            for _ in threads:
                waiting.acquire()
            kill()
            for thread in threads:
                thread.join()
    assert sorted(received) == sorted(name.encode() for name in names)


@pytest.mark.parametrize("loop", LOOPS)
def test_one_loop_after_the_other_hears_of_a_death(new_name: Callable[[], str], loop: str) -> None:
    """Also one that began to wait when another task had stopped waiting."""

    async def wait_twice() -> None:
        for name in names:
            with Channel.create(name) as channel:
                channel.send_nowait(b"message")
                with borrower(name) as kill, anyio.fail_after(30):
                    with anyio.move_on_after(0.001):
                        await channel.receive()
                    async with anyio.create_task_group() as group:
                        received: list[bytes] = []

                        async def take(channel: Channel = channel, received: list[bytes] = received) -> None:
                            received.append(await channel.receive())

                        group.start_soon(take)
                        await until(lambda channel=channel: channel.statistics().tasks_waiting_receive == 1)
                        kill()
                    assert received == [b"message"]

    names = [new_name() for _ in range(3)]
    for _ in range(2):
        LOOPS[loop](wait_twice())


@pytest.mark.anyio
async def test_a_close_wakes_nobody_whom_it_does_not_concern(new_name: Callable[[], str]) -> None:
    """Each wake-up would be a try."""

    class Counting(Channel):
        tries = 0

        def _attempt(self, *args: object) -> object:  # type: ignore[override]
            self.tries += 1
            return super()._attempt(*args)  # type: ignore[arg-type]

    names = [new_name() for _ in range(3)]
    with ExitStack() as stack:
        channels = [stack.enter_context(Counting.create(name)) for name in names]
        async with anyio.create_task_group() as group:
            for channel in channels:
                group.start_soon(channel.receive)
            await until(lambda: all(channel.statistics().tasks_waiting_receive == 1 for channel in channels))
            tries = [channel.tries for channel in channels]
            for _ in range(20):
                subject = Channel.open(names[0])
                subject.close()
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
            assert [channel.tries for channel in channels[1:]] == tries[1:]
            group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_news_that_can_not_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told."""

    async def receive() -> None:
        with pytest.raises(aioipc.LimitError):
            await channel.receive()
        failed.append(True)

    def fail(descriptor: int, count: int) -> bytes:
        if descriptor == channel._watch.fileno:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return read(descriptor, count)

    read = os.read
    failed: list[bool] = []
    with Channel.create(name) as channel:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(receive)
                await until(lambda: channel.statistics().tasks_waiting_receive == 3)
                monkeypatch.setattr(os, "read", fail)
                Channel.open(name).close()
            assert len(failed) == 3
        monkeypatch.undo()
        async with anyio.create_task_group() as group:
            group.start_soon(channel.receive)
            await until(lambda: channel.statistics().tasks_waiting_receive == 1)
            channel.send_nowait(b"message")


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # of uvloop's loop no method can be replaced
@pytest.mark.anyio
async def test_news_that_can_not_be_watched(name: str, new_name: Callable[[], str], anyio_backend: str) -> None:
    """Who waits is told which limit that is; and can wait when it is not reached any more."""

    async def receive(channel: Channel) -> None:
        with pytest.raises(aioipc.LimitError, match=r"fs\.epoll\.max_user_watches"):
            await channel.receive()
        failed.append(True)

    failed: list[bool] = []
    with Channel.create(name) as channel, Channel.create(new_name()) as other, pytest.MonkeyPatch.context() as patch:
        target, watch = (
            (trio.lowlevel, "wait_readable") if anyio_backend == "trio" else (asyncio.get_running_loop(), "add_reader")
        )
        patched = getattr(target, watch)

        def fail(descriptor: int, *args: object) -> object:
            if descriptor == channel._watch.fileno:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return patched(descriptor, *args)

        patch.setattr(target, watch, fail)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for each in (channel, other, channel):
                    group.start_soon(receive, each)
        patch.undo()
        async with anyio.create_task_group() as group:
            group.start_soon(channel.receive)
            await until(lambda: channel.statistics().tasks_waiting_receive == 1)
            channel.send_nowait(b"message")
        assert len(failed) == 3
