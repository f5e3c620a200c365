"""What is the same for the buffers of POSIX and System V shared memory: views, sizes, lifetimes, forks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import in_child, in_proc, running

import aioipc
from aioipc import posix, sysv

PAGE = os.sysconf("SC_PAGE_SIZE")


class Object:
    """Where shared memory is to be found, and what it looks like without aioipc."""

    create: Callable[..., Any]
    open: Callable[..., Any]
    where: str
    """As peers/shm.c has it."""
    source: str
    """An expression of the same object for open() in another interpreter."""

    def exists(self) -> bool:
        raise NotImplementedError

    def mappings(self) -> int:
        """How often this process has it in its memory."""
        raise NotImplementedError


class PosixObject(Object):
    def __init__(self, name: str) -> None:
        self.create = partial(posix.SharedMemory.create, name)
        self.open = partial(posix.SharedMemory.open, name)
        self.where = name
        self.source = f"posix.SharedMemory.open({name!r})"
        gc.collect()  # what other tests have left
        self._mapped_before = self._mapped()

    def exists(self) -> bool:
        return os.path.exists("/dev/shm" + self.where)

    def mappings(self) -> int:
        return self._mapped() - self._mapped_before

    @staticmethod
    def _mapped() -> int:
        # Where it was created it goes by its number: it had no name when it was opened.
        return sum(file.startswith("/dev/shm/") for file in maps())


class SysvObject(Object):
    def __init__(self, key: int) -> None:
        self.create = partial(sysv.SharedMemory.create, key)
        self.open = partial(sysv.SharedMemory.open, key)
        self.where = str(key)
        self.source = f"sysv.SharedMemory.open({key})"
        self._key = key

    def exists(self) -> bool:
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        return any(int(line.split()[0]) == self._key for line in lines)

    def mappings(self) -> int:
        # Also when the key is free again: the name of a mapping stays.
        return maps().count(f"/SYSV{self._key:08x}")


def maps() -> list[str]:
    """What is mapped into this process: names of files, one for each mapping."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [words[5] for words in map(str.split, lines) if len(words) > 5]


@pytest.fixture(params=["posix", "sysv"])
def memory(request: pytest.FixtureRequest) -> Object:
    if request.param == "posix":
        return PosixObject(request.getfixturevalue("name"))
    return SysvObject(request.getfixturevalue("key"))


def peer(shm: str, *words: object) -> bytes:
    """What the C program prints."""
    return subprocess.check_output([shm, *map(str, words)])


# The buffer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 10 * PAGE])
def test_every_byte_is_shared(memory: Object, shm: str, size: int) -> None:
    with memory.create(size=size) as segment, memory.open() as other:
        for handle in (segment, other):
            buffer = handle.buffer
            assert (handle.size, len(buffer), buffer.nbytes) == (size, size, size)
            assert (buffer.format, buffer.itemsize, buffer.ndim, buffer.readonly) == ("B", 1, 1, False)
            assert handle.statistics().size == size
        assert not any(segment.buffer)
        segment.buffer[:] = bytes(number % 251 for number in range(size))
        assert other.buffer == segment.buffer
        other.buffer[size - 1] = ord("z")
        assert peer(shm, "read", memory.where, size - 1, 1) == b"z"
        peer(shm, "write", memory.where, 0, "A")
        assert segment.buffer[0] == other.buffer[0] == ord("A")
        for index in (size, -size - 1):
            with pytest.raises(IndexError):
                segment.buffer[index] = 0


def test_processes_see_each_others_writes(memory: Object) -> None:
    def answer() -> None:
        with memory.open() as other:
            assert other.buffer[:5] == b"hello"
            other.buffer[5:8] = b"you"

    with memory.create(size=8) as segment:
        segment.buffer[:5] = b"hello"
        in_child(answer)
        assert bytes(segment.buffer) == b"helloyou"


