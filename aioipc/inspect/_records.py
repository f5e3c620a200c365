"""What is known of an object: a record of each kind, which does not change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from aioipc.inspect._addresses import Kind, address_of_id, address_of_key, address_of_name
from aioipc.sysv.keys import PRIVATE


class FileIdentity(NamedTuple):
    """What tells a file from all others that there are: see stat(2)."""

    st_dev: int
    st_ino: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Object(ABC):
    """What is known of every object.  A number that this user may not know is None."""

    kind: ClassVar[Kind]
    """What kind it is, in the words of an address."""
    owner: int
    """User id of the owner."""
    group: int
    """Group id of the owner."""
    mode: int
    """Permission bits, such as 0o600."""
    changed_at: float
    """Seconds since the epoch; of what, the kinds differ."""
    identity: tuple[int, ...] = field(repr=False)
    """What tells it from another object that has its name, key or id later."""

    @property
    @abstractmethod
    def address(self) -> str:
        """By what `find` and the aioipc command find it, such as mq:/orders."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that the kernel, or those at the object, have noted there; some may be gone."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Object):
    """An object that has a name."""

    identity: FileIdentity = field(repr=False)
    name: str
    """With its leading slash.  Bytes that are no text are surrogates, as os.fsdecode() makes them."""

    @property
    def address(self) -> str:
        return address_of_name(self.kind, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PosixMessageQueue(Named):
    """A POSIX message queue.  It was last changed when a message was sent or received, or the queue created."""

    kind: ClassVar[Kind] = "mq"
    messages: int | None
    """Messages in the queue."""
    bytes: int | None
    """Their sizes added up."""
    max_messages: int | None
    """How many messages fit."""
    max_message_size: int | None
    """How many bytes fit into one."""
    notify_pid: int | None
    """The process registered with mq_notify(3), 0 for none."""

    @property
    def pids(self) -> tuple[int, ...]:
        return (self.notify_pid,) if self.notify_pid else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PosixSemaphore(Named):
    """A POSIX semaphore.  It was last changed when it was created, or its owner or mode changed."""

    kind: ClassVar[Kind] = "sem"
    value: int | None
    """How many permits there are."""
    waiting: int | None
    """How many threads wait for one.  The C library counts them; those that were killed meanwhile stay counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PosixSharedMemory(Named):
    """A POSIX shared memory object.  It was last changed when it was created, or its size, owner or mode changed."""

    kind: ClassVar[Kind] = "shm"
    size: int
    """In bytes."""
    reserved: int
    """Bytes of memory that it takes up, in whole pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel(PosixSharedMemory):
    """A channel, which is a shared memory object to the kernel.

    One that this user may not read can't be told from other shared memory.
    """

    kind: ClassVar[Kind] = "channel"
    fault: str | None
    """Why nothing is known of what follows; None if it is."""
    bell_id: int | None
    """Random; the doorbells are named after it."""
    capacity: int | None
    """How many bytes fit."""
    messages: int | None
    """Messages that were published and not consumed.  This and the next two are None, too, where receivers are
    quicker than whoever looks."""
    bytes: int | None
    """Their sizes added up."""
    sent: int | None
    """How many were sent from the beginning on, with those that were reserved and given up."""
    senders: int | None
    """Handles that have sent something."""
    receivers: int | None
    """Handles that have received something, or tried to."""
    peers: tuple[int, ...] | None
    """The processes of all handles: as many times as each has it open, each by its number in its own namespace."""
    dead_peers: int | None
    """Handles that were cleaned up after because their process had died."""
    ended: bool | None
    """Whether nothing more will be sent."""

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.peers or ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorbell(Named):
    """A doorbell of a channel that is gone: a FIFO that its creator or its last user could not remove any more."""

    kind: ClassVar[Kind] = "doorbell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed(Object):
    """A System V object.  It was last changed when it was created, or its owner, mode or limit changed."""

    key: int
    """The key, or `sysv.PRIVATE`."""
    id: int
    """The id."""
    creator: int
    """User id of the creator."""
    creator_group: int
    """Group id of the creator."""

    @property
    def address(self) -> str:
        if self.key == PRIVATE:
            return address_of_id(self.kind, self.id)
        return address_of_key(self.kind, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class SysvMessageQueue(Keyed):
    """A System V message queue."""

    kind: ClassVar[Kind] = "msg"
    messages: int
    """Messages in the queue."""
    bytes: int
    """Their sizes added up."""
    max_bytes: int | None
    """What that sum may be before senders wait."""
    last_send_pid: int
    """The process that sent last, 0 for none."""
    last_receive_pid: int
    """The process that received last, 0 for none."""
    sent_at: float | None
    """When that was: seconds since the epoch; None for never."""
    received_at: float | None
    """When that was."""

    @property
    def pids(self) -> tuple[int, ...]:
        return _without_zero(self.last_send_pid, self.last_receive_pid)


class SetMember(NamedTuple):
    """One semaphore of a System V set."""

    value: int
    """Its value."""
    waiting_for_nonzero: int
    """How many threads wait for the value to become greater."""
    waiting_for_zero: int
    """How many threads wait for it to become zero."""
    last_pid: int
    """The process that changed it last, 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SysvSemaphoreSet(Keyed):
    """A System V semaphore set."""

    kind: ClassVar[Kind] = "semset"
    size: int
    """How many semaphores it has."""
    members: tuple[SetMember, ...] | None
    """These."""
    operated_at: float | None
    """When semop(2) was last called: seconds since the epoch; None for never."""

    @property
    def values(self) -> tuple[int, ...] | None:
        """The values of all."""
        return None if self.members is None else tuple(member.value for member in self.members)

    @property
    def waiting(self) -> int | None:
        """How many threads wait for any of them."""
        if self.members is None:
            return None
        return sum(member.waiting_for_nonzero + member.waiting_for_zero for member in self.members)

    @property
    def pids(self) -> tuple[int, ...]:
        return _without_zero(*(member.last_pid for member in self.members or ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SysvSharedMemory(Keyed):
    """A System V shared memory segment."""

    kind: ClassVar[Kind] = "segment"
    size: int
    """In bytes."""
    reserved: int
    """Bytes of it that are in memory."""
    swapped: int
    """Bytes of it that are in swap space."""
    attached: int
    """How often it is attached."""
    creator_pid: int
    """The process that created it."""
    last_pid: int
    """The process that attached or detached it last, 0 for none."""
    attached_at: float | None
    """When it was last attached: seconds since the epoch; None for never."""
    detached_at: float | None
    """When it was last detached."""
    removed: bool
    """Whether it is removed, and goes when nobody has it attached."""

    @property
    def pids(self) -> tuple[int, ...]:
        return _without_zero(self.creator_pid, self.last_pid)


def _without_zero(*pids: int) -> tuple[int, ...]:
    return tuple(sorted({pid for pid in pids if pid != 0}))
