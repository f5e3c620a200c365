"""A task that may go on does so in the loop's callback, as if the loop itself had run it."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import sys
import weakref
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from pathlib import Path
from typing import Any

import pytest
import uvloop
from conftest import call_soon, passes

import aioipc
from aioipc._waiting import _turns
from aioipc.posix import Fifo, FifoReader, FifoWriter, MessageQueue

LOOPS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}


def small(name: str) -> MessageQueue:
    return MessageQueue.create(name, max_messages=4, max_message_size=16)


# Whose step it is -------------------------------------------------------------------------


def python_task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> Any:
    return asyncio.tasks._PyTask(coroutine, loop=loop, **more)  # type: ignore[attr-defined]


@pytest.mark.parametrize("factory", [None, python_task], ids=["C", "Python"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_is_woken_as_itself(name: str, loop: str, factory: Any) -> None:
    variable = ContextVar("variable", default="nobody's")
    seen: list[tuple[object, str, str]] = []

    async def wait(queue: MessageQueue, mark: str) -> None:
        if mark == "before":
            variable.set(mark)
        await queue.receive()
        found = variable.get()
        if mark == "after":
            variable.set(mark)
        task = asyncio.current_task()
        await passes(1)
        seen.append((task, found, variable.get()))

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        async with small(name) as queue:
            # The first asks the loop to watch, in its context; those of the others are empty.
            marks = ["before", "after", "never"]
            tasks = [asyncio.create_task(wait(queue, mark), context=Context()) for mark in marks]
            await passes()
            for task in tasks:
                queue.send_nowait(b"x")
                await task
            assert seen == [
                (tasks[0], "before", "before"),
                (tasks[1], "nobody's", "after"),
                (tasks[2], "nobody's", "nobody's"),
            ]

    LOOPS[loop](main())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_program_ends_in_the_step_of_a_task_that_was_woken(
    name: str, loop: str, error: type[BaseException]
) -> None:
    async def main() -> None:
        task = asyncio.create_task(leave())
        await passes()
        queue.send_nowait(b"x")
        await asyncio.shield(task)

    async def leave() -> None:
        await queue.receive()
        raise error("enough")

    with small(name) as queue:
        with pytest.raises(error, match="enough"):
            LOOPS[loop](main())
        assert queue.statistics().tasks_waiting_receive == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_that_was_woken_closes_the_queue_and_others_wait(name: str, loop: str) -> None:
    async def main() -> None:
        queue = small(name)
        tasks = [asyncio.create_task(close(queue)), *(asyncio.create_task(queue.receive()) for _ in range(2))]
        await passes()
        number = queue.fileno()
        queue.send_nowait(b"x")
        await tasks[0]
        # The number is somebody else's now, and must be left alone.
        reading, writing = os.pipe()
        assert number in (reading, writing)
        for task in tasks[1:]:
            with pytest.raises(aioipc.ClosedError):
                await task
        os.close(reading)
        os.close(writing)

    async def close(queue: MessageQueue) -> None:
        await queue.receive()
        queue.close()

    LOOPS[loop](main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("end", ["served", "error", "cancelled", "cancelled and dropped", "timeout"])
def test_nothing_is_left_to_the_garbage_collector(name: str, loop: str, end: str) -> None:
    class Kept:
        pass

    async def wait(queue: MessageQueue) -> None:
        kept = Kept()
        alive.append(weakref.ref(kept))
        await queue.receive()
        if end == "error":
            raise ZeroDivisionError

    async def once(queue: MessageQueue) -> None:
        task = asyncio.create_task(wait(queue))
        await passes()
        if end == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await task
        elif end.startswith("cancelled"):
            task.cancel()
        else:
            queue.send_nowait(b"x")
        if end != "cancelled and dropped":
            await asyncio.gather(task, return_exceptions=True)
        del task
        await passes()

    async def main() -> None:
        async with small(name) as queue:
            await once(queue)  # what is imported or kept for ever is so afterwards
            gc.collect()
            for _ in range(10):
                await once(queue)
            assert [reference() for reference in alive] == [None] * 11
            assert gc.collect() == 0

    alive: list[weakref.ref[Kept]] = []
    gc.disable()
    try:
        LOOPS[loop](main())
    finally:
        gc.enable()


@pytest.mark.asyncio
async def test_somebody_else_may_ask_for_the_end_of_a_turn(name: str) -> None:
    ends: list[object] = []
    async with small(name) as queue:
        task = asyncio.create_task(queue.receive())
        await passes()
        turn: asyncio.Future[None] = task._fut_waiter  # type: ignore[attr-defined]
        turn.add_done_callback(ends.append)
        queue.send_nowait(b"x")
        assert (await task).data == b"x"
    turn.add_done_callback(ends.append)
    await passes()
    assert ends == [turn, turn]


# Interrupted ------------------------------------------------------------------------------


class HandlerError(Exception):
    pass


class Interrupted(asyncio.Future[None]):
    """Before or after one of its methods has done what it does, a signal is handled."""

    method: str | None = None
    handler: Callable[[], object]

    def _interrupt(self, place: str) -> None:
        if self.method == place:
            self.method = None
            self.handler()

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        self._interrupt("before remove_done_callback")
        count = super().remove_done_callback(fn)
        self._interrupt("after remove_done_callback")
        return count

    def set_result(self, result: None, /) -> None:
        self._interrupt("before set_result")
        super().set_result(result)
        self._interrupt("after set_result")


PLACES = [f"{when} {method}" for method in ("remove_done_callback", "set_result") for when in ("before", "after")]


async def interrupted(place: str, handler: str) -> tuple[asyncio.Task[int], Interrupted]:
    """A task that is interrupted there as it is woken, and its turn."""

    async def wait() -> int:
        await turn
        await asyncio.sleep(0)
        return 5

    def fail() -> None:
        raise HandlerError

    turn = Interrupted()
    task = asyncio.create_task(wait())
    await passes()
    turn.method = place
    turn.handler = fail if handler == "raises" else task.cancel
    return task, turn


@pytest.mark.asyncio
@pytest.mark.parametrize("place", PLACES)
async def test_a_signal_handler_raises_as_a_task_is_woken(place: str) -> None:
    task, turn = await interrupted(place, "raises")
    with pytest.raises(HandlerError):
        await in_a_callback(lambda: _turns.come(turn))
    await passes()
    if not turn.done():  # the descriptor is still ready
        await in_a_callback(lambda: _turns.come(turn))
    assert await task == 5


@pytest.mark.asyncio
@pytest.mark.parametrize("place", PLACES[:3])
async def test_a_signal_handler_cancels_the_task_that_is_woken(place: str) -> None:
    """That of asyncio.Runner does so for SIGINT."""
    task, turn = await interrupted(place, "cancels")
    await in_a_callback(lambda: _turns.come(turn))
    with pytest.raises(asyncio.CancelledError):
        await task


async def in_a_callback(function: Callable[[], object]) -> None:
    """Have the loop call it, and hear of its exception."""

    def call() -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001
            end.set_exception(error)
        else:
            end.set_result(None)

    end = asyncio.get_running_loop().create_future()
    call_soon(call)
    await end


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_signal_handler_raises_as_a_descriptor_is_registered(
    name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the task has heard that, nothing is registered."""

    def add_reader(fileno: int, *arguments: object) -> None:
        if when == "after":
            add(fileno, *arguments)
        raise HandlerError

    loop = asyncio.get_running_loop()
    add = loop.add_reader
    async with small(name) as queue:
        with monkeypatch.context() as patched:
            patched.setattr(loop, "add_reader", add_reader)
            with pytest.raises(HandlerError):
                await queue.receive()
        assert not loop.remove_reader(queue.fileno())
        task = asyncio.create_task(queue.receive())
        await passes()
        queue.send_nowait(b"x")
        async with asyncio.timeout(30):
            assert (await task).data == b"x"


