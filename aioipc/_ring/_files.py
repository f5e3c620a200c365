"""The files of a channel: the shared memory, and two FIFOs beside it that are its doorbells."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import suppress
from threading import RLock
from weakref import WeakSet

from aioipc import _shm
from aioipc._lifetime import create_or_find
from aioipc._ring import _binding
from aioipc._shm import DIRECTORY, FileIdentity, check_free, explain, find, give_name, make, path_of
from aioipc.errors import AccessError, CorruptError, Error, KernelError, NotFoundError, from_errno

_KIND = "channel"

_OTHER_KIND = "it is not a channel, but another kind of file"
_OTHER_KINDS = {errno.EISDIR, errno.ELOOP, errno.ENXIO}
"""What open(2) says, as it is called here, of a directory, a symbolic link, a socket."""


class Files:
    """The open files of a channel, until a ring has taken them.

    They are closed with the last reference, and in a child of a fork: it would keep the lock by which others see that
    this process lives.
    """

    def __init__(self, bell_id: int) -> None:
        """
        :param bell_id: that by which the doorbells are named
        """
        self.descriptors: list[int] = []
        """The memory, that of the bell for messages, the memory once more, that of the bell for room.

        The second one of the memory is for locks: a mapping would keep them alive in a child of a fork.
        """
        self.bell_id = bell_id
        _opening.add(self)

    @property
    def memory(self) -> int:
        return self.descriptors[0]

    def open(self, path: str, flags: int) -> int:
        """Open one more."""
        with forks:
            # In one step, which no signal handler can interrupt: what is open is in the list.
            self.descriptors.extend(map(os.open, (path,), (flags | os.O_CLOEXEC,)))
        return self.descriptors[-1]

    def lift(self) -> None:
        """Let the last one have a number above that before: see _deaths.py."""
        before, last = self.descriptors[-2:]
        with forks:
            try:
                self.descriptors.extend(map(fcntl.fcntl, (last,), (fcntl.F_DUPFD_CLOEXEC,), (before + 1,)))
            except OSError as error:
                if error.errno == errno.EINVAL:  # there can't be one
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
                raise
            os.close(self.descriptors.pop(-2))

    def give(self) -> None:
        """All but the memory belong to a ring now."""
        del self.descriptors[1:]

    def close(self) -> None:
        """Close what nobody has taken.  Safe to call again."""
        with forks:
            while self.descriptors:
                os.close(self.descriptors.pop())

    __del__ = close


_opening: WeakSet[Files] = WeakSet()
forks = RLock()
"""Who has it keeps other threads from forking: something begins to exist, or changes hands."""
_PATIENCE = 1.0
"""How many seconds a fork waits for what others are at, some microseconds: a signal handler may make that longer."""


def _before_fork() -> None:
    forks.acquire(timeout=_PATIENCE)


def _after_fork() -> None:
    with suppress(RuntimeError):  # it has waited in vain
        forks.release()


def _leave_to_parent() -> None:
    global forks
    forks = RLock()
    for files in list(_opening):
        files.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_leave_to_parent)


def create(name: str, capacity: int, mode: int, exist_ok: bool) -> tuple[Files, bool]:
    """Open a new channel, or the one of this name; also whether it is new."""
    return create_or_find(lambda: _create(name, capacity, mode), lambda: find_files(name), exist_ok)


def _create(name: str, capacity: int, mode: int) -> Files:
    check_free(name, _KIND)
    files = Files(secrets.randbits(64))
    try:
        files.descriptors.append(make(name, _binding.file_size(capacity), mode))
        _complete(name, files, capacity, mode)
    except BaseException:
        files.close()
        raise
    return files


def _complete(name: str, files: Files, capacity: int, mode: int) -> None:
    paths = _doorbells(files.bell_id)
    try:
        _binding.make_ring(files.memory, capacity, files.bell_id)
        # First what nobody knows of: who finds the channel finds it complete.
        for path in paths:
            os.mkfifo(path, mode)
        _open_all(name, files)
        give_name(files.memory, name, _KIND)
    except BaseException as error:
        status = os.fstat(files.memory)
        if status.st_nlink > 0:  # interrupted when it had its name
            with suppress(Error):  # others may have removed it
                _shm.unlink(name, _KIND, status)
        _unlink(paths)
        if isinstance(error, OSError) and not isinstance(error, Error):
            raise explain(error, name) from None
        raise


def find_files(name: str) -> Files:
    """Open the files of a channel that exists."""
    files = Files(0)
    try:
        with forks:
            files.descriptors.append(_find_memory(name))
        files.bell_id = _identify(name, files.memory)
        try:
            _open_all(name, files)
        except FileNotFoundError:
            if os.fstat(files.memory).st_nlink == 0:
                raise NotFoundError(errno.ENOENT, "the channel was removed just now", name) from None
            raise _corrupt(name, "its doorbells, two FIFOs, have been removed") from None
    except BaseException:
        files.close()
        raise
    return files


def _find_memory(name: str) -> int:
    try:
        return find(name, _KIND)
    except KernelError as error:
        if error.errno in _OTHER_KINDS:
            raise _corrupt(name, _OTHER_KIND) from None
        raise


def _identify(name: str, memory: int) -> int:
    if not stat.S_ISREG(os.fstat(memory).st_mode):
        raise _corrupt(name, _OTHER_KIND)
    try:
        result, bell_id, version = _binding.identify(memory)
    except OSError as error:
        raise explain(error, name) from None
    if result == _binding.OK:
        return bell_id
    size = os.fstat(memory).st_size
    reasons = {
        _binding.SHORT: f"it is too short, {size:,} bytes: it was truncated, or is no channel",
        _binding.FOREIGN: "it is not a channel",
        _binding.OTHER_VERSION: f"it has version {version} of the format; this aioipc reads version 1",
        _binding.OTHER_ABI: "it was made for another byte order or ABI",
        _binding.CORRUPT: "what its header says can't be right",
    }
    raise _corrupt(name, reasons[result])


def _corrupt(name: str, reason: str) -> CorruptError:
    return CorruptError(errno.EUCLEAN, f"{reason}; to remove it: `rm {path_of(name)}`", name)


def _open_all(name: str, files: Files) -> None:
    """Open what is beside the memory, with descriptors in rising order: see _deaths.py."""
    messages, room = _doorbells(files.bell_id)
    try:
        _open_fifo(name, files, messages)
        files.open(f"/proc/self/fd/{files.memory}", os.O_RDWR)
        files.lift()
        _open_fifo(name, files, room)
        files.lift()
    except OSError as error:
        raise error if isinstance(error, (Error, FileNotFoundError)) else explain(error, name) from None


def _open_fifo(name: str, files: Files, path: str) -> None:
    # For both: it never lacks an other end.
    try:
        descriptor = files.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    except PermissionError:
        text = f"owner and mode of a doorbell of the channel, {path}, do not let user {os.geteuid()} use it"
        raise AccessError(errno.EACCES, text, name) from None
    except OSError as error:
        if error.errno not in _OTHER_KINDS:
            raise
    else:
        found = os.fstat(descriptor)
        if stat.S_ISFIFO(found.st_mode) and found.st_uid == os.fstat(files.memory).st_uid:
            return
    raise _corrupt(name, f"a doorbell, {path}, is no FIFO of its owner's")


def unlink(name: str, identity: FileIdentity, bell_id: int, owner: int) -> None:
    """Remove the files of a channel, if this is the one of that name.

    :param bell_id: what the channel says that its doorbells are called
    :raises NotFoundError: if it is not
    :raises AccessError: if it belongs to another user
    """
    try:
        _shm.unlink(name, _KIND, identity)
    except NotFoundError:
        # Somebody has removed the name alone, as `rm` does: nobody can find the channel any more.
        _unlink(_doorbells(bell_id), owner)
        raise
    for error in _unlink(_doorbells(bell_id), owner):
        if not isinstance(error, FileNotFoundError):
            raise from_errno(error.errno or 0, error.filename) from None


def _unlink(paths: tuple[str, str], owner: int | None = None) -> list[OSError]:
    """Remove doorbells; the errors of those that stay.

    :param owner: leave alone those of others than this user: who has written the channel may have named them
    """
    errors = []
    for path in paths:
        try:
            if owner is None or os.lstat(path).st_uid == owner:
                os.unlink(path)
        except OSError as error:
            errors.append(error)
    return errors


def _doorbells(bell_id: int) -> tuple[str, str]:
    return f"{DIRECTORY}/aioipc.{bell_id:016x}.messages", f"{DIRECTORY}/aioipc.{bell_id:016x}.room"
