"""This library, as a candidate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from candidate import (
    BATCH,
    HEAD,
    LARGEST,
    Candidate,
    folder_link,
    largest_in_posix_queue,
    posix_queue,
    read_limit,
    system_v_queue,
    unique,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from multiprocessing.context import BaseContext


class OwnChannel(Candidate):
    title = "aioipc.Channel"
    own = True

    @contextmanager
    def link(self, context: BaseContext, size: int) -> Iterator[str]:
        from aioipc import Channel

        name = unique()
        with Channel.create(name, capacity=max(2**20, 64 * size)):
            yield name

    @asynccontextmanager
    async def open(self, link: str) -> AsyncIterator[Any]:
        from aioipc import Channel

        async with Channel.open(link) as channel:
            yield channel

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        async with self.open(link) as channel:
            yield channel.send

    def receiver(self, link: str, size: int) -> Any:
        return self.open(link)


class OwnChannelMany(OwnChannel):
    title = "aioipc.Channel, many"
    batch = BATCH

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        async with self.open(link) as channel:
            yield channel.send_many

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        async with self.open(link) as channel:
            yield lambda: channel.receive_many(BATCH)


class OwnChannelInPlace(OwnChannel):
    """The sender copies into the ring; the receiver reads there, and takes out the beginning only."""

    title = "aioipc.Channel, in place"

    def expected(self, data: bytes) -> Any:
        return data[:HEAD]

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        async with self.open(link) as channel:

            async def send(data: bytes) -> None:
                async with channel.reserve(len(data)) as buffer:
                    buffer[:] = data

            yield send

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        async with self.open(link) as channel:

            async def receive() -> bytes:
                async with channel.borrow() as view:
                    return bytes(view[:HEAD])

            yield receive


class OwnPosixQueue(Candidate):
    title = "aioipc.posix.MessageQueue"
    own = True

    @property
    def largest(self) -> int:
        return largest_in_posix_queue()

    def expected(self, data: bytes) -> Any:
        from aioipc.posix import Message

        return Message(data, 0)

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[str]:
        return posix_queue(size)

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        from aioipc.posix import MessageQueue

        async with MessageQueue.open(link, read=False) as queue:
            yield queue.send

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        from aioipc.posix import MessageQueue

        async with MessageQueue.open(link, write=False) as queue:
            yield queue


class OwnPosixQueueToC(OwnPosixQueue):
    """For round trips to a process that uses something else."""

    title = "aioipc.posix.MessageQueue to C"


class OwnSystemVQueue(Candidate):
    title = "aioipc.sysv.MessageQueue"
    own = True

    @property
    def largest(self) -> int:
        return min(LARGEST, read_limit("kernel/msgmax"))

    def expected(self, data: bytes) -> Any:
        from aioipc.sysv import Message

        return Message(data, 1)

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[int]:
        return system_v_queue(size)

    @asynccontextmanager
    async def sender(self, link: int, size: int) -> AsyncIterator[Any]:
        async with self.receiver(link, size) as queue:
            yield queue.send

    @asynccontextmanager
    async def receiver(self, link: int, size: int) -> AsyncIterator[Any]:
        from aioipc.sysv import MessageQueue

        async with MessageQueue.open(link) as queue:
            yield queue


class OwnFifo(Candidate):
    title = "aioipc.posix.Fifo"
    own = True
    many_senders = many_receivers = False  # it has bytes, not messages

    @contextmanager
    def link(self, context: BaseContext, size: int) -> Iterator[str]:
        from aioipc.posix import Fifo

        with folder_link() as path, Fifo.create(path):
            yield path

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        from aioipc.posix import Fifo

        async with Fifo.open_writer(link) as stream:
            yield stream.send

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        from anyio.streams.buffered import BufferedByteReceiveStream

        from aioipc.posix import Fifo

        async with Fifo.open_reader(link) as stream:
            buffered = BufferedByteReceiveStream(stream)
            yield lambda: buffered.receive_exactly(size)