# FIFOs, which may break, and so are watched anew for each step --------------------------------


@asynccontextmanager
async def full(path: str) -> Any:
    """Both ends of a FIFO without room."""
    os.mkfifo(path)
    async with Fifo.open_reader(path, keep_open=True) as reader, Fifo.open_writer(path) as writer:
        with pytest.raises(aioipc.WouldBlock):
            while True:
                writer.send_nowait(bytes(select.PIPE_BUF))
        yield reader, writer


async def make_room(reader: FifoReader, writer: FifoWriter, *tasks: asyncio.Task[None]) -> None:
    """Until these are done."""
    async with asyncio.timeout(30):
        while not all(task.done() for task in tasks):
            if writer.statistics().bytes:
                await reader.receive(select.PIPE_BUF)
            await passes(1)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_fork_in_the_step_of_a_sender(tmp_path: Path, loop: str) -> None:
    """The child shares the parent's epoll object, and must not register there."""

    async def fork(writer: FifoWriter) -> None:
        await writer.send(bytes(select.PIPE_BUF))
        child = os.fork()
        if not child:
            raise SystemExit(0)  # by way of the loop's callback
        assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 -- it ends at once

    async def send(writer: FifoWriter) -> None:
        for _ in range(3):
            await writer.send(bytes(select.PIPE_BUF))

    async def main() -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with full(str(tmp_path / "fifo")) as (reader, writer):
            tasks = [asyncio.create_task(fork(writer)), asyncio.create_task(send(writer))]
            await passes()
            await make_room(reader, writer, *tasks)
        for task in tasks:
            await task
        assert errors == []

    parent = os.getpid()
    try:
        LOOPS[loop](main())
    finally:
        if os.getpid() != parent:
            os._exit(0 if isinstance(sys.exc_info()[1], SystemExit) else 1)


