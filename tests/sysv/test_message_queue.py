"""What a user of System V message queues relies on, on every event loop."""

from __future__ import annotations

import array
import errno
import gc
import os
import subprocess
from collections.abc import Callable

import anyio
import anyio.abc
import pytest
import sysv_ipc
from conftest import in_proc, kernel, running, until

import aioipc
from aioipc.sysv import Message, MessageQueue

pytestmark = pytest.mark.anyio

LONG_MAX = 2**63 - 1

NewKey = Callable[[], int]


async def until_waiting(queue: MessageQueue, *, receive: int = 0, send: int = 0) -> None:
    def all_wait() -> bool:
        statistics = queue.statistics()
        return (statistics.tasks_waiting_receive, statistics.tasks_waiting_send) == (receive, send)

    await until(all_wait)


def exists(id: int) -> bool:
    return in_proc("msg", id) is not None


def run(*command: object) -> str:
    """What the C program prints."""
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


# Sending and receiving ----------------------------------------------------------------


async def test_messages_cross(key: int) -> None:
    async with MessageQueue.create(key) as there, MessageQueue.open(key) as here:
        await here.send(b"resize", type=3)
        message = await there.receive()
        assert message == Message(b"resize", 3)
        assert (message.data, message.type) == (b"resize", 3)
        assert type(message) is Message
        assert type(message.data) is bytes


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\0" * 16, bytearray(b"array"), memoryview(b"-view-")[1:-1], array.array("h", [1, 2, 3])],
    ids=["empty", "one", "zeros", "bytearray", "memoryview", "array"],
)
async def test_anything_bytes_like(data: bytes) -> None:
    async with MessageQueue.create(None) as queue:
        await queue.send(data)
        assert await queue.receive() == (memoryview(data).tobytes(), 1)
        await queue.send(memoryview(b"abcdef")[::2])
        assert (await queue.receive()).data == b"ace"


async def test_a_message_that_comes_while_one_waits() -> None:
    async def receive(size: int) -> None:
        received.append((size, await queue.receive()))

    received: list[tuple[int, Message]] = []
    limit = kernel("msgmax")
    async with MessageQueue.create(None) as queue:
        assert queue.max_message_size == limit
        for size in (0, 1, limit):
            async with anyio.create_task_group() as group:
                group.start_soon(receive, size)
                await until_waiting(queue, receive=1)
                queue.send_nowait(b"m" * size, type=LONG_MAX)
        assert queue.statistics().messages == 0
    assert received == [(size, (b"m" * size, LONG_MAX)) for size in (0, 1, limit)]


@pytest.mark.parametrize("type", [1, 2**31 - 1, 2**31, 2**32 + 1, LONG_MAX])
async def test_types_up_to_the_greatest(type: int) -> None:
    async with MessageQueue.create(None) as queue:
        await queue.send(b"other", type=7)
        await queue.send(b"this", type=type)
        assert await queue.receive(type=type) == (b"this", type)
        await queue.send(b"this", type=type)
        assert await queue.receive(exclude=7) == (b"this", type)
        assert await queue.receive(type=-type if type > 7 else -7) == (b"other", 7)


async def test_a_message_is_forwarded_with_its_type() -> None:
    async with MessageQueue.create(None) as first, MessageQueue.create(None) as second:
        await first.send(b"on", type=9)
        await second.send(await first.receive())
        assert await second.receive() == (b"on", 9)
        await second.send(Message(b"on", 9), type=1)
        assert await second.receive() == (b"on", 1)
        second.send_nowait(b"the type is 1 by default")
        assert second.receive_nowait().type == 1


async def test_an_anyio_object_stream() -> None:
    async with MessageQueue.create(None) as queue:
        assert isinstance(queue, anyio.abc.ObjectStream)
        with pytest.raises(NotImplementedError, match="agree with the receivers"):
            await queue.send_eof()
        await queue.send(b"x")
        assert await anext(queue) == (b"x", 1)


def test_without_waiting_there_is_no_loop() -> None:
    with MessageQueue.create(None) as queue:
        for coroutine, result in (
            (queue.send(b"a", type=2), None),
            (queue.send(b"b"), None),
            (queue.receive(type=2), (b"a", 2)),
            (aiter(queue).__anext__(), (b"b", 1)),
        ):
            with pytest.raises(StopIteration) as stop:
                coroutine.send(None)
            assert stop.value.value == result


