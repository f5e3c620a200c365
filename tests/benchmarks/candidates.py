"""What can carry messages between processes: this library, and everything a user might take instead.

Each is used as its own documentation recommends for speed.  A candidate opens the sending and the
receiving end of a link in a process of its own; the loops that are timed are those of transfers.py, the
same for all.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import itertools
import os
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.context import BaseContext

COUNTER = itertools.count()
BATCH = 100
"""How many messages go at once, where a row says "many"."""
LARGEST = 2**20
HEAD = 16
"""How much of a message is looked at that is read where it is."""


def unique() -> str:
    """A name that nothing else has."""
    return f"/aioipc-benchmark-{os.getpid()}-{next(COUNTER)}"


def read_limit(name: str) -> int:
    """What sysctl(8) says."""
    return int(Path("/proc/sys", name).read_text())


def depth(size: int) -> int:
    """How many messages a link has room for, where one can say: 4 MiB of them, at most 1,000."""
    return max(4, min(1000, 2**22 // size))


class Candidate:
    """One row of the tables.

    `sender` and `receiver` are asynchronous context managers, in the process at that end.  They yield what sends a
    message, and what receives one or is iterated over: coroutine functions, or plain ones where `loop` is None.
    """

    title: str
    own = False
    """Whether it is this library."""
    loop: str | None = "asyncio"
    needs: str | None = None
    """A package that may be missing."""
    batch = 1
    """More than 1: lists of up to this many messages are sent, and lists are received."""
    many_senders = True
    """Whether several processes can open the sending end of one link."""
    many_receivers = True
    """Whether several can open the receiving end, and each message goes to one of them."""

    def __init__(self, loop: str | None = None) -> None:
        self.loop = loop or self.loop

    @property
    def name(self) -> str:
        return f"{self.title} ({self.loop})" if self.loop else self.title

    @property
    def largest(self) -> int:
        """Bytes in the largest message that it takes here."""
        return LARGEST

    def batch_of(self, size: int) -> int:
        """How many messages of this size go at once."""
        return max(1, min(self.batch, LARGEST // 2 // size))

    def missing(self) -> str | None:
        """Why it can't be measured here."""
        for package in (self.needs, self.loop if self.loop != "asyncio" else None):
            if package and importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return None

    def expected(self, data: bytes) -> Any:
        """What is received when this was sent."""
        return data

    def link(self, context: BaseContext, size: int) -> AbstractContextManager[Any]:
        """Make what both ends open."""
        return folder_link()

    def sender(self, link: Any, size: int) -> Any:
        raise NotImplementedError

    def receiver(self, link: Any, size: int) -> Any:
        raise NotImplementedError


@contextmanager
def folder_link() -> Iterator[str]:
    """A path where nothing is yet."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder + "/link"


# This library


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
        yield unique()

    @contextmanager
    def service(self, link: str) -> Iterator[Any]:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Error)
        node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
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


def queue_bytes() -> int:
    """How much one POSIX queue may hold: RLIMIT_MSGQUEUE counts all queues of a user, and not only their data."""
    limit = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0]
    return LARGEST if limit == resource.RLIM_INFINITY else limit // 4


def largest_in_posix_queue() -> int:
    """Bytes in the largest message, if there is to be room for two."""
    return min(LARGEST, read_limit("fs/mqueue/msgsize_max"), queue_bytes() // 2)


@contextmanager
def posix_queue(size: int) -> Iterator[str]:
    """The name of a POSIX queue, as deep as the limits of this machine have it."""
    import posix_ipc

    name = unique()
    messages = min(read_limit("fs/mqueue/msg_max"), depth(size), queue_bytes() // size)
    posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_messages=messages, max_message_size=size).close()
    try:
        yield name
    finally:
        posix_ipc.unlink_message_queue(name)


@contextmanager
def system_v_queue(size: int) -> Iterator[int]:
    """The key of a System V queue."""
    import sysv_ipc

    key = (os.getpid() << 8) + next(COUNTER) % 256
    queue = sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, max_message_size=size)
    try:
        yield key
    finally:
        queue.remove()


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


CANDIDATES: Sequence[Candidate] = (
    *(kind(loop) for kind in (OwnChannel, OwnChannelMany, OwnChannelInPlace) for loop in ("asyncio", "uvloop")),
    OwnPosixQueue("asyncio"),
    OwnPosixQueue("uvloop"),
    OwnSystemVQueue("asyncio"),
    OwnFifo("asyncio"),
    *(kind(loop) for kind in (Streams, Datagrams) for loop in ("asyncio", "uvloop")),
    ProcessQueue(),
    ProcessPipe(),
    AioProcessing("asyncio"),
    Zmq("asyncio"),
    Zmq("uvloop"),
    Nng("asyncio"),
    FasterFifo(),
    FasterFifoMany(),
    Iceoryx(),
    PosixInExecutor("asyncio"),
    SystemVInExecutor("asyncio"),
    PosixQueueInC(),
    FifoInC(),
)
