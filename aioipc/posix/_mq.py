"""The calls of mq_overview(7) through posix_ipc, and what its errors mean."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import posix_ipc

from aioipc import _limits
from aioipc._arguments import check_integer, check_mode
from aioipc.errors import (
    AccessError,
    ClosedError,
    Error,
    ExistsError,
    LimitError,
    NotFoundError,
    WouldBlock,
    from_errno,
)
from aioipc.posix import _calls
from aioipc.posix._errors import errno_of
from aioipc.posix._names import check_name
from aioipc.posix._removal import turn

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_NAME = 255  # bytes after the slash: NAME_MAX
_MOST_MESSAGES = 65_536  # HARD_MSGMAX, which binds everybody, and the sysctl too
_LARGEST_SIZE = 16_777_216  # HARD_MSGSIZEMAX


def mq_create(
    name: str,
    max_messages: int | None,
    max_message_size: int | None,
    *,
    mode: int,
    read: bool,
    write: bool,
) -> posix_ipc.MessageQueue:
    """Create a new queue, non-blocking and close-on-exec; for the parameters see `MessageQueue.create`."""
    messages = _size("max_messages", max_messages, "fs.mqueue.msg_default", "fs.mqueue.msg_max", 10)
    size = _size("max_message_size", max_message_size, "fs.mqueue.msgsize_default", "fs.mqueue.msgsize_max", 8192)
    check_mode(mode)
    return _open(name, posix_ipc.O_CREX, read, write, mode, messages, size)


def mq_open(name: str, *, read: bool, write: bool) -> posix_ipc.MessageQueue:
    """Open a queue that exists, non-blocking and close-on-exec; for the parameters see `MessageQueue.open`."""
    return _open(name, 0, read, write)


@contextmanager
def mq_again(name: str, identity: os.stat_result, *, read: bool, write: bool) -> Iterator[int | None]:
    """A descriptor of a certain queue, if its name stands for it; None if that can't be seen.

    :raises NotFoundError: if it does not
    """
    try:
        found = posix_ipc.MessageQueue(name, 0, read=read, write=write)
    except posix_ipc.ExistentialError:
        raise _removed(name) from None
    except (posix_ipc.Error, OSError):
        # It can't be opened: its creator has denied that to itself, or no descriptor is left.
        yield None
        return
    try:
        if not os.path.samestat(os.fstat(found.mqd), identity):
            raise _removed(name)
        yield found.mqd
    finally:
        found.close()


def mq_unlink(name: str, descriptor: int | None = None) -> None:
    """Remove a queue from the system.

    :param descriptor: one of the queue, whose name is removed only if the queue has it still
    """
    try:
        with turn(descriptor):
            if descriptor is not None and os.fstat(descriptor).st_nlink == 0:
                raise FileNotFoundError
            _calls.unlink(name)
    except FileNotFoundError:
        raise _removed(name) from None
    except PermissionError as error:
        raise AccessError(error.errno or errno.EACCES, "only its owner may remove this queue", name) from None
    except OSError as error:
        raise from_errno(error.errno or 0, name) from None


def _removed(name: str) -> NotFoundError:
    return NotFoundError(errno.ENOENT, "the queue has been removed already", name)


def explain(error: OSError, name: str, *, closed: bool, busy: str, one_way: str) -> Error:
    """What an error of mq_send(3) or mq_receive(3) means.

    :param closed: whether the handle is closed: by a signal handler, a moment ago
    :param busy: what the queue is if the call would have to wait
    :param one_way: what the handle is open for if the call was not allowed
    """
    if closed:
        return ClosedError(f"message queue {name} is closed")
    if error.errno == errno.EAGAIN:
        return WouldBlock(f"message queue {name} is {busy}")
    if error.errno == errno.EBADF:
        return AccessError(errno.EBADF, f"the handle is open for {one_way}", name)
    return from_errno(error.errno or 0, name)


def _size(argument: str, value: int | None, default: str, limit: str, fallback: int) -> int:
    """Check an attribute; where it is not given, do what mq_open(3) does without attributes."""
    if value is None:
        return min(_limits.sysctl(default) or fallback, _limits.sysctl(limit) or fallback)
    if check_integer(argument, value) < 1:
        raise ValueError(f"{argument} {value} must be at least 1")
    return value


def _open(
    name: str, flags: int, read: bool, write: bool, mode: int = 0, messages: int = 0, size: int = 0
) -> posix_ipc.MessageQueue:
    check_name(name, _LONGEST_NAME)
    if not (read or write):
        raise ValueError("read and write can't both be false")
    flags |= posix_ipc.O_NONBLOCK | os.O_CLOEXEC
    try:
        return posix_ipc.MessageQueue(name, flags, mode, messages, size, read, write)
    except posix_ipc.ExistentialError:
        if flags & posix_ipc.O_CREAT:
            raise ExistsError(
                errno.EEXIST,
                "a queue of this name exists, perhaps left by a program that was killed: open() it, or pass "
                "exist_ok=True to take it over",
                name,
            ) from None
        raise NotFoundError(
            errno.ENOENT, "no queue has this name here (a container has its own queues); create() makes one", name
        ) from None
    except posix_ipc.PermissionsError:
        if flags & posix_ipc.O_CREAT and not _exists(name):
            raise AccessError(
                errno.EACCES,
                f"user {os.geteuid()} may not create queues here: the mode of the mqueue file system forbids it",
                name,
            ) from None
        wanted = "receive" if read else "send"
        if read and write:
            wanted = "receive and send (read=False or write=False asks for less)"
        raise AccessError(
            errno.EACCES, f"owner and mode of the queue do not let user {os.geteuid()} {wanted}", name
        ) from None
    except (ValueError, OverflowError):
        raise _attribute_error(name, messages, size) from None
    except InterruptedError:  # POSIX allows it; the caller need not know
        return _open(name, flags, read, write, mode, messages, size)
    except OSError as error:
        raise _room_error(error, name, messages, size) from None


def _exists(name: str) -> bool:
    try:
        posix_ipc.MessageQueue(name).close()
    except posix_ipc.ExistentialError:
        return False
    except (posix_ipc.Error, OSError):  # it can't be opened
        pass
    return True


def _attribute_error(name: str, messages: int, size: int) -> LimitError:
    """Explain EINVAL: the kernel does not take the attributes."""
    over = [
        f"{argument}={value:,} is over "
        + (f"{most:,}, the most that the kernel allows at all" if value > most else _limits.explain_sysctl(limit))
        for argument, value, limit, most in (
            ("max_messages", messages, "fs.mqueue.msg_max", _MOST_MESSAGES),
            ("max_message_size", size, "fs.mqueue.msgsize_max", _LARGEST_SIZE),
        )
        if value > min(_limits.sysctl(limit) or 0, most)
    ]
    text = "; ".join(over) or "the kernel does not take these attributes"
    return LimitError(errno.EINVAL, text, name)


def _room_error(error: OSError, name: str, messages: int, size: int) -> Error:
    """Explain what there is no room for; EMFILE may mean the queue itself."""
    number = errno_of(error)
    if number == errno.ENOSPC:
        limit = _limits.explain_sysctl("fs.mqueue.queues_max")
        return from_errno(number, name, f"as many queues exist as {limit} allows; or remove some")
    if number != errno.EMFILE or not messages or _limits.no_descriptor_left() is not None:
        return from_errno(number, name)
    need = _limits.message_queue_bytes(messages, size)
    limit = _limits.explain_rlimit_msgqueue()
    return from_errno(
        errno.EMFILE,
        name,
        f"a queue of {messages:,} messages of {size:,} bytes takes {need:,} bytes of {limit}; or make it smaller",
    )
