"""System V message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).

A queue has an id, not a descriptor: there is nothing that an event loop could watch.  A task
that must wait has a thread wait for it: see aioipc/_waiting/blocking.py.  For a receiver that
thread calls msgrcv(2) without room for any data.  When a message that was asked for is there, the call fails
with E2BIG and leaves it in the queue, for the task to take.  (A message without data does fit;
so the thread brings it along, or puts it back.)
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import sysv_ipc

from aioipc import _limits
from aioipc._arguments import check_integer, check_mode, check_range, message_bytes
from aioipc._lifetime import Messages, create_or_find, until_closed
from aioipc._waiting._immediate import Iterator
from aioipc._waiting.blocking import CallLine
from aioipc.errors import AccessError, LimitError, MessageTooLongError, RemovedError
from aioipc.sysv import _calls, _objects
from aioipc.sysv._msg import KIND, TYPE_MAX, Message, Receive, Send, msgfind, msgget
from aioipc.sysv._objects import WaitingObject
from aioipc.sysv.keys import PRIVATE, check_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from typing import Any, Self

    from typing_extensions import Buffer

_BYTES_MAX = 2**31 - 1


class MessageQueueStatistics(NamedTuple):
    """What `MessageQueue.statistics` found, all at one moment."""

    messages: int
    """Messages in the queue now."""
    bytes: int
    """Their sizes added up."""
    max_bytes: int
    """What that sum may be before senders wait."""
    tasks_waiting_send: int
    """Tasks of this process that wait, on this handle, for room."""
    tasks_waiting_receive: int
    """Tasks of this process that wait, on this handle, for a message."""
    last_send_pid: int
    """The process that sent last, 0 for none."""
    last_receive_pid: int
    """The process that received last, 0 for none."""
    sent_at: float | None
    """When a message was last sent: seconds since the epoch, in whole seconds; None for never."""
    received_at: float | None
    """When one was last received, likewise."""
    changed_at: float
    """When the queue was created, or its owner, mode or limit changed, likewise."""
    owner: int
    """User id of the owner."""
    group: int
    """Group id of the owner."""
    creator: int
    """User id of the creator, who keeps the right to change and remove the queue."""
    creator_group: int
    """Group id of the creator."""
    mode: int
    """Permission bits, such as 0o600."""


class MessageQueue(WaitingObject, Messages[Message]):
    """A handle of a System V message queue.  Make one with `create` or `open`.

    It is an anyio object stream: messages can be sent and received by any number of
    tasks, which are served first come, first served among those that ask for the same, and `async for` goes over
    them as they arrive.  The other processes at the queue may be written in any language.

    A handle belongs to the first event loop in which a task waits for it, and to the
    process that opened it.  It is not thread-safe; let each loop open its own.
    """

    _kind = KIND
    _rmid = staticmethod(sysv_ipc.remove_message_queue)

    max_message_size: int
    """How many bytes a message may have."""

    def __init__(self, key: int, id: int, max_message_size: int | None, *, remove: bool) -> None:
        """Not for use: see `create` and `open`."""
        super().__init__(key, id, remove=remove)
        self.max_message_size = max_message_size or _limits.sysctl("kernel.msgmax") or 8192
        self._size_is_chosen = max_message_size is not None
        self._sending = self._calls.line("send")

    # Lifetime

    @classmethod
    def create(
        cls,
        key: int | None,
        *,
        mode: int = 0o600,
        max_bytes: int | None = None,
        max_message_size: int | None = None,
        exist_ok: bool = False,
        persist: bool = False,
    ) -> Self:
        """Create a queue and open it: msgget(2) with IPC_CREAT.

        Leaving the `with` block removes the queue from the system again, with what is in it, also one
        that was taken over, unless `persist` is true.  Who waits for it then, in any process, is told.

        :param key: a number that the programs agree on, see `ftok`; None (or `PRIVATE`) for a queue without a key
        :param mode: permission bits: 0o600 means nobody but this user; System V does not look at the umask
        :param max_bytes: how many bytes of messages it holds before senders wait; by default kernel.msgmnb (16384)
        :param max_message_size: how many bytes a message may have for this handle; by default kernel.msgmax (8192)
        :param exist_ok: take over the queue that exists, with its messages, limit and mode as they are
        :param persist: leave the queue in the system
        :raises ExistsError: if the key is taken and `exist_ok` is false
        :raises AccessError: if the key is taken and its mode forbids to take it over
        :raises LimitError: if as many queues exist as the system allows, or max_bytes is more than it allows
        :raises ValueError: if an argument can't be right
        """
        number = PRIVATE if key is None else check_key(key)
        size = _check_size(max_message_size)
        check_mode(mode)
        if max_bytes is not None:
            check_range("max_bytes", max_bytes, 1, _BYTES_MAX)

        def create() -> int:
            id = msgget(number, sysv_ipc.IPC_CREX, mode)
            if max_bytes is not None:
                with MessageQueue._make(number, id, size, remove=False) as queue:
                    try:
                        queue.change(max_bytes=max_bytes)
                    except BaseException:
                        with suppress(RemovedError):
                            queue.remove()
                        raise
            return id

        id, is_new = create_or_find(create, lambda: msgfind(number), exist_ok)
        return cls._make(number, id, size, remove=not persist, is_new=is_new)

    @classmethod
    def open(
        cls,
        key: int | None = None,
        *,
        id: int | None = None,
        max_message_size: int | None = None,
    ) -> Self:
        """Open a queue that exists, whoever made it, by its key or its id: msgget(2).

        :param key: the number that the queue was created with
        :param id: the id of the queue, instead of its key
        :param max_message_size: how many bytes a message may have for this handle; by default kernel.msgmax (8192)
        :raises NotFoundError: if there is none
        :raises AccessError: if its mode and owner allow neither to send nor to receive; by its id, not to receive
        :raises ValueError: if an argument can't be right
        """
        _objects.check_key_or_id(key, id)
        size = _check_size(max_message_size)
        if key is not None:
            number = check_key(key)
            return cls._make(number, msgfind(number), size, remove=False)
        assert id is not None
        try:
            number = _calls.msg_stat(id)[0]
        except OSError as error:
            if error.errno == errno.EACCES:
                raise _objects.denied(KIND, f"id {id}") from None
            raise _objects.missing(KIND, f"id {id}") from None
        return cls._make(number, id, size, remove=False)

    def change(
        self,
        *,
        owner: int | str | None = None,
        group: int | str | None = None,
        mode: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Change who may use the queue, and how much fits: msgctl(2) with IPC_SET.

        :param owner: user id or name
        :param group: group id or name
        :param mode: permission bits
        :param max_bytes: what the sizes of all messages may add up to before senders wait
        :raises AccessError: if the queue belongs to another user, or its mode does not let this one read it
        :raises KernelError: if owner or group, given now or before, are unknown in this user namespace (EINVAL)
        :raises LimitError: if max_bytes, given now or before, is more than the system allows
        :raises NotFoundError: if there is no user or group of that name
        :raises RemovedError: if the queue has been removed
        :raises ValueError: if an argument is out of range
        """
        self._handle.check()
        status = self._try(_calls.msg_stat, self.id)
        settings = (
            status[1] if owner is None else _objects.user_id(owner),
            status[2] if group is None else _objects.group_id(group),
            status[5] if mode is None else check_mode(mode),
            status[8] if max_bytes is None else check_range("max_bytes", max_bytes, 1, _BYTES_MAX),
        )
        try:
            self._set(_calls.msg_set, _calls.msg_stat, *settings)
        except AccessError as error:
            # IPC_SET states the byte limit anew, also where it is to stay.
            limit = _limits.sysctl("kernel.msgmnb")
            may = os.geteuid() in (status[1], status[3])
            if error.errno == errno.EPERM and may and limit is not None and settings[3] > limit:
                raise LimitError(
                    error.errno,
                    f"max_bytes={settings[3]:,} is over {_limits.explain_sysctl('kernel.msgmnb')}",
                    self._name,
                ) from None
            raise

    # Sending

    async def send(self, item: Buffer | Message, type: int | None = None) -> None:
        """Send a message, waiting while the queue is full: msgsnd(2).

        Cancelled, it has sent nothing.  Where the message had left already when the thread was to be
        stopped, this returns, and the cancellation is delivered at the task's next suspension.

        :param item: a bytes-like object, or a `Message` as another queue delivered it
        :param type: 1 to the greatest C long; by default 1, or that of the `Message`
        :raises MessageTooLongError: if it has more bytes than this handle, the queue or the system allows
        :raises AccessError: if owner and mode of the queue forbid it
        :raises ClosedError: if the handle is closed, now or while it waits
        :raises LimitError: if no thread can be started to wait for room
        :raises RemovedError: if the queue was removed from the system, now or while it waits
        :raises RuntimeError: if the handle belongs to another event loop, or was inherited by a fork
        :raises TypeError: if it is not bytes-like
        :raises ValueError: if the type is out of range
        """
        await self._sending.perform(self._outgoing(item, type))

    def send_nowait(self, item: Buffer | Message, type: int | None = None) -> None:
        """Send a message if that is possible at once.  Parameters and exceptions are those of `send`, and

        :raises WouldBlock: if the queue is full, or tasks wait for room already
        """
        self._sending.perform_nowait(self._outgoing(item, type))

    def _outgoing(self, item: Buffer | Message, type: int | None) -> Send:
        if isinstance(item, Message):
            type = item.type if type is None else type
            item = item.data
        data = message_bytes(item)
        if len(data) > self.max_message_size and self._size_is_chosen:
            raise MessageTooLongError(
                f"message of {len(data):,} bytes; {self.max_message_size:,} at most were chosen for this handle "
                "(max_message_size)"
            )
        return Send(self.id, self._name, data, 1 if type is None else check_range("type", type, 1, TYPE_MAX))

    # Receiving

    async def receive(self, type: int = 0, *, exclude: int | None = None, truncate: bool = False) -> Message:
        """Receive a message, waiting for one of those asked for: msgrcv(2).

        Cancelled, it has taken nothing: the message is still in the queue, where it was.  (A
        message without data may have to be put back at the end.)

        :param type: 0 for the oldest message; a type (1 or greater) for the oldest of that; -n for the
            oldest of the lowest type among those up to n
        :param exclude: take the oldest that is not of this type (MSG_EXCEPT)
        :param truncate: cut a message that has more bytes than were chosen as max_message_size to that (MSG_NOERROR)
        :raises MessageTooLongError: if the message has more bytes than were chosen as max_message_size, and
            is not to be truncated; it stays in the queue
        :raises AccessError: if owner and mode of the queue forbid it
        :raises ClosedError: if the handle is closed, now or while it waits
        :raises LimitError: if no thread can be started to wait for a message
        :raises RemovedError: if the queue was removed from the system, now or while it waits
        :raises RuntimeError: if the handle belongs to another event loop, or was inherited by a fork
        :raises ValueError: if the type is out of range, or given together with exclude
        """
        line = self._receiving(type, exclude, truncate)
        message: Message = await line.perform(line.call)
        return message

    def receive_nowait(self, type: int = 0, *, exclude: int | None = None, truncate: bool = False) -> Message:
        """Receive a message if there is one.  Parameters and exceptions are those of `receive`, and

        :raises WouldBlock: if there is none, or tasks wait for the same already
        """
        line = self._receiving(type, exclude, truncate)
        message: Message = line.perform_nowait(line.call)
        return message

    def messages(
        self,
        type: int = 0,
        *,
        exclude: int | None = None,
        truncate: bool = False,
    ) -> AsyncIterator[Message]:
        """Go over the messages as they arrive, until the handle is closed.

        Parameters and exceptions are those of `receive`.
        """
        line = self._receiving(type, exclude, truncate)

        # It holds the handle and the line: nobody else may do so.
        def step(_: object = self) -> Coroutine[Any, Any, Message]:
            return until_closed(lambda: line.perform(line.call))

        return Iterator(line.gate, line.call.attempt, Message, step)

    def __aiter__(self) -> AsyncIterator[Message]:  # type: ignore[override]
        """Go over all messages as they arrive, until the handle is closed."""
        return self.messages()

    def _receiving(self, type: int, exclude: int | None, truncate: bool) -> CallLine:
        """The line of the tasks that want what these parameters say."""
        type = check_integer("type", type)  # a float would find the line of its integer
        if exclude is not None:
            exclude = check_integer("exclude", exclude)
        return self._calls.line((type, exclude, truncate), lambda: self._new_receive(type, exclude, truncate))

    def _new_receive(self, type: int, exclude: int | None, truncate: bool) -> Receive:
        flags = 0
        if exclude is not None:
            if type != 0:
                raise ValueError("type and exclude can't both be given")
            flags |= _calls.MSG_EXCEPT
            selector = check_range("exclude", exclude, 1, TYPE_MAX)
        else:
            selector = check_range("type", type, -TYPE_MAX, TYPE_MAX)
        if truncate and self._size_is_chosen:  # else none is too long
            flags |= _calls.MSG_NOERROR
        return Receive(self.id, self._name, selector, flags, self.max_message_size, self._size_is_chosen)

    # Looking

    def statistics(self) -> MessageQueueStatistics:
        """What is in the queue, who waits, and what the kernel knows: msgctl(2) with IPC_STAT.

        :raises AccessError: if owner and mode of the queue forbid to read it
        :raises ClosedError: if the handle is closed
        :raises RemovedError: if the queue has been removed
        """
        self._handle.check()
        status = self._try(_calls.msg_stat, self.id)
        _, uid, gid, cuid, cgid, mode, count, size, limit, sender, receiver, sent, received, changed = status
        return MessageQueueStatistics(
            messages=count,
            bytes=size,
            max_bytes=limit,
            tasks_waiting_send=self._sending.waiting,
            tasks_waiting_receive=self._calls.waiting - self._sending.waiting,
            last_send_pid=sender,
            last_receive_pid=receiver,
            sent_at=sent or None,
            received_at=received or None,
            changed_at=changed,
            owner=uid,
            group=gid,
            creator=cuid,
            creator_group=cgid,
            mode=mode,
        )


def _check_size(size: int | None) -> int | None:
    return None if size is None else check_range("max_message_size", size, 1, 2**31 - 1)
