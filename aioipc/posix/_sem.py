"""The calls of sem_overview(7) that concern names, through posix_ipc, and what its errors mean."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

import posix_ipc

from aioipc import _limits
from aioipc._shm import (
    DIRECTORY,
    SEMAPHORE_PREFIX,
    SEMAPHORE_SIZE,
    FileIdentity,
    may_not_create,
    no_file_system,
    path_of,
    unlink,
)
from aioipc.errors import AccessError, CorruptError, Error, ExistsError, LimitError, NotFoundError, from_errno
from aioipc.posix._errors import errno_of

Opened = tuple[posix_ipc.Semaphore, os.stat_result | None]
"""An open semaphore, and its file; None if that was removed meanwhile."""


def sem_create(name: str, mode: int, value: int) -> Opened:
    """sem_open(3) with O_CREAT and O_EXCL; for the parameters see `Semaphore.create`."""
    if sem_file(name) is not None:  # else it would take room for a new one to find that out
        raise _exists(name)
    semaphore = _open(name, posix_ipc.O_CREX, mode, value)
    try:
        return semaphore, sem_file(name)
    except BaseException:
        semaphore.close()
        with suppress(posix_ipc.Error, OSError):
            posix_ipc.unlink_semaphore(name)
        raise


def sem_open(name: str) -> Opened:
    """sem_open(3) of a semaphore that exists."""
    while True:
        before = sem_file(name)
        # The C library takes any file for a semaphore, and ends the process if that makes no sense: SIGBUS, SIGABRT.
        if before is not None and not (stat.S_ISREG(before.st_mode) and before.st_size == SEMAPHORE_SIZE):
            path = path_of(name, SEMAPHORE_PREFIX)
            raise CorruptError(errno.EUCLEAN, f"it is not a semaphore; to remove it: `rm {path}`", name)
        semaphore = _open(name, 0)
        try:
            after = sem_file(name)
        except BaseException:
            semaphore.close()
            raise
        if after is None or (before is not None and os.path.samestat(before, after)):
            return semaphore, after
        # What was opened may be another file than the one that was looked at.
        semaphore.close()


def sem_unlink(name: str, file: FileIdentity | None) -> None:
    """Remove a semaphore whose file is known from the system: sem_unlink(3)."""
    if file is None:
        raise NotFoundError(errno.ENOENT, "the semaphore has been removed already", name)
    unlink(name, "semaphore", file, prefix=SEMAPHORE_PREFIX)


def sem_file(name: str) -> os.stat_result | None:
    """The file behind a name, if there is one."""
    path = path_of(name, SEMAPHORE_PREFIX)
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, name) from None


def _open(name: str, flags: int, mode: int = 0, value: int = 0) -> posix_ipc.Semaphore:
    try:
        return posix_ipc.Semaphore(name, flags, mode, value)
    except posix_ipc.ExistentialError:
        if not flags:
            raise NotFoundError(
                errno.ENOENT, "no semaphore has this name here (a container has its own); create() makes one", name
            ) from None
        if not os.path.isdir(DIRECTORY):
            raise no_file_system(name) from None
        raise _exists(name) from None
    except posix_ipc.PermissionsError:
        if flags and sem_file(name) is None:
            raise may_not_create(name) from None
        raise AccessError(
            errno.EACCES,
            f"owner and mode of the semaphore do not let user {os.geteuid()} read and write it",
            name,
        ) from None
    except InterruptedError:  # POSIX allows it; the caller need not know
        return _open(name, flags, mode, value)
    except OSError as error:
        raise explain(error, name) from None


def _exists(name: str) -> ExistsError:
    return ExistsError(
        errno.EEXIST,
        "a semaphore of this name exists, perhaps left by a program that was killed: open() it, or pass exist_ok=True "
        "to take it over",
        name,
    )


def explain(error: OSError, name: str) -> Error:
    """What an OSError of posix_ipc means."""
    if error.errno == errno.EOVERFLOW:
        return too_great(name)
    number = errno_of(error)
    return from_errno(number, name, _limits.explain_new_shm_file() if number == errno.ENOSPC else None)


def too_great(name: str) -> LimitError:
    """The value would be."""
    limit = f"{posix_ipc.SEMAPHORE_VALUE_MAX:,}"
    return LimitError(errno.EOVERFLOW, f"the value would pass SEM_VALUE_MAX ({limit}), which is fixed", name)