@pytest.mark.asyncio
async def test_all_who_wait_hear_that_they_can_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_writer(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    loop = asyncio.get_running_loop()
    async with full(str(tmp_path / "fifo")) as (reader, writer):
        tasks = [asyncio.create_task(writer.send(bytes(select.PIPE_BUF))) for _ in range(3)]
        await passes()
        with monkeypatch.context() as patched:
            patched.setattr(loop, "add_writer", add_writer)
            await reader.receive(select.PIPE_BUF)
            async with asyncio.timeout(30):
                await tasks[0]  # for it there was room
                for task in tasks[1:]:
                    with pytest.raises(aioipc.LimitError, match="max_user_watches"):
                        await task
        task = asyncio.create_task(writer.send(bytes(select.PIPE_BUF)))
        await passes()
        await make_room(reader, writer, task)


@pytest.mark.asyncio
async def test_a_signal_handler_raises_as_a_sender_is_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is woken all the same."""

    def remove_writer(fileno: int) -> None:
        remove(fileno)
        monkeypatch.undo()
        raise HandlerError

    errors: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(type(context["exception"])))
    remove = loop.remove_writer
    async with full(str(tmp_path / "fifo")) as (reader, writer):
        task = asyncio.create_task(writer.send(bytes(select.PIPE_BUF)))
        await passes()
        monkeypatch.setattr(loop, "remove_writer", remove_writer)
        await make_room(reader, writer, task)
    assert errors == [HandlerError]


def test_the_loop_is_closed_before_they_hear_that_they_can_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_writer(*arguments: object) -> None:
        patch.undo()
        loop.stop()
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        async with full(str(tmp_path / "fifo")) as (reader, writer):
            tasks.extend(asyncio.create_task(writer.send(bytes(select.PIPE_BUF))) for _ in range(3))
            await passes()
            patch.setattr(loop, "add_writer", add_writer)
            await reader.receive(select.PIPE_BUF)
            await asyncio.Event().wait()

    patch = pytest.MonkeyPatch()
    tasks: list[asyncio.Task[None]] = []
    errors: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda error: errors.append(error.exc_value))
    loop = asyncio.new_event_loop()
    tasks.append(loop.create_task(main()))
    loop.run_forever()
    loop.close()
    while tasks:
        task = tasks.pop()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()  # type: ignore[union-attr]
        del task
    gc.collect()
    assert errors == []


# nest_asyncio -----------------------------------------------------------------------------


class Nesting(asyncio.SelectorEventLoop):
    """A loop like those that nest_asyncio has patched."""

    _nest_patched = True

    def run_nested(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.tasks._leave_task(self, task)  # type: ignore[attr-defined]
        try:
            for _ in range(10):
                self.call_soon(lambda: None)
                self._run_once()  # type: ignore[attr-defined]
        finally:
            asyncio.tasks._enter_task(self, task)  # type: ignore[attr-defined]


def test_the_loop_is_run_within_a_step(name: str) -> None:
    async def nest() -> None:
        await queue.receive()
        loop.run_nested()
        found.append("nested")

    async def receive() -> None:
        async for message in queue:
            found.append(message.data)
            if message.data == b"2":
                break

    async def main() -> None:
        loop.set_exception_handler(lambda _, context: found.append(context))
        tasks = [asyncio.create_task(nest()), asyncio.create_task(receive())]
        await passes()
        for number in range(3):
            queue.send_nowait(b"%d" % number)
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)

    found: list[object] = []
    with small(name) as queue, asyncio.Runner(loop_factory=Nesting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Nesting)
        runner.run(main())
    assert found == [b"1", b"2", "nested"]
