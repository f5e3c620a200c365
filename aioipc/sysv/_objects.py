"""What System V queues and sets have in common: keys, ids, owners, errors."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from typing import SupportsIndex, TypeVar

from aioipc._arguments import check_range
from aioipc.errors import AccessError, Error, ExistsError, NotFoundError, RemovedError, from_errno
from aioipc.sysv.keys import PRIVATE, check_key

_T = TypeVar("_T")

_ID_MAX = 2**31 - 1


def label(key: int, id: int) -> str:
    """How an object is called in messages."""
    return f"key {key & 0xFFFFFFFF:#x}, id {id}" if key != PRIVATE else f"private, id {id}"


def explain(error: OSError, name: str) -> Error:
    """What an error of an operation on an object means."""
    # EINVAL: the id is not known any more; all else that it could mean was checked before.
    if error.errno in (errno.EIDRM, errno.EINVAL):
        return RemovedError(errno.EIDRM, "it was removed from the system", name)
    if error.errno == errno.EACCES:
        return AccessError(errno.EACCES, f"its owner and mode do not let user {os.geteuid()} do this", name)
    if error.errno == errno.EPERM:
        return AccessError(errno.EPERM, "only its owner, its creator or root may do this", name)
    return from_errno(error.errno or 0, name)


def create_or_find(create: Callable[[], _T], find: Callable[[], _T], exist_ok: bool) -> tuple[_T, bool]:
    """What `create` or `find` returns about an object, and whether it is a new one.

    :param create: creates one, or raises ExistsError
    :param find: finds one, or raises NotFoundError
    """
    while True:
        try:
            return create(), True
        except ExistsError:
            if not exist_ok:
                raise
        with suppress(NotFoundError):  # removed just now
            return find(), False


def check_key_or_id(key: SupportsIndex | None, id: int | None) -> None:
    """Check what an object is to be opened by.

    :raises ValueError: if it is both or none, or the key of objects without a key
    """
    if (key is None) == (id is None):
        raise ValueError("open it by its key or by its id")
    if id is not None:
        check_range("id", id, 0, _ID_MAX)
    elif key is not None and check_key(key) == PRIVATE:
        raise ValueError("a private object can be opened by its id only")


def exists(what: str, name: str) -> ExistsError:
    """A key is taken."""
    return ExistsError(
        errno.EEXIST,
        f"a {what} with this key exists, perhaps left by a program that was killed (see ipcs): open() it, or pass "
        "exist_ok=True to take it over",
        name,
    )


def missing(what: str, name: str) -> NotFoundError:
    """No object has this key or id."""
    return NotFoundError(
        errno.ENOENT, f"no {what} has this key or id here (a container has its own); create() makes one", name
    )


def denied(what: str, name: str) -> AccessError:
    """An object exists, but not for this user."""
    return AccessError(errno.EACCES, f"owner and mode of the {what} do not let user {os.geteuid()} use it", name)


def user_id(owner: int | str) -> int:
    """The id of a user, who may be given by name.

    :raises NotFoundError: if there is none of that name
    """
    if isinstance(owner, str):
        try:
            return pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise NotFoundError(errno.ENOENT, "no user has this name", owner) from None
    return check_range("owner", owner, 0, 2**32 - 2)


def group_id(group: int | str) -> int:
    """The id of a group, which may be given by name.

    :raises NotFoundError: if there is none of that name
    """
    if isinstance(group, str):
        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            raise NotFoundError(errno.ENOENT, "no group has this name", group) from None
    return check_range("group", group, 0, 2**32 - 2)
