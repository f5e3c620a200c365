"""What a user of POSIX message queues relies on, on every event loop."""

from __future__ import annotations

import array
import errno
import gc
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, closing, suppress
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel
import posix_ipc
import pytest
from conftest import counted_passes, in_own_namespace, no_descriptor_left, running, until

import aioipc
from aioipc.posix import Message, MessageQueue

pytestmark = pytest.mark.anyio

NewName = Callable[[], str]


def small(name: str, **options: object) -> MessageQueue:
    return MessageQueue.create(name, **({"max_messages": 4, "max_message_size": 16} | options))


def exists(name: str) -> bool:
    try:
        posix_ipc.MessageQueue(name).close()
    except posix_ipc.ExistentialError:
        return False
    return True


async def until_waiting(queue: MessageQueue, *, receive: int = 0, send: int = 0) -> None:
    def all_wait() -> bool:
        statistics = queue.statistics()
        return (statistics.tasks_waiting_receive, statistics.tasks_waiting_send) == (receive, send)

    await until(all_wait)


# Sending and receiving ----------------------------------------------------------------


async def test_messages_cross(name: str) -> None:
    async with small(name) as there, MessageQueue.open(name) as here:
        await here.send(b"two coffees", priority=5)
        message = await there.receive()
        assert message == Message(b"two coffees", 5)
        assert (message.data, message.priority) == (b"two coffees", 5)
        assert type(message.data) is bytes


async def test_higher_priorities_first_then_in_order(name: str) -> None:
    async with small(name) as queue:
        for data, priority in ((b"a", 0), (b"b", 32767), (b"c", 7), (b"d", 7)):
            await queue.send(data, priority=priority)
        assert [await queue.receive() for _ in range(4)] == [(b"b", 32767), (b"c", 7), (b"d", 7), (b"a", 0)]


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\0" * 16, bytearray(b"array"), memoryview(b"-view-")[1:-1], array.array("h", [1, 2, 3])],
    ids=["empty", "one", "largest", "bytearray", "memoryview", "array"],
)
async def test_anything_bytes_like_of_any_size_that_fits(name: str, data: bytes) -> None:
    async with small(name) as queue:
        await queue.send(data)
        assert await queue.receive() == (memoryview(data).tobytes(), 0)


async def test_a_view_with_gaps(name: str) -> None:
    async with small(name) as queue:
        await queue.send(memoryview(b"abcdef")[::2])
        assert (await queue.receive()).data == b"ace"


