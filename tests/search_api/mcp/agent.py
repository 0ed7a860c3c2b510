"""An agent in a test: the client of the package `mcp`, connected to a server for a few calls."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

T = TypeVar("T")

Session = Callable[[Client], Awaitable[T]]


def over_http(url: str, session: Session[T], *, mode: str = "auto", headers: dict[str, str] | None = None) -> T:
    """Connect to the endpoint of an app. `mode` is "auto" for the newest protocol, "legacy" for the older ones."""

    async def run() -> T:
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False, timeout=120.0) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
        ):
            return await session(client)

    return asyncio.run(run())


def over_stdio(server: StdioServerParameters, log: Path, session: Session[T], *, mode: str = "auto") -> T:
    """Start a server and connect to it. Its standard error goes to the file `log`."""

    async def run() -> T:
        with log.open("w", encoding="utf-8") as errors:
            async with Client(stdio_client(server, errlog=errors), mode=mode) as client:
                return await session(client)

    return asyncio.run(run())


def call(tool: str, **arguments: Any) -> Session[CallToolResult]:
    """A session of one call."""

    async def session(client: Client) -> CallToolResult:
        return await client.call_tool(tool, arguments)

    return session


def text(result: CallToolResult) -> str:
    """What the model reads."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text
