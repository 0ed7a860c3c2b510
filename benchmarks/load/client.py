"""An HTTP client that costs a fraction of what it measures: keep-alive connections, raw requests, one parser each.

An open loop sends each request at its scheduled time, whether or not earlier ones were answered, on a connection that
is free or new; its latency counts from the scheduled time, so a server that stalls cannot hide the requests that it
kept waiting. A closed loop keeps a number of connections busy.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import httptools

TIMEOUT_SECONDS = 30.0
CLOSED = "connection closed"
"""Without an answer. A server closes idle connections after some seconds, perhaps while a request is on its way."""


class NotLoopbackError(ValueError):
    """The load would go to another machine."""


class Call(NamedTuple):
    """A request."""

    kind: str
    message: bytes
    """The whole HTTP message."""


@dataclass(slots=True)
class Exchange:
    """A request and its answer."""

    call: Call
    due: float
    """When it was to be sent, on the monotonic clock."""
    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    """0 without an answer."""
    retry_after: str | None = None
    body: bytes = b""
    problem: str = ""
    """Why there is no answer."""

    @property
    def seconds(self) -> float:
        """From the scheduled time to the last byte of the answer."""
        return self.ended - self.due


def request(kind: str, method: str, path: str, body: bytes = b"") -> Call:
    """An HTTP request on a keep-alive connection."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return Call(kind, head.encode() + b"\r\n" + body)


@dataclass
class Client:
    """The connections to a server on this machine.

    Args:
        host: Its address, which must be a loopback address.
        port: Its port.
        on_end: Called with each exchange that has ended.

    Raises:
        NotLoopbackError: The address is of another machine.
    """

    host: str
    port: int
    on_end: Callable[[Exchange], None]
    timeout_seconds: float = TIMEOUT_SECONDS
    late_seconds: list[float] = field(default_factory=list)
    """How late the client itself sent the requests of an open loop."""
    _idle: list["_Connection"] = field(default_factory=list)
    _busy: set["_Connection"] = field(default_factory=set)
    _sending: set[asyncio.Task[None]] = field(default_factory=set)
    """Requests for which a connection is opened."""

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.host).is_loopback:
            raise NotLoopbackError(f"{self.host} is not a loopback address: the load stays on this machine")

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._idle) + len(self._busy)

    async def open_loop(self, make: Callable[[], Call], rate: float, seconds: float) -> None:
        """Send requests at a fixed rate, and wait for the last answer."""
        start = time.monotonic()
        sweeper = asyncio.create_task(self._end_late())
        try:
            for number in range(max(1, int(rate * seconds))):
                due = start + number / rate
                wait = due - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                exchange = Exchange(make(), due)
                self.late_seconds.append(max(0.0, time.monotonic() - due))
                if self._idle:
                    self._idle.pop().send(exchange)
                else:
                    self.send_anew(exchange, None)
            while self._busy or self._sending:
                await asyncio.sleep(0.01)
        finally:
            sweeper.cancel()

    async def closed_loop(self, make: Callable[[], Call], clients: int, seconds: float) -> None:
        """Keep a number of connections busy."""
        end = time.monotonic() + seconds
        sweeper = asyncio.create_task(self._end_late())
        try:
            await asyncio.gather(*(self._ask_until(make, end) for _ in range(clients)))
        finally:
            sweeper.cancel()

    async def ask(self, call: Call) -> Exchange:
        """Send one request, and wait for the answer."""
        exchange = Exchange(call, time.monotonic())
        ended = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle.pop().send(exchange, ended)
        else:
            await self._connect_and_send(exchange, ended)
        await ended
        return exchange

    def send_anew(self, exchange: Exchange, ended: asyncio.Future[None] | None) -> None:
        """Send a request on a new connection, without waiting for it."""
        task = asyncio.create_task(self._connect_and_send(exchange, ended))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._idle, *self._busy):
            connection.close()

    async def _ask_until(self, make: Callable[[], Call], end: float) -> None:
        while time.monotonic() < end:
            await self.ask(make())

    async def _connect_and_send(self, exchange: Exchange, ended: asyncio.Future[None] | None = None) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                _, connection = await loop.create_connection(lambda: _Connection(self), self.host, self.port)
        except OSError as error:
            exchange.ended, exchange.problem = time.monotonic(), f"no connection: {type(error).__name__}"
            self.on_end(exchange)
            if ended is not None:
                ended.set_result(None)
            return
        connection.send(exchange, ended)

    async def _end_late(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            oldest = time.monotonic() - self.timeout_seconds
            for connection in [each for each in self._busy if each.exchange and each.exchange.sent < oldest]:
                connection.fail("time-out")


class _Connection(asyncio.Protocol):
    """A connection with at most one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._ended: asyncio.Future[None] | None = None
        self._parts: list[bytes] = []
        self._can_be_used_again = True
        self._is_used_again = self._has_answer_begun = False
        self.exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection
        self._transport = transport

    def send(self, exchange: Exchange, ended: asyncio.Future[None] | None = None) -> None:
        self.exchange, self._ended, self._parts, self._has_answer_begun = exchange, ended, [], False
        self._client._busy.add(self)
        exchange.sent = time.monotonic()
        if self._transport is None or self._transport.is_closing():
            self.fail(CLOSED)
            return
        self._transport.write(exchange.call.message)

    def data_received(self, data: bytes) -> None:
        self._has_answer_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"not HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and self.exchange:
            self.exchange.retry_after = value.decode()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.exchange is None:
            return
        self.exchange.status = self._parser.get_status_code()
        self.exchange.body = b"".join(self._parts)
        self._can_be_used_again = self._parser.should_keep_alive()
        self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._can_be_used_again = False
        if self.exchange is not None:
            self.fail(f"connection lost: {type(error).__name__}" if error else CLOSED)
        elif self in self._client._idle:
            self._client._idle.remove(self)

    def fail(self, problem: str) -> None:
        is_closed_while_idle = self._is_used_again and not self._has_answer_begun and problem == CLOSED
        if is_closed_while_idle and self.exchange is not None:  # as every client does, send it once more
            exchange, ended = self.exchange, self._ended
            self.exchange = self._ended = None
            self._client._busy.discard(self)
            self._client.send_anew(exchange, ended)
        elif self.exchange is not None:
            self.exchange.problem = problem
            self._can_be_used_again = False
            self._end()
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _end(self) -> None:
        exchange, ended = self.exchange, self._ended
        if exchange is None:
            return
        exchange.ended = time.monotonic()
        self.exchange = self._ended = None
        self._client._busy.discard(self)
        if self._can_be_used_again:
            self._is_used_again = True
            self._client._idle.append(self)
        else:
            self.close()
        self._client.on_end(exchange)
        if ended is not None and not ended.done():
            ended.set_result(None)
