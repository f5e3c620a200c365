"""POSIX IPC as awaitables: message queues (mq_overview(7)), semaphores (sem_overview(7)), FIFOs (fifo(7))."""

from aioipc.posix.fifo import Fifo
from aioipc.posix.fifo_ends import FifoReader, FifoStatistics, FifoWriter
from aioipc.posix.message_queue import Message, MessageQueue, MessageQueueStatistics
from aioipc.posix.semaphore import Semaphore, SemaphoreStatistics

__all__ = [
    "Fifo",
    "FifoReader",
    "FifoStatistics",
    "FifoWriter",
    "Message",
    "MessageQueue",
    "MessageQueueStatistics",
    "Semaphore",
    "SemaphoreStatistics",
]