# Selectors: msgrcv(2) -------------------------------------------------------------------

SENT = [(b"a", 4), (b"b", 2), (b"c", 9), (b"d", 2), (b"e", 4), (b"f", 1)]

SELECTORS = [
    ({}, "abcdef"),
    ({"type": 0}, "abcdef"),
    ({"type": 2}, "bd"),
    ({"type": 4}, "ae"),
    ({"type": 3}, ""),
    ({"type": -1}, "f"),
    ({"type": -3}, "fbd"),
    ({"type": -9}, "fbdaec"),
    ({"type": -LONG_MAX}, "fbdaec"),
    ({"exclude": 2}, "acef"),
    ({"exclude": 3}, "abcdef"),
    ({"exclude": 4, "truncate": True}, "bcdf"),
]
SELECTOR_IDS = [",".join(f"{name}={value}" for name, value in selector.items()) or "none" for selector, _ in SELECTORS]


@pytest.mark.parametrize(("selector", "expected"), SELECTORS, ids=SELECTOR_IDS)
async def test_selectors(selector: dict[str, int], expected: str) -> None:
    async with MessageQueue.create(None) as queue:
        for data, type in SENT:
            await queue.send(data, type=type)
        received = [await queue.receive(**selector) for _ in expected]
        assert "".join(message.data.decode() for message in received) == expected
        with pytest.raises(aioipc.WouldBlock):
            queue.receive_nowait(**selector)
        left = [queue.receive_nowait() for _ in range(queue.statistics().messages)]
        assert left == [item for item in SENT if item not in received]


@pytest.mark.parametrize(("selector", "expected"), SELECTORS, ids=SELECTOR_IDS)
async def test_waiting_by_selector(selector: dict[str, int], expected: str) -> None:
    """Each message goes to the task that waits for it, as C programs that wait would get it."""
    received = []

    async def receive() -> None:
        async for message in queue.messages(**selector):
            received.append(message)

    wanted = [item for item in SENT if item[0].decode() in expected]  # as they come, whatever the selector
    async with MessageQueue.create(None) as queue, anyio.create_task_group() as group:
        group.start_soon(receive)
        await until_waiting(queue, receive=1)
        for data, type in SENT:
            before = len(received)
            await queue.send(data, type=type)
            if (data, type) in wanted:
                await until(lambda before=before: len(received) > before)
                await until_waiting(queue, receive=1)
        assert queue.statistics().messages == len(SENT) - len(wanted)
        queue.close()
    assert received == wanted


async def test_tasks_that_want_different_types_do_not_wait_for_each_other() -> None:
    got = {}

    async def receive(number: int, **selector: int) -> None:
        got[number] = (await queue.receive(**selector)).data

    async with MessageQueue.create(None) as queue, anyio.create_task_group() as group:
        group.start_soon(lambda: receive(1, type=5))
        await until_waiting(queue, receive=1)
        queue.send_nowait(b"six", type=6)
        # Who wants another type than the task in line need not wait.
        assert queue.receive_nowait(type=6).data == b"six"
        group.start_soon(lambda: receive(2, type=-3))
        group.start_soon(lambda: receive(3, type=9))
        await until_waiting(queue, receive=3)
        queue.send_nowait(b"nine", type=9)
        queue.send_nowait(b"two", type=2)
        queue.send_nowait(b"five", type=5)
    assert got == {1: b"five", 2: b"two", 3: b"nine"}


async def test_truncate() -> None:
    async with MessageQueue.create(None) as queue, MessageQueue.open(id=queue.id, max_message_size=4) as short:
        assert short.max_message_size == 4
        for _ in range(2):
            await queue.send(b"1234567", type=2)
        with pytest.raises(
            aioipc.MessageTooLongError, match=r"more than the 4 bytes .*max_message_size.*truncate=True"
        ):
            await short.receive()
        assert queue.statistics().messages == 2
        assert await short.receive(truncate=True) == (b"1234", 2)
        assert await queue.receive(truncate=True) == (b"1234567", 2)
        # A task that waits is no different.
        async with anyio.create_task_group() as group:

            async def receive() -> None:
                with pytest.raises(aioipc.MessageTooLongError):
                    await short.receive()
                assert await short.receive(truncate=True) == (b"abcd", 1)

            group.start_soon(receive)
            await until_waiting(short, receive=1)
            await queue.send(b"abcdef")
        with pytest.raises(aioipc.MessageTooLongError, match="5 bytes; 4 at most were chosen") as caught:
            await short.send(b"12345")
        assert caught.value.errno == errno.EMSGSIZE
        assert queue.statistics().messages == 0


