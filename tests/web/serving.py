"""Servers for the tests: in this process, on asyncio and uvloop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """aiohttp runs on these only."""
    return "asyncio", {"use_uvloop": request.param}


class Server:
    """An application that runs, and a client for it."""

    def __init__(self, runner: web.AppRunner, port: int, client: aiohttp.ClientSession) -> None:
        self._runner = runner
        self.port = port
        self.client = client

    async def stop(self) -> None:
        """Shut down as `run_app` does."""
        await self._runner.cleanup()

    def connect(self, request: str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n") -> socket.socket:
        """A client that has sent a request and reads no more than it is asked to."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", self.port))
        client.sendall(request.encode())
        return client


@asynccontextmanager
async def serving(app: web.Application, **options: bool) -> AsyncIterator[Server]:
    runner = web.AppRunner(app, **options)
    try:
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # which connections inherit
        await web.SockSite(runner, listener).start()
        port = listener.getsockname()[1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield Server(runner, port, client)
    finally:
        await runner.cleanup()
