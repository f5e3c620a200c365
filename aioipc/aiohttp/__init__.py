"""Kernel IPC in an aiohttp application: resources, consumers, and streams to HTTP clients."""

try:
    import aiohttp as _aiohttp  # noqa: F401
except ModuleNotFoundError as error:
    error.msg += ": install aioipc with its extra `aiohttp`"
    raise

from aioipc.aiohttp.consumers import Consumer, ConsumerStatistics, add_consumer
from aioipc.aiohttp.events import Event, as_text
from aioipc.aiohttp.resources import add_resource
from aioipc.aiohttp.streams import setup, stream_events, stream_websocket

__all__ = [
    "Consumer",
    "ConsumerStatistics",
    "Event",
    "add_consumer",
    "add_resource",
    "as_text",
    "setup",
    "stream_events",
    "stream_websocket",
]
