"""Fixtures: unique names that are removed afterwards, peers in C, children with other rights."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import posix_ipc
import pytest
import sniffio
import sysv_ipc
import trio

from aioipc._ring import _deaths
from aioipc._waiting import workers

PEERS = Path(__file__).parent / "peers"
NOBODY = 65534
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | 0x40000

_names = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--races", type=int, default=3000, help="how often each race is run (3,000)")
    parser.addoption("--kills", type=int, default=300, help="how many processes tests of crashes kill (300)")
    parser.addoption("--write-snapshots", action="store_true", help="write tests/cli/snapshots anew, to be looked at")
    parser.addoption("--seed", type=int, default=None, help="repeat the races of a run that printed this seed")


def pytest_configure(config: pytest.Config) -> None:
    # A run that is ended by SIGTERM, as by timeout(1), removes what it has made, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Where a shell runs them in the background, it has this ignored, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.seed is None:
        config.option.seed = random.randrange(2**32)


def pytest_report_header(config: pytest.Config) -> str:
    option = config.option
    return f"aioipc: {option.races:,} of each race, {option.kills:,} kills, --seed {option.seed}"


@pytest.fixture
def races(request: pytest.FixtureRequest) -> int:
    return int(request.config.option.races)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.option.kills)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that --seed repeats."""
    return random.Random(f"{request.config.option.seed} {request.node.nodeid}")


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Each test removes all that it makes.  That can be told where nobody else makes anything: see .ci/run."""
    if os.environ.get("AIOIPC_NAMESPACE") != "own":
        yield
        return
    before = _in_namespace()
    yield
    left = _in_namespace() - before
    for name in left:  # not to be found by the tests that follow
        Path("/dev/shm", name).unlink(missing_ok=True)
    assert not left


def _in_namespace() -> set[str]:
    found = set(os.listdir("/dev/shm"))
    for kind in ("msg", "sem", "shm"):
        found.update(f"{kind} {line.split()[1]}" for line in Path("/proc/sysvipc", kind).read_text().splitlines()[1:])
    return found


@pytest.fixture
def new_name() -> Iterator[Callable[[], str]]:
    """Makes names of POSIX objects and channels; all that has these names is removed in the end."""
    made: list[str] = []

    def make() -> str:
        made.append(f"/aioipc-test-{os.getpid()}-{next(_names)}")
        return made[-1]

    yield make
    for name in made:
        remove_named(name)


def remove_named(name: str) -> None:
    """Remove the POSIX objects and the channel of this name, if there are any."""
    with suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue(name)
    with suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_semaphore(name)
    remove_doorbells(name)
    with suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)


def doorbells(name: str) -> list[Path]:
    """The FIFOs that belong to a channel, by the id in its header; none if there is none."""
    with suppress(OSError), open("/dev/shm" + name, "rb", opener=_no_waiting) as file:
        header = file.read(64)
        if header.startswith(b"AIPCRING"):
            number = int.from_bytes(header[56:], sys.byteorder)
            return [Path(f"/dev/shm/aioipc.{number:016x}.{bell}") for bell in ("messages", "room")]
    return []


def remove_doorbells(name: str) -> None:
    for path in doorbells(name):
        path.unlink(missing_ok=True)


def _no_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


@pytest.fixture
def name(new_name: Callable[[], str]) -> str:
    return new_name()


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """How many descriptors this process has; that of the watch for dead peers, which it keeps, has been opened."""
    _deaths.watch("")
    gc.collect()  # of earlier tests
    return lambda: len(os.listdir("/proc/self/fd"))


@pytest.fixture
def new_key() -> Iterator[Callable[[], int]]:
    """Makes keys that nobody uses; the System V queues, sets and segments of these keys are removed in the end."""
    made: list[int] = []

    def make() -> int:
        made.append(unused_key())
        return made[-1]

    yield make
    for key in made:
        remove_keyed(key)


def unused_key() -> int:
    """A key that nobody uses."""
    while True:
        key = random.SystemRandom().randrange(1, 2**31)
        if not any(_find_keyed(key)):
            return key


def remove_keyed(key: int) -> None:
    """Remove the System V queue, set and segment of this key, if there are any."""
    for found in _find_keyed(key):
        found.remove()


def _find_keyed(key: int) -> Iterator[sysv_ipc.MessageQueue | sysv_ipc.Semaphore | sysv_ipc.SharedMemory]:
    for kind in (sysv_ipc.MessageQueue, sysv_ipc.Semaphore, sysv_ipc.SharedMemory):
        with suppress(sysv_ipc.ExistentialError):
            found = kind(key, 0, 0)
            if isinstance(found, sysv_ipc.SharedMemory):  # it attaches what it finds
                found.detach()
            yield found


@pytest.fixture
def key(new_key: Callable[[], int]) -> int:
    return new_key()


@pytest.fixture(scope="session")
def mq(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C program at the other end of a message queue: see peers/mq.c."""
    return compile_c(PEERS / "mq.c", tmp_path_factory.mktemp("peers") / "mq")


