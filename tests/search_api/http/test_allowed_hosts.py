"""An app without a token, on a loopback address, answers to no host name that a page of the internet could have."""

import asyncio

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.http.allowed_hosts import AllowedHosts, LoopbackHostMiddleware
from tests.search_api.app_harness import AppHarness
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration


def status(url: str, host: str, **headers: str) -> int:
    return httpx.get(f"{url}/courses", headers={"host": host, **headers}).status_code


def test_page_whose_name_leads_to_this_machine_is_refused(harness: AppHarness) -> None:
    """DNS rebinding: to the browser, the app is the page's own server, so it sends no origin and shows the answer."""
    with serving(create_app(SearchSettings(mcp_allowed_hosts="search.example"), harness.services)) as url:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "app.localhost", "search.example", "192.168.0.2"):
            assert status(url, host) == 200, host
        for host in ("evil.example", "evil.example:8000", "", "localhost.evil.example", "search.example.evil.example"):
            assert status(url, host) == 403, host
            # Uvicorn would take the client's address from this header, which a page may send.
            assert status(url, host, **{"x-forwarded-for": "192.0.2.1"}) == 403, host
        answer = httpx.get(f"{url}/", headers={"host": "evil.example"})
        assert answer.json()["error"]["code"] == "host_not_allowed"
        assert "MCP_ALLOWED_HOSTS" in answer.json()["error"]["message"]


def test_only_loopback_addresses_and_requests_with_the_header_are_checked() -> None:
    async def answer_204(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=204)(scope, receive, send)

    async def status_at(address: str, *headers: tuple[bytes, bytes]) -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "server": (address, 8000), "headers": headers, "path": "/healthz"}
        await LoopbackHostMiddleware(answer_204, AllowedHosts(""))(scope, asyncio.Queue[Message]().get, send)
        return int(sent[0]["status"])

    evil = (b"host", b"evil.example")
    for address in ("127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"):
        assert asyncio.run(status_at(address, evil)) == 403, address
        assert asyncio.run(status_at(address)) == 204, "HTTP/1.0, as HAProxy asks whether the app is well"
    for address in ("10.0.0.2", "::ffff:10.0.0.2", "fd00::2", "/run/search.sock"):
        assert asyncio.run(status_at(address, evil)) == 204, address


def test_token_makes_host_names_irrelevant(harness: AppHarness) -> None:
    with serving(create_app(SearchSettings(internal_token="t"), harness.services)) as url:
        assert status(url, "search.example", **{"x-internal-token": "t"}) == 200
        assert status(url, "evil.example") == 401
