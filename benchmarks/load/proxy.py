"""A TCP proxy on this machine that can become slow, hang, or go away."""

import asyncio
from contextlib import suppress
from enum import StrEnum
from typing import Self


class Fault(StrEnum):
    """What a proxy does to its connections."""

    NONE = "none"
    SLOW = "slow"
    """Every part of an answer is late."""
    HUNG = "hung"
    """Connections are accepted, and nothing is ever answered."""
    AWAY = "away"
    """Connections are refused, and open ones closed."""


SLOW_SECONDS = 0.5


class Proxy:
    """Forwards connections to a port of this machine; an async context manager.

    Args:
        port: The port of the server; `target` may be set later.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self._fault = Fault.NONE
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._refuse()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def set(self, fault: Fault) -> None:
        """Change what it does, for open connections too. After a hang, what waited is forwarded."""
        if fault is Fault.AWAY:
            await self._refuse()
        elif self._fault is Fault.AWAY:
            await self._listen()
        self._fault = fault
        if fault is Fault.HUNG:
            self._may_pass.clear()
        else:
            self._may_pass.set()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        self._server.close()
        for connection in [*self._connections]:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server starts a task
        self._connections.add(task)
        with suppress(OSError, asyncio.CancelledError):
            try:
                await self._may_pass.wait()
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._forward(reader, far_writer, slows=False))
                        both.create_task(self._forward(far_reader, writer, slows=True))
                finally:
                    far_writer.close()
            finally:
                self._connections.discard(task)
                writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slows: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._may_pass.wait()
                if slows and self._fault is Fault.SLOW:
                    await asyncio.sleep(SLOW_SECONDS)
                writer.write(data)
                await writer.drain()
        writer.close()