@pytest.fixture(scope="session")
def sem(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C program that uses POSIX semaphores: see peers/sem.c."""
    return compile_c(PEERS / "sem.c", tmp_path_factory.mktemp("peers") / "sem")


@pytest.fixture(scope="session")
def shm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C program that uses shared memory: see peers/shm.c."""
    return compile_c(PEERS / "shm.c", tmp_path_factory.mktemp("peers") / "shm")


@pytest.fixture(scope="session")
def sysv_peer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C program at the other end of System V objects: see peers/sysv.c."""
    return compile_c(PEERS / "sysv.c", tmp_path_factory.mktemp("peers") / "sysv")


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compares a text with a file of this name beside the test, in which words stand for what varies."""

    def compare(name: str, text: str, **varying: object) -> None:
        for word, value in varying.items():
            text = text.replace(str(value), word)
        path = request.path.parent / "snapshots" / f"{name}.txt"
        if request.config.option.write_snapshots:
            path.write_text(text)
        assert text == path.read_text(), f"see {path}; --write-snapshots writes it anew"

    return compare


def compile_c(source: Path, program: Path, *others: Path | str) -> str:
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]
    sources = map(str, (source, *others))
    # All functions are found at the start: a test may count instructions.
    subprocess.run([*command, *sources, "-o", str(program), "-Wl,-z,now", "-lrt", "-pthread"], check=True)
    return str(program)


def complaints(errors: str) -> list[str]:
    """What a program in development mode wrote to standard error, but for asyncio's word on steps that took 0.1 s: they
    tell of a slow machine."""
    return [line for line in errors.splitlines() if not line.startswith("Executing <")]


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """No more can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that must end well when the block does, and is killed when the block fails."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks, threads and processes run until something holds that they bring about."""
    with anyio.fail_after(30):
        while not condition():
            await anyio.lowlevel.checkpoint()


class Task:
    """A task of any loop that can be cancelled, and whose result is kept."""

    def __init__(self, group: anyio.abc.TaskGroup, operation: Callable[[], Awaitable[object]]) -> None:
        self.scope = anyio.CancelScope()
        self.result: object = None
        self.done = anyio.Event()
        group.start_soon(self._run, operation)

    async def _run(self, operation: Callable[[], Awaitable[object]]) -> None:
        with self.scope:
            self.result = await operation()
        self.done.set()

    async def cancel(self) -> None:
        self.scope.cancel()
        await self.done.wait()


@asynccontextmanager
async def counted_passes() -> AsyncIterator[list[int]]:
    """How often the loop has run."""

    async def count() -> None:
        while True:
            counted[0] += 1
            await anyio.lowlevel.checkpoint()

    counted = [0]
    async with anyio.create_task_group() as group:
        group.start_soon(count)
        yield counted
        group.cancel_scope.cancel()


async def passes(count: int = 3) -> None:
    """Let the loop run so often."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def call_soon(function: Callable[[], object]) -> None:
    """Have the running loop call it: not in a task."""
    if sniffio.current_async_library() == "trio":
        trio.lowlevel.current_trio_token().run_sync_soon(function)
    else:
        asyncio.get_running_loop().call_soon(function)


async def times_out(operation: Callable[[], Awaitable[object]], seconds: float = 0.01) -> bool:
    """Whether the loop's own kind of timeout ends an operation."""
    if sniffio.current_async_library() == "trio":
        with trio.move_on_after(seconds) as scope:
            await operation()
        return scope.cancelled_caught
    try:
        async with asyncio.timeout(seconds):
            await operation()
    except TimeoutError:
        return True
    return False


def worker_threads() -> set[str]:
    """The threads of aioipc in this process, also those that are about to end for want of work."""
    found = set()
    for thread in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if Path(f"/proc/self/task/{thread}/comm").read_text() == "aioipc\n":
                found.add(thread)
    return found


