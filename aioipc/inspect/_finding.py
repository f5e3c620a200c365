"""All objects of the system, or one of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from aioipc.errors import NotFoundError
from aioipc.inspect import _mqueue, _shm, _sysv
from aioipc.inspect._addresses import KINDS, Kind, parse_address
from aioipc.inspect._records import Doorbell, Keyed, Object


class Gap(NamedTuple):
    """A kind of object that could not be listed."""

    kind: Kind
    """The kind, in the words of an address."""
    reason: str
    """Why."""
    command: str | None
    """What, run as root, mends that."""


class Listing(NamedTuple):
    """What `look` found."""

    objects: list[Object]
    """The objects, by kind and name."""
    gaps: list[Gap]
    """The kinds that it could not look for."""


class _Source(NamedTuple):
    """What lists objects of one kind or several."""

    list: Callable[[], Iterable[Object]]
    kinds: tuple[Kind, ...]
    mend: str | None
    """The command that is needed where there is no list."""


_SOURCES = (
    _Source(_mqueue.message_queues, ("mq",), _mqueue.MOUNT_COMMAND),
    _Source(_shm.shared_memory_objects, ("sem", "shm", "channel"), _shm.MOUNT_COMMAND),
    _Source(_sysv.message_queues, ("msg",), None),
    _Source(_sysv.semaphore_sets, ("semset",), None),
    _Source(_sysv.segments, ("segment",), None),
)


def look(*kinds: Kind) -> Listing:
    """List the objects of some kinds, or of all.

    Objects that are removed meanwhile are left out.  Of those that this user may not look into, the fields that
    can't be known are None.

    :raises ValueError: if there is no such kind
    """
    for kind in kinds:
        if kind not in KINDS or kind == "doorbell":
            raise ValueError(f"there is no kind {kind!r}: there are {', '.join(KINDS[:-1])}")
    wanted = kinds or KINDS
    objects: list[Object] = []
    gaps: list[Gap] = []
    for source in _SOURCES:
        asked = [kind for kind in source.kinds if kind in wanted]
        if not asked:
            continue
        try:
            objects += [found for found in source.list() if found.kind in asked]
        except OSError as error:
            mend = source.mend if isinstance(error, FileNotFoundError) else None
            gaps += [Gap(kind, error.strerror or str(error), mend) for kind in asked]
    objects.sort(key=lambda found: KINDS.index(found.kind))
    return Listing(objects, gaps)


def find(address: str) -> Object:
    """The object of an address, such as mq:/orders, msg:0x14 or msg:id=3, or of a name that only one object has.

    :raises NotFoundError: if there is none
    :raises AccessError: if it is a message queue that can't be opened, and no mqueue file system is mounted
    :raises ValueError: if it is no address, or a name that objects of several kinds have
    """
    kind, name, key, id = parse_address(address)
    if name is None:
        source = next(source for source in _SOURCES if kind in source.kinds)
        for found in source.list():
            if found.kind == kind and isinstance(found, Keyed) and id in (None, found.id) and key in (None, found.key):
                return found
        raise NotFoundError(errno.ENOENT, "there is no such object here (a container has its own)", address)
    if kind is not None:
        found = _FINDERS[kind](name)
        if found.kind != kind:
            raise NotFoundError(errno.ENOENT, f"it is not of this kind, but {found.address}", address)
        return found
    named: list[Object] = []
    for find_one in dict.fromkeys(_FINDERS.values()):
        with suppress(NotFoundError):
            named.append(find_one(name))
    if not named:
        raise NotFoundError(errno.ENOENT, "no object has this name here (a container has its own)", address)
    if len(named) > 1:
        raise ValueError(f"several objects have this name: {', '.join(found.address for found in named)}")
    return named[0]


_FINDERS: dict[Kind, Callable[[str], Object]] = {
    "mq": _mqueue.find_message_queue,
    "sem": _shm.find_semaphore,
    "shm": _shm.find_shared_memory,
    "channel": _shm.find_shared_memory,
    "doorbell": _shm.find_doorbell,
}


def orphans() -> list[Doorbell]:
    """The doorbells of channels that are gone: a creator that was killed may leave them.

    Those of which that is not sure are not among them: while their owner has a channel that can't be looked
    at, while somebody has them open, and in their first minute, in which a channel may be about to get its name.
    """
    return _shm.orphans()
