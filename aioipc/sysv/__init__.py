"""System V IPC (sysvipc(7)) as awaitables: message queues, semaphore sets, shared memory, and their keys."""

from typing import TYPE_CHECKING

from aioipc import _lazy
from aioipc.sysv.keys import PRIVATE, ftok

if TYPE_CHECKING:
    from aioipc.sysv._msg import Message
    from aioipc.sysv.message_queue import MessageQueue, MessageQueueStatistics
    from aioipc.sysv.semaphore import SemaphoreSet, SemaphoreSetStatistics
    from aioipc.sysv.set_member import SetMember
    from aioipc.sysv.shared_memory import SharedMemory, SharedMemoryStatistics
else:
    __getattr__, __dir__ = _lazy.names_of(
        __name__,
        _msg=("Message",),
        message_queue=("MessageQueue", "MessageQueueStatistics"),
        semaphore=("SemaphoreSet", "SemaphoreSetStatistics"),
        set_member=("SetMember",),
        shared_memory=("SharedMemory", "SharedMemoryStatistics"),
    )

__all__ = [
    "PRIVATE",
    "Message",
    "MessageQueue",
    "MessageQueueStatistics",
    "SemaphoreSet",
    "SemaphoreSetStatistics",
    "SetMember",
    "SharedMemory",
    "SharedMemoryStatistics",
    "ftok",
]
