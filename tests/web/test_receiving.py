"""A receiver that is stopped, or runs out of patience, just as a message comes: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anyio.abc import ObjectReceiveStream
from conftest import passes
from serving import anyio_backend  # noqa: F401

from aioipc import Channel, posix, sysv
from aioipc.aiohttp._receiving import Receiver, Stopped

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["posix", "sysv", "channel", "borrowed"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def create(kind: str, name: str, key: int) -> Any:
    if kind == "posix":
        return posix.MessageQueue.create(name)
    return sysv.MessageQueue.create(key) if kind == "sysv" else Channel.create(name)


async def test_stopped_as_a_message_comes(kind: str, name: str, key: int, races: int, rng: random.Random) -> None:
    async def receive() -> object:
        async with receiver.take() as message:
            return message

    outcomes = set()
    async with create(kind, name, key) as source:
        for number in range(races // 20):
            receiver: Receiver[Any] = Receiver(source, borrow=kind == "borrowed")
            task = asyncio.create_task(receive())
            await passes(rng.randrange(3))
            # System V: a message without data comes along with the thread that waits, and may have to be put back.
            await source.send(b"%d" % number if number % 2 else b"")
            if number % 10 == 0:
                await asyncio.wait([task])
            elif number % 10 != 1:  # else it can't have come
                await passes(rng.randrange(4))
            was_done = task.done()
            receiver.stop()
            try:
                message = await task
            except Stopped:
                message = None
            outcomes.add(message is None)
            assert (message is not None) == was_done
            assert source.statistics().messages == (message is None)
            if message is None:
                source.receive_nowait()
    assert outcomes == {True, False}


async def test_out_of_patience_as_a_message_comes(
    kind: str, name: str, key: int, races: int, rng: random.Random
) -> None:
    async with create(kind, name, key) as source:
        receiver: Receiver[Any] = Receiver(source, borrow=kind == "borrowed")
        for _ in range(races // 100):
            asyncio.get_running_loop().call_later(rng.random() / 1000, source.send_nowait, b"")
            while True:
                async with receiver.take(rng.random() / 1000) as message:
                    if message is not None:
                        break
            assert source.statistics().messages == 0


class Source(ObjectReceiveStream[bytes]):
    """One whose receive() is a function."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive

    async def receive(self) -> bytes:
        return await self._receive()

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("patience", [None, 1000])
async def test_a_timeout_of_the_source_is_an_error(patience: float | None) -> None:
    async def receive() -> bytes:
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        async with Receiver(Source(receive), borrow=False).take(patience):
            pytest.fail("there is no message")


async def test_stopped_by_the_source_that_has_a_message() -> None:
    async def receive() -> bytes:
        receiver.stop()
        return b"last"

    task = asyncio.current_task()
    assert task is not None
    receiver = Receiver(Source(receive), borrow=False)
    async with receiver.take() as message:
        await passes()  # nothing hits who has the message
        assert message == b"last"
    assert task.cancelling() == 0
    with pytest.raises(Stopped):
        async with receiver.take():
            pytest.fail("it was told to stop")


async def test_stopped_by_the_source_that_has_none() -> None:
    async def receive() -> bytes:
        receiver.stop()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.current_task()
    assert task is not None
    receiver = Receiver(Source(receive), borrow=False)
    with pytest.raises(Stopped):
        async with receiver.take():
            pytest.fail("there is no message")
    await passes()
    assert task.cancelling() == 0


def test_stopped_while_no_loop_runs() -> None:
    async def receive() -> object:
        async with receiver.take() as message:
            return message

    with asyncio.Runner() as runner:
        receiver = Receiver(Source(asyncio.Event().wait), borrow=False)  # type: ignore[arg-type]
        task = runner.get_loop().create_task(receive())
        runner.run(passes())
        receiver.stop()
        with pytest.raises(Stopped):
            runner.run(asyncio.wait_for(task, None))
