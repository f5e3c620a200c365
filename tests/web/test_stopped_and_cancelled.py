"""A receiver whose task others cancel as it is stopped: to whom the cancellation belongs is told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest
from conftest import passes
from serving import anyio_backend  # noqa: F401
from test_receiving import create, kind  # noqa: F401

from aioipc.aiohttp._receiving import Receiver, Stopped

pytestmark = pytest.mark.anyio

# What a task does, told what cancels it a pass later.
Work = Callable[[Callable[[], object]], Awaitable[None]]


def call_soon(function: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_soon(function)


async def nobody(work: Work) -> None:
    await work(lambda: None)


async def the_task(work: Work) -> None:
    task = asyncio.current_task()
    assert task is not None
    await work(partial(call_soon, task.cancel))


async def the_task_itself(work: Work) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()  # before it suspends, so that it comes as it does
    await work(lambda: None)


async def a_timeout(work: Work) -> None:
    async with asyncio.timeout(None) as timeout:
        await work(partial(timeout.reschedule, 0))


async def a_scope(work: Work) -> None:
    with anyio.fail_after(None) as scope:
        await work(partial(call_soon, lambda: setattr(scope, "deadline", 0)))


async def an_outer_scope(work: Work) -> None:
    with anyio.fail_after(None) as scope, anyio.CancelScope():
        await work(partial(call_soon, lambda: setattr(scope, "deadline", 0)))


async def a_scope_beyond_a_shield(work: Work) -> None:
    with anyio.fail_after(None) as scope, anyio.CancelScope(shield=True):
        await work(partial(call_soon, lambda: setattr(scope, "deadline", 0)))


async def a_scope_in_a_timeout(work: Work) -> None:
    """Both cancel."""

    async def work_in_scope(cancel: Callable[[], object]) -> None:
        await a_scope(lambda cancel_too: work(lambda: (cancel(), cancel_too())))

    await a_timeout(work_in_scope)


ENDS = {
    nobody: {Stopped},
    the_task: {asyncio.CancelledError},
    the_task_itself: {asyncio.CancelledError},
    a_timeout: {TimeoutError, Stopped},
    a_scope: {TimeoutError, Stopped},
    an_outer_scope: {TimeoutError, Stopped},
    a_scope_beyond_a_shield: {Stopped},
    a_scope_in_a_timeout: {TimeoutError, Stopped},
}


@pytest.mark.parametrize("order", ["cancelled_first", "stopped_first", "stopped_a_pass_ago"])
@pytest.mark.parametrize("state", ["waiting", "giving_way", "served"])
@pytest.mark.parametrize("cancelled_by", ENDS, ids=lambda way: way.__name__)
async def test_stopped_as_others_cancel(
    kind: str,  # noqa: F811
    cancelled_by: Callable[[Work], Awaitable[None]],
    state: str,
    order: str,
    name: str,
    key: int,
) -> None:
    sent = taken = 0

    async def work(cancel: Callable[[], object]) -> None:
        nonlocal sent, taken
        # What is called soon runs when the task suspends for the first time.
        if state == "served":
            sent += 1
            call_soon(partial(source.send_nowait, b""))
        if order == "cancelled_first":
            cancel()
        call_soon(receiver.stop)
        if order == "stopped_first":
            cancel()
        elif order == "stopped_a_pass_ago":
            call_soon(cancel)
        while True:
            if state == "giving_way":  # there is always a message, so that it never waits for one
                source.send_nowait(b"")
                sent += 1
            async with receiver.take():
                taken += 1

    async def run() -> type[BaseException] | None:
        try:
            try:
                await cancelled_by(work)
            finally:
                await passes()  # a request that is left over is delivered here
        except (Stopped, TimeoutError, asyncio.CancelledError) as error:
            return type(error)
        return None

    async with create(kind, name, key) as source:
        receiver: Receiver[Any] = Receiver(source, borrow=kind == "borrowed")
        task = asyncio.create_task(run())
        end = await task
        assert end in ENDS[cancelled_by]
        assert task.cancelling() == (end is asyncio.CancelledError)
        assert source.statistics().messages == sent - taken
