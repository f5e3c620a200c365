"""An operation within a process that is watched, while something fails: what it does there, and what is wrong with it.

Either it is not hindered, and has its whole effect, or it raises an error that says what to do, and has none.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import re
import secrets
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import posix_ipc
import sysv_ipc
from interposing import Fault, Voice, Watcher
from operations import Operation
from outside import Peer, on_system
from outside_channels import Ring
from world import Failed, World, worker_threads

from aioipc._ring import _deaths
from aioipc._waiting import workers

LOOPS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
_OTHERS = {"clone": "EAGAIN", "clone3": "EAGAIN"}
"""Calls whose errors the C library tells as others."""
_KINDS = {"EACCES": "AccessError", "EPERM": "AccessError", "EIO": "KernelError", "ENOLCK": "KernelError"}
"""The exceptions of errors; a LimitError of all others."""
_LONGEST = 5000
"""As much is told of a result that is wrong, in characters."""


# In the process under test ------------------------------------------------------------


Limit = Callable[[int], AbstractContextManager[None]]
"""What is scarce in a step, by its number."""


def _be_tortured(operation: Operation, peer: Peer, loop: str, steps: int, limit: Limit, voice: Voice) -> None:
    workers._LINGER = 0.001  # a thread that is left is to be seen
    numbers = iter(range(2**32))
    secrets.randbits = lambda _: os.getpid() << 32 | next(numbers)  # doorbells that can be told from those of others
    backend, options = LOOPS[loop]
    anyio.run(_do_all, operation, peer, steps, limit, voice, backend=backend, backend_options=options)


async def _do_all(operation: Operation, peer: Peer, steps: int, limit: Limit, voice: Voice) -> None:
    gc.freeze()
    for step in range(-2, steps):  # first without faults: what is imported or kept for ever is so afterwards
        await _settle()
        voice.say("before")
        async with operation.subject(peer) as subject:
            failed = await _do(operation, subject, voice, step, limit(step) if step >= 0 else nullcontext())
            if failed and not operation.ends:
                await _do(operation, subject, voice, None, nullcontext())
        del subject
        await _settle()
        voice.say("after")


async def _do(
    operation: Operation, subject: Any, voice: Voice, step: int | None, limit: AbstractContextManager[None]
) -> bool:
    """Do it; whether it has failed."""
    await _settle()
    voice.say("begin", step=step)
    error = result = None
    try:
        with limit:
            result = await operation.run(subject, lambda: voice.say("give"))
    except Exception as raised:  # noqa: BLE001 -- the harness judges it
        kinds = [kind.__name__ for kind in type(raised).__mro__]
        error = {
            "kinds": kinds,
            "errno": getattr(raised, "errno", None),
            "text": str(raised),
            "traceback": "".join(traceback.format_exception(raised)),
        }
    voice.say("done")  # from here on no fault
    await _settle()
    voice.say("end", error=error)
    if error is None:
        try:
            operation.undo(result)
        except AssertionError as wrong:
            voice.say("wrong", text=str(wrong)[:_LONGEST])
    return error is not None


async def _settle() -> None:
    """Until nothing is under way."""
    for _ in range(2):
        await anyio.lowlevel.checkpoint()
    gc.collect()
    while worker_threads():
        await anyio.lowlevel.checkpoint()
    if _deaths._watch is not None and not _deaths._watch._peers:
        _deaths._leave_to_parent()  # the next channel has to make it again


# In the harness -----------------------------------------------------------------------


class Judge:
    """Hears what the process does, looks at what comes of it, and raises what is wrong."""

    def __init__(
        self,
        operation: Operation,
        world: World,
        loop: str,
        steps: list[list[Fault]],
        limit: Limit = lambda _: nullcontext(),
        errors: tuple[str, ...] = (),
    ) -> None:
        """
        :param limit: within which the process does it, besides
        :param errors: what errors that leads to
        """
        self.counts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        """The system calls of the operation, when nothing fails."""
        self._operation = operation
        self._steps = steps
        self._peer = operation.peer(world)
        be_tortured = functools.partial(_be_tortured, operation, self._peer, loop, len(steps), limit)
        self._watcher = Watcher(world, be_tortured)
        self._limits = [Fault("any", 1, error, True) for error in errors]
        self._imposed: list[Fault] = []
        self._wrong: dict[str, None] = {}
        self._faults: list[Fault] = []
        self._hits: list[Fault] = []
        self._given = False
        self._before: Any = None
        self._begun: Any = None
        self._contents: Any = None

    def run(self) -> None:
        try:
            self._watcher.watch(self._hear)
        except Failed as error:  # what was wrong before may say why
            raise type(error)("\n\n".join([*self._wrong, f"{self._hits or self._faults}: {error}"])) from None
        if errors := self._watcher.child.errors():
            self._wrong[f"it wrote:\n{errors}"] = None
        if self._wrong:
            raise AssertionError("\n\n".join(self._wrong))

    def _hear(self, word: str, **more: Any) -> None:
        try:
            getattr(self, f"_hear_{word}")(**more)
        except AssertionError as error:  # go on: there may be more
            self._wrong[str(error)] = None

    def _hear_before(self) -> None:
        self._before = self._look()

    def _hear_begin(self, step: int | None) -> None:
        self._faults = self._steps[step] if step is not None and step >= 0 else []
        self._imposed = self._limits if step is not None and step >= 0 else []
        if step is not None:
            self._given = False
            self._peer.prepare()
        self._begun = self._look()
        self._contents = self._look_inside()
        self._watcher.expect(*self._faults)

    def _hear_give(self) -> None:
        if not self._given:
            self._given = True
            self._contents = self._operation.gives(self._peer, self._contents)

    def _hear_done(self) -> None:
        self._hits = self._watcher.hits or self._imposed
        self.calls = Counter(self._watcher.counts)
        self.counts["operations"] += 1
        self.counts["faults"] += len(self._watcher.hits)
        self.counts["faults that did not come"] += bool(self._faults and not self._hits)
        self._watcher.expect()

    def _hear_end(self, error: dict[str, Any] | None) -> None:
        operation = self._operation
        if error is None:
            self._peer.follow()
        contents = self._look_inside()
        if error is not None:
            self.counts["errors"] += 1
            assert self._hits, f"without any fault: {error['traceback']}"
            _judge(operation, error, self._hits)
            if not operation.ends:
                after = self._look()
                if issubclass(operation.peer, Ring):  # once it has waited, a handle keeps these
                    _drop("anon_inode:[eventpoll]", self._begun["descriptors"], after["descriptors"])
                self._compare(self._begun, after)
                assert contents == self._contents, self._told(f"{self._contents} became {contents}")
        else:
            wanted = operation.effect(self._contents)
            assert contents == wanted, self._told(f"{self._contents} became {contents}, not {wanted}")
        if error is None and operation.removes:
            after = self._look()
            if issubclass(
                operation.peer, Ring
            ):  # it stays mapped for the views that may be out, until the handle is collected
                after["mappings"] = self._before["mappings"]
            self._compare(self._before, after)

    def _hear_wrong(self, text: str) -> None:
        raise AssertionError(self._told(text))

    def _hear_after(self) -> None:
        self._compare(self._before, self._look())

    def _compare(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        for what, was in before.items():
            assert after[what] == was, self._told(f"{what} were\n{was}\nand are\n{after[what]}")

    def _told(self, text: str) -> str:
        return f"{self._hits}: {text}"

    def _look_inside(self) -> Any:
        with suppress(FileNotFoundError, posix_ipc.ExistentialError, sysv_ipc.ExistentialError):
            return self._peer.contents()

    def _look(self) -> dict[str, Any]:
        """All that must be the same again if nothing was done."""
        pid = self._watcher.child.pid
        return {
            "descriptors": sorted(_targets(f"/proc/{pid}/fd")),
            "mappings": sorted(_mappings(f"/proc/{pid}/maps")),
            "timers": Path(f"/proc/{pid}/timers").read_text(),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
            "objects": on_system(self._peer, pid),
        }


def _targets(folder: str) -> Iterator[str]:
    for name in os.listdir(folder):
        yield os.readlink(f"{folder}/{name}")


def _drop(word: str, *lists: list[str]) -> None:
    for words in lists:
        words[:] = [each for each in words if each != word]


def _mappings(path: str) -> Iterator[str]:
    """What is mapped of shared memory, in the kernel's words, without addresses."""
    for line in Path(path).read_text().splitlines():
        _, rights, _, _, inode, *name = line.split(maxsplit=5)
        if name and name[0].startswith(("/dev/shm", "/SYSV")):
            yield f"{rights} {inode} {name[0]}"


def _judge(operation: Operation, error: dict[str, Any], hits: list[Fault]) -> None:
    """Whether this is the exception that faults deserve."""
    errors = {_OTHERS.get(fault.call, fault.error) for fault in hits} | {fault.error for fault in hits}
    errors.discard("EINTR")
    kinds, text = error["kinds"], error["text"]
    told = f"{hits}:\n{error['traceback']}"
    assert errors, f"an interruption shows: {told}"
    if "MemoryError" in kinds:
        assert "ENOMEM" in errors, told
        return
    number = errno.errorcode.get(error["errno"])
    assert number in errors, f"errno is {number}: {told}"
    if "Error" not in kinds and operation.name.startswith("inspect."):
        return  # an OSError of the file that could not be looked at says all there is to say
    assert "Error" in kinds, f"not an error of aioipc: {told}"
    assert kinds[0] == _KINDS.get(number, "LimitError"), f"not the kind for {number}: {told}"
    if kinds[0] == "LimitError" and number != "ENOMEM":
        assert re.search(r"\d.*(raise|enlarge|remove|ulimit|sysctl)", text), f"no limit and way to raise it: {told}"
