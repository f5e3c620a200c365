"""Bad input and limits reached: the exact exception, and words that help."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import NOBODY, as_nobody, in_child, in_own_namespace

import aioipc
from aioipc.posix import Message, MessageQueue

SYSCTL = Path("/proc/sys/fs/mqueue")

NewName = Callable[[], str]


def test_the_tree() -> None:
    for kind, builtin in (
        (aioipc.NotFoundError, FileNotFoundError),
        (aioipc.ExistsError, FileExistsError),
        (aioipc.AccessError, PermissionError),
        (aioipc.MessageTooLongError, ValueError),
        (aioipc.LimitError, OSError),
        (aioipc.RemovedError, OSError),
        (aioipc.CorruptError, OSError),
        (aioipc.KernelError, OSError),
    ):
        assert issubclass(kind, builtin)
        assert issubclass(kind, aioipc.Error)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("orders", ValueError, "must begin with a slash: '/orders'"),
        ("", ValueError, "must begin with a slash"),
        ("/", ValueError, "nothing after the slash"),
        ("/.", ValueError, "nothing after the slash"),
        ("/..", ValueError, "nothing after the slash"),
        ("/a/b", ValueError, "slash inside"),
        ("//a", ValueError, "slash inside"),
        ("/a\0b", ValueError, "NUL"),
        ("/\ud800", ValueError, "can't be encoded"),
        ("/" + "n" * 256, ValueError, "name of 256 bytes after the slash; 255 at most"),
        ("/" + "\u00e9" * 128, ValueError, "name of 256 bytes"),
        (None, TypeError, "must be a string, not NoneType"),
        (b"/orders", TypeError, "must be a string, not bytes"),
    ],
)
def test_names(name: str, error: type[Exception], words: str) -> None:
    for make in (MessageQueue.create, MessageQueue.open):
        with pytest.raises(error, match=words):
            make(name)


def test_the_longest_name(name: str) -> None:
    longest = name + "n" * (256 - len(name))
    with MessageQueue.create(longest, max_messages=1, max_message_size=1) as queue:
        queue.send_nowait(b"x")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_messages": 0}, ValueError, "max_messages 0 must be at least 1"),
        ({"max_messages": -1}, ValueError, "max_messages -1"),
        ({"max_message_size": 0}, ValueError, "max_message_size 0 must be at least 1"),
        ({"max_messages": "10"}, TypeError, "max_messages must be an integer, not str"),
        ({"max_messages": 1.5}, TypeError, "max_messages must be an integer, not float"),
        ({"mode": 0o10000}, ValueError, "permission bits"),
        ({"mode": -1}, ValueError, "permission bits"),
        ({"mode": "rw"}, TypeError, "str"),
        ({"read": False, "write": False}, ValueError, "can't both be false"),
    ],
)
def test_arguments_of_create(name: str, options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MessageQueue.create(name, **options)
    with pytest.raises(aioipc.NotFoundError):
        MessageQueue.open(name)


@pytest.mark.parametrize(
    ("item", "priority", "error", "words"),
    [
        ("text", 0, TypeError, "must be bytes-like, not str"),
        (5, 0, TypeError, "must be bytes-like, not int"),
        (None, 0, TypeError, "must be bytes-like, not NoneType"),
        ([1, 2], 0, TypeError, "must be bytes-like, not list"),
        (b"", -1, ValueError, "priority -1 must be 0 to 32,767"),
        (b"", 32768, ValueError, "priority 32768 must be 0 to 32,767"),
        (b"", 2**70, ValueError, "must be 0 to 32,767"),
        (b"", "high", TypeError, "str"),
        (b"", 1.5, TypeError, "float"),
        (Message("text", 0), None, TypeError, "must be bytes-like, not str"),
        (Message(memoryview(bytes(24)).cast("Q"), 0), None, aioipc.MessageTooLongError, "message of 24 bytes"),
        (Message(b"", 32768), None, ValueError, "priority 32768"),
        (tuple.__new__(Message, [b""]), None, IndexError, "out of range"),
        (b"x" * 17, 0, aioipc.MessageTooLongError, "message of 17 bytes; .* takes 16 at most"),
        (bytearray(17), 0, aioipc.MessageTooLongError, "message of 17 bytes"),
    ],
)
def test_arguments_of_send(name: str, item: object, priority: int, error: type[Exception], words: str) -> None:
    with MessageQueue.create(name, max_messages=4, max_message_size=16) as queue:
        with pytest.raises(error, match=words):
            queue.send_nowait(item, priority=priority)
        with pytest.raises(error, match=words):
            queue.send(item, priority=priority).send(None)
        assert queue.statistics().messages == 0


def test_the_forms_of_a_call_of_send(name: str) -> None:
    item, priority = "".join(["it", "em"]), "".join(["prior", "ity"])  # other objects than those of a call
    with MessageQueue.create(name, max_messages=4, max_message_size=16) as queue:
        for awaitable in (
            queue.send(b"x", 5),
            queue.send(b"x", priority=5),
            queue.send(item=b"x", priority=5),
            queue.send(**{priority: 5, item: b"x"}),
        ):
            with pytest.raises(StopIteration):
                awaitable.send(None)
            assert queue.receive_nowait() == (b"x", 5)
        for args, options in (
            ((), {}),
            ((), {"priority": 5}),
            ((b"x", 5, 5), {}),
            ((b"x",), {"item": b"x"}),
            ((b"x", 5), {"priority": 5}),
            ((b"x",), {"other": 5}),
        ):
            with pytest.raises(TypeError, match=r"^MessageQueue\.send\(\) (missing|takes|got) "):
                queue.send(*args, **options)


def test_made_by_nobody() -> None:
    queue = MessageQueue.__new__(MessageQueue)
    for operation in (lambda: queue.send(b""), queue.receive, queue.__anext__):
        with pytest.raises(RuntimeError, match="not made by create or open"):
            operation()


def test_too_long_has_errno(name: str) -> None:
    with MessageQueue.create(name, max_messages=4, max_message_size=16) as queue:
        with pytest.raises(aioipc.MessageTooLongError) as caught:
            queue.send_nowait(b"x" * 17)
        assert caught.value.errno == errno.EMSGSIZE


def test_not_found(name: str) -> None:
    with pytest.raises(aioipc.NotFoundError, match=r"create\(\) makes one") as caught:
        MessageQueue.open(name)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)


def test_exists(name: str) -> None:
    with MessageQueue.create(name, max_messages=1, max_message_size=1):
        with pytest.raises(aioipc.ExistsError, match="exist_ok=True") as caught:
            MessageQueue.create(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "receive and send (read=False or write=False asks for less)"),
        ({"write": False}, "receive"),
        ({"read": False}, "send"),
    ],
)
def test_another_user_may_not(name: str, options: dict[str, bool], wanted: str) -> None:
    with MessageQueue.create(name, max_messages=1, max_message_size=1) as queue:
        with pytest.raises(aioipc.AccessError) as caught:
            as_nobody(lambda: MessageQueue.open(name, **options).close())
        assert caught.value.errno == errno.EACCES
        assert str(caught.value.strerror).endswith(f"do not let user {NOBODY} {wanted}")
        with pytest.raises(aioipc.AccessError):
            as_nobody(lambda: MessageQueue.create(name, exist_ok=True).close())
        with pytest.raises(aioipc.AccessError, match="only its owner"):
            as_nobody(MessageQueue.unlink, lambda: MessageQueue.open(name))
        queue.unlink()


def test_another_user_may_what_the_mode_says(name: str) -> None:
    queue = MessageQueue.create(name, max_messages=1, max_message_size=1)
    os.fchmod(queue.fileno(), 0o622)  # as docs/message-queues.md says: the umask has no part in it

    def send_as_nobody() -> None:
        with MessageQueue.open(name, read=False) as sender:
            sender.send_nowait(b"x")

    with queue:
        as_nobody(send_as_nobody)
        assert queue.receive_nowait() == (b"x", 0)


def limited(function: Callable[[], object]) -> object:
    """Call it in a child of a user whom the limits bind."""
    return as_nobody(function) if os.geteuid() == 0 else in_child(function)


def test_defaults_are_those_of_the_system(name: str) -> None:
    with MessageQueue.create(name) as queue:
        limit, default = (int((SYSCTL / file).read_text()) for file in ("msg_max", "msg_default"))
        assert queue.max_messages == min(limit, default)
        limit, default = (int((SYSCTL / file).read_text()) for file in ("msgsize_max", "msgsize_default"))
        assert queue.max_message_size == min(limit, default)


@pytest.mark.parametrize(
    ("argument", "file"),
    [("max_messages", "msg_max"), ("max_message_size", "msgsize_max")],
)
def test_attributes_over_the_limit(name: str, argument: str, file: str) -> None:
    limit = int((SYSCTL / file).read_text())
    attributes = {"max_messages": 1, "max_message_size": 1, argument: limit + 1}
    with pytest.raises(aioipc.LimitError) as caught:
        limited(lambda: MessageQueue.create(name, **attributes))
    assert caught.value.errno == errno.EINVAL
    assert caught.value.strerror == (
        f"{argument}={limit + 1:,} is over fs.mqueue.{file} "
        f"({limit:,} now; raise it with `sysctl -w fs.mqueue.{file}=...` as root)"
    )


@pytest.mark.parametrize(
    ("argument", "value", "limit"),
    [
        ("max_messages", 65_537, "65,536"),
        ("max_messages", 2**62, "65,536"),
        ("max_message_size", 16_777_217, "16,777,216"),
        ("max_message_size", 2**70, "16,777,216"),
    ],
)
def test_attributes_over_what_no_sysctl_allows(name: str, argument: str, value: int, limit: str) -> None:
    attributes = {"max_messages": 1, "max_message_size": 1, argument: value}
    for call in (limited, lambda create: create()):
        with pytest.raises(aioipc.LimitError) as caught:
            call(lambda: MessageQueue.create(name, **attributes))
        assert caught.value.errno == errno.EINVAL
        assert caught.value.strerror == f"{argument}={value:,} is over {limit}, the most that the kernel allows at all"


def test_rlimit_msgqueue(new_name: NewName) -> None:
    """The bytes that the kernel counts are 96 more for each message than the message has."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (2 * 10 * (96 + 100) + 1, 819_200))
        with ExitStack() as stack:
            for _ in range(3):
                queue = MessageQueue.create(new_name(), max_messages=10, max_message_size=100)
                stack.enter_context(queue)
                made.append(queue.name)

    made: list[str] = []
    with pytest.raises(aioipc.LimitError) as caught:
        limited(fill)
    assert caught.value.errno == errno.EMFILE
    assert caught.value.strerror.startswith(
        "a queue of 10 messages of 100 bytes takes 1,960 bytes of RLIMIT_MSGQUEUE (3,921 bytes now"
    )
    assert "ulimit -q" in caught.value.strerror


