"""uvicorn's HTTP protocol, on connections that send at once.

asyncio switches Nagle's algorithm off, but not for connections of the socket that uvicorn makes for several processes:
it names no protocol. On a connection that is kept, each answer would then wait 40 ms for the caller's acknowledgement.
"""

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HttpProtocol(HttpToolsProtocol):
    """Sends every part of an answer at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """A caller has connected."""
        connection = transport.get_extra_info("socket")
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
