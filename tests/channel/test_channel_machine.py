"""A channel against a simple model of it, in whatever order things are done."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

import aioipc
from aioipc import Channel

UNIT = 64
SIZES = st.one_of(
    st.sampled_from([0, 1, 31, 32, 33, 63, 64, 95, 96, 97, 160, 161]), st.integers(0, 700), st.integers(4000, 4200)
)
_names = itertools.count()


def room_of(size: int) -> int:
    return (size + 32 + UNIT - 1) // UNIT * UNIT


class Record:
    """A message in the model: what it is in the ring."""

    def __init__(self, data: bytes, state: str, owner: Channel | None = None) -> None:
        self.data = data
        self.state = state  # reserved, ready, borrowed, gone
        self.owner = owner


class Open:
    """A block that has been entered."""

    def __init__(self, block: Any, record: Record, view: memoryview) -> None:
        self.block = block
        self.record = record
        self.view = view


class ChannelMachine(RuleBasedStateMachine):
    handles = Bundle("handles")
    reserved = Bundle("reserved")
    borrowed = Bundle("borrowed")

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []
        self.ended = False
        self.numbers = itertools.count()
        self.open: set[Channel] = set()
        self.first: Channel | None = None

    @initialize(target=handles, capacity=st.sampled_from([64, 100, 128, 192, 640, 1024, 4096, 8192, 65536 - 64, 65536]))
    def create(self, capacity: int) -> Channel:
        self.capacity = capacity
        self.name = f"/aioipc-test-{os.getpid()}-machine-{next(_names)}"
        self.first = Channel.create(self.name, capacity=capacity)
        self.open.add(self.first)
        return self.first

    # The model

    def sweep(self) -> None:
        while self.records and self.records[0].state == "gone":
            del self.records[0]

    def free(self) -> int:
        self.sweep()
        return self.capacity - sum(room_of(len(record.data)) for record in self.records)

    def ready(self) -> list[Record]:
        return [record for record in self.records if record.state == "ready"]

    def message(self, size: int) -> bytes:
        return (next(self.numbers).to_bytes(4, "little") * (size // 4 + 1))[:size]

    def expected_of_sending(self, room: int) -> type[Exception] | None:
        if self.ended:
            return aioipc.BrokenError
        if room > self.capacity:
            return aioipc.MessageTooLongError
        return aioipc.WouldBlock if room > self.free() else None

    def expected_of_receiving(self) -> type[Exception] | None:
        if self.ready():
            return None
        if self.ended and not any(record.state in ("reserved", "borrowed") for record in self.records):
            return aioipc.EndOfStream
        return aioipc.WouldBlock

    # Sending

    @rule(handle=handles, size=SIZES)
    def send(self, handle: Channel, size: int) -> None:
        data = self.message(size)
        expected = self.expected_of_sending(room_of(size))
        if handle not in self.open:
            expected = aioipc.ClosedError
        if expected is not None:
            with pytest.raises(expected):
                handle.send_nowait(data)
        else:
            handle.send_nowait(data)
            self.records.append(Record(data, "ready"))

    @rule(handle=handles, sizes=st.lists(SIZES, max_size=4))
    def send_many(self, handle: Channel, sizes: list[int]) -> None:
        items = [self.message(size) for size in sizes]
        expected = self.expected_of_sending(sum(map(room_of, sizes)))
        if handle not in self.open:
            expected = aioipc.ClosedError
        if expected is not None:
            with pytest.raises(expected):
                handle.send_many_nowait(items)
        else:
            handle.send_many_nowait(items)
            self.records += [Record(item, "ready") for item in items]

    @rule(target=reserved, handle=handles, size=SIZES)
    def reserve(self, handle: Channel, size: int) -> Any:
        block = handle.reserve_nowait(size)
        expected = self.expected_of_sending(room_of(size))
        if handle not in self.open:
            expected = aioipc.ClosedError
        if expected is not None:
            with pytest.raises(expected):
                block.__enter__()
            return multiple()
        view = block.__enter__()
        data = self.message(size)
        assert len(view) == size
        view[:] = data
        record = Record(data, "reserved", handle)
        self.records.append(record)
        return Open(block, record, view)

    @rule(entered=consumes(reserved), way=st.sampled_from(["commit", "commit", "abort", "keep"]))
    def leave_reserved(self, entered: Open, way: str) -> None:
        record = entered.record
        if way == "abort":
            entered.block.__exit__(ValueError, ValueError(), None)
            record.state = "gone"
        elif record.owner not in self.open:
            with pytest.raises(aioipc.ClosedError):
                entered.block.__exit__(None, None, None)
            record.state = "gone"  # it was given up then, but its view kept the room
        elif way == "keep":
            part = entered.view[:1]
            with pytest.raises(BufferError):
                entered.block.__exit__(None, None, None)
            part.release()
            record.state = "gone"
        else:
            entered.block.__exit__(None, None, None)
            record.state = "ready"

    @precondition(lambda self: not self.ended)
    @rule()
    def fill(self) -> None:
        """The room that is left is exactly what it should be."""
        assert self.first is not None
        size = self.free() // UNIT * UNIT - 32
        if size >= 0:
            with pytest.raises(aioipc.Error):
                self.first.send_nowait(bytes(size + 1))
            self.send(self.first, size)
        with pytest.raises(aioipc.WouldBlock):
            self.first.send_nowait(b"")

    # Receiving

    @rule()
    def drain(self) -> None:
        assert self.first is not None
        while self.ready():
            self.receive(self.first)
        self.receive(self.first)

    @rule(handle=handles)
    def receive(self, handle: Channel) -> None:
        expected = self.expected_of_receiving() if handle in self.open else aioipc.ClosedError
        if expected is not None:
            with pytest.raises(expected):
                handle.receive_nowait()
        else:
            record = self.ready()[0]
            assert handle.receive_nowait() == record.data
            record.state = "gone"

    @rule(handle=handles, count=st.integers(1, 6))
    def receive_many(self, handle: Channel, count: int) -> None:
        expected = self.expected_of_receiving() if handle in self.open else aioipc.ClosedError
        if expected is not None:
            with pytest.raises(expected):
                handle.receive_many_nowait(count)
        else:
            records = self.ready()[:count]
            assert handle.receive_many_nowait(count) == [record.data for record in records]
            for record in records:
                record.state = "gone"

    @rule(target=borrowed, handle=handles)
    def borrow(self, handle: Channel) -> Any:
        block = handle.borrow_nowait()
        expected = self.expected_of_receiving() if handle in self.open else aioipc.ClosedError
        if expected is not None:
            with pytest.raises(expected):
                block.__enter__()
            return multiple()
        view = block.__enter__()
        record = self.ready()[0]
        assert view == record.data
        record.state, record.owner = "borrowed", handle
        return Open(block, record, view)

    @rule(entered=consumes(borrowed), way=st.sampled_from(["finish", "finish", "return", "keep"]))
    def leave_borrowed(self, entered: Open, way: str) -> None:
        record = entered.record
        if record.owner not in self.open:
            with pytest.raises(aioipc.ClosedError):
                entered.block.__exit__(None, None, None)
            return
        assert entered.view == record.data
        if way == "return":
            entered.block.__exit__(ValueError, ValueError(), None)
            record.state = "ready"
            return
        if way == "finish":
            entered.block.__exit__(None, None, None)
            record.state = "gone"
            return
        left = entered.view[:]
        with pytest.raises(BufferError):
            entered.block.__exit__(None, None, None)
        left.release()
        record.state = "ready"

    # Handles

    @rule(target=handles)
    def open_another(self) -> Any:
        if len(self.open) > 5:
            return multiple()
        handle = Channel.open(self.name)
        self.open.add(handle)
        return handle

    @rule(handle=handles)
    def close(self, handle: Channel) -> None:
        if handle is self.first:
            return
        handle.close()
        self.open.discard(handle)
        for record in self.records:
            if record.owner is handle and record.state == "borrowed":
                record.state = "ready"

    @rule(handle=handles, really=st.integers(0, 5))
    def end(self, handle: Channel, really: int) -> None:
        if really == 0 and handle in self.open:
            handle.end_nowait()
            self.ended = True

    # What always holds

    @invariant()
    def statistics_agree(self) -> None:
        if self.first is None:
            return
        counted = [record for record in self.records if record.state in ("ready", "borrowed")]
        for handle in self.open:
            found = handle.statistics()
            assert (found.messages, found.bytes) == (len(counted), sum(len(record.data) for record in counted))
            assert (found.capacity, found.ended, found.dead_peers) == (self.capacity, self.ended, 0)

    def teardown(self) -> None:
        if self.first is not None:
            for handle in self.open:
                handle.close()
            self.first.unlink()


ChannelMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestChannelMachine = ChannelMachine.TestCase