@pytest.mark.parametrize("longest", [8193, 65536, 300_000])
def test_long_messages(name: str, longest: int) -> None:
    """What was received stays as it is when more is received."""

    def exchange() -> list[bytes]:
        received = []
        with small(name, max_messages=1, max_message_size=longest) as queue:
            for data in sent:
                finish(queue.send(data))
                received.append(finish(queue.receive()).data)
                queue.send_nowait(data)
                received.append(finish(anext(queue)).data)
                finish(queue.send(bytearray(data)))
                received.append(queue.receive_nowait().data)
        return received

    sizes = [0, 1, 8192, 8193, longest // 2, longest // 2 + 1, longest - 1, longest, 2]
    sent = [os.urandom(size) for size in sizes]
    assert in_own_namespace(exchange, msgsize_max=str(longest)) == [data for data in sent for _ in range(3)]


async def test_a_message_is_forwarded_with_its_priority(name: str, new_name: NewName) -> None:
    async with small(name) as first, small(new_name()) as second:
        await first.send(b"on", priority=9)
        await second.send(await first.receive())
        assert await second.receive() == (b"on", 9)
        await second.send(Message(b"on", 9), priority=1)
        assert await second.receive() == (b"on", 1)


async def test_async_for_goes_over_messages_as_they_arrive(name: str, mq: str) -> None:
    async with small(name) as queue:
        with running(mq, "send", name, "3", *"abcdefgh"):
            received = []
            async for message in queue:
                received.append(message)
                if len(received) == 8:
                    break
        assert received == [Message(letter.encode(), 3) for letter in "abcdefgh"]
        assert {type(message) for message in received} == {Message}


async def test_a_c_program_receives_what_is_sent(name: str, mq: str) -> None:
    async with small(name) as queue:
        with running(mq, "receive", name, "20", stdout=subprocess.PIPE, text=True) as peer:
            for i in range(20):  # more than fit: some wait until the peer has made room
                await queue.send(f"message {i}".encode(), priority=2)
            assert peer.stdout.read().splitlines() == [f"2 message {i}" for i in range(20)]


async def test_a_queue_that_a_c_program_made_is_opened_as_it_is(name: str, mq: str) -> None:
    subprocess.run([mq, "create", name, "3", "77"], check=True)
    async with MessageQueue.open(name) as queue:
        assert (queue.name, queue.max_messages, queue.max_message_size) == (name, 3, 77)
        await queue.send(b"x" * 77)
        assert await queue.receive() == (b"x" * 77, 0)
    assert exists(name)


async def test_bare_posix_ipc_at_the_other_end(name: str) -> None:
    async with small(name) as queue:
        with closing(posix_ipc.MessageQueue(name)) as bare:
            bare.send(b"from bare", priority=4)
            assert await queue.receive() == (b"from bare", 4)
            await queue.send(b"to bare", priority=6)
            assert bare.receive() == (b"to bare", 6)


async def test_an_anyio_object_stream(name: str) -> None:
    async with small(name) as queue:
        assert isinstance(queue, anyio.abc.ObjectStream)
        with pytest.raises(NotImplementedError, match="agree with the receivers"):
            await queue.send_eof()


# C1: at once when possible ------------------------------------------------------------


def finish(coroutine: object) -> object:
    """What a coroutine returns that never suspends, driven without any event loop."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)  # type: ignore[attr-defined]
    return stop.value.value


def test_without_waiting_there_is_no_loop(name: str) -> None:
    began = time.monotonic()
    with small(name) as queue:
        while time.monotonic() - began < 0.01:  # several turns long
            finish(queue.send(b"a"))
            finish(queue.send(b"b", priority=1))
            assert finish(queue.receive()) == (b"b", 1)
            assert finish(aiter(queue).__anext__()) == (b"a", 0)


async def test_without_waiting_the_loop_is_not_touched(name: str) -> None:
    async with small(name) as queue:
        finish(queue.send(b"a"))
        finish(queue.send(b"b", priority=1))
        assert finish(queue.receive()) == (b"b", 1)
        assert finish(aiter(queue).__anext__()) == (b"a", 0)


def test_what_is_not_awaited_takes_nothing(name: str) -> None:
    with small(name) as queue:
        queue.send_nowait(b"a")
        anext(aiter(queue)).close()
        queue.receive().close()
        queue.send(b"b").close()
        assert queue.receive_nowait() == (b"a", 0)
        assert queue.statistics().messages == 0


# Twins that do not wait ---------------------------------------------------------------


def test_nowait(name: str) -> None:
    with small(name) as queue:
        with pytest.raises(aioipc.WouldBlock, match="is empty") as caught:
            queue.receive_nowait()
        assert isinstance(caught.value, anyio.WouldBlock)
        assert caught.value.errno == errno.EAGAIN
        for i in range(4):
            queue.send_nowait(b"%d" % i, priority=i)
        with pytest.raises(aioipc.WouldBlock, match=f"{name} is full"):
            queue.send_nowait(b"x")
        assert queue.receive_nowait() == (b"3", 3)


# C2: first come, first served ---------------------------------------------------------


async def test_receivers_are_served_in_the_order_they_came(name: str) -> None:
    got: list[tuple[int, bytes]] = []

    async def receive(number: int) -> None:
        got.append((number, (await queue.receive()).data))

    async with small(name) as queue, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(receive, number)
            await until_waiting(queue, receive=number + 1)
        for number in range(20):
            await queue.send(b"%d" % number)
    assert got == [(number, b"%d" % number) for number in range(20)]


async def test_senders_are_served_in_the_order_they_came(name: str) -> None:
    async with small(name, max_messages=1) as queue, anyio.create_task_group() as group:
        await queue.send(b"0")
        for number in range(1, 20):
            group.start_soon(queue.send, b"%d" % number)
            await until_waiting(queue, send=number)
        assert [int((await queue.receive()).data) for _ in range(20)] == list(range(20))


@pytest.mark.parametrize("style", ["receive", "async for"])
async def test_nobody_overtakes_those_in_line(name: str, style: str) -> None:
    got = []

    async def receive(number: int) -> None:
        message = await (queue.receive() if style == "receive" else anext(aiter(queue)))
        got.append((number, message.data))

    async def receive_two() -> None:
        queue.send_nowait(b"second")  # in the queue when the newcomer asks
        await receive(2)

    async with small(name) as queue, anyio.create_task_group() as group:
        group.start_soon(receive, 1)
        await until_waiting(queue, receive=1)
        queue.send_nowait(b"first")
        # The message is there, but the task that waits has not run yet.
        with pytest.raises(aioipc.WouldBlock, match="other tasks wait"):
            queue.receive_nowait()
        # Nor has it when this one asks, in the very same step.
        await receive_two()
    assert got == [(1, b"first"), (2, b"second")]


async def test_a_newcomer_can_be_served_once_the_line_is_empty(name: str) -> None:
    async with small(name) as queue:
        with anyio.move_on_after(0.001):
            await queue.receive()
        queue.send_nowait(b"a")
        assert queue.receive_nowait() == (b"a", 0)


# C3: cancellation loses nothing (the races are in test_message_queue_races.py) -----------


async def test_a_cancelled_receiver_leaves_the_message_to_another_process(name: str, mq: str) -> None:
    async with small(name) as queue:
        with anyio.move_on_after(0.001) as scope:
            await queue.receive()
        assert scope.cancelled_caught
        assert queue.statistics().tasks_waiting_receive == 0
        await queue.send(b"for the other")
        output = subprocess.run([mq, "receive", name, "1"], check=True, capture_output=True, text=True).stdout
        assert output == "0 for the other\n"


async def test_a_receiver_cancelled_after_its_wake_up_hands_on_the_turn(name: str) -> None:
    got = []

    async def receive(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            got.append((number, await queue.receive()))

    async with small(name) as queue, anyio.create_task_group() as group:
        scopes = [anyio.CancelScope() for _ in range(3)]
        for number, scope in enumerate(scopes):
            group.start_soon(receive, number, scope)
            await until_waiting(queue, receive=number + 1)
        queue.send_nowait(b"a")
        scopes[0].cancel()
        scopes[1].cancel()
        await until(lambda: bool(got))
        assert got == [(2, (b"a", 0))]


async def test_a_cancelled_sender_has_sent_nothing(name: str) -> None:
    async with small(name, max_messages=1) as queue:
        await queue.send(b"a")
        with anyio.move_on_after(0.001) as scope:
            await queue.send(b"b")
        assert scope.cancelled_caught
        assert await queue.receive() == (b"a", 0)
        with pytest.raises(aioipc.WouldBlock):
            queue.receive_nowait()


# C4: closing wakes ----------------------------------------------------------------------


async def test_close_wakes_every_waiter_and_ends_every_iteration(name: str) -> None:
    outcomes: list[str] = []

    async def receive() -> None:
        with pytest.raises(aioipc.ClosedError) as caught:
            await queue.receive()
        assert isinstance(caught.value, anyio.ClosedResourceError)
        outcomes.append("receive")

    async def send() -> None:
        with pytest.raises(aioipc.ClosedError):
            await full.send(b"")
        outcomes.append("send")

    async def iterate() -> None:
        async for _ in queue:
            pytest.fail("nothing was sent")
        outcomes.append("iterate")

    async with small(name) as queue, MessageQueue.open(name) as full, anyio.create_task_group() as group:
        for number, task in enumerate((receive, receive, iterate)):
            group.start_soon(task)
            await until_waiting(queue, receive=number + 1)
        queue.close()
        await until(lambda: len(outcomes) == 3)

        for _ in range(4):
            full.send_nowait(b"")
        group.start_soon(send)
        await until_waiting(full, send=1)
        full.close()
        full.close()
        await full.aclose()
    assert sorted(outcomes) == ["iterate", "receive", "receive", "send"]


async def test_closed_inside_its_own_iteration(name: str) -> None:
    async with small(name) as queue:
        queue.send_nowait(b"a")
        queue.send_nowait(b"b")
        received = []
        async for message in queue:
            received.append(message.data)
            queue.close()
        assert received == [b"a"]


async def test_use_after_close(name: str) -> None:
    queue = small(name)
    with queue:
        pass
    for use in (queue.receive_nowait, partial(queue.send_nowait, b""), queue.fileno, queue.statistics):
        with pytest.raises(aioipc.ClosedError, match=name):
            use()
    for wait in (queue.receive, partial(queue.send, b"")):
        with pytest.raises(aioipc.ClosedError, match=name):
            await wait()
    assert [message async for message in queue] == []
    assert (queue.name, queue.max_messages, queue.max_message_size) == (name, 4, 16)
    assert repr(queue) == f"<aioipc.posix.MessageQueue {name!r} closed>"


async def test_a_closed_handle_leaves_its_descriptor_number_alone(name: str, new_name: NewName) -> None:
    async with small(name) as queue:
        with anyio.move_on_after(0.001):
            await queue.receive()
        number = queue.fileno()
        queue.close()
        # The lowest free number is given out next.
        with small(new_name()) as heir:
            assert heir.fileno() == number
            queue.close()
            with pytest.raises(aioipc.ClosedError):
                await queue.receive()
            heir.send_nowait(b"untouched")
            assert await heir.receive() == (b"untouched", 0)


@pytest.mark.parametrize("operation", ["send", "receive"])
def test_closed_by_a_signal_handler_between_the_check_and_the_call(
    name: str, new_name: NewName, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close_and_call(*args: object) -> object:
        number = queue.fileno()
        queue.close()
        heir = stack.enter_context(small(new_name()))
        assert heir.fileno() == number
        heir.send_nowait(b"untouched")
        stack.callback(lambda: left.append(heir.statistics().messages))
        return call(*args)

    left: list[int] = []
    with ExitStack() as stack:
        queue = stack.enter_context(small(name))
        call = getattr(queue, f"_try_{operation}")
        monkeypatch.setattr(queue, f"_try_{operation}", close_and_call)
        with pytest.raises(aioipc.ClosedError, match=name):
            # The slow paths: nothing comes in between in C.
            queue._send_nowait(b"") if operation == "send" else queue._receive_nowait()
    assert left == [1]


async def test_the_heir_of_a_number_can_be_waited_for(name: str, new_name: NewName) -> None:
    async def receive(queue: MessageQueue) -> None:
        with suppress(aioipc.ClosedError):
            received.append((await queue.receive()).data)

    received: list[bytes] = []
    async with anyio.create_task_group() as group:
        with small(name) as queue:
            number = queue.fileno()
            group.start_soon(receive, queue)
            await until_waiting(queue, receive=1)
        with small(new_name()) as heir:
            assert heir.fileno() == number
            group.start_soon(receive, heir)
            await until_waiting(heir, receive=1)
            heir.send_nowait(b"to the heir")
            await until(lambda: bool(received))
    assert received == [b"to the heir"]


# C6: nobody starves ----------------------------------------------------------------------


async def test_a_queue_that_never_runs_empty_lets_the_loop_run(name: str) -> None:
    """A hundred thousand messages take 100 ms and more, and a turn is one."""
    async with small(name) as queue, counted_passes() as passes:
        await queue.send(b"again")
        count = 0
        async for message in queue:
            queue.send_nowait(message)
            count += 1
            if count == 100_000:
                break
        assert passes[0] > 30


async def test_a_flood_from_another_process_lets_the_loop_run(name: str, mq: str) -> None:
    async with small(name, max_message_size=32) as queue, counted_passes() as passes:
        with running(mq, "count", name, "100000", "20"):
            received = [int(message.data) async for message in until_number(queue, 99_999)]
        assert received == list(range(100_000))
        assert passes[0] > 30


async def test_a_peer_that_is_stopped_stops_nobody_else(name: str, mq: str) -> None:
    async with small(name, max_message_size=32) as queue, counted_passes() as passes:
        with running(mq, "count", name, "20000", "20") as peer:
            assert (await queue.receive()).data == b"%020d" % 0
            peer.send_signal(signal.SIGSTOP)
            before = passes[0]
            with anyio.move_on_after(0.05):
                while True:
                    await queue.receive()
            assert passes[0] > before
            peer.send_signal(signal.SIGCONT)
            rest = [int(message.data) async for message in until_number(queue, 19_999)]
        assert rest[-1] == 19_999
        assert rest == list(range(rest[0], 20_000))


async def until_number(queue: MessageQueue, last: int) -> AsyncIterator[Message]:
    async for message in queue:
        yield message
        if int(message.data) == last:
            return


@pytest.mark.parametrize("style", ["async for", "receive", "send"])
async def test_cancellation_reaches_a_task_that_never_waits(name: str, style: str) -> None:
    async with small(name) as queue:
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


async def test_cancellation_reaches_a_task_with_a_new_handle_each_time(name: str) -> None:
    async with small(name):
        with anyio.move_on_after(0.02) as scope:
            while True:
                async with MessageQueue.open(name) as queue:
                    await queue.send(b"again")
                async with MessageQueue.open(name) as queue:
                    await queue.receive()
        assert scope.cancelled_caught


async def test_two_consumers_share_a_queue_that_never_runs_empty(name: str) -> None:
    async def consume(number: int) -> None:
        async for message in queue:
            queue.send_nowait(message)
            counts[number] += 1
            if min(counts) >= 100:
                group.cancel_scope.cancel()
            assert max(counts) < 10_000_000, "one of them starves"

    counts = [0, 0]
    async with small(name) as queue, anyio.create_task_group() as group:
        queue.send_nowait(b"again")
        group.start_soon(consume, 0)
        group.start_soon(consume, 1)


# C11: lifetimes --------------------------------------------------------------------------


async def test_the_creator_removes_on_exit_and_an_opener_does_not(name: str) -> None:
    async with small(name):
        async with MessageQueue.open(name):
            pass
        with MessageQueue.open(name) as other:
            other.send_nowait(b"still there")
        assert exists(name)
    assert not exists(name)


async def test_removed_when_the_block_raises(name: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with small(name):
            raise ZeroDivisionError
    assert not exists(name)


async def test_persist_and_take_over(name: str) -> None:
    async with small(name, persist=True) as queue:
        await queue.send(b"kept")
    assert exists(name)
    with small(name, exist_ok=True, max_messages=9) as again:
        assert again.max_messages == 4
        assert again.receive_nowait() == (b"kept", 0)
    assert not exists(name)


def test_exist_ok_makes_what_does_not_exist(name: str) -> None:
    with small(name, exist_ok=True, max_messages=3) as queue:
        assert queue.max_messages == 3
    assert not exists(name)


def test_close_alone_removes_nothing(name: str) -> None:
    queue = small(name)
    queue.close()
    assert exists(name)
    queue.unlink()
    assert not exists(name)


def test_unlink_twice(name: str) -> None:
    with small(name) as queue:
        queue.unlink()
        with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
            queue.unlink()
        queue.send_nowait(b"goes on")
        assert queue.receive_nowait() == (b"goes on", 0)


def test_a_queue_made_anew_is_left_alone_by_a_closed_handle(name: str) -> None:
    old = small(name)
    old.unlink()
    old.close()
    with small(name):
        with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
            old.unlink()
        assert exists(name)
    with pytest.raises(aioipc.NotFoundError):
        old.unlink()


def test_a_queue_made_anew_that_can_not_be_opened_is_left_alone(name: str) -> None:
    with small(name) as old:
        old.unlink()
        with small(name, mode=0) as new:
            with no_descriptor_left():
                old.__exit__(None, None, None)
            assert os.fstat(new.fileno()).st_nlink == 1


def test_a_queue_made_anew_under_the_name_is_left_alone(name: str) -> None:
    with small(name) as old:
        old.unlink()
        with small(name) as new:
            with pytest.raises(aioipc.NotFoundError, match="has been removed already"):
                old.unlink()
            old.send_nowait(b"old")
            new.send_nowait(b"new")
            assert (old.receive_nowait().data, new.receive_nowait().data) == (b"old", b"new")
            old.__exit__(None, None, None)
            assert exists(name)
    assert not exists(name)


async def test_collected_unclosed_it_warns_and_leaks_nothing(name: str) -> None:
    async def wait(queue: MessageQueue) -> None:
        with anyio.move_on_after(0.001):
            await queue.receive()

    queue = small(name)
    number = queue.fileno()
    async with anyio.create_task_group() as group:
        group.start_soon(wait, queue)
    with pytest.warns(ResourceWarning, match=f"unclosed <aioipc.posix.MessageQueue '{name}' open>"):
        del queue
        gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


async def test_a_handle_is_kept_while_a_task_waits(name: str) -> None:
    async def receive() -> None:
        received.append((await MessageQueue.open(name).receive()).data)

    received: list[bytes] = []
    async with small(name) as queue, anyio.create_task_group() as group:
        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            queue.send_nowait(b"kept")
            await until(lambda: bool(received))
            gc.collect()


def test_descriptors_are_non_blocking_and_close_on_exec(name: str) -> None:
    with small(name) as queue, MessageQueue.open(name) as other:
        for handle in (queue, other):
            assert not os.get_blocking(handle.fileno())
            assert not os.get_inheritable(handle.fileno())


def test_no_descriptor_is_left_over(name: str) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with small(name), MessageQueue.open(name, write=False), MessageQueue.open(name, read=False):
            pass
    assert os.listdir("/proc/self/fd") == before


# C12, C13: looking, and who may ------------------------------------------------------------


async def test_statistics(name: str) -> None:
    async with small(name) as queue, anyio.create_task_group() as group:
        now = time.time()
        queue.send_nowait(b"12345")
        queue.send_nowait(b"678")
        statistics = queue.statistics()
        assert (statistics.messages, statistics.bytes) == (2, 8)
        assert (statistics.max_messages, statistics.max_message_size) == (4, 16)
        assert (statistics.owner, statistics.group, statistics.mode) == (os.geteuid(), os.getegid(), 0o600)
        assert abs(statistics.changed_at - now) < 5
        assert (statistics.tasks_waiting_receive, statistics.tasks_waiting_send) == (0, 0)

        queue.send_nowait(b"")
        queue.send_nowait(b"")
        group.start_soon(queue.send, b"waits")
        await until_waiting(queue, send=1)
        assert queue.statistics().messages == 4
        group.cancel_scope.cancel()


def test_statistics_tell_who_is_notified(name: str) -> None:
    with small(name) as queue, closing(posix_ipc.MessageQueue(name)) as bare:
        assert queue.statistics().notify_pid == 0
        bare.request_notification(10)
        assert queue.statistics().notify_pid == os.getpid()
        bare.request_notification(None)


def test_statistics_of_a_handle_that_only_sends(name: str) -> None:
    with small(name) as queue, MessageQueue.open(name, read=False) as sender:
        queue.send_nowait(b"123")
        assert sender.statistics()._replace(bytes=3, notify_pid=0) == queue.statistics()


@pytest.mark.parametrize(("mode", "umask", "result"), [(0o600, 0, 0o600), (0o666, 0o022, 0o644), (0o640, 0, 0o640)])
def test_mode(name: str, mode: int, umask: int, result: int) -> None:
    before = os.umask(umask)
    try:
        with small(name, mode=mode) as queue:
            assert stat.S_IMODE(os.fstat(queue.fileno()).st_mode) == queue.statistics().mode == result
    finally:
        os.umask(before)


async def test_one_direction_only(name: str) -> None:
    async with (
        small(name) as queue,
        MessageQueue.open(name, write=False) as receiver,
        MessageQueue.open(name, read=False) as sender,
    ):
        await sender.send(b"a")
        assert await receiver.receive() == (b"a", 0)
        for wrong, advice in (
            (partial(receiver.send, b"a"), "open it with write=True"),
            (sender.receive, "open it with read=True"),
            (aiter(sender).__anext__, "open it with read=True"),
        ):
            with pytest.raises(aioipc.AccessError, match=advice) as caught:
                await wrong()
            assert caught.value.errno == errno.EBADF
        assert queue.statistics().messages == 0


@pytest.mark.parametrize("max_message_size", [8192, 300_000])
def test_a_message_takes_the_memory_of_its_data(name: str, max_message_size: int) -> None:
    """Not that of the longest message, for which there must be room to receive it."""

    def measure() -> int:
        with small(name, max_messages=1, max_message_size=max_message_size) as queue:
            kept = []
            for _ in range(3):  # the first rounds fill the allocator's pools
                before = resident_bytes()
                for _ in range(2000):
                    queue.send_nowait(b"twenty bytes of data")
                    kept.append(finish(queue.receive()))
                    queue.send_nowait(b"twenty bytes of data")
                    kept.append(finish(anext(queue)))
                grown = resident_bytes() - before
        return grown

    is_allowed = max_message_size <= 8192
    grown = measure() if is_allowed else in_own_namespace(measure, msgsize_max=str(max_message_size))
    assert grown < 4000 * 1024


def test_operations_leak_nothing(name: str) -> None:
    def blocks_after(count: int) -> int:
        for _ in range(count):
            finish(queue.send(b"x", priority=5))
            finish(queue.send(finish(queue.receive())))
            finish(queue.send(bytearray(b"y")))
            assert finish(anext(queue)) == (b"x", 5)
            assert finish(anext(queue)) == (b"y", 0)
            queue.send(b"z").close()
            with pytest.raises(TypeError):
                queue.send()
            with pytest.raises(ValueError, match="priority"):
                queue.send(b"", -1).send(None)
        gc.collect()
        return sys.getallocatedblocks()

    with small(name) as queue:
        for _ in range(3):
            blocks_after(100)
        assert abs(blocks_after(100) - blocks_after(2000)) < 200


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
