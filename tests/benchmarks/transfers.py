"""Messages from process to process: the loops that are timed, the same for all candidates.

Each end is a process of its own.  What is received is compared with what was sent: all of each message up to 1 KiB,
every 16th of the larger ones, whose comparison would take as long as their transfer.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
import re
import resource
import subprocess
import textwrap
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from candidate import Candidate
from candidates_others import Program
from processes import CONTEXT, Failed, NotPossible, perform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from multiprocessing.synchronize import Barrier

T = TypeVar("T")

WARM_UP = 20
"""Round trips that are not counted."""


class Result(NamedTuple):
    """What one process did."""

    began: int = 0
    """When the first message had come, in nanoseconds of the monotonic clock."""
    ended: int = 0
    messages: int = 0
    processor_seconds: float = 0
    trips: tuple[int, ...] = ()
    """Nanoseconds of each round trip."""


@dataclass
class Work:
    """What one process has to do."""

    candidate: Candidate
    role: str
    size: int
    count: int
    ends: int
    """How many messages that mean the end to send, or to wait for."""
    links: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = random.Random(self.size).randbytes(self.size)
        self.end = bytes(self.size)
        self.batch = self.candidate.batch_of(self.size)


def stride(size: int) -> int:
    """Every how many messages one is compared."""
    return 1 if size <= 1024 else 16


# In the processes


def run(work: Work, barrier: Barrier) -> Result:
    """Be one end of a transfer."""
    if isinstance(work.candidate, Program):
        return run_program(work, work.candidate, barrier)
    return run_on(work.candidate.loop, run_ends(work, barrier))


def run_on(loop: str | None, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run on this kind of loop."""
    if loop == "uvloop":
        import uvloop

        return uvloop.run(coroutine)
    return asyncio.run(coroutine)


def processor_seconds() -> float:
    """Of this process and its children, such as one in C."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def over(ends: list[Any], count: int) -> Iterator[Any]:
    """One of the ends for each message, in turn."""
    if len(ends) == 1:
        return itertools.repeat(ends[0], count)
    return itertools.islice(itertools.cycle(ends), count)


async def run_ends(work: Work, barrier: Barrier) -> Result:
    candidate = work.candidate

    async def call(function: Callable[..., Any], *arguments: Any) -> Any:
        if candidate.loop is None:
            return without_await(function)(*arguments)
        return await function(*arguments)

    async def meet() -> None:
        await asyncio.get_running_loop().run_in_executor(None, barrier.wait)

    async with AsyncExitStack() as stack:

        def open_sender(link: Any) -> Awaitable[Any]:
            return stack.enter_async_context(candidate.sender(link, work.size))

        def open_receiver(link: Any) -> Awaitable[Any]:
            return stack.enter_async_context(candidate.receiver(link, work.size))

        if work.role == "send":
            ends = [await open_sender(link) for link in work.links]
            await meet()
            began = processor_seconds()
            await call(send, work, ends)
            outcome = Result(processor_seconds=processor_seconds() - began)
        elif work.role == "receive":
            sources = await asyncio.gather(*map(open_receiver, work.links))
            await meet()
            began = processor_seconds()
            ends_each = work.ends // len(sources)
            taken = await asyncio.gather(*(call(take, work, source, ends_each) for source in sources))
            outcome = add(taken, processor_seconds() - began)
        else:
            there, back = work.links
            if work.role == "echo":
                source, answer = await open_receiver(there), await open_sender(back)
            else:
                answer, source = await open_sender(there), await open_receiver(back)
            await meet()
            outcome = await call(
                echo if work.role == "echo" else ping, work, answer, getattr(source, "__anext__", source)
            )
        await meet()  # nothing is closed before all has arrived
    return outcome


def without_await(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function for what blocks: nothing else may differ."""
    source = re.sub(r"\b(async|await) ", "", textwrap.dedent(inspect.getsource(function)))
    scope: dict[str, Any] = {}
    exec(source, globals(), scope)
    return scope[function.__name__]  # type: ignore[no-any-return]


def add(taken: list[Result], processor_seconds: float) -> Result:
    return Result(
        min(one.began for one in taken),
        max(one.ended for one in taken),
        sum(one.messages for one in taken),
        processor_seconds,
    )


async def send(work: Work, ends: list[Any]) -> None:
    data, end, count = work.data, work.end, work.count
    if work.batch > 1:
        data, end, count = [data] * work.batch, [end], count // work.batch
    for send in over(ends, count):
        await send(data)
    for send in over(ends, work.ends * stride(work.size)):  # one of them is compared
        await send(end)


async def take(work: Work, source: Any, ends: int) -> Result:
    expected, end = work.candidate.expected(work.data), work.candidate.expected(work.end)
    mask = stride(work.size) - 1
    iterates = hasattr(source, "__aiter__")
    first = await anext(source) if iterates else await source()
    began = time.monotonic_ns()
    count = 0
    for message in first if work.batch > 1 else [first]:
        count += 1
        if not count & mask and message != expected:
            check(message, end)
            ends -= 1
    if ends and work.batch > 1:
        while ends:
            for message in await source():
                count += 1
                if not count & mask and message != expected:
                    check(message, end)
                    ends -= 1
    elif ends and iterates:
        async for message in source:
            count += 1
            if not count & mask and message != expected:
                check(message, end)
                ends -= 1
                if not ends:
                    break
    else:
        while ends:
            message = await source()
            count += 1
            if not count & mask and message != expected:
                check(message, end)
                ends -= 1
    return Result(began, time.monotonic_ns(), count)


