"""POSIX message queues (mq_overview(7)) as awaitables."""

from aioipc.posix.message_queue import Message, MessageQueue, MessageQueueStatistics

__all__ = ["Message", "MessageQueue", "MessageQueueStatistics"]
