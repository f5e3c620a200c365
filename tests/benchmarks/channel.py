"""The figures of channels, against what asyncio and pyzmq have, each as a ratio of two measurements of one run.

    python tests/benchmarks/channel.py [--rounds N] [--only WORD]

One process sends, another, on the other processor, receives and checks the number and size of the messages.  The
rounds of the things compared are interleaved, and the median of the rounds is what counts.  Each message is sent
and received by an operation of its own, but where it says "many".
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from harness import LOOPS, Measure, report, report_idle, report_speed, run, start

from aioipc import Channel, EndOfStream

NAME = f"/aioipc-benchmark-{os.getpid()}"
MANY = 100


async def send_channel(name: str, size: int, count: int) -> None:
    data = bytes(size)
    async with Channel.open(name) as channel:
        for _ in range(count):
            await channel.send(data)
        await channel.end()


async def receive_channel(name: str, size: int, count: int) -> float:
    async with Channel.open(name) as channel:
        await channel.receive()
        began = time.perf_counter()
        got = 1
        async for message in channel:
            got += len(message) == size
        assert got == count
        return (time.perf_counter() - began) / count


async def send_channel_many(name: str, size: int, count: int) -> None:
    batch = [bytes(size)] * MANY
    async with Channel.open(name) as channel:
        for _ in range(count // MANY):
            await channel.send_many(batch)
        await channel.end()


async def receive_channel_many(name: str, size: int, count: int) -> float:
    async with Channel.open(name) as channel:
        await channel.receive()
        began = time.perf_counter()
        got = 1
        try:
            while True:
                got += len(await channel.receive_many(MANY))
        except EndOfStream:
            pass
        assert got == count
        return (time.perf_counter() - began) / count


async def send_stream(path: str, size: int, count: int) -> None:
    data = bytes(size)
    _, writer = await asyncio.open_unix_connection(path)
    for _ in range(count):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def receive_stream(path: str, size: int, count: int, sender: Callable[[], None]) -> float:
    result = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(size)
        began = time.perf_counter()
        for _ in range(count - 1):
            await reader.readexactly(size)
        result.set_result((time.perf_counter() - began) / count)
        writer.close()

    async with await asyncio.start_unix_server(serve, path, limit=2**20):
        sender()
        return await result


async def send_zmq(path: str, size: int, count: int) -> None:
    import zmq.asyncio

    data = bytes(size)
    with zmq.asyncio.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(f"ipc://{path}")
        for _ in range(count):
            await socket.send(data)


async def receive_zmq(path: str, size: int, count: int, sender: Callable[[], None]) -> float:
    import zmq.asyncio

    with zmq.asyncio.Context() as context, context.socket(zmq.PULL) as socket:
        socket.bind(f"ipc://{path}")
        sender()
        await socket.recv()
        began = time.perf_counter()
        for _ in range(count - 1):
            assert len(await socket.recv()) == size
        return (time.perf_counter() - began) / count


def sender(kind: str, loop: str, where: str, size: int, count: int) -> list[str]:
    return [sys.executable, __file__, "--send", kind, loop, where, str(size), str(count)]


def through_channel(kind: str, loop: str, size: int, count: int) -> float:
    """Seconds for a message of this size."""
    receive = receive_channel_many if kind == "channel_many" else receive_channel
    capacity = max(2**20, 64 * size)
    with (
        Channel.create(NAME, capacity=capacity),
        start(sender(kind, loop, NAME, size, count)),
    ):
        return LOOPS[loop](receive(NAME, size, count))


def through_socket(kind: str, loop: str, size: int, count: int) -> float:
    """Seconds for a message of this size."""
    receive = {"stream": receive_stream, "zmq": receive_zmq}[kind]

    async def in_time(path: str, started: list[subprocess.Popen[bytes]]) -> float:
        async with asyncio.timeout(30):
            command = sender(kind, loop, path, size, count)
            return await receive(path, size, count, lambda: started.append(start(command)))

    for _ in range(3):
        started: list[subprocess.Popen[bytes]] = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                return LOOPS[loop](in_time(folder + "/socket", started))
            except TimeoutError:  # seen with pyzmq
                print(f"{kind} on {loop} hangs: once more", flush=True)
                started[0].kill()
            finally:
                started[0].wait()
    raise TimeoutError(f"{kind} on {loop} has hung three times")


def channels(size: int, count: int, kinds: tuple[str, ...] = ("channel",)) -> dict[str, Measure]:
    return {
        f"{loop}{' with many' if kind != 'channel' else ''}": functools.partial(
            through_channel, kind, loop, size, count
        )
        for loop in LOOPS
        for kind in kinds
    }


def streams_64(rounds: int, count: int = 200_000) -> None:
    """Messages of 64 bytes, against asyncio's unix streams on uvloop."""
    stream = functools.partial(through_socket, "stream", "uvloop", 64, count)
    report_speed("64 B, against unix streams", 5, rounds, stream, channels(64, count, ("channel", "channel_many")))


