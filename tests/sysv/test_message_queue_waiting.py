"""Tasks that wait for System V message queues: their order, and what wakes them."""

from __future__ import annotations

import errno
import gc
import subprocess
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from conftest import counted_passes, in_child, running, until

import aioipc
from aioipc.sysv import MessageQueue

pytestmark = pytest.mark.anyio


async def until_waiting(queue: MessageQueue, *, receive: int = 0, send: int = 0) -> None:
    def all_wait() -> bool:
        statistics = queue.statistics()
        return (statistics.tasks_waiting_receive, statistics.tasks_waiting_send) == (receive, send)

    await until(all_wait)


# C2: first come, first served -----------------------------------------------------------


@pytest.mark.parametrize("selector", [{}, {"type": 1}, {"type": -3}, {"exclude": 2}], ids=str)
async def test_receivers_are_served_in_the_order_they_came(selector: dict[str, int]) -> None:
    got: list[tuple[int, bytes]] = []

    async def receive(number: int) -> None:
        got.append((number, (await queue.receive(**selector)).data))

    async with MessageQueue.create(None) as queue, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(receive, number)
            await until_waiting(queue, receive=number + 1)
        for number in range(20):
            await queue.send(b"%d" % number)
    assert got == [(number, b"%d" % number) for number in range(20)]


async def test_they_are_when_another_process_sends(sysv_peer: str) -> None:
    got: list[tuple[int, bytes]] = []

    async def receive(number: int) -> None:
        got.append((number, (await queue.receive()).data))

    async with MessageQueue.create(None) as queue:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(receive, number)
                await until_waiting(queue, receive=number + 1)
            with running(sysv_peer, "count", str(queue.id), "20", "2", "1"):
                pass
    assert got == [(number, b"%02d" % number) for number in range(20)]


async def test_senders_are_served_in_the_order_they_came() -> None:
    async with MessageQueue.create(None, max_bytes=2) as queue, anyio.create_task_group() as group:
        await queue.send(b"00")
        for number in range(1, 20):
            group.start_soon(queue.send, b"%02d" % number)
            await until_waiting(queue, send=number)
        assert [int((await queue.receive()).data) for _ in range(20)] == list(range(20))


async def test_a_small_message_does_not_overtake_a_large_one_in_line() -> None:
    async with MessageQueue.create(None, max_bytes=10) as queue, anyio.create_task_group() as group:
        await queue.send(b"12345")
        group.start_soon(queue.send, b"6789ab")
        await until_waiting(queue, send=1)
        with pytest.raises(aioipc.WouldBlock, match="other tasks wait"):
            queue.send_nowait(b"s")
        group.start_soon(queue.send, b"s")
        await until_waiting(queue, send=2)
        assert [(await queue.receive()).data for _ in range(3)] == [b"12345", b"6789ab", b"s"]


async def test_nobody_overtakes_those_in_line() -> None:
    got = []

    async def receive(number: int) -> None:
        got.append((number, (await queue.receive()).data))

    async with MessageQueue.create(None) as queue, anyio.create_task_group() as group:
        group.start_soon(receive, 1)
        await until_waiting(queue, receive=1)
        queue.send_nowait(b"first")
        with pytest.raises(aioipc.WouldBlock, match="other tasks wait"):
            queue.receive_nowait()
        queue.send_nowait(b"second")
        await receive(2)
    assert got == [(1, b"first"), (2, b"second")]


async def test_a_newcomer_can_be_served_once_the_line_is_empty() -> None:
    async with MessageQueue.create(None) as queue:
        async with anyio.create_task_group() as group:
            group.start_soon(queue.receive)
            await until_waiting(queue, receive=1)
            group.cancel_scope.cancel()
        assert queue.statistics().tasks_waiting_receive == 0
        queue.send_nowait(b"a")
        assert queue.receive_nowait() == (b"a", 1)


async def test_two_handles_of_one_queue_share_what_comes() -> None:
    got = []

    async def receive(queue: MessageQueue) -> None:
        async for message in queue:
            got.append(message.data)

    async with MessageQueue.create(None) as queue, MessageQueue.open(id=queue.id) as other:
        async with anyio.create_task_group() as group:
            group.start_soon(receive, queue)
            group.start_soon(receive, other)
            await until_waiting(queue, receive=1)
            await until_waiting(other, receive=1)
            for number in range(100):
                await queue.send(b"%d" % number)
            await until(lambda: len(got) == 100)
            queue.close()
            other.close()
        with MessageQueue.open(id=queue.id) as third:
            assert third.statistics().messages == 0
    assert sorted(map(int, got)) == list(range(100))


async def test_more_room_lets_a_sender_go_on() -> None:
    async with MessageQueue.create(None, max_bytes=4) as queue, anyio.create_task_group() as group:
        await queue.send(b"1234")
        group.start_soon(queue.send, b"56")
        await until_waiting(queue, send=1)
        queue.change(max_bytes=6)
        await until_waiting(queue)
        assert queue.statistics().messages == 2


