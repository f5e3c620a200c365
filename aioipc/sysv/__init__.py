"""System V IPC (sysvipc(7)) as awaitables: message queues, semaphore sets, and the keys they are found by."""

from aioipc.sysv._msg import Message
from aioipc.sysv.keys import PRIVATE, ftok
from aioipc.sysv.message_queue import MessageQueue, MessageQueueStatistics
from aioipc.sysv.semaphore import SemaphoreSet, SemaphoreSetStatistics, SetMember

__all__ = [
    "PRIVATE",
    "Message",
    "MessageQueue",
    "MessageQueueStatistics",
    "SemaphoreSet",
    "SemaphoreSetStatistics",
    "SetMember",
    "ftok",
]
