"""Waiting for descriptors: what the event loop is asked for, and whose a handle is."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, closing
from types import ModuleType
from typing import Any

import anyio
import anyio.lowlevel
import posix_ipc
import pytest
import trio
import uvloop
from conftest import in_child, passes

import aioipc
from aioipc.posix import MessageQueue

NewName = Callable[[], str]

LOOPS = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
    "trio": lambda coroutine: trio.run(lambda: coroutine),
}


def small(name: str) -> MessageQueue:
    return MessageQueue.create(name, max_messages=1, max_message_size=16)


class Watching:
    """Counts what is asked of the running asyncio loop, and knows what is registered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.registered: set[tuple[str, int]] = set()
        loop = asyncio.get_running_loop()
        for kind in ("reader", "writer"):
            for verb in ("add", "remove"):
                method = f"{verb}_{kind}"
                monkeypatch.setattr(loop, method, self._wrap(method, kind, getattr(loop, method)))

    def _wrap(self, method: str, kind: str, original: Callable[..., object]) -> Callable[..., object]:
        def wrapper(fileno: int, *arguments: object) -> object:
            self.calls.append(method)
            change = self.registered.add if method.startswith("add") else self.registered.discard
            change((kind, fileno))
            return original(fileno, *arguments)

        return wrapper


# What the loop is asked for -------------------------------------------------------------


@pytest.mark.asyncio
async def test_registered_only_while_someone_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watching(monkeypatch)
    async with small(name) as queue:
        await queue.send(b"a")
        await queue.receive()
        assert watching.calls == []

        tasks = [asyncio.create_task(queue.receive()) for _ in range(3)]
        await passes()
        assert watching.registered == {("reader", queue.fileno())}
        for task in tasks:
            queue.send_nowait(b"a")
            await task
        await passes()
        assert watching.registered == set()
        assert watching.calls == ["add_reader", "remove_reader"]

        queue.send_nowait(b"a")
        task = asyncio.create_task(queue.send(b"b"))
        await passes()
        assert watching.registered == {("writer", queue.fileno())}
        queue.receive_nowait()
        await task
        await passes()
        assert watching.registered == set()