def test_memory_that_a_c_program_made(memory: Object, shm: str) -> None:
    peer(shm, "create", memory.where, 5000, "0640")
    peer(shm, "write", memory.where, 4990, "hello")
    with memory.open() as segment:
        assert segment.size == 5000
        assert segment.statistics().mode == 0o640
        assert segment.buffer[4990:4995] == b"hello"
        segment.buffer[4990] = ord("j")
    assert peer(shm, "read", memory.where, 4990, 5) == b"jello"
    assert memory.exists()


def test_a_c_program_finds_the_plain_object(memory: Object, shm: str) -> None:
    with memory.create(size=5000, mode=0o604):
        assert peer(shm, "stat", memory.where).split()[:2] == [b"5000", b"604"]


def test_a_buffer_is_a_new_view_each_time(memory: Object) -> None:
    with memory.create(size=10) as segment:
        with segment.buffer as view:
            view[0] = 1
        assert segment.buffer[0] == 1  # though the first one is released
        assert segment.buffer.cast("H").shape == (5,)


def test_numpy_takes_it_as_it_is(memory: Object) -> None:
    with memory.create(size=8000) as segment, memory.open(read_only=True) as other:
        table = np.ndarray((10, 100), dtype=np.float64, buffer=segment.buffer)
        table[:] = np.arange(1000).reshape(10, 100)
        assert np.frombuffer(other.buffer, dtype=np.float64).sum() == 499_500
        assert np.asarray(other.buffer).dtype == np.uint8
        assert np.shares_memory(np.asarray(segment.buffer), table)
        for array in (np.asarray(other.buffer), np.frombuffer(other.buffer, dtype=np.float64)):
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


def test_read_only(memory: Object) -> None:
    with memory.create(size=10) as segment, memory.open(read_only=True) as other:
        segment.buffer[0] = 7
        assert (other.buffer.readonly, other.buffer[0]) == (True, 7)
        with pytest.raises(TypeError, match="read-only"):
            other.buffer[0] = 8
        with open("/dev/zero", "rb", buffering=0) as zeros, pytest.raises(TypeError):
            zeros.readinto(other.buffer)
        assert segment.buffer[0] == 7


# Views that are out ---------------------------------------------------------------------------------


def test_views_outlive_their_handle(memory: Object) -> None:
    with memory.create(size=PAGE) as segment:
        whole = segment.buffer
        part = segment.buffer[10:20]
        array = np.frombuffer(segment.buffer, dtype=np.uint8)
        part[0] = 3
    assert not memory.exists()
    assert memory.mappings() == 1
    assert whole[10] == array[10] == 3
    array[11] = 4
    assert part[1] == 4
    del array
    whole.release()
    assert memory.mappings() == 1
    part.release()
    assert memory.mappings() == 0


def test_views_of_a_handle_that_was_collected(memory: Object) -> None:
    memory.create(size=10, persist=True).close()
    segment = memory.open()
    view = segment.buffer
    with pytest.warns(ResourceWarning, match="unclosed"):
        del segment
        gc.collect()
    view[9] = 5
    assert memory.mappings() == 1
    del view
    assert memory.mappings() == 0


def test_views_in_a_cycle(memory: Object) -> None:
    with memory.create(size=10) as segment:
        cycle: list[Any] = [segment.buffer, np.asarray(segment.buffer)]
        cycle.append(cycle)
    del cycle
    gc.collect()
    assert memory.mappings() == 0


def test_views_at_the_exit_of_the_interpreter(memory: Object) -> None:
    program = f"""if True:
        import sys
        import numpy
        from aioipc import posix, sysv
        with {memory.source} as segment:
            view = segment.buffer
            array = numpy.frombuffer(segment.buffer, dtype=numpy.uint8)
            sys.modules["somewhere"] = segment.buffer
        array[1] = view[0] + 1
        class Last:
            def __del__(self, view=view):
                view[2] = 9
        last = Last()
        """
    with memory.create(size=10) as segment:
        segment.buffer[0] = 7
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        assert bytes(segment.buffer[:3]) == b"\x07\x08\x09"


