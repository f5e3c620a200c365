"""The awaitable behind `async for`: it keeps to the protocols of a coroutine, and loses nothing."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import itertools
import statistics
import sys
import time
import types
import weakref
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest

from aioipc._waiting._immediate import Gate, Iterator, record


class Record(NamedTuple):
    data: Any
    number: int


@types.coroutine
def suspend(value: object) -> Generator[object, object, object]:
    return (yield value)


def counting() -> Callable[[], tuple[object, int]]:
    numbers = iter(range(1_000_000))
    return lambda: (b"data", next(numbers))


def unwanted() -> Any:
    raise AssertionError("must not be called")


def fails() -> Any:
    raise BlockingIOError


async def slowly() -> Record:
    assert await suspend("suspended") == "resumed"
    return Record(b"slow", -1)


def step(awaitable: Any, value: object = None) -> object:
    """What the awaitable returns in this step."""
    with pytest.raises(StopIteration) as stop:
        awaitable.send(value)
    return stop.value.value


@pytest.fixture(autouse=True)
def a_new_turn() -> None:
    """The operations of all tests are those of one thread."""
    Gate().renew()


# The gate -----------------------------------------------------------------------------


def test_gate() -> None:
    gate = Gate()
    assert (gate.held, gate.inherited) == (False, False)
    assert gate.enter()
    gate.held = True
    assert not gate.enter()
    gate.held = False
    assert gate.enter()


def test_a_turn_is_spent_in_the_end_and_renewed() -> None:
    gate = Gate()
    deadline = time.monotonic() + 30
    while gate.enter():
        assert time.monotonic() < deadline
    assert not gate.held
    assert not gate.enter()
    gate.renew()
    assert gate.enter()


def spend(gate: Gate) -> int:
    """Enter until the turn is over; how often that was possible."""
    deadline = time.monotonic() + 30
    for count in itertools.count():
        if not gate.enter():
            return count
        assert time.monotonic() < deadline
    raise AssertionError


def test_those_who_give_way_share_the_next_pass() -> None:
    gates = [Gate() for _ in range(20)]
    gates[0].renew()
    spend(gates[0])
    alone = 0
    for _ in range(20):  # in some of them others may have the processor
        gates[0].come_back(gates[0].give_way())
        alone = max(alone, spend(gates[0]))
    passes = [gate.give_way() for gate in gates]
    shares = []
    for gate, gave_way_in in zip(gates, passes, strict=True):
        gate.come_back(gave_way_in)
        shares.append(spend(gate))
    assert len(set(passes)) == 1
    assert statistics.median(shares) < alone / 2
    assert min(shares) > 0


def test_new_gates_do_not_make_new_turns() -> None:
    """A task that opens a handle for each operation gives way in the end."""
    deadline = time.monotonic() + 30
    while Gate().enter():
        assert time.monotonic() < deadline
    Gate().renew()
    assert Gate().enter()


def test_arguments_of_come_back() -> None:
    for argument in ("", -1, 2**70):
        with pytest.raises((TypeError, OverflowError)):
            Gate().come_back(argument)


# The awaitable ------------------------------------------------------------------------


def test_success_is_immediate() -> None:
    iterator = Iterator(Gate(), counting(), Record, unwanted)
    assert aiter(iterator) is iterator
    for number in range(5):
        result = step(anext(iterator))
        assert result == Record(b"data", number)
        assert type(result) is Record


def test_it_is_a_coroutine_to_asyncio_anyio_and_trio() -> None:
    awaitable = anext(Iterator(Gate(), counting(), Record, unwanted))
    assert isinstance(awaitable, collections.abc.Coroutine)
    assert asyncio.iscoroutine(awaitable)
    assert awaitable.__await__() is awaitable
    with pytest.raises(StopIteration) as stop:
        next(awaitable.__await__())
    assert stop.value.value == (b"data", 0)


def test_nothing_happens_before_it_is_driven() -> None:
    with pytest.warns(RuntimeWarning, match=r"Iterator.__anext__\(\) was never awaited"):
        anext(Iterator(Gate(), unwanted, Record, unwanted))
    dropped = anext(Iterator(Gate(), unwanted, Record, unwanted))
    dropped.close()
    with pytest.raises(RuntimeError, match="cannot reuse"):
        dropped.send(None)


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError(), GeneratorExit()], ids=repr)
def test_thrown_into_before_it_starts_it_takes_nothing(error: BaseException) -> None:
    awaitable = anext(Iterator(Gate(), unwanted, Record, unwanted))
    with pytest.raises(type(error)) as caught:
        awaitable.throw(error)
    assert caught.value is error
    with pytest.raises(RuntimeError, match="cannot reuse"):
        awaitable.send(None)


@pytest.mark.filterwarnings("ignore:.*was never awaited")
def test_throw_in_its_older_forms() -> None:
    for arguments in ((ValueError,), (ValueError, "x"), (ValueError, ValueError("x"), None), (ValueError, None)):
        with pytest.raises(ValueError, match=r"x|^$"):
            anext(Iterator(Gate(), unwanted, Record, unwanted)).throw(*arguments)
    with pytest.raises(TypeError, match="BaseException"):
        anext(Iterator(Gate(), unwanted, Record, unwanted)).throw(5)
    with pytest.raises(TypeError):
        anext(Iterator(Gate(), unwanted, Record, unwanted)).throw()


@pytest.mark.parametrize("way", ["the attempt fails", "the gate is held", "the turn is spent"])
def test_otherwise_it_becomes_the_coroutine(way: str) -> None:
    gate = Gate()
    attempt = fails if way == "the attempt fails" else unwanted
    gate.held = way == "the gate is held"
    while way == "the turn is spent" and gate.enter():
        pass
    awaitable = anext(Iterator(gate, attempt, Record, slowly))
    assert awaitable.send(None) == "suspended"
    assert step(awaitable, "resumed") == (b"slow", -1)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        awaitable.send(None)


def test_throw_and_close_reach_the_coroutine() -> None:
    async def perform() -> Record:
        try:
            await suspend(1)
        except KeyError:
            seen.append("thrown")
            await suspend(2)
        finally:
            seen.append("left")
        raise AssertionError

    seen: list[str] = []
    awaitable = anext(Iterator(Gate(), fails, Record, perform))
    assert awaitable.send(None) == 1
    assert awaitable.throw(KeyError()) == 2
    with pytest.raises(IndexError):
        awaitable.throw(IndexError())
    assert seen == ["thrown", "left"]

    awaitable = anext(Iterator(Gate(), fails, Record, perform))
    awaitable.send(None)
    awaitable.close()
    awaitable.close()
    assert seen == ["thrown", "left", "left"]
    with pytest.raises(RuntimeError, match="cannot reuse"):
        awaitable.throw(ValueError())


def test_closed_from_inside() -> None:
    def perform() -> Any:
        awaitable.close()
        coroutine = slowly()
        coroutines.append(coroutine)
        return coroutine

    coroutines: list[Any] = []
    awaitable = anext(Iterator(Gate(), fails, Record, perform))
    with pytest.raises(RuntimeError, match="cannot reuse"):
        awaitable.send(None)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        awaitable.send(None)
    coroutines.pop().close()


def test_the_coroutine_may_end_the_iteration_or_fail() -> None:
    async def end() -> Record:
        raise StopAsyncIteration

    async def collect() -> list[Record]:
        return [record async for record in Iterator(Gate(), fails, Record, end)]

    assert step(collect()) == []
    with pytest.raises(BlockingIOError):
        anext(Iterator(Gate(), fails, Record, fails)).send(None)


def test_an_interrupt_is_not_an_error_of_the_attempt() -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        anext(Iterator(Gate(), interrupted, Record, unwanted)).send(None)


def test_an_attempt_that_returns_no_tuple() -> None:
    with pytest.raises(TypeError, match="made of a tuple"):
        anext(Iterator(Gate(), lambda: [1, 2], Record, unwanted)).send(None)


def test_a_tuple_that_others_know_stays_a_tuple() -> None:
    known = (b"data", 1)
    result = step(anext(Iterator(Gate(), lambda: known, Record, unwanted)))
    assert type(result) is Record
    assert type(known) is tuple
    assert result == known


@pytest.mark.filterwarnings("ignore:.*was never awaited")
def test_arguments() -> None:
    class Other(tuple):
        pass

    for kind in (int, tuple, Other):
        with pytest.raises(TypeError, match="subclass of tuple without further fields"):
            Iterator(Gate(), unwanted, kind, unwanted)
    for arguments in ((), (Gate(),), (5, unwanted, Record, unwanted), (Gate(), unwanted, 5, unwanted)):
        with pytest.raises(TypeError):
            Iterator(*arguments)
    with pytest.raises(TypeError):
        Gate(1)
    with pytest.raises(TypeError, match="cannot create"):
        type(anext(Iterator(Gate(), unwanted, Record, unwanted)))()


# What is used again -------------------------------------------------------------------


def test_an_awaitable_that_is_kept_is_not_used_again() -> None:
    iterator = Iterator(Gate(), counting(), Record, unwanted)
    kept = [anext(iterator) for _ in range(3)]
    assert len({id(awaitable) for awaitable in kept}) == 3
    assert [step(awaitable) for awaitable in kept] == [(b"data", n) for n in range(3)]
    for awaitable in kept:
        with pytest.raises(RuntimeError, match="cannot reuse"):
            awaitable.send(None)
    again = anext(iterator)
    assert again not in kept
    assert step(again) == (b"data", 3)


def test_an_exception_that_is_kept_keeps_its_value() -> None:
    iterator = Iterator(Gate(), counting(), Record, unwanted)
    kept = []
    for _ in range(3):
        with pytest.raises(StopIteration) as stop:
            anext(iterator).send(None)
        kept.append(stop.value)
    assert [exception.value.number for exception in kept] == [0, 1, 2]


def test_a_message_is_not_kept_longer_than_the_next_step() -> None:
    class Data:
        pass

    references = []

    def attempt() -> tuple[Data, int]:
        data = Data()
        references.append(weakref.ref(data))
        return data, 0

    async def take(count: int) -> None:
        iterator = Iterator(Gate(), attempt, Record, unwanted)
        for _ in range(count):
            await anext(iterator)
        assert [reference() is None for reference in references[:-1]] == [True] * (count - 1)

    assert step(take(5)) is None
    assert references[-1]() is None


def test_nothing_leaks() -> None:
    async def take(count: int) -> None:
        async for made in iterator:
            if made.number == count:
                return

    async def slow(count: int) -> None:
        slow_iterator = Iterator(Gate(), fails, Record, at_once)
        for _ in range(count):
            await anext(slow_iterator)

    async def at_once() -> Record:
        return Record(b"", 0)

    def blocks_after(count: int) -> int:
        nonlocal iterator
        gate.renew()
        iterator = Iterator(gate, counting(), Record, at_once)
        step(slow(count))
        for _ in range(count):
            anext(iterator).close()
            with pytest.raises(KeyError):
                anext(iterator).throw(KeyError)
        gc.collect()
        return sys.getallocatedblocks()

    gate = Gate()
    iterator = Iterator(gate, counting(), Record, at_once)
    for _ in range(3):
        blocks_after(100)
    assert abs(blocks_after(100) - blocks_after(2000)) < 200


@pytest.mark.filterwarnings("ignore:.*was never awaited")
def test_cycles_are_collected() -> None:
    class Owner:
        pass

    def cycle(state: str) -> weakref.ref[Owner]:
        async def perform() -> Record:
            await suspend(owner)
            raise AssertionError

        owner = Owner()
        owner.iterator = Iterator(Gate(), (lambda: (owner, 1)) if state == "done" else fails, Record, perform)
        owner.awaitable = anext(owner.iterator)
        if state == "done":
            step(owner.awaitable)
        elif state == "waiting":
            owner.awaitable.send(None)
        return weakref.ref(owner)

    references = [cycle(state) for state in ("fresh", "waiting", "done")]
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


# Records ------------------------------------------------------------------------------


def test_record() -> None:
    fields = (b"data", 1)
    made = record(Record, fields)
    assert (made, type(made), type(fields)) == (fields, Record, tuple)
    assert made.data is fields[0]
    assert type(record(Record, tuple(iter([b"data", 2])))) is Record
    assert record(Record, ()) == ()


def test_arguments_of_record() -> None:
    for arguments in ((), (Record,), (tuple, (1, 2)), (5, (1, 2)), (Record, [1, 2]), (Record, (), 0)):
        with pytest.raises(TypeError):
            record(*arguments)
