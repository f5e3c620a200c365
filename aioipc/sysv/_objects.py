"""What System V queues, sets and segments have in common: keys, ids, owners, errors."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, SupportsIndex, TypeVar

import sysv_ipc

from aioipc._arguments import check_range
from aioipc._lifetime import AsyncLifetime, Lifetime
from aioipc._waiting.blocking import Calls
from aioipc.errors import AccessError, Error, ExistsError, KernelError, NotFoundError, RemovedError, from_errno
from aioipc.sysv.keys import PRIVATE, check_key

_T = TypeVar("_T")

_ID_MAX = 2**31 - 1


class Object(Lifetime):
    """A handle of a System V object."""

    key: int
    """The key, or `PRIVATE`."""
    id: int
    """The id, by which any process of the system can open it."""

    _kind: ClassVar[str]

    def __init__(self, key: int, id: int, *, remove: bool) -> None:
        self.key = key
        self.id = id
        self._removes = remove
        self._label = label(key, id)
        self._name = f"{self._kind} ({self._label})"

    def remove(self) -> None:
        """Remove the object from the system, with all that is in it: msgctl(2), semctl(2) with IPC_RMID.

        Works on a closed handle too.  Whoever waits for the object, in any process, gets `RemovedError` (EIDRM).

        :raises RemovedError: if it has been removed already
        :raises AccessError: if it belongs to another user
        :raises RuntimeError: if it was inherited by a fork
        """
        self._handle.check_process()
        remove_by_id(self._rmid, self.id, self._name)

    _remove_object = remove

    @staticmethod
    @abstractmethod
    def _rmid(id: int) -> None:
        """Remove the object that has this id: what sysv_ipc has for this kind."""

    def _try(self, call: Callable[..., _T], *args: object) -> _T:
        try:
            return call(*args)
        except OSError as error:
            raise explain(error, self._name) from None

    def _set(self, ipc_set: Callable[..., object], stat: Callable[[int], object], *settings: int) -> None:
        """IPC_SET of the settings, the first two of which are owner and group."""
        try:
            ipc_set(self.id, *settings)
        except OSError as error:
            if error.errno == errno.EINVAL and self._try(stat, self.id):  # and so it is there
                text = (
                    f"user {settings[0]} or group {settings[1]} is unknown in this user namespace: user_namespaces(7)"
                )
                raise KernelError(errno.EINVAL, text, self._name) from None
            raise explain(error, self._name) from None


class WaitingObject(Object, AsyncLifetime):
    """A handle of an object that tasks wait for."""

    def __init__(self, key: int, id: int, *, remove: bool) -> None:
        super().__init__(key, id, remove=remove)
        self._calls = self._handle = Calls(self._name)

    def close(self) -> None:
        """Close the handle.  To the kernel that means nothing: System V objects are not opened.

        Tasks that wait get `ClosedError`, every `async for` ends.  The object stays in the system, as
        it is: leaving the `with` block removes it, and so does `remove`.
        May be called again, and from a callback of the loop.
        """
        self._calls.close()


def remove_by_id(rmid: Callable[[int], object], id: int, name: str) -> None:
    """Remove an object by what sysv_ipc has for its kind.

    :raises RemovedError: if it has been removed already
    :raises AccessError: if it belongs to another user
    """
    try:
        rmid(id)
    except sysv_ipc.ExistentialError:
        raise RemovedError(errno.EIDRM, "it has been removed already", name) from None
    except (sysv_ipc.PermissionsError, PermissionError):
        raise AccessError(errno.EPERM, "only its owner, its creator or root may remove it", name) from None


def label(key: int, id: int | None = None) -> str:
    """How an object is called in messages."""
    name = "private" if key == PRIVATE else f"key {key & 0xFFFFFFFF:#x}"
    return name if id is None else f"{name}, id {id}"


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
    return _numeric_id("owner", "user", owner, lambda name: pwd.getpwnam(name).pw_uid)


def group_id(group: int | str) -> int:
    """The id of a group, which may be given by name.

    :raises NotFoundError: if there is none of that name
    """
    return _numeric_id("group", "group", group, lambda name: grp.getgrnam(name).gr_gid)


def _numeric_id(argument: str, what: str, value: int | str, find: Callable[[str], int]) -> int:
    if not isinstance(value, str):
        return check_range(argument, value, 0, 2**32 - 2)
    try:
        return find(value)
    except KeyError:
        raise NotFoundError(errno.ENOENT, f"no {what} has this name", value) from None
