"""POSIX message queues: mq_open(3), mq_send(3), mq_receive(3), mq_overview(7).

On Linux the descriptor of a queue is a file descriptor that select, poll and epoll
understand.  So the event loop watches it like a socket, and neither mq_notify(3),
which can tell one process about one message, nor threads are needed.
"""

from __future__ import annotations

import os
from inspect import unwrap
from typing import TYPE_CHECKING, NamedTuple

import posix_ipc

from aioipc._arguments import check_range, message_bytes
from aioipc._lifetime import Messages, create_or_find, until_closed
from aioipc._waiting._immediate import immediately
from aioipc._waiting.readiness import Descriptor
from aioipc.errors import MessageTooLongError, from_errno
from aioipc.posix import _calls
from aioipc.posix._mq import explain, mq_again, mq_create, mq_open, mq_unlink

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, Self

    from typing_extensions import Buffer


class Message(NamedTuple):
    """A message of a POSIX message queue."""

    data: bytes
    """What was sent, 0 to `max_message_size` bytes."""
    priority: int
    """0 (the lowest) to 32767.  Higher priorities arrive first, equal ones in the order they were sent."""


class MessageQueueStatistics(NamedTuple):
    """What `MessageQueue.statistics` found, all at about the same moment."""

    messages: int
    """Messages in the queue now."""
    bytes: int | None
    """Their sizes added up; None if the handle is not open for reading."""
    max_messages: int
    """How many messages fit."""
    max_message_size: int
    """How many bytes fit into one message."""
    tasks_waiting_send: int
    """Tasks of this process that wait, on this handle, for room."""
    tasks_waiting_receive: int
    """Tasks of this process that wait, on this handle, for a message."""
    owner: int
    """User id of the owner."""
    group: int
    """Group id of the owner."""
    mode: int
    """Permission bits, such as 0o600."""
    changed_at: float
    """When a message was last sent or received, or the queue created: seconds since the epoch, in whole seconds."""
    notify_pid: int | None
    """The process registered with mq_notify(3), 0 for none; None if the handle is not open for reading."""