# Peers ----------------------------------------------------------------------------------


async def test_async_for_goes_over_what_a_c_program_sends(sysv_peer: str) -> None:
    async with MessageQueue.create(None) as queue:
        with running(sysv_peer, "msgsnd", str(queue.id), str(LONG_MAX), *"abcdefgh"):
            received = []
            async for message in queue:
                received.append(message)
                if len(received) == 8:
                    break
    assert received == [Message(letter.encode(), LONG_MAX) for letter in "abcdefgh"]


async def test_a_c_program_receives_what_is_sent(sysv_peer: str) -> None:
    async with MessageQueue.create(None, max_bytes=64) as queue:
        command = [sysv_peer, "msgrcv", str(queue.id), "20", "-5", "10", "n"]
        with running(*command, stdout=subprocess.PIPE, text=True) as peer:
            for i in range(20):  # more than fit: some wait until the peer has made room
                await queue.send(f"number {i:03} cut".encode(), type=5)
            assert peer.stdout.read().splitlines() == [f"5 number {i:03}" for i in range(20)]
        await queue.send(b"not", type=3)
        await queue.send(b"this", type=8)
        assert run(sysv_peer, "msgrcv", queue.id, 1, 3, 100, "e") == "8 this\n"
        assert run(sysv_peer, "msgrcv", queue.id, 1, 3, 100, "w") == "3 not\n"


async def test_a_queue_that_a_c_program_made(key: int, sysv_peer: str) -> None:
    id = int(run(sysv_peer, "msgget", key, "0640"))
    async with MessageQueue.open(key) as queue:
        assert (queue.key, queue.id, queue.statistics().mode) == (key, id, 0o640)
    async with MessageQueue.open(id=id) as queue:
        assert (queue.key, queue.id) == (key, id)
    assert exists(id)


async def test_bare_sysv_ipc_at_the_other_end(key: int) -> None:
    async with MessageQueue.create(key) as queue:
        bare = sysv_ipc.MessageQueue(key)
        bare.send(b"from bare", type=4)
        assert await queue.receive() == (b"from bare", 4)
        await queue.send(b"to bare", type=6)
        assert bare.receive() == (b"to bare", 6)


# Twins that do not wait -------------------------------------------------------------------


def test_nowait() -> None:
    with MessageQueue.create(None, max_bytes=4) as queue:
        with pytest.raises(aioipc.WouldBlock, match="no such message") as caught:
            queue.receive_nowait()
        assert isinstance(caught.value, anyio.WouldBlock)
        assert caught.value.errno == errno.EAGAIN
        queue.send_nowait(b"123", type=2)
        with pytest.raises(aioipc.WouldBlock, match=f"private, id {queue.id}. is full") as caught:
            queue.send_nowait(b"45")
        assert caught.value.errno == errno.EAGAIN
        queue.send_nowait(b"4", type=3)
        for selector in ({"type": 1}, {"type": -1}, {"type": 4}):
            with pytest.raises(aioipc.WouldBlock, match="no such message"):
                queue.receive_nowait(**selector)
        assert queue.receive_nowait(exclude=2) == (b"4", 3)
        with pytest.raises(aioipc.WouldBlock, match="no such message"):
            queue.receive_nowait(exclude=2)
        assert queue.receive_nowait(type=2) == (b"123", 2)


def test_messages_without_data_fill_a_queue_too() -> None:
    """Their number may not pass the byte limit."""
    with MessageQueue.create(None, max_bytes=3) as queue:
        for _ in range(3):
            queue.send_nowait(b"")
        with pytest.raises(aioipc.WouldBlock, match="is full"):
            queue.send_nowait(b"")
        statistics = queue.statistics()
        assert (statistics.messages, statistics.bytes, statistics.max_bytes) == (3, 0, 3)


# C11: lifetimes ---------------------------------------------------------------------------


