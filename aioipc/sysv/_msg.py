"""The calls of System V message queues: msgget(2), msgsnd(2), msgrcv(2), and what their errors mean."""

from __future__ import annotations

import errno
import functools
from typing import NamedTuple

import sysv_ipc

from aioipc import _limits
from aioipc._waiting._immediate import record
from aioipc._waiting.workers import Call
from aioipc.errors import AccessError, Error, LimitError, MessageTooLongError, WouldBlock
from aioipc.sysv import _calls, _objects

KIND = "message queue"
TYPE_MAX = _calls.LONG_MAX


class Message(NamedTuple):
    """A message of a System V message queue."""

    data: bytes
    """What was sent."""
    type: int
    """1 or greater: what the receivers choose by."""


class Send(Call[None]):
    """msgsnd(2) of one message."""

    def __init__(self, id: int, name: str, data: bytes, type: int) -> None:
        self._id = id
        self._name = name
        self._data = data
        self._type = type

    def __call__(self) -> None:
        try:
            _calls.msgsnd(self._id, self._type, self._data, _calls.IPC_NOWAIT)
        except OSError as error:
            raise self._explain(error) from None

    def block(self) -> None:
        try:
            _calls.msgsnd(self._id, self._type, self._data, 0)
        except OSError as error:
            if error.errno == errno.EINTR:
                raise
            raise self._explain(error) from None

    def revoke(self, result: None) -> bool:
        return False  # somebody may have received it by now

    def _explain(self, error: OSError) -> Error:
        size = len(self._data)
        if error.errno == errno.EAGAIN:
            # It would wait for ever for room that the queue never has.
            try:
                limit = _calls.msg_stat(self._id)[8]
            except OSError:
                limit = size
            if size > limit:
                return MessageTooLongError(
                    f"message of {size:,} bytes; the queue holds {limit:,} at most (max_bytes, see change(); "
                    f"new queues get {_limits.explain_sysctl('kernel.msgmnb')})"
                )
            return WouldBlock(f"{self._name} is full")
        if error.errno == errno.EINVAL and size > (_limits.sysctl("kernel.msgmax") or size):
            return MessageTooLongError(f"message of {size:,} bytes is over {_limits.explain_sysctl('kernel.msgmax')}")
        return _objects.explain(error, self._name)


class Receive(Call[Message]):
    """msgrcv(2) of the messages that a selector stands for."""

    def __init__(self, id: int, name: str, selector: int, flags: int, size: int, size_is_chosen: bool) -> None:
        self._id = id
        self._name = name
        self._selector = selector
        self._flags = flags
        self._size_is_chosen = size_is_chosen
        self._make_room(size)

    def _make_room(self, size: int) -> None:
        self._size = size
        self.attempt = functools.partial(_calls.msgrcv, self._id, size, self._selector, self._flags | _calls.IPC_NOWAIT)

    def __call__(self) -> Message:
        try:
            return record(Message, self.attempt())
        except OSError as error:
            if error.errno == errno.ENOMSG:
                raise WouldBlock(f"{self._name} has no such message") from None
            if error.errno == errno.E2BIG:
                if self._size_is_chosen:
                    raise MessageTooLongError(
                        f"the next message has more than the {self._size:,} bytes chosen as max_message_size; it is "
                        "still in the queue: receive it with truncate=True, or by a handle that takes more"
                    ) from None
                # kernel.msgmax has been raised since the handle was opened.
                self._make_room(2 * self._size)
                return self()
            raise _objects.explain(error, self._name) from None

    def block(self) -> Message:
        try:
            flags = self._flags & ~_calls.MSG_NOERROR
            return record(Message, _calls.msgrcv(self._id, 0, self._selector, flags))
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise WouldBlock from None
            if error.errno == errno.EINTR:
                raise
            raise _objects.explain(error, self._name) from None

    def revoke(self, result: Message) -> bool:
        try:
            _calls.msgsnd(self._id, result.type, result.data, _calls.IPC_NOWAIT)
        except OSError as error:
            # If the queue is gone, so is what was in it.
            return error.errno in (errno.EIDRM, errno.EINVAL)
        return True


def msgget(key: int, flags: int, mode: int) -> int:
    name = _objects.label(key)
    try:
        return int(sysv_ipc.MessageQueue(key, flags, mode).id)
    except sysv_ipc.ExistentialError:
        raise (_objects.exists if flags else _objects.missing)(KIND, name) from None
    except sysv_ipc.PermissionsError:
        raise _objects.denied(KIND, name) from None
    except OSError as error:
        if error.errno is not None:
            raise _objects.explain(error, name) from None
        limit = _limits.explain_sysctl("kernel.msgmni")  # ENOSPC, which sysv_ipc reports without errno
        raise LimitError(errno.ENOSPC, f"as many queues exist as {limit} allows; or remove some", name) from None


def msgfind(key: int) -> int:
    """The id of a queue that may be read or written."""
    id = msgget(key, 0, 0)
    try:
        msgget(key, 0, 0o400)
    except AccessError:
        msgget(key, 0, 0o200)
    return id