class MessageQueue(_calls.Queue, Messages[Message]):
    """A handle of a POSIX message queue.  Make one with `create` or `open`.

    It is an anyio object stream: messages can be sent and received by any number of
    tasks, which are served first come, first served, and `async for` goes over them
    as they arrive.  The other processes at the queue may be written in any language.

    A handle belongs to the first event loop in which a task waits for it, and to the
    process that opened it.  It is not thread-safe; let each loop open its own.
    """

    name: str
    """With its leading slash."""
    max_messages: int
    """How many messages the queue holds before senders wait."""
    max_message_size: int
    """How many bytes a message may have."""

    def __init__(self, name: str, queue: posix_ipc.MessageQueue, *, read: bool, write: bool, remove: bool) -> None:
        """Not for use: see `create` and `open`."""
        self.name = name  # queue.name fails where that is no text
        self.max_messages = queue.max_messages
        self.max_message_size = queue.max_message_size
        self._queue = queue
        self._read = read
        self._write = write
        self._removes = remove
        self._label = repr(self.name)
        self._identity = os.fstat(queue.mqd)
        self._descriptor = descriptor = Descriptor(queue.mqd, f"message queue {self.name}")
        super().__init__(queue.mqd, queue.max_message_size, Message, descriptor.writing.gate, descriptor.reading.gate)
        self._handle = descriptor

    # Lifetime

    @classmethod
    def create(
        cls,
        name: str,
        *,
        max_messages: int | None = None,
        max_message_size: int | None = None,
        mode: int = 0o600,
        exist_ok: bool = False,
        persist: bool = False,
        read: bool = True,
        write: bool = True,
    ) -> Self:
        """Create a queue and open it: mq_open(3) with O_CREAT.

        Leaving the `with` block removes the queue from the system again, also one that
        was taken over, unless `persist` is true.  Programs that have it open go on using it until they close it.

        :param name: a slash and 1 to 255 bytes without another slash
        :param max_messages: how many messages it holds; by default fs.mqueue.msg_default (10)
        :param max_message_size: the bytes that a message may have; by default fs.mqueue.msgsize_default (8192)
        :param mode: permission bits, less those of the process's umask: 0o600 means nobody but this user
        :param exist_ok: take over the queue that exists, with its messages, attributes and mode as they are
        :param persist: leave the queue in the system
        :param read: open it for receiving
        :param write: open it for sending
        :raises ExistsError: if the name is taken and `exist_ok` is false
        :raises AccessError: if the name is taken and its mode forbids to take it over, or that of the mqueue file
            system to create it
        :raises LimitError: if an attribute is over a limit of the system, or the user has no room for more queues
        :raises ValueError: if an argument can't be right
        """
        queue, is_new = create_or_find(
            lambda: mq_create(name, max_messages, max_message_size, mode=mode, read=read, write=write),
            lambda: mq_open(name, read=read, write=write),
            exist_ok,
        )
        return cls._make(name, queue, read=read, write=write, remove=not persist, is_new=is_new)

    @classmethod
    def open(cls, name: str, *, read: bool = True, write: bool = True) -> Self:
        """Open a queue that exists, whoever made it: mq_open(3).

        :param name: a slash and 1 to 255 bytes without another slash
        :param read: open it for receiving
        :param write: open it for sending
        :raises NotFoundError: if there is none of that name
        :raises AccessError: if its mode and owner forbid it
        :raises LimitError: if the process has no descriptor left
        :raises ValueError: if an argument can't be right
        """
        return cls._make(name, mq_open(name, read=read, write=write), read=read, write=write, remove=False)

    def close(self) -> None:
        """Close the handle: mq_close(3).

        Tasks that wait get `ClosedError`, every `async for` ends.  The queue stays in the
        system, with its messages: leaving the `with` block removes it, and so does `unlink`.
        May be called again, and from a callback of the loop.
        """
        if not self._descriptor.closed:
            try:
                self._descriptor.close()
            finally:
                self._mqd = -1
                self._queue.close()

    def unlink(self) -> None:
        """Remove the queue from the system: mq_unlink(3).  Works on a closed handle too.

        Its name is free at once; those that have it open, this handle as well, go on.  A
        queue that somebody else has made under the name in the meantime is left alone.

        While some program keeps a lock of the queue (flock(2)), this waits for it, 0.25 s at most, in which the event
        loop stands still.

        :raises NotFoundError: if this queue is not to be found under its name any more
        :raises AccessError: if it belongs to another user
        :raises RuntimeError: if it was inherited by a fork
        """
        self._handle.check_process()
        if self._descriptor.closed:
            with mq_again(self.name, self._identity, read=self._read, write=self._write) as descriptor:
                mq_unlink(self.name, descriptor)
        else:
            mq_unlink(self.name, self._mqd)

    _remove_object = unlink

    # Sending

    @immediately(_calls.Queue.send)
    async def send(self, item: Buffer | Message, priority: int | None = None) -> None:
        """Send a message, waiting while the queue is full: mq_send(3).

        Cancelled, it has sent nothing.

        :param item: a bytes-like object, or a `Message` as another queue delivered it
        :param priority: 0 to 32767; by default 0, or that of the `Message`
        :raises MessageTooLongError: if it has more than `max_message_size` bytes
        :raises AccessError: if the handle was opened with `write=False`
        :raises ClosedError: if the handle is closed, now or while it waits
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        :raises TypeError: if it is not bytes-like
        :raises ValueError: if the priority is out of range
        """
        data, priority = self._outgoing(item, priority)
        await self._descriptor.writing.perform(self._attempt_send, data, priority)

    @immediately(_calls.Queue.send_nowait)
    def send_nowait(self, item: Buffer | Message, priority: int | None = None) -> None:
        """Send a message if that is possible at once.  Parameters and exceptions are those of `send`, and

        :raises WouldBlock: if the queue is full, or tasks wait for room already
        """
        data, priority = self._outgoing(item, priority)
        self._descriptor.writing.perform_nowait(self._attempt_send, data, priority)

    # What the methods of the base call where that can't be done at once
    _send = unwrap(send)
    _send_nowait = unwrap(send_nowait)

    def _outgoing(self, item: Buffer | Message, priority: int | None) -> tuple[bytes, int]:
        """Check what is to be sent."""
        if isinstance(item, Message):
            priority = item.priority if priority is None else priority
            item = item.data
        data = message_bytes(item)
        if len(data) > self.max_message_size:
            raise MessageTooLongError(
                f"message of {len(data):,} bytes; {self.name} takes {self.max_message_size:,} at most "
                "(max_message_size, fixed when the queue was created)"
            )
        if priority is None:
            return data, 0
        return data, check_range("priority", priority, 0, posix_ipc.QUEUE_PRIORITY_MAX)

    def _attempt_send(self, data: bytes, priority: int) -> None:
        try:
            self._try_send(data, priority)
        except OSError as error:
            one_way = "receiving only: open it with write=True"
            raise explain(error, self.name, closed=self._descriptor.closed, busy="full", one_way=one_way) from None

    # Receiving

    @immediately(_calls.Queue.receive)
    async def receive(self) -> Message:
        """Receive the oldest of the messages with the highest priority, waiting for one: mq_receive(3).

        Cancelled, it has taken nothing: the message is still in the queue.

        :raises AccessError: if the handle was opened with `read=False`
        :raises ClosedError: if the handle is closed, now or while it waits
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        """
        return await self._descriptor.reading.perform(self._attempt_receive)

    @immediately(_calls.Queue.receive_nowait)
    def receive_nowait(self) -> Message:
        """Receive a message if there is one.  Exceptions are those of `receive`, and

        :raises WouldBlock: if the queue is empty, or tasks wait for messages already
        """
        return self._descriptor.reading.perform_nowait(self._attempt_receive)

    _receive = unwrap(receive)
    _receive_nowait = unwrap(receive_nowait)

    def _next(self) -> Coroutine[Any, Any, Message]:
        return until_closed(self._receive)

    def _attempt_receive(self) -> Message:
        try:
            return self._try_receive()
        except OSError as error:
            one_way = "sending only: open it with read=True"
            raise explain(error, self.name, closed=self._descriptor.closed, busy="empty", one_way=one_way) from None

    # Looking

    def fileno(self) -> int:
        """The descriptor, for select, poll or epoll: readable while there are messages, writable while there is room.

        It stays the handle's: never close it, nor have the loop that uses the handle watch it, for which there can be
        one reader and one writer only (`os.dup` makes another).

        :raises ClosedError: if the handle is closed
        """
        self._descriptor.check()
        return self._mqd

    def statistics(self) -> MessageQueueStatistics:
        """What is in the queue, who waits, and what the kernel knows: mq_getattr(3), fstat(2), mq_overview(7).

        :raises ClosedError: if the handle is closed
        """
        self._descriptor.check()
        try:
            status = os.fstat(self._mqd)
            text = os.pread(self._mqd, 200, 0).decode("ascii") if self._read else ""
        except OSError as error:
            raise from_errno(error.errno or 0, self.name) from None
        size = notify_pid = None
        if text:
            # "QSIZE:129  NOTIFY:2  SIGNO:0  NOTIFY_PID:8260"
            fields = dict(field.split(":") for field in text.split())
            size, notify_pid = int(fields["QSIZE"]), int(fields["NOTIFY_PID"])
        return MessageQueueStatistics(
            messages=self._queue.current_messages,
            bytes=size,
            max_messages=self.max_messages,
            max_message_size=self.max_message_size,
            tasks_waiting_send=self._descriptor.writing.waiting,
            tasks_waiting_receive=self._descriptor.reading.waiting,
            owner=status.st_uid,
            group=status.st_gid,
            mode=status.st_mode & 0o777,
            changed_at=status.st_mtime,
            notify_pid=notify_pid,
        )