def zmq_64(rounds: int, count: int = 10_000) -> None:
    """Messages of 64 bytes, against pyzmq on asyncio."""
    if importlib.util.find_spec("zmq") is None:
        print("pyzmq: left out, it is not installed")
        return
    zmq = functools.partial(through_socket, "zmq", "asyncio", 64, count)
    report_speed("64 B, against pyzmq", 50, rounds, zmq, channels(64, 20 * count))


def streams_64k(rounds: int, count: int = 10_000) -> None:
    """Messages of 64 KiB, against asyncio's unix streams on uvloop."""
    stream = functools.partial(through_socket, "stream", "uvloop", 2**16, count)
    report_speed("64 KiB, against unix streams", 4, rounds, stream, channels(2**16, count))


async def wait_idle(seconds: float) -> float:
    with ExitStack() as stack:
        empty = stack.enter_context(Channel.create(NAME))
        full = stack.enter_context(Channel.create(NAME + "-full", capacity=64))
        full.send_nowait(b"")
        waits: list[Awaitable[object]] = [
            empty.receive(),
            empty.receive_many(5),
            empty.borrow().__aenter__(),
            anext(empty),
            full.send(b""),
            full.send_many([b""]),
            full.reserve(1).__aenter__(),
        ]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.sleep(0.1)
        began = time.process_time()
        await asyncio.sleep(seconds)
        used = time.process_time() - began
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return used


def idle(rounds: int) -> None:
    """Processor time of ten seconds of waiting."""
    for name, loop in LOOPS.items():
        report_idle(name, loop(wait_idle(10)))


async def ping(count: int) -> float:
    async with Channel.open(NAME) as there, Channel.open(NAME + "-back") as back:
        await there.send(b"12345678")
        await back.receive()
        began = time.perf_counter()
        for _ in range(count):
            await there.send(b"12345678")
            await back.receive()
        return (time.perf_counter() - began) / count


async def echo(name: str, size: int, count: int) -> None:
    async with Channel.open(name) as there, Channel.open(name + "-back") as back:
        for _ in range(count + 1):
            await back.send(await there.receive())


async def ping_stream(path: str, count: int, sender: Callable[[], None]) -> float:
    result = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for trip in range(count + 1):
            writer.write(b"12345678")
            await reader.readexactly(8)
            if trip == 0:
                began = time.perf_counter()
        result.set_result((time.perf_counter() - began) / count)
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        sender()
        return await result


async def echo_stream(path: str, size: int, count: int) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    for _ in range(count + 1):
        writer.write(await reader.readexactly(8))
    await writer.drain()
    writer.close()


def ping_pong(rounds: int, count: int = 5000) -> None:
    """A round trip of 8 bytes, against asyncio's unix streams on uvloop."""

    def stream(loop: str) -> float:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            path = folder + "/socket"
            command = sender("echo_stream", loop, path, 8, count)
            return LOOPS[loop](ping_stream(path, count, lambda: stack.enter_context(start(command))))

    def channel(loop: str) -> float:
        with (
            Channel.create(NAME),
            Channel.create(NAME + "-back"),
            start(sender("echo", loop, NAME, 8, count)),
        ):
            return LOOPS[loop](ping(count))

    for loop in LOOPS:
        baseline, own = functools.partial(stream, loop), functools.partial(channel, loop)
        report("round trip, against unix streams on the same loop", 1.5, rounds, baseline, {loop: own})


SENDERS = {
    "channel": send_channel,
    "channel_many": send_channel_many,
    "stream": send_stream,
    "zmq": send_zmq,
    "echo": echo,
    "echo_stream": echo_stream,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--send"]:
        kind, loop, where, size, count = sys.argv[2:]
        LOOPS[loop](SENDERS[kind](where, int(size), int(count)))
        sys.exit()
    run(__doc__, (streams_64, zmq_64, streams_64k, ping_pong, idle))
