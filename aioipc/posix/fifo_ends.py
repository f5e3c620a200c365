"""The open ends of FIFOs: read(2), write(2), pipe(7)."""

from __future__ import annotations

import fcntl
import os
import select
import sys
import termios
from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from anyio.abc import ByteReceiveStream, ByteSendStream

from aioipc._arguments import check_range, message_bytes
from aioipc._lifetime import AsyncLifetime
from aioipc._waiting.readiness import Descriptor, Direction
from aioipc.errors import BrokenError, ClosedError, EndOfStream, WouldBlock, from_errno

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer


class FifoStatistics(NamedTuple):
    """What `FifoReader.statistics` or `FifoWriter.statistics` found."""

    bytes: int
    """Bytes written and yet to be read."""
    capacity: int
    """How many bytes fit before writers wait."""
    tasks_waiting: int
    """Tasks of this process that wait, on this end."""


class FifoEnd(AsyncLifetime):
    """An open end of a FIFO."""

    path: str
    """Where the FIFO is, or was."""

    def __init__(self, path: str, descriptor: int) -> None:
        """Not for use: see `Fifo`."""
        self.path = path
        self._label = repr(path)
        self._removes = False
        self._fileno = descriptor
        self._may_block = False
        self._descriptor = self._handle = Descriptor(self._fileno, f"FIFO {path}", breaks=True)

    def close(self) -> None:
        """Close this end: close(2).

        Tasks that wait get `ClosedError`.  May be called again, and from a callback of the loop.
        """
        if not self._descriptor.closed:
            try:
                self._descriptor.close()
            finally:
                os.close(self._fileno)

    def _remove_object(self) -> None:
        """It is not ours."""

    def fileno(self) -> int:
        """The descriptor, for select, poll or epoll.

        It stays the handle's: never close it, nor have the loop that uses the handle watch it, for which there can be
        one reader and one writer only (`os.dup` makes another).

        It does not block.  Who else has it, such as a child whose standard input it is, should leave it so: from now on
        this is set again before each call, but a call stops the loop if another process makes it block just then.

        :raises ClosedError: if this end is closed
        """
        self._descriptor.check()
        self._may_block = True
        return self._fileno

    def _unblock(self) -> None:
        """Let the next call not block: O_NONBLOCK is that of the open file, which others may have."""
        if self._may_block:  # else nobody has got it from here, and it can be spared
            os.set_blocking(self._fileno, False)

    @property
    @abstractmethod
    def _direction(self) -> Direction: ...

    def statistics(self) -> FifoStatistics:
        """What is in the FIFO, and who waits: ioctl(2) with FIONREAD, fcntl(2) with F_GETPIPE_SZ.

        :raises ClosedError: if this end is closed
        """
        self._descriptor.check()
        size = fcntl.ioctl(self._fileno, termios.FIONREAD, bytes(4))
        return FifoStatistics(
            bytes=int.from_bytes(size, sys.byteorder),
            capacity=fcntl.fcntl(self._fileno, fcntl.F_GETPIPE_SZ),
            tasks_waiting=self._direction.waiting,
        )


class FifoReader(FifoEnd, ByteReceiveStream):
    """The end of a FIFO to read from: an anyio byte stream."""

    _made_by = "Fifo.open_reader"

    @property
    def _direction(self) -> Direction:
        return self._descriptor.reading

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Read what there is, waiting for at least one byte: read(2).

        Cancelled, it has read nothing.

        :param max_bytes: how many bytes to read at most
        :raises EndOfStream: if all has been read and no writer is left
        :raises ClosedError: if this end is closed, now or while it waits
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        """
        return await self._direction.perform(self._read, check_range("max_bytes", max_bytes, 1, 2**31 - 1))

    def receive_nowait(self, max_bytes: int = 65536) -> bytes:
        """Read what there is.  Parameters and exceptions are those of `receive`, and

        :raises WouldBlock: if there is nothing, or tasks wait to read already
        """
        return self._direction.perform_nowait(self._read, check_range("max_bytes", max_bytes, 1, 2**31 - 1))

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except (EndOfStream, ClosedError):
            raise StopAsyncIteration from None

    def _read(self, max_bytes: int) -> bytes:
        try:
            self._unblock()
            data = os.read(self._fileno, max_bytes)
        except BlockingIOError:
            raise WouldBlock(f"{self._descriptor.what} is empty") from None
        except OSError as error:
            raise from_errno(error.errno or 0, self.path) from None
        if not data:
            raise EndOfStream(f"nobody has {self._descriptor.what} open for writing")
        return data


class FifoWriter(FifoEnd, ByteSendStream):
    """The end of a FIFO to write to: an anyio byte stream."""

    _made_by = "Fifo.open_writer"

    @property
    def _direction(self) -> Direction:
        return self._descriptor.writing

    async def send(self, item: Buffer) -> None:
        """Write all bytes, waiting for room: write(2).

        Up to PIPE_BUF (4096) bytes are written together or, cancelled, not at all; of more, a
        part may have been written, and other processes may write in between.  Other tasks with this end wait.

        :raises BrokenError: if nobody has the FIFO open for reading
        :raises ClosedError: if this end is closed, now or while it waits
        :raises RuntimeError: if it belongs to another event loop, or was inherited by a fork
        :raises TypeError: if it is not bytes-like
        """
        data = message_bytes(item)
        if len(data) > select.PIPE_BUF:
            self._descriptor.bind()  # not after a part of it has been written
        await self._direction.perform(_Write(self._write, data))

    def send_nowait(self, item: Buffer) -> None:
        """Write up to PIPE_BUF (4096) bytes if there is room for all.  Exceptions are those of `send`, and

        :raises ValueError: if there are more bytes: they could be written in part only
        :raises WouldBlock: if there is no room, or tasks wait to write already
        """
        data = message_bytes(item)
        if len(data) > select.PIPE_BUF:
            raise ValueError(
                f"{len(data):,} bytes; only {select.PIPE_BUF:,} (PIPE_BUF) are sure to be written together"
            )
        self._direction.perform_nowait(_Write(self._write, data))

    def _write(self, data: memoryview) -> int:
        self._descriptor.check()
        try:
            self._unblock()
            return os.write(self._fileno, data)
        except BlockingIOError:
            raise WouldBlock(f"{self._descriptor.what} is full") from None
        except BrokenPipeError:
            raise BrokenError(f"nobody has {self._descriptor.what} open for reading") from None
        except OSError as error:
            raise from_errno(error.errno or 0, self.path) from None


class _Write:
    """write(2) of some bytes, as often as it takes."""

    def __init__(self, write: Callable[[memoryview], int], data: bytes) -> None:
        self._write = write
        self._left = memoryview(data)

    def __call__(self) -> None:
        if not self._left:
            return
        self._left = self._left[self._write(self._left) :]
        if self._left:  # even if there is room again: the loop has other things to do
            raise WouldBlock