@pytest.mark.asyncio
async def test_no_registration_is_left_once_a_cancellation_is_delivered(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = Watching(monkeypatch)
    async with small(name) as queue:
        task = asyncio.create_task(queue.receive())
        await passes()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watching.registered == set()


@pytest.mark.asyncio
async def test_no_registration_is_left_by_close(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watching(monkeypatch)
    async with small(name) as queue:
        task = asyncio.create_task(queue.receive())
        await passes()
        queue.close()
        assert watching.registered == set()
        with pytest.raises(aioipc.ClosedError):
            await task
    await passes()
    assert watching.calls == ["add_reader", "remove_reader"]


@pytest.mark.asyncio
async def test_a_consumer_that_waits_for_each_message_stays_registered(
    name: str, new_name: NewName, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo() -> None:
        async for message in there:
            await back.send(message)

    watching = Watching(monkeypatch)
    async with small(name) as there, small(new_name()) as back, asyncio.TaskGroup() as group:
        task = group.create_task(echo())
        for _ in range(50):
            await there.send(b"ping")
            await back.receive()
        await passes()
        # Two of each would be a pair for every message; a turn may be spent now and then.
        assert len(watching.calls) < 50
        task.cancel()


@pytest.mark.asyncio
async def test_a_task_is_not_woken_for_a_message_that_the_one_before_took(name: str) -> None:
    async with small(name) as queue, asyncio.TaskGroup() as group:
        attempts = 0

        def counted() -> object:
            nonlocal attempts
            attempts += 1
            return receive()

        receive, queue._try_receive = queue._try_receive, counted  # type: ignore[method-assign]
        tasks = [group.create_task(queue.receive()) for _ in range(10)]
        await passes()
        assert attempts == 1  # the others joined the line without a try
        for task in tasks:
            queue.send_nowait(b"x")
            await task
            await passes()  # a task woken for nothing would try now
        assert attempts == 11


@pytest.mark.asyncio
async def test_a_message_takes_one_pass_of_the_loop_and_an_idle_wait_has_no_timer(name: str) -> None:
    """The task runs in the pass in which the selector says that it may; the next goes to sleep."""
    loop = asyncio.get_running_loop()
    timeouts: list[float | None] = []
    selector = loop._selector  # type: ignore[attr-defined]
    select = selector.select

    def recorded(timeout: float | None = None) -> object:
        timeouts.append(timeout)
        if timeout is None:
            queue.send_nowait(b"wake up")  # nothing else would
        return select(timeout)

    async with small(name) as queue:
        selector.select = recorded
        try:
            for _ in range(50):
                await queue.receive()
        finally:
            selector.select = select
    others = [timeout for timeout in timeouts if timeout is not None]
    assert set(others) <= {0}
    assert len(timeouts) >= 50
    assert len(others) < 15  # at first, and when it gives way


def test_an_idle_wait_has_no_timer_on_trio(name: str) -> None:
    class WakeUp(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            timeouts.append(timeout)
            if timeout > 0:
                queue.send_nowait(b"wake up")  # nothing else would

    timeouts: list[float] = []
    with small(name) as queue:
        trio.run(queue.receive, instruments=[WakeUp()])
    forever = [timeout for timeout in timeouts if timeout > 0]
    assert forever
    assert min(forever) > 3600


# Cancellation as asyncio users write it ---------------------------------------------------


@pytest.mark.asyncio
async def test_timeouts_of_asyncio(name: str) -> None:
    async with small(name) as queue:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await queue.receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.receive(), 0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(aiter(queue)), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                async for _ in queue:
                    pytest.fail("nothing was sent")
        queue.send_nowait(b"whole")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.send(b"late"), 0.001)
        assert await asyncio.wait_for(queue.receive(), 1) == (b"whole", 0)
        assert queue.statistics().messages == 0


@pytest.mark.asyncio
async def test_a_task_group_that_fails_cancels_its_waiters(name: str) -> None:
    async with small(name) as queue:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(queue.receive())
                await passes()
                raise ZeroDivisionError
        assert queue.statistics().tasks_waiting_receive == 0
        queue.send_nowait(b"whole")
        assert queue.receive_nowait() == (b"whole", 0)


@pytest.mark.asyncio
async def test_cancelled_twice(name: str) -> None:
    async with small(name) as queue:
        task = asyncio.create_task(queue.receive())
        await passes()
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert queue.statistics().tasks_waiting_receive == 0


@pytest.mark.asyncio
async def test_close_from_callbacks_of_the_loop(name: str, new_name: NewName) -> None:
    loop = asyncio.get_running_loop()
    async with small(name) as first, small(new_name()) as second, small(new_name()) as third:
        loop.call_soon(first.close)
        assert [message async for message in first] == []

        reading, writing = os.pipe()
        os.write(writing, b"x")
        loop.add_reader(reading, second.close)
        with pytest.raises(aioipc.ClosedError):
            await second.receive()
        loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)

        task = asyncio.create_task(third.receive())
        task.add_done_callback(lambda _: third.close())
        third.send_nowait(b"last")
        assert (await task).data == b"last"
        await passes()
        with pytest.raises(aioipc.ClosedError):
            third.receive_nowait()


def test_a_loop_closed_with_a_wait_pending(name: str) -> None:
    loop = asyncio.new_event_loop()
    with small(name) as queue:
        receiver = queue.receive()
        task = loop.create_task(receiver)
        loop.call_later(0, loop.stop)
        loop.run_forever()
        loop.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        receiver.close()
        assert queue.statistics().tasks_waiting_receive == 0
        queue.send_nowait(b"whole")
        assert queue.receive_nowait() == (b"whole", 0)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_close_after_the_loop_was_closed_with_a_wait_pending(name: str, loop: Callable[[], Any]) -> None:
    running = loop()
    with small(name) as queue:
        number = queue.fileno()
        receiver = queue.receive()
        task = running.create_task(receiver)
        running.run_until_complete(asyncio.sleep(0))
        running.close()
        queue.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        task._log_destroy_pending = False
        receiver.close()


@pytest.mark.asyncio
async def test_another_thread_is_just_importing_trio(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))
    monkeypatch.setitem(sys.modules, "trio.lowlevel", ModuleType("trio.lowlevel"))
    async with small(name) as queue:
        task = asyncio.create_task(queue.receive())
        await passes()
        queue.send_nowait(b"x")
        assert (await task).data == b"x"


# Whose a handle is ------------------------------------------------------------------------


async def wait_in_vain(queue: MessageQueue) -> None:
    with anyio.move_on_after(0.001):
        await queue.receive()


@pytest.mark.parametrize("second", LOOPS)
@pytest.mark.parametrize("first", LOOPS)
def test_a_handle_belongs_to_the_first_loop_that_waits(name: str, first: str, second: str) -> None:
    with small(name) as queue:
        LOOPS[first](wait_in_vain(queue))
        with pytest.raises(RuntimeError, match=f"{name} belongs to another event loop: open it again"):
            LOOPS[second](wait_in_vain(queue))
        queue.send_nowait(b"x")
        assert queue.receive_nowait() == (b"x", 0)


def test_two_loops_in_two_threads_and_one_handle(name: str) -> None:
    async def hold() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(queue.receive())
            await passes()
            waiting.set()
            await asyncio.to_thread(done.wait)
            task.cancel()

    waiting, done = threading.Event(), threading.Event()
    with small(name) as queue:
        thread = threading.Thread(target=asyncio.run, args=[hold()])
        thread.start()
        waiting.wait()
        try:
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                asyncio.run(queue.receive())
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_and_a_handle_in_each_of_several_threads(name: str, new_name: NewName, loop: str) -> None:
    count, threads = 500, 4

    async def forward(source: str, target: str) -> None:
        async with MessageQueue.open(source) as receiver, MessageQueue.open(target) as sender:
            for _ in range(count):
                await sender.send(await receiver.receive())

    names = [name, *(new_name() for _ in range(threads))]
    with ExitStack() as stack:
        queues = [stack.enter_context(small(each)) for each in names]
        workers = [
            threading.Thread(target=LOOPS[loop], args=[forward(source, target)])
            for source, target in itertools.pairwise(names)
        ]
        for worker in workers:
            worker.start()

        async def feed_and_collect() -> list[int]:
            async def feed() -> None:
                for number in range(count):
                    await queues[0].send(b"%d" % number)

            async with anyio.create_task_group() as group:
                group.start_soon(feed)
                return [int((await queues[-1].receive()).data) for _ in range(count)]

        received = LOOPS[loop](feed_and_collect())
        for worker in workers:
            worker.join()
        assert received == list(range(count))


# Fork ---------------------------------------------------------------------------------------


def test_a_handle_inherited_by_fork_says_so(name: str) -> None:
    def use() -> list[str]:
        said = []
        for operation in (queue.receive_nowait, lambda: queue.send_nowait(b""), queue.statistics, queue.fileno):
            with pytest.raises(RuntimeError) as caught:
                operation()
            said.append(str(caught.value))
        for coroutine in (queue.receive(), queue.send(b""), anext(aiter(queue))):
            with pytest.raises(RuntimeError) as caught:
                coroutine.send(None)
            said.append(str(caught.value))
        queue.close()
        with MessageQueue.open(name) as own:
            own.send_nowait(b"from the child")
        return said

    with small(name) as queue:
        said = in_child(use)
        assert len(said) == 7
        assert set(said) == {
            f"message queue {name} was opened before a fork and belongs to the parent process: "
            "open it again in the child"
        }
        assert queue.receive_nowait() == (b"from the child", 0)


@pytest.mark.asyncio
async def test_a_child_that_closes_or_leaves_disturbs_nothing(name: str) -> None:
    """It shares the parent's epoll object: to unregister there would stop the parent's wait."""

    def leave() -> None:
        queue.__exit__(None, None, None)

    async with small(name) as queue:
        task = asyncio.create_task(queue.receive())
        await passes()
        in_child(leave)
        with closing(posix_ipc.MessageQueue(name)) as bare:
            bare.send(b"still waited for")
        async with asyncio.timeout(10):
            assert await task == (b"still waited for", 0)


@pytest.mark.asyncio
async def test_a_child_that_cancels_what_it_inherited_disturbs_nothing(name: str) -> None:
    async with small(name) as queue:
        receiver = queue.receive()
        task = asyncio.create_task(receiver)
        await passes()
        in_child(receiver.close)
        with closing(posix_ipc.MessageQueue(name)) as bare:
            bare.send(b"still waited for")
        async with asyncio.timeout(10):
            assert await task == (b"still waited for", 0)


# Many ---------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_ten_thousand_tasks_on_one_queue(name: str) -> None:
    async def receive(number: int) -> None:
        order.append((number, int((await queue.receive()).data)))

    count, order = 10_000, []
    async with small(name) as queue, anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(receive, number)
        while queue.statistics().tasks_waiting_receive < count:
            await anyio.lowlevel.checkpoint()
        for number in range(count):
            await queue.send(b"%d" % number)
    assert [received for _, received in order] == list(range(count))


@pytest.mark.anyio
async def test_many_queues_in_one_loop(new_name: NewName) -> None:
    async def receive(queue: MessageQueue) -> None:
        async for message in queue:
            received.append((queue, message.data))

    received: list[tuple[MessageQueue, bytes]] = []
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(small(new_name())) for _ in range(100)]
        async with anyio.create_task_group() as group:
            for queue in queues:
                group.start_soon(receive, queue)
            for number, queue in enumerate(queues):
                await queue.send(b"%d" % number)
            while len(received) < len(queues):
                await anyio.lowlevel.checkpoint()
            for queue in queues:
                queue.close()
    assert sorted(received, key=lambda pair: int(pair[1])) == [(queue, b"%d" % n) for n, queue in enumerate(queues)]
