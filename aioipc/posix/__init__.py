"""POSIX IPC as awaitables: message queues (mq_overview(7)), semaphores, FIFOs, and shared memory (shm_overview(7))."""

from typing import TYPE_CHECKING

from aioipc import _lazy

if TYPE_CHECKING:
    from aioipc.posix.fifo import Fifo
    from aioipc.posix.fifo_ends import FifoReader, FifoStatistics, FifoWriter
    from aioipc.posix.message_queue import Message, MessageQueue, MessageQueueStatistics
    from aioipc.posix.semaphore import Semaphore, SemaphoreStatistics
    from aioipc.posix.shared_memory import SharedMemory, SharedMemoryStatistics
else:
    __getattr__, __dir__ = _lazy.names_of(
        __name__,
        fifo=("Fifo",),
        fifo_ends=("FifoReader", "FifoStatistics", "FifoWriter"),
        message_queue=("Message", "MessageQueue", "MessageQueueStatistics"),
        semaphore=("Semaphore", "SemaphoreStatistics"),
        shared_memory=("SharedMemory", "SharedMemoryStatistics"),
    )

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
    "SharedMemory",
    "SharedMemoryStatistics",
]
