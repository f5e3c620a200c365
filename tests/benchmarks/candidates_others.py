"""Everything that a user might take instead, each used as its own documentation recommends for speed; and the floor."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candidate import (
    BATCH,
    LARGEST,
    Candidate,
    depth,
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

# asyncio


class Streams(Candidate):
    """Length and time of a message are known to both, so that nothing need be framed."""

    title = "asyncio unix streams"
    many_senders = many_receivers = False

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        _, writer = await until_there(lambda: asyncio.open_unix_connection(link))

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        yield send
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        connected: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()
        writers = []

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            connected.set_result(reader)

        async with await asyncio.start_unix_server(serve, link, limit=2**20):
            reader = await connected
            yield lambda: reader.readexactly(size)
            for writer in writers:
                writer.close()


class Datagrams(Candidate):
    title = "asyncio unix datagrams"
    many_receivers = False

    @property
    def largest(self) -> int:
        return read_limit("net/core/wmem_default") // 2

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.setblocking(False)

            async def connect() -> None:
                own.connect(link)

            await until_there(connect)
            loop = asyncio.get_running_loop()
            yield lambda data: loop.sock_sendall(own, data)

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.setblocking(False)
            own.bind(link)
            loop = asyncio.get_running_loop()
            yield lambda: loop.sock_recv(own, size)


async def until_there(connect: Callable[[], Any]) -> Any:
    """Connect to what another process is about to open."""
    for _ in range(5000):
        try:
            return await connect()
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.002)
    raise TimeoutError


# The standard library, and packages


class ProcessQueue(Candidate):
    title = "multiprocessing.Queue"
    loop = None

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[Any]:
        return nullcontext(context.Queue(depth(size)))

    @asynccontextmanager
    async def sender(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link.put

    @asynccontextmanager
    async def receiver(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link.get


class ProcessPipe(Candidate):
    title = "multiprocessing.Pipe"
    loop = None
    many_senders = many_receivers = False

    @contextmanager
    def link(self, context: BaseContext, size: int) -> Iterator[Any]:
        reader, writer = context.Pipe(duplex=False)
        with reader, writer:
            yield reader, writer

    @asynccontextmanager
    async def sender(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link[1].send_bytes

    @asynccontextmanager
    async def receiver(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link[0].recv_bytes


class AioProcessing(Candidate):
    title = "aioprocessing.AioQueue"
    needs = "aioprocessing"

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[Any]:
        import aioprocessing

        return nullcontext(aioprocessing.AioQueue(depth(size), context=context))

    @asynccontextmanager
    async def sender(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link.coro_put

    @asynccontextmanager
    async def receiver(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link.coro_get


class Zmq(Candidate):
    title = "pyzmq"
    needs = "zmq"
    many_receivers = False  # as the receiver is what binds

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        import zmq.asyncio

        with zmq.asyncio.Context() as context, context.socket(zmq.PUSH) as own:
            own.connect(f"ipc://{link}")
            yield own.send

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        import zmq.asyncio

        with zmq.asyncio.Context() as context, context.socket(zmq.PULL) as own:
            own.bind(f"ipc://{link}")
            yield own.recv


class Nng(Candidate):
    title = "pynng"
    needs = "pynng"
    many_receivers = False  # as the receiver is what listens

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        import pynng

        with pynng.Push0(send_buffer_size=depth(size)) as own:

            async def dial() -> None:
                try:
                    own.dial(f"ipc://{link}", block=True)
                except pynng.exceptions.NNGException:
                    raise FileNotFoundError from None

            await until_there(dial)
            yield own.asend

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        import pynng

        with pynng.Pull0(recv_buffer_size=depth(size), recv_max_size=0) as own:
            own.listen(f"ipc://{link}")
            yield own.arecv


class FasterFifo(Candidate):
    title = "faster-fifo"
    loop = None
    needs = "faster_fifo"

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[Any]:
        import faster_fifo

        return nullcontext(faster_fifo.Queue(max(2**20, 64 * size)))

    @asynccontextmanager
    async def sender(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link.put

    @asynccontextmanager
    async def receiver(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link.get


class FasterFifoMany(FasterFifo):
    title = "faster-fifo, many"
    batch = BATCH

    @asynccontextmanager
    async def sender(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield link.put_many

    @asynccontextmanager
    async def receiver(self, link: Any, size: int) -> AsyncIterator[Any]:
        yield lambda: link.get_many(max_messages_to_get=BATCH)


class Iceoryx(Candidate):
    """Publish and subscribe with nothing thrown away.  Both sides poll, at the cost of a processor each."""

    title = "iceoryx2"
    loop = None
    needs = "iceoryx2"
    many_senders = many_receivers = False  # each subscriber gets all messages

    @contextmanager
    def link(self, context: BaseContext, size: int) -> Iterator[str]:
        link = unique()
        try:
            yield link
        finally:  # what it would keep for the next program
            for path in Path("/dev/shm").glob(f"{link[1:]}_*"):
                path.unlink()

    @contextmanager
    def service(self, link: str) -> Iterator[Any]:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Error)
        config = iox2.config.default()
        config.global_cfg.prefix = iox2.FileName.new(f"{link[1:]}_")
        node = iox2.NodeBuilder.new().config(config).create(iox2.ServiceType.Ipc)
        yield (
            node.service_builder(iox2.ServiceName.new(link))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(64)
            .open_or_create()
        )

    @asynccontextmanager
    async def sender(self, link: str, size: int) -> AsyncIterator[Any]:
        import iceoryx2 as iox2

        with self.service(link) as service:
            builder = service.publisher_builder().initial_max_slice_len(size)
            publisher = builder.backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered).create()

            def send(data: bytes) -> None:
                sample = publisher.loan_slice_uninit(len(data))
                ctypes.memmove(sample.payload().as_ptr(), data, len(data))
                sample.assume_init().send()

            yield send

    @asynccontextmanager
    async def receiver(self, link: str, size: int) -> AsyncIterator[Any]:
        with self.service(link) as service:
            subscriber = service.subscriber_builder().create()

            def receive() -> bytes:
                while (sample := subscriber.receive()) is None:
                    pass
                payload = sample.payload()
                return ctypes.string_at(payload.as_ptr(), payload.len())

            yield receive


# The usual way: blocking calls in an executor


class InExecutor(Candidate):
    @asynccontextmanager
    async def sender(self, link: Any, size: int) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        with self.queue(link, size) as queue:
            yield lambda data: loop.run_in_executor(None, queue.send, data)

    @asynccontextmanager
    async def receiver(self, link: Any, size: int) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        with self.queue(link, size) as queue:
            yield lambda: loop.run_in_executor(None, queue.receive)

    def queue(self, link: Any, size: int) -> AbstractContextManager[Any]:
        raise NotImplementedError


class PosixInExecutor(InExecutor):
    title = "run_in_executor, posix_ipc"

    @property
    def largest(self) -> int:
        return largest_in_posix_queue()

    def expected(self, data: bytes) -> Any:
        return data, 0

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[str]:
        return posix_queue(size)

    def queue(self, link: str, size: int) -> AbstractContextManager[Any]:
        import posix_ipc

        return closing(posix_ipc.MessageQueue(link))


class SystemVInExecutor(InExecutor):
    title = "run_in_executor, sysv_ipc"

    @property
    def largest(self) -> int:
        return min(LARGEST, read_limit("kernel/msgmax"))

    def expected(self, data: bytes) -> Any:
        return data, 1

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[int]:
        return system_v_queue(size)

    def queue(self, link: int, size: int) -> AbstractContextManager[Any]:
        import sysv_ipc

        return nullcontext(sysv_ipc.MessageQueue(link, max_message_size=size))


# The floor


class Program(Candidate):
    """Blocking calls in C: tests/peers/floor.c."""

    loop = None
    kind: str

    def command(self, role: str, size: int, *arguments: object) -> list[str]:
        """What to run: see the top of floor.c."""
        return [os.environ["AIOIPC_FLOOR"], self.kind, role, str(size), *map(str, arguments)]


class PosixQueueInC(Program):
    title = "C, blocking, POSIX queue"
    kind = "mq"

    @property
    def largest(self) -> int:
        return largest_in_posix_queue()

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[str]:
        return posix_queue(size)


class FifoInC(Program):
    title = "C, blocking, FIFO"
    kind = "fifo"
    many_senders = many_receivers = False

    @contextmanager
    def link(self, context: BaseContext, size: int) -> Iterator[str]:
        with folder_link() as path:
            os.mkfifo(path, 0o600)
            yield path
