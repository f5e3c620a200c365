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
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import PEERS, Task, compile_c, counted_passes, until

import aioipc
from aioipc import Channel
from aioipc._ring import _files

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
    others = [RING / file for file in ("bells.c", "file.c", "peers.c", "ring.c")]
    return compile_c(PEERS / "channel.c", tmp_path_factory.mktemp("peers") / "channel", "-Wl,--wrap=write", *others)


def killed_after(steps: int, peer: str, name: str, words: str) -> bool:
    """Let the peer do what the words say, and kill it so many instructions after "begin".

    Whether it was killed; False if it has done all before.
    """
    result = subprocess.run([peer, name, str(steps), *words.split()], input=b"k", capture_output=True, check=False)
    if b"ptrace: Operation not permitted" in result.stderr:
        pytest.skip("the tracing of a child is forbidden here")
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout == b"stopped\ngone\n"


@contextmanager
def stopped(peer: str, name: str, words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A peer that has stopped.  When the block ends, it is no more."""
    with subprocess.Popen([peer, name, "-", *words.split()], **options) as process:
        try:
            assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT).si_status == signal.SIGSTOP
            yield process
        finally:
            process.kill()
            process.wait()


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
                    if rng.random() < 0.5:
                        own._watch.look()  # the news of the death, before the sleeper's loop runs
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
                    if rng.random() < 0.5:
                        own._watch.look()
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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_cleaning_up_survives_a_death_at_any_instruction(
    name: str, peer: str, kills: int, rng: random.Random
) -> None:
    """Whoever comes next does so again."""
    Channel.create(name, capacity=2**14, persist=True).close()
    # It is long: it goes over all slots, and waits a little for each lock.
    for steps in all_steps(max(1, kills // 100), rng):
        with ExitStack() as stack:
            for words in ("send borrow", "reserve", "reserve lock_send make_room", "lock_receive"):
                stack.enter_context(stopped(peer, name, f"join {words} stop"))
        # Nobody is there to clean up after them.
        was_killed = killed_after(steps, peer, name, "begin join reap")
        with handles(name, 2) as (receiver, sender):
            with anyio.fail_after(30):
                assert await receiver.receive() == TEXT, steps
                await sender.send(b"after")
                assert await receiver.receive() == b"after"
            assert receiver.statistics()[:2] == (0, 0)
        if not was_killed:
            break


# Overwritten at any instruction -----------------------------------------------


@pytest.mark.parametrize(
    ("place", "values", "words", "said"),
    [
        ("the send lock, by a peer that there is not", "128:100:0:100", "lock_in_vain", "busy"),
        ("head", "320:0:64:6400", "look", "corrupt"),
        ("rewind", "384:0:64:6400", "return", ""),
    ],
)
def test_who_overwrites_all_the_time_holds_nobody_up(
    name: str, peer: str, place: str, values: str, words: str, said: str
) -> None:
    """What is tried again because others may have been in the way ends, also if they always are."""
    with Channel.create(name, capacity=2**14) as channel:
        channel.send_many_nowait([TEXT] * 3)
        command = [peer, name, f"overwrite={values}:1:200000", "join", "borrow", "begin", words]
        result = subprocess.run(command, capture_output=True, check=False, text=True)
        if "ptrace: Operation not permitted" in result.stderr:
            pytest.skip("the tracing of a child is forbidden here")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, said, ""), place


# Stopped ----------------------------------------------------------------------


IN_SEND_LOCK = [
    "lock_send",
    "lock_send make_room",
    "lock_send make_room allocate",
    "lock_send make_room allocate publish",
]
IN_RECEIVE_LOCK = ["lock_receive", "lock_receive find", "lock_receive find consume", "lock_receive find take"]
REST = {
    "lock_send": "make_room allocate publish unlock_send wake_receivers",
    "make_room": "allocate publish unlock_send wake_receivers",
    "allocate": "publish unlock_send wake_receivers",
    "publish": "unlock_send wake_receivers",
    "unlock_send": "wake_receivers",
    "lock_receive": "find consume unlock_receive wake_senders",
    "find": "consume unlock_receive wake_senders",
    "consume": "unlock_receive wake_senders",
    "take": "unlock_receive finish",
    "unlock_receive": "wake_senders",
}


@pytest.mark.parametrize("ends", ["continued", "killed"])
@pytest.mark.parametrize("where", IN_SEND_LOCK + IN_RECEIVE_LOCK)
@pytest.mark.anyio
async def test_a_peer_stopped_in_a_lock_stops_nobody_else(name: str, peer: str, where: str, ends: str) -> None:
    """Other loops run, what does not wait does not, and what waits goes on as soon as it can."""
    async with Channel.create(name, capacity=128) as own:
        await own.send(b"first")
        words = f"join {where} stop {REST[where.split()[-1]]} leave"
        with stopped(peer, name, words) as process, handles(name, 1) as (other,):
            received: list[bytes] = []
            refused = own.send_nowait if where in IN_SEND_LOCK else lambda _: own.receive_nowait()
            with pytest.raises(aioipc.WouldBlock):
                refused(b"in vain")
            # The other side is free.
            if where in IN_SEND_LOCK:
                received.append(own.receive_nowait())
            elif "consume" not in where:
                own.send_nowait(b"second")

            async def receive() -> None:
                async for message in own:
                    received.append(message)

            async with counted_passes() as passes, anyio.create_task_group() as group:
                group.start_soon(receive)
                sender = Task(group, lambda: other.send_many([b"third", b"fourth"]))
                await until(lambda: own.statistics().tasks_waiting_receive == 1)
                if where != IN_RECEIVE_LOCK[2]:  # then there is room, and nobody to wait for
                    await until(lambda: other.statistics().tasks_waiting_send == 1)
                so_far = passes[0]
                await until(lambda: passes[0] > so_far + 100)

                if ends == "continued":
                    process.send_signal(signal.SIGCONT)
                else:
                    process.kill()
                with anyio.fail_after(30):
                    assert process.wait() == (0 if ends == "continued" else -signal.SIGKILL)
                    await sender.done.wait()
                    await until(lambda: received[-1:] == [b"fourth"])
                group.cancel_scope.cancel()

        is_sent = where in IN_SEND_LOCK and (ends == "continued" or "publish" in where)
        is_taken = where in IN_RECEIVE_LOCK and (ends == "continued" or "consume" in where)
        expected = [b"first"] * (not is_taken) + [TEXT] * is_sent
        if where in IN_RECEIVE_LOCK and "consume" not in where:
            expected.append(b"second")
        assert received == [*expected, b"third", b"fourth"]
        assert own.statistics().dead_peers == (ends == "killed")


@pytest.mark.parametrize("ends", ["continued", "killed"])
@pytest.mark.parametrize(
    "where", ["lock_send make_room allocate publish", "lock_send make_room allocate publish unlock_send"]
)
@pytest.mark.anyio
async def test_a_peer_stopped_before_it_rings(name: str, peer: str, where: str, ends: str) -> None:
    """The others do not miss it in the end."""
    async with Channel.create(name, capacity=128) as own, receiving(own) as received:
        words = f"join {where} stop {REST[where.split()[-1]]} leave"
        with stopped(peer, name, words) as process:
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            process.send_signal(signal.SIGCONT if ends == "continued" else signal.SIGKILL)
            with anyio.fail_after(30):
                await until(lambda: received == [TEXT])
            process.wait()


@pytest.mark.anyio
async def test_a_bell_for_which_there_is_no_page_at_first_is_heard(name: str, peer: str) -> None:
    async with Channel.create(name, capacity=128) as own, receiving(own) as received:
        with stopped(peer, name, "join lack_page send stop"), anyio.fail_after(30):
            await until(lambda: received == [TEXT])


# Creators, and places ---------------------------------------------------------


@pytest.mark.anyio
async def test_a_dead_creators_channel_is_taken_over(name: str) -> None:
    code = f"""
import asyncio, os
from aioipc import Channel

async def main():
    async with Channel.create({name!r}, capacity=4096) as channel:
        await channel.send_many([b"first", b"second", b"third"])
        async with channel.reserve(100), channel.borrow() as view:
            assert view == b"first"
            os.kill(os.getpid(), 9)

asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with pytest.raises(aioipc.ExistsError):
        Channel.create(name)
    async with Channel.create(name, exist_ok=True) as taken:
        assert taken.capacity == 4096
        assert taken.statistics().dead_peers == 1
        assert await taken.receive_many(10) == [b"first", b"second", b"third"]
        await taken.send(b"x" * taken.max_message_size)  # what was reserved is free
        assert len(await taken.receive()) == taken.max_message_size
    with pytest.raises(aioipc.NotFoundError):
        Channel.open(name)


def test_two_take_over_at_once(name: str) -> None:
    """And both have the same channel, also if there is none when they begin."""
    code = f"""
import asyncio, sys
from aioipc import Channel

async def main():
    for line in sys.stdin:
        async with Channel.create({name!r}, exist_ok=True, persist=True) as channel:
            await channel.send(sys.argv[1].encode())
            print("sent", flush=True)
            sys.stdin.readline()

asyncio.run(main())
"""
    with ExitStack() as stack:
        processes = []
        for number in range(2):
            command = [sys.executable, "-c", code, str(number)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)

        def tell_all() -> None:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go on\n")
                process.stdin.flush()

        for _ in range(100):
            tell_all()
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "sent\n"
            with Channel.create(name, exist_ok=True) as channel:
                assert sorted(channel.receive_many_nowait(10)) == [b"0", b"1"]
            tell_all()


@pytest.mark.parametrize("is_watched", [True, False])
@pytest.mark.anyio
async def test_the_places_of_the_dead_are_free(name: str, peer: str, is_watched: bool) -> None:
    with ExitStack() as stack:
        own = stack.enter_context(Channel.create(name, capacity=2**14))
        if not is_watched:
            own.close()
        for _ in range(3):
            with stopped(peer, name, "crowd stop", stdout=subprocess.PIPE) as process:
                with pytest.raises(aioipc.LimitError, match="256"):
                    Channel.open(name)
                assert process.stdout is not None
                assert process.stdout.readline() == (b"255\n" if is_watched else b"256\n")
            with Channel.open(name) as other:
                await other.send(b"message")
                assert await other.receive() == b"message"
                dead = other.statistics().dead_peers
        assert dead == 3 * (255 if is_watched else 256)