# Lifetimes ------------------------------------------------------------------------------------------


def test_the_creator_removes_on_exit_and_an_opener_does_not(memory: Object) -> None:
    with memory.create(size=10):
        with memory.open():
            pass
        assert memory.exists()
    assert not memory.exists()
    with pytest.raises(ZeroDivisionError):
        with memory.create(size=10):
            raise ZeroDivisionError
    assert not memory.exists()


def test_persist_and_take_over(memory: Object) -> None:
    with memory.create(size=100, persist=True) as segment:
        segment.buffer[99] = 1
    assert memory.exists()
    with pytest.raises(ValueError, match="exists and has 100 bytes, fewer than 101"):
        memory.create(size=101, exist_ok=True)
    assert memory.mappings() == 0
    for size in (100, 50):
        with memory.create(size=size, exist_ok=True, mode=0o666, persist=True) as again:
            assert (again.size, again.buffer[99], again.statistics().mode) == (100, 1, 0o600)
    with memory.create(size=1, exist_ok=True):
        pass
    assert not memory.exists()
    with memory.create(size=101, exist_ok=True) as new:
        assert (new.size, any(new.buffer)) == (101, False)
    assert not memory.exists()


def test_it_must_not_exist(memory: Object) -> None:
    with memory.create(size=10) as segment:
        segment.buffer[0] = 1
        with pytest.raises(aioipc.ExistsError, match="exist_ok=True"):
            memory.create(size=10)
        assert segment.buffer[0] == 1


def test_not_found(memory: Object) -> None:
    for read_only in (False, True):
        with pytest.raises(aioipc.NotFoundError, match=r"create\(\) makes"):
            memory.open(read_only=read_only)


def test_closed(memory: Object) -> None:
    with memory.create(size=10) as segment:
        assert repr(segment).endswith(" open>")
        segment.close()
        segment.close()
        assert repr(segment).endswith(" closed>")
        for use in (lambda: segment.buffer, segment.statistics):
            with pytest.raises(aioipc.ClosedError, match="is closed"):
                use()
        assert memory.mappings() == 0
        assert memory.exists()
    assert not memory.exists()


def test_collected_unclosed_it_warns_and_leaks_nothing(memory: Object, shm: str) -> None:
    peer(shm, "create", memory.where, 10, "0600")
    before = os.listdir("/proc/self/fd")
    segment = memory.open()
    with pytest.warns(ResourceWarning, match=r"unclosed <aioipc.*SharedMemory .* open>"):
        del segment
        gc.collect()
    assert os.listdir("/proc/self/fd") == before
    assert memory.mappings() == 0
    assert memory.exists()