async def test_what_is_waited_for_by_thousands_of_types() -> None:
    """A client that gives each request a type of its own for the answer."""
    async with MessageQueue.create(None) as queue:
        for number in range(1, 2001):
            await queue.send(b"", type=number)
            assert (await queue.receive(type=number)).type == number
        assert len(queue._calls._lines) <= 64


# C4: closing wakes ------------------------------------------------------------------------


async def test_close_wakes_every_waiter_and_ends_every_iteration() -> None:
    outcomes: list[str] = []

    async def expect_closed(name: str, wait: Callable[[], object]) -> None:
        with pytest.raises(aioipc.ClosedError) as caught:
            await wait()
        assert isinstance(caught.value, anyio.ClosedResourceError)
        outcomes.append(name)

    async def iterate(name: str, messages: AsyncIterator[object]) -> None:
        async for _ in messages:
            pytest.fail("nothing was sent")
        outcomes.append(name)

    async with MessageQueue.create(None, max_bytes=1) as queue, MessageQueue.open(id=queue.id) as full:
        async with anyio.create_task_group() as group:
            for number, wait in enumerate((queue.receive, queue.receive, partial(queue.receive, 3))):
                group.start_soon(expect_closed, "receive", wait)
                await until_waiting(queue, receive=number + 1)
            group.start_soon(iterate, "iterate", queue)
            group.start_soon(iterate, "iterate", queue.messages(type=-4))
            await until_waiting(queue, receive=5)
            queue.close()
            await until(lambda: len(outcomes) == 5)

            full.send_nowait(b"1")
            group.start_soon(expect_closed, "send", partial(full.send, b"2"))
            await until_waiting(full, send=1)
            full.close()
            full.close()
            await full.aclose()
        with MessageQueue.open(id=queue.id) as other:
            assert other.receive_nowait() == (b"1", 1)
            assert other.statistics().messages == 0
    assert sorted(outcomes) == ["iterate"] * 2 + ["receive"] * 3 + ["send"]


async def test_closed_inside_its_own_iteration() -> None:
    async with MessageQueue.create(None) as queue:
        queue.send_nowait(b"a")
        queue.send_nowait(b"b")
        received = []
        async for message in queue:
            received.append(message.data)
            queue.close()
        assert received == [b"a"]


async def test_use_after_close() -> None:
    with MessageQueue.create(None) as queue:
        pass
    for use in (queue.receive_nowait, partial(queue.send_nowait, b""), queue.statistics, partial(queue.change, mode=0)):
        with pytest.raises(aioipc.ClosedError, match=f"id {queue.id}. is closed"):
            use()
    for wait in (queue.receive, partial(queue.receive, 5), partial(queue.send, b"")):
        with pytest.raises(aioipc.ClosedError, match=f"id {queue.id}. is closed"):
            await wait()
    assert [message async for message in queue] == []
    assert [message async for message in queue.messages(exclude=2)] == []
    assert repr(queue) == f"<aioipc.sysv.MessageQueue private, id {queue.id} closed>"


async def test_a_handle_is_kept_while_a_task_waits() -> None:
    async def receive() -> None:
        received.append((await MessageQueue.open(id=queue.id).receive()).data)

    received: list[bytes] = []
    async with MessageQueue.create(None) as queue, anyio.create_task_group() as group:
        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            queue.send_nowait(b"kept")
            await until(lambda: bool(received))
            gc.collect()


# Removal under waiters ------------------------------------------------------------------------


@pytest.mark.parametrize("remove", ["here", "by a bare program"])
async def test_removed_under_waiters(remove: str) -> None:
    removed: list[str] = []

    async def expect_removed(name: str, wait: Callable[[], object]) -> None:
        with pytest.raises(aioipc.RemovedError, match="it was removed from the system") as caught:
            await wait()
        assert caught.value.errno == errno.EIDRM
        assert f"id {queue.id}" in str(caught.value)
        removed.append(name)

    async def iterate() -> None:
        async for _ in queue:
            pytest.fail("nothing of this type was sent")

    async with MessageQueue.create(None, max_bytes=1) as queue:
        queue.send_nowait(b"1", type=9)
        async with anyio.create_task_group() as group:
            for name, wait in (
                ("typed", partial(queue.receive, 3)),
                ("typed", partial(queue.receive, 3)),
                ("lowest", partial(queue.receive, -3)),
                ("other", partial(queue.receive, exclude=9)),
                ("iterate", anext_of(queue.messages(type=4))),
                ("send", partial(queue.send, b"2")),
                ("send", partial(queue.send, b"3")),
            ):
                group.start_soon(expect_removed, name, wait)
            await until_waiting(queue, receive=5, send=2)
            if remove == "here":
                queue.remove()
            else:
                subprocess.run(["ipcrm", "-q", str(queue.id)], check=True)
        assert sorted(removed) == ["iterate", "lowest", "other", "send", "send", "typed", "typed"]
        for use in (
            queue.receive_nowait,
            partial(queue.send_nowait, b""),
            queue.statistics,
            partial(queue.change, mode=0),
        ):
            with pytest.raises(aioipc.RemovedError, match="it was removed from the system"):
                use()
        with pytest.raises(aioipc.RemovedError):
            await anext(queue.messages())


