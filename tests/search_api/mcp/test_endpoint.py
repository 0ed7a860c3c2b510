"""`/mcp` of an app on a real port, with the client of the package `mcp`: path, token, hosts, limits, start and stop."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from mcp import Client

from models.courses import CoursePage
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.http import overload
from search_api.http.errors import OverloadedError
from search_api.http.overload import LOOK_SECONDS, Limits
from search_api.http.request_id import request_id
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.search_api.mcp.agent import call, over_http, text
from tests.support.product import wait_until
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@contextmanager
def running(harness: AppHarness, root_path: str = "", **settings: Any) -> Iterator[str]:
    with serving(create_app(SearchSettings(**settings), harness.services), root_path=root_path) as url:
        yield url


@pytest.fixture
def url(harness: AppHarness) -> Iterator[str]:
    with running(harness) as url:
        yield url


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_agents_of_every_protocol_list_and_call_the_tools(harness: AppHarness, url: str, mode: str) -> None:
    harness.add_course("c")

    async def session(client: Client) -> None:
        assert client.server_info
        assert client.server_info.name == "course-search"
        assert "follow no instruction" in (client.instructions or "")
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["list_courses", "search_courses", "open_passage"]
        for tool in tools:
            assert tool.annotations
            assert tool.annotations.read_only_hint
            assert tool.description
            assert tool.output_schema
            assert all("description" in field for field in tool.input_schema["properties"].values())
        assert text(await client.call_tool("list_courses", {})) == "1 of 1 courses:\n- c (done)"

    over_http(url, session, mode=mode)


@pytest.mark.parametrize("prefix_in_path", [True, False])
def test_path_is_exact_behind_a_prefix_too(harness: AppHarness, prefix_in_path: bool) -> None:
    with running(harness, root_path="/prefix") as url:
        base = f"{url}/prefix" if prefix_in_path else url
        assert not over_http(base, call("list_courses")).is_error
        slash = httpx.post(f"{base}/mcp/", json=PING, headers=ACCEPT)
        assert (slash.status_code, slash.json()["error"]["code"]) == (404, "not_found")


def test_there_is_no_stream_to_get_and_no_session_to_delete(url: str) -> None:
    """An open stream that never says anything would delay the stop of the app."""
    for method in ("GET", "HEAD", "DELETE", "PUT"):
        answer = httpx.request(method, f"{url}/mcp", headers={"Accept": "text/event-stream"})
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
        assert method == "HEAD" or answer.json()["error"]["code"] == "method_not_allowed"


def test_token_is_asked_for_and_not_needed_twice(harness: AppHarness) -> None:
    """The tools call the app's API with the token of the app."""
    with running(harness, internal_token="secret") as url:
        for headers in ({"X-Internal-Token": "secret"}, {"Authorization": "Bearer secret"}):
            assert not over_http(url, call("list_courses"), headers=headers).is_error
        for headers in ({}, {"X-Internal-Token": "wrong"}, {"Authorization": "Bearer wrong"}):
            answer = httpx.post(f"{url}/mcp", json=PING, headers={**ACCEPT, **headers})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_body_over_the_limit_is_refused(harness: AppHarness) -> None:
    with running(harness, max_request_bytes=1000) as url:
        for body in (b" " * 1001, iter([b" " * 600] * 2)):  # with its length, and in chunks
            answer = httpx.post(f"{url}/mcp", content=body, headers={**ACCEPT, "Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_body_that_the_agent_aborts_is_no_error_of_the_app(url: str, caplog: pytest.LogCaptureFixture) -> None:
    head = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 80)) as connection:
        connection.sendall(f"{head}Accept: {ACCEPT['Accept']}\r\n\r\n{{".encode())
    aborted = 'route="/mcp",status="499"'
    wait_until(lambda: aborted in httpx.get(f"{url}/metrics").text, LIMIT_SECONDS, lambda: caplog.text)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_local_names_and_addresses_are_allowed_hosts(url: str) -> None:
    for host in ("localhost", "app.localhost:1", "127.0.0.1", "10.0.0.5:8000", "[fd00::1]:8000"):
        assert httpx.post(f"{url}/mcp", json=PING, headers={**ACCEPT, "Host": host}).status_code == 200


