"""System V message queues: bad input, limits reached, owners and modes, and words that help."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio
import pytest
from conftest import NOBODY, as_nobody, in_own_namespace, in_proc, kernel

import aioipc
from aioipc.sysv import Message, MessageQueue

TYPE_RANGE = "must be 1 to 9,223,372,036,854,775,807"


# Arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_bytes": 0}, ValueError, "max_bytes 0 must be 1 to"),
        ({"max_bytes": 2**31}, ValueError, "max_bytes 2147483648 must be"),
        ({"max_bytes": "10"}, TypeError, "str"),
        ({"max_message_size": 0}, ValueError, "max_message_size 0 must be 1 to"),
        ({"max_message_size": -1}, ValueError, "max_message_size -1"),
        ({"max_message_size": 1.5}, TypeError, "float"),
        ({"mode": 0o1000}, ValueError, "permission bits"),
        ({"mode": -1}, ValueError, "permission bits"),
        ({"mode": "rw"}, TypeError, "str"),
    ],
)
def test_arguments_of_create(key: int, options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MessageQueue.create(key, **options)
    with pytest.raises(aioipc.NotFoundError):
        MessageQueue.open(key)


@pytest.mark.parametrize("size", [0, -1, 2**31, "8", 1.5])
def test_sizes_of_open(size: int) -> None:
    with MessageQueue.create(None) as queue:
        with pytest.raises((ValueError, TypeError)):
            MessageQueue.open(id=queue.id, max_message_size=size)


@pytest.mark.parametrize(
    ("item", "type", "error", "words"),
    [
        ("text", 1, TypeError, "must be bytes-like, not str"),
        (5, 1, TypeError, "must be bytes-like, not int"),
        (None, 1, TypeError, "must be bytes-like, not NoneType"),
        ([1, 2], 1, TypeError, "must be bytes-like, not list"),
        (Message("text", 1), None, TypeError, "must be bytes-like, not str"),
        (b"", 0, ValueError, f"type 0 {TYPE_RANGE}"),
        (b"", -1, ValueError, f"type -1 {TYPE_RANGE}"),
        (b"", 2**63, ValueError, TYPE_RANGE),
        (b"", 2**64 + 1, ValueError, TYPE_RANGE),
        (b"", "job", TypeError, "str"),
        (b"", 1.5, TypeError, "float"),
        (Message(b"", 0), None, ValueError, f"type 0 {TYPE_RANGE}"),
    ],
)
def test_arguments_of_send(item: object, type: int, error: type[Exception], words: str) -> None:
    with MessageQueue.create(None) as queue:
        for send in (queue.send_nowait, lambda *arguments: queue.send(*arguments).send(None)):
            with pytest.raises(error, match=words):
                send(item, type)
        assert queue.statistics().messages == 0


@pytest.mark.parametrize(
    ("selector", "error", "words"),
    [
        ({"type": 2**63}, ValueError, "type 9223372036854775808 must be"),
        ({"type": -(2**63)}, ValueError, "type -9223372036854775808 must be"),
        ({"type": "job"}, TypeError, "str"),
        ({"type": 1.0}, TypeError, "float"),
        ({"type": None}, TypeError, "NoneType"),
        ({"exclude": 0}, ValueError, f"exclude 0 {TYPE_RANGE}"),
        ({"exclude": -1}, ValueError, f"exclude -1 {TYPE_RANGE}"),
        ({"exclude": 2**63}, ValueError, TYPE_RANGE),
        ({"exclude": 1.0}, TypeError, "float"),
        ({"exclude": "job"}, TypeError, "str"),
        ({"type": 1, "exclude": 2}, ValueError, "can't both be given"),
        ({"type": -1, "exclude": 2}, ValueError, "can't both be given"),
    ],
)
@pytest.mark.parametrize("used", [False, True], ids=["first", "after a right one"])
def test_selectors(selector: dict[str, int], error: type[Exception], words: str, used: bool) -> None:
    with MessageQueue.create(None) as queue:
        if used:
            queue.send_nowait(b"")
            queue.send_nowait(b"")
            queue.receive_nowait(type=1)
            queue.receive_nowait(exclude=2)
            with pytest.raises(aioipc.WouldBlock):
                queue.receive_nowait(exclude=1)
        for use in (queue.receive_nowait, queue.messages, lambda **options: queue.receive(**options).send(None)):
            with pytest.raises(error, match=words):
                use(**selector)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"mode": 0o1000}, ValueError, "permission bits"),
        ({"max_bytes": 0}, ValueError, "max_bytes 0 must be"),
        ({"owner": -1}, ValueError, "owner -1 must be"),
        ({"owner": 2**32 - 1}, ValueError, "owner 4294967295 must be"),
        ({"group": -1}, ValueError, "group -1 must be"),
        ({"owner": "no such user"}, aioipc.NotFoundError, "no user has this name"),
        ({"group": "no such group"}, aioipc.NotFoundError, "no group has this name"),
        ({"owner": 1.5}, TypeError, "float"),
    ],
)
def test_arguments_of_change(changes: dict[str, object], error: type[Exception], words: str) -> None:
    with MessageQueue.create(None) as queue:
        before = queue.statistics()
        with pytest.raises(error, match=words):
            queue.change(**{"mode": 0o666} | changes)
        assert queue.statistics() == before


# Owners and modes ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o640, 0])
def test_mode(mode: int) -> None:
    """The umask has no part in it."""
    before = os.umask(0o077)
    try:
        with MessageQueue.create(None, mode=mode) as queue:
            assert in_proc("msg", queue.id)["perms"] == mode
            assert in_proc("msg", queue.id)["uid"] == os.geteuid()
            if os.geteuid() == 0:
                assert queue.statistics().mode == mode
    finally:
        os.umask(before)


def test_change() -> None:
    if os.geteuid() != 0:
        pytest.skip("it takes root to give a queue to somebody else")
    with MessageQueue.create(None, mode=0o600, max_bytes=100) as queue:
        queue.change(mode=0o640)
        assert in_proc("msg", queue.id)["perms"] == 0o640
        queue.change(owner=NOBODY, group=12345)
        queue.change(max_bytes=50)
        row = in_proc("msg", queue.id)
        assert (row["uid"], row["gid"], row["cuid"], row["cgid"]) == (NOBODY, 12345, 0, 0)
        statistics = queue.statistics()
        assert (statistics.owner, statistics.group) == (NOBODY, 12345)
        assert (statistics.creator, statistics.creator_group) == (0, 0)
        assert (statistics.mode, statistics.max_bytes) == (0o640, 50)
        queue.change(owner=pwd.getpwuid(0).pw_name, group="root")
        queue.change()
        assert (queue.statistics().owner, queue.statistics().group) == (0, 0)
        assert (queue.statistics().mode, queue.statistics().max_bytes) == (0o640, 50)


def test_another_user_may_not(key: int) -> None:
    with MessageQueue.create(key) as queue:
        for use in (
            lambda: MessageQueue.open(key),
            lambda: MessageQueue.open(id=queue.id),
            lambda: MessageQueue.create(key, exist_ok=True),
        ):
            with pytest.raises(aioipc.AccessError, match=f"owner and mode .* do not let user {NOBODY}") as caught:
                as_nobody(use)
            assert caught.value.errno == errno.EACCES
        with pytest.raises(aioipc.ExistsError):
            as_nobody(lambda: MessageQueue.create(key))
        with pytest.raises(aioipc.AccessError, match="only its owner, its creator or root may remove it") as caught:
            as_nobody(MessageQueue.remove, lambda: MessageQueue.open(key))
        assert caught.value.errno == errno.EPERM
        assert queue.statistics().messages == 0


def test_another_user_may_what_the_mode_says(key: int) -> None:
    def send_only() -> None:
        with MessageQueue.open(key) as sender:
            sender.send_nowait(b"x")
            anyio.run(sender.send, b"y")
            for use in (
                sender.receive_nowait,
                sender.statistics,
                partial(sender.change, mode=0o666),
                partial(anyio.run, sender.receive),
                partial(anyio.run, anext_message, sender),
            ):
                with pytest.raises(aioipc.AccessError, match=f"do not let user {NOBODY}|only its owner"):
                    use()

    def receive_only() -> None:
        with MessageQueue.open(key) as receiver, MessageQueue.open(id=receiver.id) as same:
            assert receiver.receive_nowait() == (b"x", 1)
            assert anyio.run(same.receive) == (b"y", 1)
            assert receiver.statistics().messages == 0
            for use in (partial(receiver.send_nowait, b"x"), partial(anyio.run, receiver.send, b"x")):
                with pytest.raises(aioipc.AccessError, match=f"do not let user {NOBODY}"):
                    use()
            for change in ({"mode": 0o666}, {"owner": NOBODY}, {"max_bytes": 1}):
                with pytest.raises(aioipc.AccessError, match="only its owner"):
                    receiver.change(**change)

    with MessageQueue.create(key, mode=0o622) as queue:
        as_nobody(send_only)
        queue.change(mode=0o644)
        as_nobody(receive_only)


async def anext_message(queue: MessageQueue) -> Message:
    return await anext(queue.messages())


# Limits -----------------------------------------------------------------------------------------


def test_msgmax() -> None:
    limit = kernel("msgmax")
    with MessageQueue.create(None) as queue:
        queue.send_nowait(b"x" * limit)
        assert len(queue.receive_nowait().data) == limit
        for send in (queue.send_nowait, lambda data: queue.send(data).send(None)):
            with pytest.raises(aioipc.MessageTooLongError) as caught:
                send(b"x" * (limit + 1))
            assert str(caught.value) == (
                f"message of {limit + 1:,} bytes is over kernel.msgmax "
                f"({limit:,} now; raise it with `sysctl -w kernel.msgmax=...` as root)"
            )
            assert caught.value.errno == errno.EMSGSIZE


def test_a_handle_for_longer_messages_than_the_system_allows() -> None:
    limit = kernel("msgmax")
    with MessageQueue.create(None, max_message_size=2 * limit) as queue:
        with pytest.raises(aioipc.MessageTooLongError, match=r"is over kernel\.msgmax"):
            queue.send_nowait(b"x" * (limit + 1))
        queue.send_nowait(b"x" * limit)
        assert len(queue.receive_nowait().data) == limit


@pytest.mark.anyio
async def test_a_message_that_the_queue_never_has_room_for() -> None:
    """It would wait for ever."""
    async with MessageQueue.create(None, max_bytes=10) as queue:
        words = rf"11 bytes; the queue holds 10 at most \(max_bytes.*kernel.msgmnb \({kernel('msgmnb'):,} now; raise it"
        with pytest.raises(aioipc.MessageTooLongError, match=words):
            queue.send_nowait(b"x" * 11)
        with pytest.raises(aioipc.MessageTooLongError, match=words), anyio.fail_after(30):
            await queue.send(b"x" * 11)


def test_msgmax_raised_while_the_handle_is_open() -> None:
    """A bare receiver has to know; this one makes room."""

    def send_longer() -> None:
        with MessageQueue.create(None) as queue, MessageQueue.open(id=queue.id, max_message_size=100) as chosen:
            assert queue.max_message_size == 100
            Path("/proc/sys/kernel/msgmax").write_text("5000")
            for size in (101, 1000, 5000):
                queue.send_nowait(b"x" * size)
                with pytest.raises(aioipc.MessageTooLongError, match="100 bytes chosen"):
                    chosen.receive_nowait()
                assert len(queue.receive_nowait().data) == size
            queue.send_nowait(b"x" * 5000)
            assert len(queue.receive_nowait().data) == 5000

    in_own_namespace(send_longer, user=0, msgmax="100")


@pytest.mark.parametrize("size", [8191, 8192, 8193, 10**6])
def test_long_messages_among_short_ones(size: int) -> None:
    """Where kernel.msgmax allows for them: room is made for a long one when it comes."""

    def exchange() -> list[bytes]:
        with MessageQueue.create(None) as queue:
            for message in sent:
                queue.send_nowait(message, type=3)
            return [asyncio.run(queue.receive()).data, queue.receive_nowait(type=3).data, queue.receive_nowait().data]

    sent = [b"short", bytes(range(256)) * (size // 256) + b"x" * (size % 256), b""]
    assert in_own_namespace(exchange, user=0, msgmax=str(2**20), msgmnb=str(2**22)) == sent


def test_msgmnb() -> None:
    def more_than_allowed() -> str:
        with MessageQueue.create(None) as queue:
            assert queue.statistics().max_bytes == 1000
            queue.change(max_bytes=1000)
            with pytest.raises(aioipc.LimitError) as changed:
                queue.change(max_bytes=1001)
        with pytest.raises(aioipc.LimitError) as created:
            MessageQueue.create(5, max_bytes=1001)
        with pytest.raises(aioipc.NotFoundError):
            MessageQueue.open(5)
        assert created.value.errno == changed.value.errno == errno.EPERM
        assert created.value.strerror == changed.value.strerror
        return created.value.strerror

    assert in_own_namespace(more_than_allowed, msgmnb="1000") == (
        "max_bytes=1,001 is over kernel.msgmnb (1,000 now; raise it with `sysctl -w kernel.msgmnb=...` as root)"
    )


def test_a_queue_larger_than_msgmnb_now_allows() -> None:
    """IPC_SET states the byte limit anew, whatever is to be changed."""

    def lower_then_change() -> str:
        with MessageQueue.create(None, max_bytes=2000, persist=True) as queue:
            queue.change(owner=NOBODY)
        Path("/proc/sys/kernel/msgmnb").write_text("1000")
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with MessageQueue.open(id=queue.id) as mine:
            with pytest.raises(aioipc.LimitError) as caught:
                mine.change(mode=0o644)
            mine.change(mode=0o644, max_bytes=1000)
            assert (mine.statistics().mode, mine.statistics().max_bytes) == (0o644, 1000)
        return caught.value.strerror

    assert "max_bytes=2,000 is over kernel.msgmnb (1,000 now" in in_own_namespace(lower_then_change, user=0)


def test_msgmni() -> None:
    def one_too_many() -> None:
        with ExitStack() as stack:
            for number in range(4):
                stack.enter_context(MessageQueue.create(number or None))

    with pytest.raises(aioipc.LimitError) as caught:
        in_own_namespace(one_too_many, msgmni="3")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "key 0x3")
    assert caught.value.strerror == (
        "as many queues exist as kernel.msgmni (3 now; raise it with `sysctl -w kernel.msgmni=...` as root) allows; "
        "or remove some"
    )
