"""Channels: messages through shared memory, from any number of processes to any number of others.

The messages lie in a ring, which the C files in aioipc/_ring look after; docs/ring.md describes its format and
how it survives the death of its users.  A channel is a POSIX shared memory object
(shm_overview(7)) and two FIFOs (fifo(7)) beside it, its doorbells: who has to wait watches one of them.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from anyio.abc import ObjectStream

from aioipc import _limits
from aioipc._arguments import check_mode, check_range
from aioipc._lifetime import AsyncLifetime
from aioipc._ring import _binding, _deaths, _files
from aioipc._waiting._immediate import immediately
from aioipc._waiting.handle import Handle
from aioipc._waiting.readiness import Direction, Doorbells
from aioipc.errors import (
    BrokenError,
    ClosedError,
    CorruptError,
    EndOfStream,
    Error,
    LimitError,
    MessageTooLongError,
    WouldBlock,
    from_errno,
)

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

_T = TypeVar("_T")

_WOULD_BLOCK = (_binding.FULL, _binding.EMPTY, _binding.BUSY)


class ChannelStatistics(NamedTuple):
    """What `Channel.statistics` found, all at about the same moment."""

    messages: int
    """Messages that were published and not consumed; those that somebody has borrowed are among them.

    Beyond 25,000 it may be a little more or less: docs/channels.md says when.
    """
    bytes: int
    """Their sizes added up."""
    capacity: int
    """How many bytes fit; a message takes its size and 32, rounded up to a multiple of 64."""
    senders: int
    """Handles, in all processes, that have sent something."""
    receivers: int
    """Handles, in all processes, that have received something, or tried to."""
    dead_peers: int
    """Handles that were cleaned up after because their process had died, since the channel was created."""
    ended: bool
    """Whether `end` was called."""
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


class Channel(_binding.Ring, AsyncLifetime, ObjectStream[bytes]):
    """A handle of a channel.  Make one with `create` or `open`.

    Each message goes to one receiver, in the order in which they were sent.  It is an
    anyio object stream: any number of tasks can send and receive, which are served first come, first
    served, and `async for` goes over the messages as they arrive.

    The death of a process, at any moment, costs at most the message that it was just about to send, or had
    received already.

    A handle belongs to the first event loop in which a task waits for it, and to the
    process that opened it.  It is not thread-safe; let each loop open its own.
    """

    name: str
    """With its leading slash."""
    capacity: int
    """How many bytes fit; a message takes its size and 32, rounded up to a multiple of 64."""
    max_message_size: int
    """How many bytes a message may have."""

    def __init__(self, name: str, files: _files.Files, *, remove: bool) -> None:
        """Not for use: see `create` and `open`."""
        self.name = name
        self._label = repr(name)
        self._removes = remove
        self._identity = os.fstat(files.memory)
        self._id = files.bell_id
        try:
            self._watch = watch = _deaths.watch(name)
            handle = Doorbells(self._listen, self._deafen, watch.reports, f"channel {name}")
            super().__init__(handle.writing.gate, handle.reading.gate)
            try:
                watch.add(files.descriptors[1::2], self, name)
                self._join_ring(files)
                self._sending = handle.writing
                self._receiving = handle.reading
                self._doorbells = self._handle = handle
            except BaseException:
                watch.remove(self)
                raise
        except BaseException:
            if self._joined:  # and then interrupted
                files.give()
            # Nobody is to close once more what is closed now.
            self._handle = Handle(f"channel {name}")
            self._handle.closed = True
            self._leave()
            raise
        finally:
            files.close()
        self.capacity = self._capacity
        self.max_message_size = _binding.longest(self.capacity)
        self.reap_dead()

    def _join_ring(self, files: _files.Files) -> None:
        try:
            with _files.forks:
                result = self._join(*files.descriptors)
                if result == _binding.OK:
                    files.give()
        except OSError as error:
            words = f"no address space: {_limits.explain_address_space()}" if error.errno == errno.ENOMEM else None
            raise from_errno(error.errno or 0, self.name, words) from None
        if result == _binding.NO_SLOT:
            raise LimitError(
                errno.EUSERS, f"as many handles have the channel open as can: {_binding.PEERS} (fixed)", self.name
            )
        if result != _binding.OK:
            raise self._corrupt()

    # Lifetime

    @classmethod
    def create(
        cls, name: str, *, capacity: int = 2**20, mode: int = 0o600, exist_ok: bool = False, persist: bool = False
    ) -> Self:
        """Create a channel and open it: as shm_open(3) with O_CREAT, and mkfifo(3) for its doorbells.

        It gets its name when it is complete.  All of its memory is reserved now, which takes about a third of a
        second for each GiB.

        Leaving the `with` block removes the channel from the system again, also one that
        was taken over, unless `persist` is true.  Programs that have it open go on using it until they close it.

        :param name: a slash and 1 to 255 bytes without another slash
        :param capacity: how many bytes fit before senders wait, 64 or more; a message takes its size and 32, rounded
            up to a multiple of 64
        :param mode: permission bits, less those of the process's umask: 0o600 means nobody but this user
        :param exist_ok: take over the channel that exists, with its messages, capacity and mode as they are
        :param persist: leave the channel in the system
        :raises ExistsError: if the name is taken and `exist_ok` is false
        :raises AccessError: if the name is taken and its mode forbids to take it over, or that of /dev/shm to create it
        :raises CorruptError: if what has the name is no channel, or a broken one
        :raises LimitError: if the shared-memory file system has no room, or the process no descriptor left
        :raises ValueError: if an argument can't be right
        """
        check_range("capacity", capacity, _binding.CAPACITY_MIN, _binding.CAPACITY_MAX)
        files, is_new = _files.create(name, capacity, check_mode(mode), exist_ok)
        return cls._make(name, files, remove=not persist, is_new=is_new)

    @classmethod
    def open(cls, name: str) -> Self:
        """Open a channel that exists, whoever made it: as shm_open(3), and mmap(2).

        :param name: a slash and 1 to 255 bytes without another slash
        :raises NotFoundError: if there is none of that name
        :raises AccessError: if its mode and owner forbid it; it takes the right to read and to write
        :raises CorruptError: if what has the name is no channel, or a broken one
        :raises LimitError: if the process has no descriptor left, or 256 handles have it open
        :raises ValueError: if the name can't be right
        """
        return cls._make(name, _files.find_files(name), remove=False)

    def close(self) -> None:
        """Close the handle: munmap(2), and close(2) of its doorbells.

        Tasks that wait get `ClosedError`, every `async for` ends; what is reserved is given up, and what is
        borrowed goes back.  The channel stays in the system, with its messages: leaving the `with` block removes it,
        and so does `unlink`.  May be called again, and from a callback of the loop.
        """
        if not self._handle.closed:
            try:
                self._doorbells.close()
                self._watch.remove(self)
            finally:
                self._leave()

    def unlink(self) -> None:
        """Remove the channel from the system: shm_unlink(3), and unlink(2) of its doorbells.

        Works on a closed handle too.  Its name is free at once; those that have it open, this handle as well, go on.  A
        channel that somebody else has made under the name in the meantime is left alone.

        While some program keeps a lock of its memory (flock(2)), this waits for it, 0.25 s at most, in which the event
        loop stands still.

        :raises NotFoundError: if this channel is not to be found under its name any more
        :raises AccessError: if it belongs to another user
        :raises RuntimeError: if it was inherited by a fork
        """
        self._handle.check_process()
        _files.unlink(self.name, self._identity, self._id, self._identity.st_uid)

    _remove_object = unlink

    # Sending: see also reserve() and reserve_nowait() of the base

    @immediately(_binding.Ring.send)
    async def send(self, item: Buffer) -> None:
        """Send a message, waiting for room.

        Cancelled, it has sent nothing.

        :param item: a bytes-like object; its bytes must not change until this returns
        :raises MessageTooLongError: if it is longer than `max_message_size`
        :raises BrokenError: if the channel has been ended
        :raises ClosedError: if the handle is closed, now or while it waits
        :raises CorruptError: if what is in the shared memory can't be right
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        :raises TypeError: if it is not bytes-like
        """
        await self._sending.perform(self._attempt, self._try_send, _plain(item), True)

    @immediately(_binding.Ring.send_nowait)
    def send_nowait(self, item: Buffer) -> None:
        """Send a message if there is room.  Parameters and exceptions are those of `send`, and

        :raises WouldBlock: if there is none, tasks wait for room already, or another process is using the channel just
            now
        """
        self._sending.perform_nowait(self._attempt, self._try_send, _plain(item), False)

    # What the methods of the base call where that can't be done at once
    _send = unwrap(send)
    _send_nowait = unwrap(send_nowait)

    async def send_many(self, items: Iterable[Buffer]) -> None:
        """Send messages, one after the other, waiting for room for all of them.

        Up to 64 KiB of them together appear at once.  Of more, receivers can have the first while the
        next are still copied, and messages of others in between; if the process dies then, the rest is never seen.

        Cancelled, it has sent none of them.  Exceptions are those of `send`, and

        :param items: bytes-like objects; their bytes must not change until this returns
        :raises MessageTooLongError: if together they take more room than there is
        """
        await self._sending.perform(self._attempt, self._try_send_many, [_plain(item) for item in items], True)

    def send_many_nowait(self, items: Iterable[Buffer]) -> None:
        """Send messages if there is room for all of them.  Parameters and exceptions are those of `send_many`, and

        :raises WouldBlock: if there is not, tasks wait for room already, or another process is using the channel just
            now
        """
        self._sending.perform_nowait(self._attempt, self._try_send_many, [_plain(item) for item in items], False)

    async def end(self) -> None:
        """Send no more messages, here and everywhere: receivers get what there is, and then `EndOfStream`.

        It comes after the tasks of this process that wait to send.  Done again, it has no effect.

        :raises ClosedError: if the handle is closed, now or while it waits
        :raises CorruptError: if what is in the shared memory can't be right
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        """
        await self._sending.perform(self._attempt, self._try_end, True)

    def end_nowait(self) -> None:
        """Do what `end` does, at once.  Exceptions are those of `end`, and

        :raises WouldBlock: if another process is just about to send, or tasks wait for room
        """
        self._sending.perform_nowait(self._attempt, self._try_end, False)

    async def send_eof(self) -> None:
        """Do what `end` does: the name that anyio has for it."""
        await self.end()

    # Receiving: see also borrow() and borrow_nowait() of the base

    @immediately(_binding.Ring.receive)
    async def receive(self) -> bytes:
        """Receive the next message, waiting for one.

        Cancelled, it has taken nothing: the message is still in the channel.

        :raises EndOfStream: if the channel has been ended, and all has been consumed
        :raises ClosedError: if the handle is closed, now or while it waits
        :raises CorruptError: if what is in the shared memory can't be right
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        """
        return await self._receiving.perform(self._attempt_receiving, self._try_receive, True)

    @immediately(_binding.Ring.receive_nowait)
    def receive_nowait(self) -> bytes:
        """Receive the next message if there is one.  Exceptions are those of `receive`, and

        :raises WouldBlock: if there is none, tasks wait for messages already, or another process is using the
            channel just now
        """
        return self._receiving.perform_nowait(self._attempt_receiving, self._try_receive, False)

    _receive = unwrap(receive)
    _receive_nowait = unwrap(receive_nowait)

    async def _next(self) -> bytes:
        try:
            message: bytes = await self._receive()
        except (ClosedError, EndOfStream):
            raise StopAsyncIteration from None
        return message

    async def receive_many(self, max_messages: int) -> list[bytes]:
        """Receive the next messages, as many as there are, waiting for the first.

        Cancelled, it has taken none.  Exceptions are those of `receive`, and

        :param max_messages: how many to receive at most
        :raises ValueError: if that is less than 1
        """
        count = check_range("max_messages", max_messages, 1, sys.maxsize)
        return await self._receiving.perform(self._attempt_receiving, self._try_receive_many, count, True)

    def receive_many_nowait(self, max_messages: int) -> list[bytes]:
        """Receive the next messages if there are any.  Parameters and exceptions are those of `receive_many`, and

        :raises WouldBlock: if there is none, tasks wait for messages already, or another process is using the
            channel just now
        """
        count = check_range("max_messages", max_messages, 1, sys.maxsize)
        return self._receiving.perform_nowait(self._attempt_receiving, self._try_receive_many, count, False)

    # Looking

    def statistics(self) -> ChannelStatistics:
        """What is in the channel, and who uses it.

        :raises ClosedError: if the handle is closed
        :raises CorruptError: if what is in the shared memory can't be right
        """
        self._handle.check()
        found = self._look()
        if isinstance(found, int):
            raise self._error(found)
        messages, size, senders, receivers, dead, ended = found
        return ChannelStatistics(
            messages=messages,
            bytes=size,
            capacity=self.capacity,
            senders=senders,
            receivers=receivers,
            dead_peers=dead,
            ended=ended,
            tasks_waiting_send=self._sending.waiting,
            tasks_waiting_receive=self._receiving.waiting,
            owner=self._identity.st_uid,
            group=self._identity.st_gid,
            mode=self._identity.st_mode & 0o777,
        )

    # Within

    async def _enter(self, block: _binding.AsyncBlock, is_written: bool) -> memoryview:
        line, attempt = self._way_in(is_written)
        with self._entering(block):
            return await line.perform(attempt, self._try_enter, block, True)

    def _enter_nowait(self, block: _binding.Block, is_written: bool) -> memoryview:
        line, attempt = self._way_in(is_written)
        with self._entering(block):
            return line.perform_nowait(attempt, self._try_enter, block, False)

    def _way_in(self, is_written: bool) -> tuple[Direction, Callable[..., memoryview]]:
        return (self._sending, self._attempt) if is_written else (self._receiving, self._attempt_receiving)

    @contextmanager
    def _entering(self, block: _binding.AsyncBlock | _binding.Block) -> Iterator[None]:
        self._begin(block)
        try:
            yield
        except BaseException:
            self._give_up(block)
            raise

    def _check(self) -> None:
        self._handle.check()

    def _check_size(self, nbytes: int) -> int:
        return check_range("nbytes", nbytes, 0, sys.maxsize)

    def _attempt_receiving(self, attempt: Callable[..., int | _T], *args: object) -> _T:
        try:
            return self._attempt(attempt, *args)
        except BrokenError:
            raise EndOfStream(f"{self._handle.what} has been ended, and all has been consumed") from None

    def _attempt(self, attempt: Callable[..., int | _T], *args: object) -> _T:
        """What an attempt returns, or the exception that its number stands for.

        :param args: its arguments, the last of which is whether the caller waits if it raises `WouldBlock`
        """
        found = attempt(*args[:-1], False)
        if isinstance(found, int) and found in _WOULD_BLOCK:
            # Before it tries again: whoever dies from now on is reported to those who wait.
            self._watch.look()
            found = attempt(*args)
        if isinstance(found, int) and found != _binding.OK:
            raise self._error(found)
        return found  # type: ignore[return-value]

    def reap_dead(self) -> None:
        """Clean up after peers that have died.  Not for use: it is done when it is needed."""
        self._reap()

    def _error(self, result: int) -> Error:
        self._handle.check()  # the buffer of what was to be sent may have closed it
        what = self._handle.what
        if result == _binding.ENDED:
            return BrokenError(f"{what} has been ended: nothing more can be sent")
        if result == _binding.TOO_LONG:
            return MessageTooLongError(
                f"too long for {what}: it takes messages of {self.max_message_size:,} bytes at most, and together no "
                f"more than {self.capacity:,} bytes, with 32 for each and rounded up to a multiple of 64 (capacity, "
                "fixed when the channel was created)"
            )
        if result == _binding.CORRUPT:
            return self._corrupt()
        return WouldBlock(f"{what} is {'full' if result == _binding.FULL else 'empty, or in use just now'}")

    def _corrupt(self) -> CorruptError:
        fault = self._fault or "what its header says"
        return CorruptError(errno.EUCLEAN, f"{fault} can't be right: somebody has overwritten it", self.name)


def _plain(item: Buffer) -> Buffer:
    """Something whose bytes lie one after the other.

    :raises TypeError: if it is not bytes-like
    """
    if isinstance(item, bytes):
        return item
    try:
        view = memoryview(item)
    except TypeError:
        raise TypeError(f"a message must be bytes-like, not {type(item).__name__}") from None
    except ValueError:  # numpy can't say what is in its arrays of times, but gives their bytes
        return item
    return view if view.c_contiguous else view.tobytes()