async def test_the_creator_removes_on_exit_and_an_opener_does_not(key: int) -> None:
    async with MessageQueue.create(key) as queue:
        async with MessageQueue.open(key):
            pass
        with MessageQueue.open(id=queue.id) as other:
            other.send_nowait(b"still there")
        assert exists(queue.id)
    assert not exists(queue.id)
    with pytest.raises(aioipc.NotFoundError):
        MessageQueue.open(key)


def test_removed_when_the_block_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        with MessageQueue.create(None) as queue:
            raise ZeroDivisionError
    assert not exists(queue.id)


def test_persist_and_take_over(key: int) -> None:
    with MessageQueue.create(key, persist=True, max_bytes=100) as queue:
        queue.send_nowait(b"kept", type=2)
    assert exists(queue.id)
    with MessageQueue.create(key, exist_ok=True, max_bytes=50, mode=0o666) as again:
        assert again.id == queue.id
        assert (again.statistics().max_bytes, again.statistics().mode) == (100, 0o600)
        assert again.receive_nowait() == (b"kept", 2)
    assert not exists(queue.id)
    with MessageQueue.create(key, exist_ok=True, max_bytes=50, mode=0o660) as new:
        assert (new.statistics().max_bytes, new.statistics().mode) == (50, 0o660)


def test_close_alone_removes_nothing(key: int) -> None:
    queue = MessageQueue.create(key)
    queue.close()
    assert exists(queue.id)
    queue.remove()
    assert not exists(queue.id)
    with pytest.raises(aioipc.RemovedError, match="has been removed already") as caught:
        queue.remove()
    assert caught.value.errno == errno.EIDRM


def test_a_queue_made_anew_under_the_key_is_left_alone(key: int) -> None:
    with MessageQueue.create(key) as old:
        old.remove()
        with MessageQueue.create(key) as new:
            assert new.id != old.id
            with pytest.raises(aioipc.RemovedError):
                old.send_nowait(b"x")
            old.__exit__(None, None, None)
            assert exists(new.id)


def test_collected_unclosed_it_warns(key: int) -> None:
    queue = MessageQueue.create(key)
    with pytest.warns(ResourceWarning, match=f"unclosed <aioipc.sysv.MessageQueue key {key:#x}, id {queue.id} open>"):
        del queue
        gc.collect()


# C12, C13: looking ------------------------------------------------------------------------


async def test_statistics_are_what_the_kernel_shows(key: int, sysv_peer: str) -> None:
    async with MessageQueue.create(key, mode=0o640) as queue:
        fresh = queue.statistics()
        assert (fresh.last_send_pid, fresh.last_receive_pid, fresh.sent_at, fresh.received_at) == (0, 0, None, None)
        assert fresh.max_bytes == kernel("msgmnb")
        shown = in_proc("msg", queue.id)
        assert shown is not None
        assert fresh.changed_at == shown["ctime"]
        queue.send_nowait(b"12345")
        queue.send_nowait(b"678")
        with running(sysv_peer, "msgrcv", str(queue.id), "1", "0", "99", "-", stdout=subprocess.DEVNULL) as peer:
            pass
        statistics = queue.statistics()
        assert (statistics.messages, statistics.bytes) == (1, 3)
        assert (statistics.last_send_pid, statistics.last_receive_pid) == (os.getpid(), peer.pid)

        assert in_proc("msg", queue.id) == {
            "key": queue.key,
            "msqid": queue.id,
            "perms": statistics.mode,
            "cbytes": statistics.bytes,
            "qnum": statistics.messages,
            "lspid": statistics.last_send_pid,
            "lrpid": statistics.last_receive_pid,
            "uid": statistics.owner,
            "gid": statistics.group,
            "cuid": statistics.creator,
            "cgid": statistics.creator_group,
            "stime": statistics.sent_at,
            "rtime": statistics.received_at,
            "ctime": statistics.changed_at,
        }


def test_ipcs_shows_the_same(key: int) -> None:
    with MessageQueue.create(key, mode=0o604, max_bytes=1000) as queue:
        queue.send_nowait(b"12345")
        table = run("ipcs", "-q", "-i", queue.id)
        assert f"msqid={queue.id}" in table
        assert "cbytes=5\tqbytes=1000\tqnum=1" in table
        assert "mode=0604" in table
        assert f"{key:#010x}" in run("ipcs", "-q")
