"""The keys by which System V objects are found: sysvipc(7), ftok(3)."""

from __future__ import annotations

import os
from typing import SupportsIndex

import sysv_ipc

from aioipc._arguments import check_range
from aioipc.errors import AccessError, NotFoundError, from_errno
from aioipc.sysv import _calls

PRIVATE: int = sysv_ipc.IPC_PRIVATE
"""The key of objects that have none, and can be opened by their id only."""

_KEY_MIN, _KEY_MAX = -(2**31), 2**32 - 1


def check_key(key: SupportsIndex) -> int:
    """Return a key as the kernel takes it: as a signed number of 32 bits.

    Such keys are also accepted as unsigned, which is how ipcs(1) shows them.

    :raises TypeError: if it is not an integer
    :raises ValueError: if it does not fit
    """
    number = check_range("key", key, _KEY_MIN, _KEY_MAX)
    return number - 2**32 if number >= 2**31 else number


def ftok(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], project: int) -> int:
    """Make a key of a file and a number, as other programs do: ftok(3).

    The key is made of 16 bits of the file's inode number, 8 bits of its device number and
    8 bits of `project`.  So it is weak in several ways, for which there is no cure but to agree
    on a key by other means:

    * Different files may have the same key; among a few hundred files that is likely.
    * A file that was removed and made again, as many programs do to replace it, has another.
    * The same file has another key after it moved to another file system, and in a
      container with a file system of its own.

    Choose a file that stays, belongs to the service, and is never written.

    :param path: a file that exists
    :param project: 1 to 255; the C library looks at the lowest 8 bits only, and leaves 0 undefined
    :raises NotFoundError: if there is no such file
    :raises AccessError: if a folder on the way to it may not be searched
    :raises ValueError: if the project is out of range
    """
    check_range("project", project, 1, 255)
    try:
        return _calls.ftok(path, project)
    except FileNotFoundError as error:
        raise NotFoundError(error.errno, "a key is made of a file that exists", os.fsdecode(path)) from None
    except PermissionError as error:
        text = f"user {os.geteuid()} may not search a folder on the way to it"
        raise AccessError(error.errno, text, os.fsdecode(path)) from None
    except OSError as error:
        raise from_errno(error.errno or 0, os.fsdecode(path)) from None
