"""Somebody overwrites the shared memory of a channel that is open: every operation says so, none hangs."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from conftest import counted_passes, until
from test_channel import small
from test_channel_lines import RECEIVING, SENDING

import aioipc
from aioipc import Channel

# Places in the file: struct ring_header.
TAIL, NEXT, HEAD, REWIND = 192, 264, 320, 384
PEERS, SLOTS = 640, 256
DATA = 65536


@pytest.fixture
def memory(name: str) -> Iterator[mmap.mmap]:
    """The shared memory of a full channel."""
    with small(name) as channel:
        channel.send_many_nowait([b"a", b"b", b"c", b"d"])
        with open(Path("/dev/shm" + name), "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            head, tail, next = (struct.unpack_from("=Q", memory, place)[0] for place in (HEAD, TAIL, NEXT))
            assert (head, tail, next) == (0, 256, 0)
            yield memory


def values(count: int) -> list[int]:
    return [1, 63, 2**32, 2**63, 2**64 - 64, 2**64 - 1][:count]


@pytest.mark.anyio
@pytest.mark.parametrize("value", values(6), ids=hex)
@pytest.mark.parametrize("place", [HEAD, TAIL], ids=["head", "tail"])
async def test_a_position_that_can_not_be_right(name: str, memory: mmap.mmap, place: int, value: int) -> None:
    handle = Channel.open(name)
    struct.pack_into("=Q", memory, place, value)
    with handle, anyio.fail_after(30):
        for receiving in RECEIVING.values():
            with pytest.raises(aioipc.CorruptError, match="the positions of its records can't be right: somebody"):
                await receiving(handle)
        for sending in SENDING.values():
            with pytest.raises(aioipc.CorruptError):
                await sending(handle, b"x")
        for use in (
            handle.receive_nowait,
            handle.statistics,
            lambda: handle.send_nowait(b""),
            lambda: handle.receive_many_nowait(1),
            lambda: handle.send_many_nowait([b""]),
            handle.borrow_nowait().__enter__,
            handle.reserve_nowait(0).__enter__,
        ):
            with pytest.raises(aioipc.CorruptError) as caught:
                use()
            assert caught.value.filename == name


@pytest.mark.anyio
@pytest.mark.parametrize("place", [NEXT, REWIND], ids=["next", "rewind"])
async def test_where_receivers_look(name: str, memory: mmap.mmap, place: int) -> None:
    with Channel.open(name) as handle, anyio.fail_after(30):
        for value in (1, 320, 2**63):
            struct.pack_into("=Q", memory, place, value)
            for receiving in RECEIVING.values():
                with pytest.raises(aioipc.CorruptError, match="position"):
                    await receiving(handle)
            assert handle.statistics().messages == 4


@pytest.mark.anyio
@pytest.mark.parametrize("field", ["state", "size"])
async def test_a_record_that_can_not_be_right(name: str, memory: mmap.mmap, field: str) -> None:
    state = memory[DATA : DATA + 8]
    with Channel.open(name) as handle, anyio.fail_after(30):
        for value in (2**64 - 1, 225, 2**40) if field == "size" else (0, 2**64 - 1, 5, 255):
            place = DATA + (8 if field == "size" else 0)
            if field == "state" and value in (5, 255):  # a kind that there is not, or a peer
                memory[place : place + 8] = bytes([value]) + state[1:]
            else:
                struct.pack_into("=Q", memory, place, value)
            for receiving in RECEIVING.values():
                with pytest.raises(aioipc.CorruptError, match=f"the {field} of a record can't be right"):
                    await receiving(handle)
            for sending in SENDING.values():
                with pytest.raises(aioipc.CorruptError):
                    await sending(handle, b"x")
            with pytest.raises(aioipc.CorruptError):
                handle.statistics()


@pytest.mark.anyio
@pytest.mark.parametrize("place", [128, 256], ids=["send", "receive"])
async def test_a_lock_that_nobody_can_hold(name: str, memory: mmap.mmap, place: int) -> None:
    with Channel.open(name) as handle, anyio.fail_after(30):
        for holder in (257, 2**31 - 1, 2**32 - 1):
            struct.pack_into("=I", memory, place, holder)
            with pytest.raises(aioipc.CorruptError, match="the holder of a lock"):
                if place == 128:
                    await handle.send(b"x")
                else:
                    await handle.receive()
        struct.pack_into("=I", memory, place, 0)


@pytest.mark.anyio
async def test_all_of_it_is_overwritten(name: str, memory: mmap.mmap) -> None:
    """With anything: an error, or an end, but neither a crash nor a hang."""
    for seed in range(20):
        with small(f"{name}-{seed}") as channel, Channel.open(f"{name}-{seed}") as handle:
            channel.send_many_nowait([b"a", b"b"])
            block = handle.borrow_nowait()
            block.__enter__()
            with open(f"/dev/shm{name}-{seed}", "r+b") as file:  # noqa: ASYNC230
                file.seek(128)
                file.write(os.urandom(131072 - 128) if seed else b"\xff" * (131072 - 128))
            for use in (
                channel.statistics,
                channel.receive_nowait,
                lambda: channel.send_nowait(b""),
                handle.end_nowait,
            ):
                with pytest.raises((aioipc.CorruptError, aioipc.WouldBlock, aioipc.BrokenError)):
                    use()
            block.__exit__(None, None, None)


def let_all_be_dead(name: str, slots: range) -> None:
    """Write that there are peers, each with something reserved or borrowed."""
    with open("/dev/shm" + name, "r+b") as file:
        for slot in slots:
            file.seek(PEERS + 64 * slot)
            file.write(struct.pack("=III", 1, 0, 1))


def test_what_keeps_a_new_peer_out(name: str, memory: mmap.mmap) -> None:
    memory[DATA : DATA + 8] = bytes(8)
    let_all_be_dead(name, range(SLOTS))
    with pytest.raises(aioipc.CorruptError, match="the state of a record"):
        Channel.open(name)


@pytest.mark.anyio
async def test_the_loop_goes_on_while_many_are_cleaned_up_after(name: str) -> None:
    dead = 20
    with small(name, 2**24) as channel, anyio.fail_after(60):
        for _ in range(2**24 // 64 // 1024):
            channel.send_many_nowait([b""] * 1024)
        let_all_be_dead(name, range(1, 1 + dead))
        async with counted_passes() as passes, anyio.create_task_group() as group:
            group.start_soon(channel.send, b"x")
            await until(lambda: channel.statistics().dead_peers == dead)
            group.cancel_scope.cancel()
        assert passes[0] >= dead