def in_proc(kind: str, id: int) -> dict[str, int] | None:
    """What /proc/sysvipc/msg, sem or shm says about a System V object; None if it does not exist."""
    names, *lines = map(str.split, Path("/proc/sysvipc", kind).read_text().splitlines())
    for line in lines:
        row = dict(zip(names, line, strict=True))
        if row[names[1]] == str(id):
            return {name: int(value, 8 if name == "perms" else 10) for name, value in row.items()}
    return None


def kernel(name: str) -> int:
    """The value of a kernel parameter."""
    return int(Path("/proc/sys/kernel", name).read_text())


def in_child(function: Callable[[], Any]) -> Any:
    """Call the function in a forked child, and return its result or raise its exception here."""
    # A thread that is about to end may hold a lock, of the allocator say, which the child would
    # wait for in vain.  One that is in the kernel does not.
    while worker_threads() and not workers.in_the_kernel():
        time.sleep(0.001)
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # Python warns of a fork beside other threads, as it should
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = (function(), None)
            except BaseException as error:  # noqa: BLE001
                answer = (None, error)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(answer))
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    result, error = pickle.loads(answer)
    if error is not None:
        raise error
    return result


def as_nobody(function: Callable[..., Any], having: Callable[[], Any] | None = None) -> Any:
    """Call the function in a child of another user without any rights.

    :param having: makes its argument, with all rights
    """
    if os.geteuid() != 0:
        pytest.skip("it takes root to become another user")

    def drop_and_call() -> Any:
        arguments = () if having is None else (having(),)
        become(NOBODY)
        return function(*arguments)

    return in_child(drop_and_call)


def become(user: int) -> None:
    """Give up all rights but those of this user."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def in_own_namespace(function: Callable[[], Any], user: int = NOBODY, **sysctl: str) -> Any:
    """Call the function in a child of another user, or of root, which has an IPC namespace of its own.

    :param sysctl: values that are set there first, by their names after "kernel." or "fs.mqueue."
    """
    if os.geteuid() != 0:
        pytest.skip("it takes root to have an IPC namespace of one's own")

    def drop_and_call() -> Any:
        if ctypes.CDLL(None).unshare(_CLONE_NEWIPC) != 0:
            raise NotImplementedError
        for name, value in sysctl.items():
            places = (Path("/proc/sys", folder, name) for folder in ("kernel", "fs/mqueue"))
            next(filter(Path.exists, places)).write_text(value)
        become(user)
        return function()

    try:
        return in_child(drop_and_call)
    except NotImplementedError:
        pytest.skip("an IPC namespace of one's own is not to be had here")


def with_own_shm(options: str, function: Callable[[], Any]) -> Any:
    """Call the function in a child of root which has a /dev/shm of its own, mounted with these options."""

    def mount_and_call() -> Any:
        libc = ctypes.CDLL(None)
        if libc.mount(b"none", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), options.encode()) != 0:
            raise NotImplementedError
        return function()

    return with_own_mounts(mount_and_call)


def with_mqueue(function: Callable[[Path], Any]) -> Any:
    """Call the function in a child of root in which one mqueue file system is mounted, with its mount point."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)

        def mount_and_call() -> Any:
            unmount_mqueue()
            libc = ctypes.CDLL(None)
            if libc.mount(b"none", folder.encode(), b"mqueue", ctypes.c_ulong(0), None) != 0:
                raise NotImplementedError
            return function(Path(folder))

        return with_own_mounts(mount_and_call)


def unmount_mqueue() -> None:
    """Let there be no mqueue file system in this mount namespace."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        words = line.split()
        if words[words.index("-") + 1] == "mqueue":
            assert ctypes.CDLL(None).umount(os.fsencode(words[4])) == 0


def with_own_mounts(function: Callable[[], Any]) -> Any:
    """Call the function in a child of root whose mounts nobody else sees."""
    if os.geteuid() != 0:
        pytest.skip("it takes root to have a mount namespace of one's own")

    def unshare_and_call() -> Any:
        libc = ctypes.CDLL(None)
        for result in (
            libc.unshare(_CLONE_NEWNS),
            libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None),
        ):
            if result != 0:
                raise NotImplementedError
        return function()

    try:
        return in_child(unshare_and_call)
    except NotImplementedError:
        pytest.skip("a mount namespace of one's own is not to be had here")