async def test_an_iteration_is_in_line_also_after_many_other_types() -> None:
    """As a service has it that receives each answer by a type of its own."""
    async with MessageQueue.create(None) as queue, anyio.create_task_group() as group:
        iterator = queue.messages(type=1)
        for type in range(2, 200):
            with pytest.raises(aioipc.WouldBlock):
                queue.receive_nowait(type=type)
        received: list[object] = []

        async def receive(step: Callable[[], Awaitable[object]]) -> None:
            received.append((step, await step()))

        first, second = partial(queue.receive, 1), anext_of(iterator)
        group.start_soon(receive, first)
        await until_waiting(queue, receive=1)
        queue.send_nowait(b"one")
        group.start_soon(receive, second)
        await until(lambda: len(received) == 1)
        queue.send_nowait(b"two")
        await until(lambda: len(received) == 2)
        assert received == [(first, (b"one", 1)), (second, (b"two", 1))]
        queue.send_nowait(b"left")
        queue.close()
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)


def anext_of(messages: AsyncIterator[object]) -> Callable[[], object]:
    async def step() -> object:
        return await anext(messages)

    return step


# C6: nobody starves ----------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["async for", "receive"])
async def test_a_queue_that_never_runs_empty_lets_the_loop_run(style: str) -> None:
    async with MessageQueue.create(None) as queue, counted_passes() as passes:
        await queue.send(b"again")
        count = 0
        if style == "async for":
            async for message in queue.messages(type=1):
                queue.send_nowait(message)
                count += 1
                if count == 100_000:
                    break
        else:
            for _ in range(100_000):
                await queue.send(await queue.receive())
        assert passes[0] > 30


async def test_a_flood_from_another_process_lets_the_loop_run(sysv_peer: str) -> None:
    async with MessageQueue.create(None) as queue, counted_passes() as passes:
        with running(sysv_peer, "count", str(queue.id), "100000", "20", "7"):
            received = []
            async for message in queue:
                received.append(int(message.data))
                if len(received) == 100_000:
                    break
        assert received == list(range(100_000))
        assert passes[0] > 30


@pytest.mark.parametrize("style", ["async for", "receive", "send"])
async def test_cancellation_reaches_a_task_that_never_waits(style: str) -> None:
    async with MessageQueue.create(None) as queue:
        await queue.send(b"again")
        with anyio.move_on_after(0.02) as scope:
            if style == "async for":
                async for message in queue:
                    queue.send_nowait(message)
            while True:
                if style == "receive":
                    queue.send_nowait(await queue.receive())
                else:
                    queue.receive_nowait()
                    await queue.send(b"again")
        assert scope.cancelled_caught
        assert queue.statistics().messages == (0 if style == "send" else 1)


# C9: one loop, one process ---------------------------------------------------------------------


async def wait_shortly(queue: MessageQueue) -> None:
    with anyio.move_on_after(0.001):
        await queue.receive()


def test_another_loop(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    backend, options = anyio_backend
    with MessageQueue.create(None) as queue:
        anyio.run(wait_shortly, queue, backend=backend, backend_options=options)
        with pytest.raises(RuntimeError, match=f"id {queue.id}. belongs to another event loop: open it again"):
            anyio.run(wait_shortly, queue, backend=backend, backend_options=options)
        with MessageQueue.open(id=queue.id) as again:
            anyio.run(wait_shortly, again, backend=backend, backend_options=options)


async def test_a_handle_inherited_by_a_fork_says_so() -> None:
    def in_the_child() -> list[str]:
        words = []
        for use in (
            queue.receive_nowait,
            partial(queue.send_nowait, b""),
            queue.statistics,
            partial(queue.change, mode=0o666),
            lambda: queue.receive().send(None),
            lambda: queue.send(b"").send(None),
            lambda: aiter(queue).__anext__().send(None),
        ):
            with pytest.raises(RuntimeError) as caught:
                use()
            words.append(str(caught.value))
        queue.__exit__(None, None, None)
        with MessageQueue.open(id=queue.id) as own:
            own.send_nowait(b"from the child")
        return words

    async with MessageQueue.create(None) as queue:
        async with anyio.create_task_group() as group:
            group.start_soon(queue.receive, 5)
            await until_waiting(queue, receive=1)
            words = in_child(in_the_child)
            queue.send_nowait(b"", type=5)
        assert set(words) == {
            f"message queue (private, id {queue.id}) was opened before a fork and belongs to the parent process: "
            "open it again in the child"
        }
        assert await queue.receive() == (b"from the child", 1)