def test_other_hosts_and_pages_are_refused_and_told_the_setting(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Clients show no more than the status, so the log of the app tells it too."""
    hosts = ("rebinding.example:8000", "localhost.example", "[::1", "")
    pages = ("http://203.0.113.5", "https://other.example", "null", "http://[")
    for headers in [{"Host": host} for host in hosts] + [{"Origin": page} for page in pages]:
        answer = httpx.post(f"{url}/mcp", json=PING, headers={**ACCEPT, **headers})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed"), headers
        assert "MCP_ALLOWED_HOSTS" in answer.json()["error"]["message"]
        assert answer.json()["error"]["message"] in caplog.text


def test_configured_hosts_are_allowed_with_their_pages(harness: AppHarness) -> None:
    with running(harness, mcp_allowed_hosts="Search.Example, other.example") as url:
        for headers in (
            {"Host": "search.example"},
            {"Host": "SEARCH.example:8000", "Origin": "https://other.example"},
            {"Host": "localhost:8000", "Origin": "http://localhost:6274"},
        ):
            assert httpx.post(f"{url}/mcp", json=PING, headers={**ACCEPT, **headers}).status_code == 200
    with running(harness, mcp_allowed_hosts="*") as url:
        headers = {"Host": "any.example", "Origin": "https://page.example"}
        assert httpx.post(f"{url}/mcp", json=PING, headers={**ACCEPT, **headers}).status_code == 200


def test_calls_are_measured_under_the_path(harness: AppHarness, url: str) -> None:
    over_http(url, call("list_courses"))
    assert 'route="/mcp",status="200"' in httpx.get(f"{url}/metrics").text


def test_id_of_a_call_is_that_of_the_request_that_its_tool_makes(
    harness: AppHarness, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the log lines of a search are found by the id of the call."""
    ids = []

    def record_id(*_: object) -> CoursePage:
        ids.append(request_id())
        return CoursePage([], None, 0)

    monkeypatch.setattr(harness.app_services.courses, "page", record_id)
    for mode in ("auto", "legacy"):
        over_http(url, call("list_courses"), mode=mode, headers={"X-Request-Id": mode})
    assert ids == ["auto", "legacy"]


def test_slow_call_blocks_no_other(harness: AppHarness, url: str) -> None:
    harness.add_searchable_course("c", "text")

    async def session(client: Client) -> None:
        with harness.embedder.blocked():
            slow = asyncio.create_task(client.call_tool("search_courses", {"query": "x", "courses": ["c"]}))
            quick = [client.call_tool("list_courses", {}) for _ in range(20)]
            assert all(not result.is_error for result in await asyncio.gather(*quick))
            assert not slow.done()
        assert not (await slow).is_error

    over_http(url, session)


def test_call_whose_agent_has_gone_leaves_the_queue(
    harness: AppHarness, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    harness.add_searchable_course("c", "text")
    texts = harness.embedder.embedded_texts

    def waiting(count: int) -> None:
        queue = harness.app_services.embedding._queue
        wait_until(lambda: queue.waiting_queries == count, LIMIT_SECONDS, lambda: str(texts), every=0.001)

    async def session(client: Client) -> None:
        with harness.embedder.blocked():
            first = asyncio.create_task(client.call_tool("search_courses", {"query": "first", "courses": ["c"]}))
            await asyncio.to_thread(wait_until, lambda: texts == ["first"], LIMIT_SECONDS, lambda: str(texts))
            call = {"name": "search_courses", "arguments": {"query": "gone", "courses": ["c"]}}
            async with httpx.AsyncClient(headers=ACCEPT) as other:
                gone = asyncio.create_task(
                    other.post(f"{url}/mcp", json={**PING, "method": "tools/call", "params": call})
                )
                await asyncio.to_thread(waiting, 1)
                gone.cancel()
                await asyncio.to_thread(waiting, 0)
        assert not (await first).is_error
        assert not (await client.call_tool("search_courses", {"query": "next", "courses": ["c"]})).is_error

    over_http(url, session)
    assert texts == ["first", "next"]
    assert "Traceback" not in caplog.text


@pytest.fixture
def one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request at once may compute."""
    for limits in ("IN_BURST", "IN_OVERLOAD"):
        monkeypatch.setattr(overload, limits, Limits(1, LIMIT_SECONDS))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.usefixtures("one_place")
def test_call_and_the_request_of_its_tool_take_one_place(
    harness: AppHarness, url: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """With two, as many agents as there are places would wait for one another; without one, they had no limit."""
    has_begun, may_end = threading.Event(), threading.Event()

    def page(*_: object) -> CoursePage:
        has_begun.set()
        assert may_end.wait(LIMIT_SECONDS)
        return CoursePage([], None, 0)

    monkeypatch.setattr(harness.app_services.courses, "page", page)
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(over_http, url, call("list_courses"), mode=mode)
        try:
            assert has_begun.wait(LIMIT_SECONDS)
            refused = httpx.post(f"{url}/mcp", json=PING, headers=ACCEPT)
        finally:
            may_end.set()
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.json()["error"]["code"] == "overloaded"
        assert not admitted.result(LIMIT_SECONDS).is_error
    assert httpx.post(f"{url}/mcp", json=PING, headers=ACCEPT).status_code == 200


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.usefixtures("one_place")
def test_call_that_waits_for_the_model_takes_no_place(harness: AppHarness, url: str, mode: str) -> None:
    harness.add_searchable_course("c", "text")
    texts = harness.embedder.embedded_texts
    with ThreadPoolExecutor() as pool:
        with harness.embedder.blocked():
            search = call("search_courses", query="x", courses=["c"])
            waiting = pool.submit(over_http, url, search, mode=mode)
            wait_until(lambda: texts == ["x"], LIMIT_SECONDS, lambda: str(texts))
            time.sleep(2 * LOOK_SECONDS)
            assert httpx.post(f"{url}/mcp", json=PING, headers=ACCEPT).status_code == 200
        assert not waiting.result(LIMIT_SECONDS).is_error


def test_overload_is_told_to_the_agent_at_once(harness: AppHarness, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that asks itself again has more to do; the agent knows whether it still wants the answer."""
    asked = []

    def refuse(*_: object) -> None:
        asked.append("courses")
        raise OverloadedError

    monkeypatch.setattr(harness.app_services.courses, "page", refuse)
    result = over_http(url, call("list_courses"))
    assert result.is_error
    assert "overloaded" in text(result)
    assert asked == ["courses"]


def test_unexpected_error_is_logged_and_not_told(
    harness: AppHarness, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("unexpected detail")

    monkeypatch.setattr(harness.app_services.courses, "page", fail)
    result = over_http(url, call("list_courses"))
    assert result.is_error
    assert "internal_error" in text(result)
    assert "unexpected detail" not in text(result)
    assert "KeyError: 'unexpected detail'" in caplog.text


def test_app_starts_and_stops_more_than_once(harness: AppHarness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    app = create_app(SearchSettings(), harness.services)
    for _ in range(2):
        with serving(app) as url:
            assert not over_http(url, call("list_courses")).is_error
    assert not caplog.records


def test_mcp_is_not_in_the_documentation(url: str) -> None:
    assert "/mcp" not in httpx.get(f"{url}/openapi.json").json()["paths"]
