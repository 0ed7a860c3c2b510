"""Cross-origin requests: which answers a browser gives to a page of another origin."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from httpx2 import Response
from pydantic import ValidationError
from starlette.testclient import TestClient

from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import AppHarness
from tests.support.servers.asgi import serving

TOKEN = "secret"
ORIGIN = "https://course.example"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-internal-token,x-request-id",
}


@pytest.fixture
def client(harness: AppHarness) -> Iterator[TestClient]:
    harness.add_searchable_course("c", "copper")
    origins = f" {ORIGIN}/ ,HTTP://localhost:8080"
    with harness.client(internal_token=TOKEN, cors_origins=origins, max_request_bytes=1000) as client:
        yield client


def test_preflight_needs_no_token(client: TestClient) -> None:
    for origin in (ORIGIN, "http://localhost:8080"):
        response = client.options("/courses/c/search", headers=PREFLIGHT | {"origin": origin})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == origin
        assert "POST" in response.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in response.headers
        assert "x-request-id" in response.headers


@pytest.mark.parametrize(
    "refused",
    [
        {"origin": "https://other.example"},
        {"origin": "http://course.example"},
        {"origin": "null"},
        {"access-control-request-method": "TRACE"},
        {"access-control-request-headers": "x-other"},
    ],
)
def test_other_preflight_is_refused(client: TestClient, refused: dict[str, str]) -> None:
    response = client.options("/courses/c/search", headers=PREFLIGHT | refused)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "cors_refused")
    assert "access-control-allow-origin" not in response.headers
    assert "Origin" in response.headers["vary"]


def test_every_answer_can_be_read_by_the_page(harness: AppHarness, client: TestClient) -> None:
    """Also an error: otherwise the page could not tell why its request failed."""
    page, token = {"origin": ORIGIN}, {"authorization": f"Bearer {TOKEN}"}

    def search(**options: str) -> Response:
        return client.post("/courses/c/search", json={"query": "x"} | options, headers=page | token)

    answers = [
        (200, search(method="keyword")),
        (401, client.get("/courses", headers=page)),
        (404, client.get("/no/such/path", headers=page | token)),
        (413, client.post("/embed", json={"texts": ["x" * 2000]}, headers=page | token)),
        (422, search(query="")),
    ]
    harness.embedder.error = KeyError("unexpected")
    answers.append((500, search()))
    for status, response in answers:
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["access-control-expose-headers"] == "Retry-After, Server-Timing, X-Request-Id"
        assert "access-control-allow-credentials" not in response.headers
        assert "Origin" in response.headers["vary"]


def test_other_origin_cannot_read_an_answer(client: TestClient) -> None:
    response = client.get("/healthz", headers={"origin": "https://other.example"})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


def test_all_origins_may_be_allowed_without_credentials(harness: AppHarness) -> None:
    with harness.client(cors_origins="*") as client:
        for response in (client.options("/courses", headers=PREFLIGHT), client.get("/courses", headers=PREFLIGHT)):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


def test_by_default_no_other_origin_may_call_the_app(harness: AppHarness) -> None:
    with harness.client() as client:
        assert client.options("/courses", headers=PREFLIGHT).status_code == 405
        assert not [name for name in client.get("/courses", headers=PREFLIGHT).headers if name.startswith("access-")]
    with harness.client(internal_token=TOKEN) as client:
        assert client.options("/courses", headers=PREFLIGHT).status_code == 401


OWN = "http://testserver"
OTHER = "https://other.example"


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin", "origin": OWN}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site", "origin": OTHER}, True),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:3000"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "null"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": ORIGIN}, False),
        # an address without HTTPS
        ({"origin": OWN}, False),
        ({"origin": OTHER}, True),
        ({"origin": "null"}, True),
        ({"origin": OTHER, "content-type": "application/json"}, False),  # the browser has asked before
        ({"origin": OTHER, "x-forwarded-host": "other.example"}, False),  # behind a proxy that changes Host
    ],
)
def test_page_of_another_origin_changes_nothing(harness: AppHarness, headers: dict[str, str], is_refused: bool) -> None:
    """A browser sends a form, or nothing, to another origin without asking first."""
    harness.add_course("c")
    form: dict[str, Any] = {"data": {"course_id": "c"}, "files": {"file": ("a.md", b"text")}}
    with harness.client(cors_origins=ORIGIN) as client:
        answers = [client.post("/courses/c/embed", headers=headers), client.delete("/resources/none", headers=headers)]
        if "content-type" not in headers:
            answers.append(client.post("/resources", headers=headers, **form))
        for response in answers:
            assert (response.status_code == 403) == is_refused
            if is_refused:
                assert response.json()["error"]["code"] == "cors_refused"
        assert client.get("/courses", headers=headers).status_code == 200


@pytest.mark.integration
def test_preflight_works_behind_a_prefix(harness: AppHarness) -> None:
    app = create_app(SearchSettings(internal_token=TOKEN, cors_origins=ORIGIN), harness.services)
    with serving(app, root_path="/search") as url:
        for path in ("/courses", "/search/courses"):
            assert httpx.options(url + path, headers=PREFLIGHT).status_code == 200
            assert httpx.get(url + path, headers=PREFLIGHT | {"x-internal-token": TOKEN}).status_code == 200


@pytest.mark.parametrize(
    "origins", ["course.example", "https://course.example/path", "null", "https://a https://b", "https://*/"]
)
def test_invalid_setting_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        SearchSettings(cors_origins=origins)
