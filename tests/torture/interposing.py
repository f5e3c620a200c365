"""System calls of a process that fail as it is told: interposer.c, and who watches.

The process says what is about to happen (`Voice.say`), and gets an answer.  Between, all of its calls that could
fail for want of something are counted by their names, and fail where a fault wants it.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import functools
import itertools
import json
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

from world import SECONDS, Child, World, library

IN_THREAD = " in a thread"
_MAX = 2**16


class Fault(NamedTuple):
    """A call that fails."""

    call: str
    """Its name, as interposer.c has it; with IN_THREAD where another than the main thread makes it."""
    number: int
    """The how manieth it is, from 1."""
    error: str
    """How it fails, such as "EMFILE"."""
    lasts: bool
    """Whether all that come after it do so, too."""


class Voice:
    """By which the process tells the watcher what it does."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def say(self, word: str, **more: object) -> Any:
        self._end.send(json.dumps({"word": word, **more}).encode())
        return json.loads(self._end.recv(_MAX))


class Watcher:
    """The process, as seen from outside."""

    def __init__(self, world: World, function: Callable[[Voice], None]) -> None:
        self.counts: Counter[str] = Counter()
        """How often each call was made since `expect`."""
        self.hits: list[Fault] = []
        """The faults that have come to pass since then, each once."""
        self._faults: tuple[Fault, ...] = ()
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._library = _interposer()

        def be_watched() -> None:
            faulthandler.enable(2)  # which is not interposed
            listener = self._library.interpose()
            if listener < 0:
                raise OSError(ctypes.get_errno(), "seccomp(2) with a listener")
            socket.send_fds(theirs, [b"listener"], [listener])
            function(Voice(theirs))

        with theirs:
            self.child: Child = world.fork(be_watched)
        _, descriptors, _, _ = socket.recv_fds(self._end, _MAX, 1)
        self._listener = descriptors[0] if descriptors else None

    def expect(self, *faults: Fault) -> None:
        """From now on, have these calls fail, and no others."""
        self._faults = faults
        self.counts.clear()
        self.hits = []

    def watch(self, hear: Callable[..., object], seconds: float = SECONDS) -> None:
        """Have `hear` answer what it says, until it ends well.

        :raises Failed: if it does not
        :raises Hung: if it says nothing for so long
        """
        with ExitStack() as stack:
            stack.callback(self._end.close)
            if self._listener is not None:
                stack.callback(os.close, self._listener)
            self._listen(hear, seconds)
            self.child.result(0)

    def _listen(self, hear: Callable[..., object], seconds: float) -> None:
        poll = select.poll()
        for file in (self._end, self.child, *([] if self._listener is None else [self._listener])):
            poll.register(file, select.POLLIN)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # POLLHUP alone says that nothing more will come from there, again and again.
            ready = {descriptor for descriptor, events in poll.poll(1000) if events & select.POLLIN}
            if self._listener in ready:
                self._decide()
            elif self.child.fileno() in ready:
                break
            elif self._end.fileno() in ready:
                if not (said := self._end.recv(_MAX)):
                    poll.unregister(self._end)
                    continue
                words = json.loads(said)
                self._end.send(json.dumps(hear(words.pop("word"), **words)).encode())
                deadline = time.monotonic() + seconds

    def _decide(self) -> None:
        thread, id = ctypes.c_uint32(), ctypes.c_uint64()
        name = self._library.next_call(self._listener, ctypes.byref(thread), ctypes.byref(id))
        if name is None:
            return
        call = name.decode() + ("" if thread.value == self.child.pid else IN_THREAD)
        self.counts[call] += 1
        number = self.counts[call]
        error = 0
        for fault in self._faults:
            if fault.call == call and (number == fault.number or (fault.lasts and number > fault.number)):
                if fault not in self.hits:
                    self.hits.append(fault)
                error = getattr(errno, fault.error)
        self._library.answer(self._listener, id, error)


def calls() -> Iterator[str]:
    """The names of all calls that can be made to fail."""
    for place in itertools.count():
        if (name := _interposer().call_name(place)) is None:
            return
        yield name.decode()


@functools.cache
def _interposer() -> ctypes.CDLL:
    found = ctypes.CDLL(library("torture/interposer.c"), use_errno=True)
    found.next_call.restype = found.call_name.restype = ctypes.c_char_p
    found.answer.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
    return found
