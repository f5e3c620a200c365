"""What the Open POSIX test suite demands of mq_*, for POSIX message queues: see docs/conformance.md."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import anyio
import posix_ipc
import pytest
from conftest import NOBODY, Task, as_nobody, become, in_child, in_own_namespace, times_out, until, with_mqueue
from together import long_ago, outcome, signalled, umask, winners

import aioipc
from aioipc.posix import MessageQueue

NewName = Callable[[], str]


def small(name: str, **options: object) -> MessageQueue:
    return MessageQueue.create(name, **({"max_messages": 2, "max_message_size": 16} | options))


def full(name: str) -> MessageQueue:
    queue = small(name, max_messages=1)
    queue.send_nowait(b"first")
    return queue


def send(name: str, data: bytes) -> None:
    with closing(posix_ipc.MessageQueue(name)) as bare:
        bare.send(data)


# Opening


def test_a_name_is_one_queue_for_all_until_it_is_removed(name: str, mq: str) -> None:
    with small(name) as old:
        subprocess.run([mq, "send", name, "1", "to the old"], check=True)
        old.unlink()
        assert subprocess.run([mq, "send", name, "1", "x"], capture_output=True, check=False).returncode != 0
        with small(name) as new:
            subprocess.run([mq, "send", name, "2", "to the new"], check=True)
            assert new.receive_nowait() == (b"to the new", 2)
            assert old.receive_nowait() == (b"to the old", 1)
            assert [queue.statistics().messages for queue in (old, new)] == [0, 0]


def test_access_is_that_of_a_file_with_such_a_mode(name: str) -> None:
    def allowed() -> list[bool]:
        ways = ({"write": False}, {"read": False}, {})
        return [outcome(lambda way=way: MessageQueue.open(name, **way).close()) is None for way in ways]

    with umask(0):
        for others, expected in ((0, [0, 0, 0]), (4, [1, 0, 0]), (2, [0, 1, 0]), (6, [1, 1, 1])):
            with small(name, mode=0o600 | others):
                assert as_nobody(allowed) == expected, f"{others:o}"


@pytest.mark.parametrize("exist_ok", [False, True])
def test_where_only_others_may_create_queues(name: str, exist_ok: bool) -> None:
    def create(folder: Path) -> None:
        folder.chmod(0o755)
        become(NOBODY)
        small(name, exist_ok=exist_ok)

    with pytest.raises(aioipc.AccessError, match=f"user {NOBODY} may not create queues here") as caught:
        in_own_namespace(lambda: with_mqueue(create), user=0)
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, name)


def test_as_many_are_open_as_there_are_descriptors(name: str) -> None:
    def count() -> tuple[int, int]:
        used = sum(int(number) < 200 for number in os.listdir("/proc/self/fd")) - 1  # without that of the list itself
        with ExitStack() as stack:
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
            opened = 0
            with pytest.raises(aioipc.LimitError):
                while True:
                    stack.enter_context(MessageQueue.open(name))
                    opened += 1
            return opened, 200 - used

    with small(name):
        opened, free = in_child(count)
        assert opened == free


@pytest.mark.parametrize(("read", "write"), [(True, False), (False, True), (True, True)])
def test_opened_several_times_for_a_direction(name: str, read: bool, write: bool) -> None:
    def use() -> None:
        """Send and receive by two handles, and do by another what they are not open for."""
        with ExitStack() as stack:
            both = stack.enter_context(MessageQueue.open(name))
            handles = [stack.enter_context(MessageQueue.open(name, read=read, write=write)) for _ in range(2)]
            for handle in handles:
                denied = outcome(lambda handle=handle: handle.send_nowait(b"x")) is aioipc.AccessError
                assert denied == (not write)
                if denied:
                    both.send_nowait(b"x")
            for handle in handles:
                denied = outcome(handle.receive_nowait) is aioipc.AccessError
                assert denied == (not read)
                if denied:
                    both.receive_nowait()
            assert both.statistics().messages == 0

    with small(name):
        use()
        in_child(use)


def test_a_new_queue_is_empty_and_the_users(name: str) -> None:
    def create() -> tuple[int, ...]:
        with umask(0), small(name, mode=0o620) as queue:
            found = queue.statistics()
            return found.messages, found.owner, found.group, found.mode

    assert as_nobody(create) == (0, NOBODY, NOBODY, 0o620)


def test_creating_what_exists_changes_nothing(name: str) -> None:
    with small(name) as queue:
        queue.send_nowait(b"kept", priority=3)
        before = queue.statistics()
        for open_again in (
            # Nor does it matter that no new queue can have these attributes.
            lambda: MessageQueue.create(
                name, max_messages=2**24, max_message_size=2**30, mode=0o666, exist_ok=True, persist=True
            ),
            lambda: MessageQueue.open(name),
        ):
            with open_again() as again:
                assert (again.max_messages, again.max_message_size) == (2, 16)
        assert outcome(lambda: MessageQueue.create(name)) is aioipc.ExistsError
        assert queue.statistics() == before
        assert queue.receive_nowait() == (b"kept", 3)


@pytest.mark.parametrize(("messages", "size"), [(1, 1), (3, 77), (2, 8192)])
def test_attributes_are_those_that_were_asked_for(name: str, messages: int, size: int) -> None:
    with MessageQueue.create(name, max_messages=messages, max_message_size=size) as queue:
        with closing(posix_ipc.MessageQueue(name)) as bare:
            assert (bare.max_messages, bare.max_message_size) == (messages, size)
        for _ in range(messages):
            queue.send_nowait(bytes(size))
        with pytest.raises(aioipc.WouldBlock):
            queue.send_nowait(b"")
        with pytest.raises(aioipc.MessageTooLongError):
            queue.send_nowait(bytes(size + 1))


@pytest.mark.parametrize("attribute", ["max_messages", "max_message_size"])
def test_what_is_too_large_is_not_created(name: str, attribute: str) -> None:
    with pytest.raises(aioipc.LimitError):
        as_nobody(lambda: MessageQueue.create(name, **{attribute: 2**24}))
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(name)


def test_one_of_many_creates_it(new_name: NewName) -> None:
    names = [new_name() for _ in range(50)]
    assert winners(lambda number: small(names[number])) == [1] * 50


# Looking and closing


def test_messages_are_counted(name: str) -> None:
    with small(name) as queue, MessageQueue.open(name) as other:
        counts = [queue.statistics().messages]
        for step in (other.send_nowait, other.send_nowait):
            step(b"x")
            counts.append(queue.statistics().messages)
        for step in (other.receive_nowait, queue.receive_nowait):
            step()
            counts.append(queue.statistics().messages)
        assert counts == [0, 1, 2, 1, 0]


def test_closing_one_handle_leaves_the_other(name: str) -> None:
    with small(name) as queue:
        with MessageQueue.open(name) as other:
            other.send_nowait(b"x")
        other.close()
        for operation in (other.fileno, other.statistics, other.receive_nowait, lambda: other.send_nowait(b"y")):
            with pytest.raises(aioipc.ClosedError):
                operation()
        assert queue.receive_nowait() == (b"x", 0)


# Sending and receiving


def test_what_fails_leaves_the_queue_as_it_is(name: str) -> None:
    with small(name) as queue:
        queue.send_nowait(b"1", priority=1)
        queue.send_nowait(b"2", priority=2)
        for attempt, error in (
            (lambda: queue.send_nowait(b"3"), aioipc.WouldBlock),
            (lambda: queue.send_nowait(bytes(17)), aioipc.MessageTooLongError),
            (lambda: queue.send_nowait(b"3", priority=32768), ValueError),
            (lambda: queue.send_nowait(b"3", priority=-1), ValueError),
        ):
            with pytest.raises(error):
                attempt()
        with MessageQueue.open(name, read=False) as sender, pytest.raises(aioipc.AccessError):
            sender.receive_nowait()
        assert [queue.receive_nowait() for _ in range(2)] == [(b"2", 2), (b"1", 1)]
        with pytest.raises(aioipc.WouldBlock):
            queue.receive_nowait()
        assert queue.statistics().messages == 0


@pytest.mark.anyio
async def test_a_receiver_waits_for_a_message(name: str, mq: str) -> None:
    async with small(name) as queue, anyio.create_task_group() as group:
        task = Task(group, queue.receive)
        await until(lambda: queue.statistics().tasks_waiting_receive == 1)
        assert not task.done.is_set()
        subprocess.run([mq, "send", name, "7", "at last"], check=True)
        await task.done.wait()
        assert task.result == (b"at last", 7)


@pytest.mark.anyio
async def test_a_sender_waits_for_room(name: str, mq: str) -> None:
    async with full(name) as queue, anyio.create_task_group() as group:
        task = Task(group, lambda: queue.send(b"second", priority=9))
        await until(lambda: queue.statistics().tasks_waiting_send == 1)
        assert not task.done.is_set()
        # What is sent has its place among the others when it gets in, not before.
        assert subprocess.check_output([mq, "receive", name, "1"]) == b"0 first\n"
        await task.done.wait()
        assert queue.receive_nowait() == (b"second", 9)


@pytest.mark.anyio
async def test_a_signal_does_not_end_a_wait(name: str, new_name: NewName) -> None:
    async with small(name) as empty, full(new_name()) as no_room, anyio.create_task_group() as group:
        receiver = Task(group, empty.receive)
        sender = Task(group, lambda: no_room.send(b"second"))
        await until(lambda: waiting(empty, no_room) == (1, 1))
        with signalled() as interrupt:
            for _ in range(3):
                await interrupt()
        assert waiting(empty, no_room) == (1, 1)
        send(empty.name, b"x")
        no_room.receive_nowait()
        await receiver.done.wait()
        await sender.done.wait()
        assert receiver.result == (b"x", 0)
        assert no_room.receive_nowait() == (b"second", 0)


def waiting(receiving: MessageQueue, sending: MessageQueue) -> tuple[int, int]:
    return receiving.statistics().tasks_waiting_receive, sending.statistics().tasks_waiting_send


# Time limits


@pytest.mark.anyio
async def test_a_timeout_ends_a_wait(name: str, new_name: NewName) -> None:
    async with small(name) as empty, full(new_name()) as no_room:
        for operation in (empty.receive, lambda: no_room.send(b"second")):
            assert await times_out(operation)
            with long_ago() as scope:
                await operation()
            assert scope.cancelled_caught
        assert empty.statistics().messages == 0
        assert waiting(empty, no_room) == (0, 0)
        assert no_room.receive_nowait() == (b"first", 0)
        assert no_room.statistics().messages == 0


@pytest.mark.anyio
async def test_what_need_not_wait_does_not_time_out(name: str) -> None:
    received = []
    async with small(name) as queue:
        with long_ago():
            await queue.send(b"x")
            received.append(await queue.receive())
    assert received == [(b"x", 0)]


@pytest.mark.anyio
async def test_a_message_that_comes_in_time_is_received(name: str) -> None:
    async with small(name) as queue, anyio.create_task_group() as group:
        with anyio.fail_after(60):
            task = Task(group, queue.receive)
            await until(lambda: queue.statistics().tasks_waiting_receive == 1)
            send(name, b"x")
            await task.done.wait()
        assert task.result == (b"x", 0)


# Removing


def test_removal_leaves_those_who_have_it_open(name: str) -> None:
    with small(name) as queue, MessageQueue.open(name) as other:
        queue.send_nowait(b"before")
        queue.unlink()
        with pytest.raises(aioipc.NotFoundError):
            MessageQueue.open(name)
        queue.close()
        assert other.receive_nowait() == (b"before", 0)
        other.send_nowait(b"after")
        assert other.receive_nowait() == (b"after", 0)


@pytest.mark.anyio
async def test_removal_leaves_those_who_wait(name: str) -> None:
    async with small(name) as queue, anyio.create_task_group() as group:
        with MessageQueue.open(name) as other:
            task = Task(group, queue.receive)
            await until(lambda: queue.statistics().tasks_waiting_receive == 1)
            other.unlink()
            other.send_nowait(b"x")
            await task.done.wait()
            assert task.result == (b"x", 0)


def test_who_may_not_remove_it_changes_nothing(name: str) -> None:
    with umask(0), small(name, mode=0o666) as queue:
        queue.send_nowait(b"kept")

        def remove() -> None:
            with MessageQueue.open(name) as other:
                other.unlink()

        with pytest.raises(aioipc.AccessError):
            as_nobody(remove)
        with MessageQueue.open(name) as again:
            assert again.receive_nowait() == (b"kept", 0)