def test_rlimit_nofile(name: str) -> None:
    def exhaust() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, 4096))
        with ExitStack() as stack:
            while True:
                stack.enter_context(MessageQueue.open(name))

    with MessageQueue.create(name, max_messages=1, max_message_size=1):
        with pytest.raises(aioipc.LimitError, match=r"RLIMIT_NOFILE \(\d+ open descriptors now.*ulimit -n") as caught:
            in_child(exhaust)
        assert caught.value.errno == errno.EMFILE


def test_queues_max(new_name: NewName) -> None:
    """In an IPC namespace of its own, where queues_max can be lowered."""

    def fill() -> None:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(MessageQueue.create(new_name(), max_messages=1, max_message_size=1))

    with pytest.raises(aioipc.LimitError) as caught:
        in_own_namespace(fill, queues_max="2")
    assert caught.value.errno == errno.ENOSPC
    assert "fs.mqueue.queues_max (2 now; raise it with `sysctl -w" in caught.value.strerror


def test_a_mode_that_forbids_even_the_owner(name: str) -> None:
    def create_and_leave() -> bool:
        create = MessageQueue.create(name, max_messages=1, max_message_size=1, mode=0)
        with create, pytest.raises(aioipc.AccessError):
            MessageQueue.open(name)
        with pytest.raises(aioipc.NotFoundError):
            MessageQueue.open(name)
        return True

    assert limited(create_and_leave)


