"""Peers that are killed or stopped at any instruction: nothing lost, doubled or torn, and the others go on.

tests/peers/channel.c dies and stops where it is told to.  The loop of the test does not run meanwhile: when it does
again, its tasks are asleep, and only the death, or what the dead have done before it, can wake them.
How many are killed is set by --kills; a run prints its seed, and --seed repeats it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from conftest import PEERS, Task, compile_c, counted_passes, until

import aioipc
from aioipc import Channel
from aioipc._ring import _binding, _files

RING = Path(_files.__file__).parent
TEXT = b"p" * 10
"""What channel.c sends."""
CASES = 20
"""About as many as there are of those that step through instructions, times loops."""
STEPS = 300
"""About as many instructions has what a peer is killed in."""


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C program that dies where it is told to: see peers/channel.c."""
    others = [RING / file for file in ("ring.c", "peers.c", "file.c")]
    return compile_c(PEERS / "channel.c", tmp_path_factory.mktemp("peers") / "channel", *others)


@pytest.fixture
def name(new_name: Callable[[], str]) -> Iterator[str]:
    """The name of a channel, which is removed with its doorbells."""
    name = new_name()
    yield name
    with suppress(FileNotFoundError):
        descriptor = os.open(f"/dev/shm{name}", os.O_RDONLY)
        _, bell_id, _ = _binding.identify(descriptor)
        os.close(descriptor)
        _files._unlink(_files._doorbells(bell_id))
        os.unlink(f"/dev/shm{name}")


def killed_after(steps: int, peer: str, name: str, words: str) -> bool:
    """Let the peer do what the words say, and kill it so many instructions after "begin".

    Whether it was killed; False if it has done all before.
    """
    result = subprocess.run([peer, name, str(steps), *words.split()], input=b"k", capture_output=True, check=False)
    if b"ptrace: Operation not permitted" in result.stderr:
        pytest.skip("the tracing of a child is forbidden here")
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout == b"stopped\ngone\n"


def all_steps(kills: int, rng: random.Random) -> Iterator[int]:
    """After how many instructions to kill: as many numbers, evenly, as are this test's share of the kills."""
    stride = max(1, CASES * STEPS // kills)
    steps = rng.randrange(stride)
    while True:
        yield steps
        steps += stride


@contextmanager
def handles(name: str, count: int) -> Iterator[list[Channel]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Channel.open(name)) for _ in range(count)]


@asynccontextmanager
async def receiving(channel: Channel) -> AsyncIterator[list[bytes]]:
    """A task that receives, and what it has got.  When the block begins, it is asleep."""
    received: list[bytes] = []

    async def receive() -> None:
        async for message in channel:
            received.append(message)

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        await until(lambda: channel.statistics().tasks_waiting_receive == 1)
        yield received
        group.cancel_scope.cancel()


# Killed at any instruction ----------------------------------------------------


SENDS = {
    "send": "join begin send",
    "reserve, commit": "join reserve begin commit",
    "abort": "join reserve begin abort",
    # What somebody has borrowed is the survivors' again.  They were rung for when it was sent, but that was taken away.
    "borrow": "join send arm_messages begin borrow",
    "return": "join send borrow arm_messages begin return",
    "finish": "join send borrow arm_messages begin finish",
    "keep": "join send borrow arm_messages begin keep",
    "leave while borrowing": "join send borrow arm_messages begin leave",
    # A bell that has rung for others too.
    "arm": "join send begin arm_messages",
    "arm, leave": "join send arm_messages begin leave",
    "join": "begin join",
}


@pytest.mark.parametrize("what", SENDS)
@pytest.mark.anyio
async def test_receivers_survive_a_death_at_any_instruction(
    name: str, peer: str, what: str, kills: int, rng: random.Random
) -> None:
    """All that was published when the peer died arrives, without anybody else's doing anything."""
    async with Channel.create(name, capacity=2**14) as own:
        for steps in all_steps(kills, rng):
            with handles(name, 2) as (receiver, sender):
                async with receiving(receiver) as received:
                    was_killed = killed_after(steps, peer, name, SENDS[what])
                    expected = own.statistics().messages
                    with anyio.fail_after(30):
                        await until(lambda received=received, expected=expected: len(received) == expected)
                        await sender.send(b"after")
                        await until(lambda received=received, expected=expected: len(received) > expected)
                    assert received == [TEXT] * expected + [b"after"], steps
                    assert own.statistics().messages == 0
            if not was_killed:
                break


RECEIVES = {
    "receive": "join begin receive",
    "borrow": "join begin borrow",
    "return": "join borrow arm_room begin return",
    "finish": "join borrow arm_room begin finish",
    "keep": "join borrow arm_room begin keep",
    "leave while borrowing": "join borrow arm_room begin leave",
    "abort": "join receive reserve arm_room begin abort",
    "leave while reserving": "join receive reserve arm_room begin leave",
    "arm": "join receive begin arm_room",
    "arm, leave": "join receive arm_room begin leave",
}


@pytest.mark.parametrize("what", RECEIVES)
@pytest.mark.anyio
async def test_senders_survive_a_death_at_any_instruction(
    name: str, peer: str, what: str, kills: int, rng: random.Random
) -> None:
    """If there was room when the peer died, or its death has made it, they send."""
    async with Channel.create(name, capacity=64) as own:
        for steps in all_steps(kills, rng):
            with handles(name, 2) as (sender, receiver):
                await receiver.send(b"first")
                async with anyio.create_task_group() as group:
                    task = Task(group, lambda sender=sender: sender.send(b"second"))
                    await until(lambda sender=sender: sender.statistics().tasks_waiting_send == 1)
                    was_killed = killed_after(steps, peer, name, RECEIVES[what])
                    left = own.statistics().messages
                    with anyio.fail_after(30):
                        if left > 0:
                            assert await receiver.receive() == b"first", steps
                        await task.done.wait()
                        assert await receiver.receive() == b"second"
                assert own.statistics().messages == 0
            if not was_killed:
                break


@pytest.mark.anyio
async def test_an_end_survives_a_death_at_any_instruction(
    new_name: Callable[[], str], peer: str, kills: int, rng: random.Random
) -> None:
    for steps in all_steps(kills, rng):
        name = new_name()
        async with Channel.create(name, capacity=2**14) as own:
            async with anyio.create_task_group() as group:
                task = Task(group, lambda own=own: anext(own, None))
                await until(lambda own=own: own.statistics().tasks_waiting_receive == 1)
                was_killed = killed_after(steps, peer, name, "join begin end")
                with anyio.fail_after(30):
                    if not own.statistics().ended:
                        await own.end()
                    await task.done.wait()
        if not was_killed:
            break


@pytest.mark.anyio
async def test_cleaning_up_survives_a_death_at_any_instruction(
    name: str, peer: str, kills: int, rng: random.Random
) -> None:
    """Whoever comes next does so again."""
    Channel.create(name, capacity=2**14, persist=True).close()
    for steps in all_steps(kills, rng):
        for words in ("join send borrow kill", "join reserve lock_send make_room kill"):
            assert subprocess.run([peer, name, "-", *words.split()], check=False).returncode == -signal.SIGKILL
        # Nobody is there to clean up.  It lies first in the ring, and is lent once more if all goes well.
        was_killed = killed_after(steps, peer, name, "begin join reap")
        with handles(name, 2) as (receiver, sender):
            with anyio.fail_after(30):
                assert await receiver.receive() == TEXT, steps
                await sender.send(b"after")
                assert await receiver.receive() == b"after"
            assert receiver.statistics()[:2] == (0, 0)
        if not was_killed:
            break