def test_no_descriptor_is_left_whatever_happens(memory: Object) -> None:
    before = os.listdir("/proc/self/fd")
    with memory.create(size=10) as segment, memory.open() as other:
        for failing in (
            lambda: memory.create(size=10),
            lambda: memory.create(size=11, exist_ok=True),
            lambda: memory.create(size=2**62),
        ):
            with pytest.raises((aioipc.Error, ValueError)):
                failing()
        views = [segment.buffer, np.asarray(other.buffer)]
    assert os.listdir("/proc/self/fd") == before  # though views are out
    del views
    assert memory.mappings() == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"size": 0}, ValueError, "size 0 must be 1 to"),
        ({"size": -1}, ValueError, "size -1 must be"),
        ({"size": 2**63}, ValueError, "must be 1 to 9,223,372,036,854,775,807"),
        ({"size": 1.5}, TypeError, "float"),
        ({"size": "4096"}, TypeError, "str"),
        ({"size": None}, TypeError, "NoneType"),
        ({"size": 10, "mode": 0o1000}, ValueError, "permission bits"),
        ({"size": 10, "mode": "rw"}, TypeError, "str"),
        ({}, TypeError, "size"),
    ],
)
def test_arguments_of_create(memory: Object, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        memory.create(**options)
    assert not memory.exists()


# Processes --------------------------------------------------------------------------------------------


def test_after_a_fork(memory: Object) -> None:
    with memory.create(size=10) as segment:
        view = segment.buffer

        def inherited() -> int:
            for use in (lambda: segment.buffer, segment.statistics):
                with pytest.raises(RuntimeError, match="opened before a fork"):
                    use()
            view[0] = 1
            segment.__exit__(None, None, None)
            view[1] = 2
            view.release()
            return memory.mappings()

        assert in_child(inherited) == 0
        assert memory.exists()
        assert memory.mappings() == 1
        assert bytes(view[:2]) == bytes(segment.buffer[:2]) == b"\x01\x02"


def test_a_child_that_drops_an_inherited_handle_gives_no_warning(memory: Object) -> None:
    handles = [memory.create(size=10)]

    def drop() -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            handles.clear()
            gc.collect()
        return len(caught)

    assert in_child(drop) == 0
    assert memory.exists()
    with handles[0] as segment:
        segment.buffer[0] = 1


def test_the_resource_tracker_has_no_part_in_it(memory: Object) -> None:
    """A segment survives a process that only opened it; multiprocessing would remove it then."""
    program = f"""if True:
        import os, sys
        from aioipc import posix, sysv
        {memory.source}.buffer[0] = 8  # never closed
        with {memory.source} as segment:
            segment.buffer[1] = 9
        assert not [name for name in sys.modules if name.startswith("multiprocessing")]
        print(open(f"/proc/self/task/{{os.getpid()}}/children").read())
        """
    with memory.create(size=10) as segment:
        output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        assert output.split() == []  # no process was started
        assert memory.exists()
        assert bytes(segment.buffer[:2]) == b"\x08\x09"


def test_a_removed_object_stays_for_those_who_have_it(memory: Object, shm: str) -> None:
    with running(shm, "hold", create_by_peer(memory, shm), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"attached\n"
        with memory.open() as segment:
            peer(shm, "remove", memory.where)
            assert segment.statistics().removed
            assert not memory.exists()
            segment.buffer[0] = 1
            with memory.create(size=20) as other:
                assert not other.statistics().removed
                assert (other.size, other.buffer[0], segment.buffer[0]) == (20, 0, 1)
        holder.stdin.close()


def create_by_peer(memory: Object, shm: str) -> str:
    peer(shm, "create", memory.where, 10, "0600")
    return memory.where


def test_names_that_come_with_their_module() -> None:
    program = """if True:
        import sys
        import aioipc
        from aioipc import posix, sysv
        unused = "_memory", "posix.message_queue", "sysv.message_queue", "channel"
        assert not [name for name in unused if f"aioipc.{name}" in sys.modules]
        for package in (posix, sysv):
            assert {"SharedMemory", "SharedMemoryStatistics", "MessageQueue"} <= set(dir(package))
            assert package.SharedMemory is package.SharedMemory
            try:
                package.Nonsense
            except AttributeError as error:
                assert str(error) == f"module {package.__name__!r} has no attribute 'Nonsense'"
            else:
                raise AssertionError
        from aioipc.posix import *
        assert SharedMemory is posix.SharedMemory
        """
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("module", ["_ring._binding", "posix._calls", "channel", "posix.fifo", "sysv.semaphore"])
def test_any_module_can_be_the_first(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import aioipc.{module}"], check=True)


def test_the_segment_of_a_c_program_is_counted_out(key: int, shm: str) -> None:
    """A view that is out keeps a segment attached, a closed handle does not."""
    with sysv.SharedMemory.create(key, size=10) as segment:
        with sysv.SharedMemory.open(key) as other:
            assert in_proc("shm", segment.id)["nattch"] == 2
            view = other.buffer
        assert segment.statistics().attached == 2
        view.release()
        assert segment.statistics().attached == 1