def check(message: object, end: object) -> None:
    if message != end:
        raise Failed("what was received is not what was sent")


async def ping(work: Work, send: Any, receive: Any) -> Result:
    expected, data, clock = work.candidate.expected(work.data), work.data, time.perf_counter_ns
    trips = []
    for _ in range(WARM_UP + work.count):
        began = clock()
        await send(data)
        message = await receive()
        trips.append(clock() - began)
        if message != expected:
            raise Failed("what came back is not what was sent")
    return Result(trips=tuple(trips[WARM_UP:]))


async def echo(work: Work, send: Any, receive: Any) -> Result:
    data = work.data
    for _ in range(WARM_UP + work.count):
        await receive()
        await send(data)
    return Result()


def run_program(work: Work, candidate: Program, barrier: Barrier) -> Result:
    count = work.count + WARM_UP * (work.role in ("ping", "echo"))
    arguments: dict[str, tuple[object, ...]] = {
        "send": (count, work.ends * stride(work.size), *work.links),
        "receive": (work.ends * stride(work.size), *work.links),
        "ping": (count, *work.links),
        "echo": (count, *work.links),
    }
    command = candidate.command(work.role, work.size, *arguments[work.role])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        barrier.wait()
        process.stdin.write("go\n")
        process.stdin.flush()
        if work.role == "send":
            barrier.wait()
            process.stdin.close()
            output = process.stdout.read()
        else:
            output = process.stdout.read()
            barrier.wait()
    if process.returncode:
        raise Failed(f"{command} ended with {process.returncode}")
    numbers = [int(word) for word in output.split()]
    used = processor_seconds()
    if work.role == "receive":
        return Result(*numbers, processor_seconds=used)
    return Result(processor_seconds=used, trips=tuple(numbers[WARM_UP:]))


# In the process that asks for it


class Measured(NamedTuple):
    """One round of a transfer."""

    seconds: float
    messages: int
    processor_seconds: float = 0
    """Of all processes that took part."""
    trips: tuple[int, ...] = ()
    """Nanoseconds of each round trip."""


def transfer(candidate: Candidate, size: int, count: int, senders: int = 1, receivers: int = 1) -> Measured:
    """Messages from processes to others."""
    if reason := not_possible(candidate, size, senders, receivers):
        raise NotPossible(reason)
    unit = candidate.batch_of(size) * stride(size)
    count = max(1, count // senders // unit) * unit
    links = max(1 if candidate.many_senders else senders, 1 if candidate.many_receivers else receivers)
    with ExitStack() as stack:
        made = [stack.enter_context(candidate.link(CONTEXT, size)) for _ in range(links)]
        works = []
        for index in range(receivers):
            own = made if receivers == 1 else [made[index % links]]
            works.append(Work(candidate, "receive", size, 0, senders, own))
        for index in range(senders):
            own = made if senders == 1 else [made[index % links]]
            works.append(Work(candidate, "send", size, count, receivers, own))
        results = perform([partial(run, work) for work in works])
    taken = add(results[:receivers], sum(result.processor_seconds for result in results))
    sent = senders * (count + receivers * stride(size))
    if taken.messages != sent:
        raise Failed(f"{sent} messages were sent and {taken.messages} received")
    return Measured((taken.ended - taken.began) / 1e9 or 1e-9, sent, taken.processor_seconds)


def not_possible(candidate: Candidate, size: int, senders: int, receivers: int) -> str | None:
    """Why a candidate can't do this."""
    if size > candidate.largest:
        return f"{candidate.largest:,} bytes at most"
    if candidate.batch > 1 and receivers > 1:
        return "one could take the end that another is to see"
    if candidate.batch > 1 and candidate.batch_of(size) == 1:
        return "no more than one at a time"
    if senders > 1 and not candidate.many_senders and candidate.loop is None:
        return "one sender only"
    if receivers > 1 and not candidate.many_receivers and isinstance(candidate, Program):
        return "one receiver only"
    return None


def round_trips(candidate: Candidate, size: int, count: int, far: Candidate | None = None) -> Measured:
    """Messages to another process and back.

    :param far: what the other process uses, if not the same
    """
    if candidate.batch > 1:
        raise NotPossible("one message at a time")
    if reason := not_possible(candidate, size, 1, 1):
        raise NotPossible(reason)
    with ExitStack() as stack:
        links = [stack.enter_context(candidate.link(CONTEXT, size)) for _ in range(2)]
        works = [Work(far or candidate, "echo", size, count, 0, links), Work(candidate, "ping", size, count, 0, links)]
        _, result = perform([partial(run, work) for work in works])
    return Measured(sum(result.trips) / 1e9, count, trips=result.trips)