def test_memory_of_the_kernel_runs_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error has its errno; one that is not foreseen is not hidden."""

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    with MessageQueue.create(name, max_messages=1, max_message_size=1) as queue:
        monkeypatch.setattr(queue, "_try_send", fail)
        monkeypatch.setattr(queue, "_try_receive", fail)
        for number, kind in ((errno.ENOMEM, aioipc.LimitError), (errno.EIO, aioipc.KernelError)):
            for call in (lambda: queue._send_nowait(b""), queue._receive_nowait):
                with pytest.raises(kind) as caught:
                    call()
                assert caught.value.errno == number


def test_no_call_waits_though_others_have_made_the_description_wait(name: str) -> None:
    with MessageQueue.create(name, max_messages=1, max_message_size=1) as queue:
        number = queue.fileno()
        in_child(lambda: os.set_blocking(number, True))  # a child shares it
        with pytest.raises(aioipc.WouldBlock, match="is empty"):
            queue.receive_nowait()
        queue.send_nowait(b"x")
        with pytest.raises(aioipc.WouldBlock, match="is full"):
            queue.send_nowait(b"y")


def test_a_name_that_is_not_utf_8(name: str) -> None:
    with MessageQueue.create(f"{name}\udc80", max_messages=1, max_message_size=1):
        pass
    with pytest.raises(aioipc.NotFoundError):
        MessageQueue.open(f"{name}\udc80")
