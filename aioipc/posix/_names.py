"""The names of POSIX message queues, semaphores and shared memory objects."""

from __future__ import annotations

import os


def check_name(name: str, longest: int) -> str:
    """Return `name` if the kernel would take it, as POSIX and shm_overview(7) describe it.

    `longest` is the greatest length after the slash, in bytes.  This is checked here
    because the C library cuts a name at NUL, and answers most other faults with EINVAL,
    ENOENT or EACCES.

    :raises TypeError: if it is not a string
    :raises ValueError: if it is not one slash followed by 1 to `longest` bytes without slash or NUL
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}")
    if not name.startswith("/"):
        raise ValueError(f"name {name!r} must begin with a slash: {'/' + name!r}")
    rest = name[1:]
    if rest in ("", ".", ".."):
        raise ValueError(f"name {name!r} has nothing after the slash that could name an object")
    if "/" in rest:
        raise ValueError(f"name {name!r} has a slash inside: only the first character may be one")
    if "\0" in rest:
        raise ValueError(f"name {name!r} has a NUL inside")
    try:
        length = len(os.fsencode(rest))
    except UnicodeEncodeError as error:
        raise ValueError(f"name {name!r} can't be encoded for the file system: {error.reason}") from None
    if length > longest:
        raise ValueError(f"name of {length} bytes after the slash; {longest} at most: {name[:40]!r}...")
    return name
