"""An app without a token, on a loopback address, answers to no host name that a page of the internet could have."""

import httpx
import pytest

from search_api.app import create_app
from search_api.app_settings import SearchSettings
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


def test_token_makes_host_names_irrelevant(harness: AppHarness) -> None:
    with serving(create_app(SearchSettings(internal_token="t"), harness.services)) as url:
        assert status(url, "search.example", **{"x-internal-token": "t"}) == 200
        assert status(url, "evil.example") == 401
