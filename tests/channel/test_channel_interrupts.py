"""What a signal handler, or a fork in another thread, finds half done: nothing is left over, nothing of others lost."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import anyio
import pytest
from conftest import doorbells, in_child, until

import aioipc
from aioipc import Channel
from aioipc.posix import MessageQueue


def inherited() -> list[str]:
    """What this process, a child of a fork, has of channels."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [target for target in found if target.startswith("/dev/shm/aioipc")]


def test_a_child_has_nothing_of_what_another_thread_opens(name: str, races: int) -> None:
    def open_and_close() -> None:
        while not over:
            Channel.open(name).close()

    over: list[bool] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Channel.create(name):
            threads = [threading.Thread(target=open_and_close) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                assert [found for _ in range(races // 10) if (found := in_child(inherited))] == []
            finally:
                over.append(True)
                for thread in threads:
                    thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_interrupted_as_it_gets_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def link_and_interrupt(*arguments: object, **options: object) -> None:
        link(*arguments, **options)  # type: ignore[arg-type]
        bells.extend(doorbells(name))
        raise KeyboardInterrupt

    link = os.link
    bells: list[os.PathLike[str]] = []
    monkeypatch.setattr(os, "link", link_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        Channel.create(name)
    monkeypatch.undo()
    assert len(bells) == 2
    assert not any(map(os.path.exists, ["/dev/shm" + name, *bells]))
    with Channel.create(name):
        pass


def test_interrupted_before_another_takes_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one stays."""

    def link_and_interrupt(*arguments: object, **options: object) -> None:
        link(*arguments, **options)  # type: ignore[arg-type]
        monkeypatch.undo()
        found = doorbells(name)
        os.unlink("/dev/shm" + name)
        others.append(Channel.create(name))
        assert doorbells(name) != found
        raise KeyboardInterrupt

    link = os.link
    others: list[Channel] = []
    monkeypatch.setattr(os, "link", link_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        Channel.create(name)
    with others.pop():
        Channel.open(name).close()


@pytest.fixture
def foreign() -> Iterator[Callable[[], None]]:
    """Opens what gets the lowest number that is free, and in the end sees to it that it is open still."""
    opened: list[int] = []
    yield lambda: opened.append(os.open("/dev/null", os.O_RDONLY))
    gc.collect()
    assert opened
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize("way", ["create", "open"])
def test_interrupted_as_it_closes_a_descriptor(
    name: str,
    way: str,
    descriptors: Callable[[], int],
    foreign: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread gets the number; that is not closed."""

    def close_and_interrupt(descriptor: int) -> None:
        close(descriptor)
        if sys._getframe(2 if sys._getframe(1).f_code.co_name == "close" else 1).f_code.co_name == "__init__":
            monkeypatch.undo()
            foreign()
            raise KeyboardInterrupt

    close = os.close
    if way == "open":
        Channel.create(name, persist=True).close()
    before = descriptors()
    monkeypatch.setattr(os, "close", close_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(Channel, way)(name)
    gc.collect()
    assert descriptors() == before + 1
    assert os.path.exists("/dev/shm" + name) == (way == "open")


@pytest.mark.parametrize("function", ["open", "fstat"])
def test_interrupted_between_its_descriptors(
    name: str, function: str, descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call it is before: all are closed."""

    def interrupted_at(number: int) -> Callable[..., object]:
        left = [None] * number

        def call(*arguments: object, **options: object) -> object:
            if not left:
                monkeypatch.undo()
                raise KeyboardInterrupt
            left.pop()
            return original(*arguments, **options)

        return call

    original = getattr(os, function)
    with Channel.create(name):
        before = descriptors()
        for number in range(20):
            monkeypatch.setattr(os, function, interrupted_at(number))
            try:
                Channel.open(name).close()
                break
            except KeyboardInterrupt:
                pass
            gc.collect()
            assert descriptors() == before
        monkeypatch.undo()
        assert number >= 2


# The first wait ----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["listen", "watch"])
@pytest.mark.anyio
async def test_interrupted_in_its_first_wait_a_handle_can_wait_again(
    name: str, where: str, descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def listen(direction: int) -> int:
        if direction == 1:
            raise KeyboardInterrupt
        return int(original(direction))

    def watch(*arguments: object, **options: object) -> None:
        original(*arguments, **options)
        raise KeyboardInterrupt

    with Channel.create(name) as channel:
        before = descriptors()
        for _ in range(2):
            with monkeypatch.context() as patch:
                original = getattr(channel._doorbells, f"_{where}")
                patch.setattr(channel._doorbells, f"_{where}", listen if where == "listen" else watch)
                with pytest.raises(KeyboardInterrupt):
                    await channel.receive()
            assert descriptors() <= before + 2
        async with anyio.create_task_group() as group:
            group.start_soon(channel.receive)
            await until(lambda: channel.statistics().tasks_waiting_receive == 1)
            channel.send_nowait(b"message")
        assert descriptors() == before + 2


@pytest.mark.parametrize("make", [Channel.create, MessageQueue.create])
@pytest.mark.anyio
async def test_interrupted_as_it_gets_in_line_it_leaves_no_ghost(
    name: str, make: Callable[[str], Channel | MessageQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(name) as handle:
        with anyio.move_on_after(0.001):
            await handle.receive()
        places = handle._receiving.places if isinstance(handle, Channel) else handle._handle.reading.places
        assert places is not None
        join = places.join

        def join_and_interrupt(*arguments: object) -> object:
            join(*arguments)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(places, "join", join_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            await handle.receive()
        monkeypatch.undo()
        assert handle.statistics().tasks_waiting_receive == 0
        with pytest.raises(aioipc.WouldBlock, match="empty"):
            handle.receive_nowait()
