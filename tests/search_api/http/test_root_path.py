"""The app behind a proxy that serves it under a path prefix (`uvicorn --root-path`), with a token."""

import re
from collections.abc import Iterator

import httpx
import pytest

from search_api.app import create_app, create_embedding_app
from search_api.app_settings import SearchSettings
from search_api.page.routes import FILES
from tests.search_api.app_harness import AppHarness
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration

TOKEN = "secret"
OPEN = ["/healthz", "/readyz", "/", "/docs", "/openapi.json", "/static/page.js", "/docs/static/swagger-ui.css"]
GUARDED = ["/courses", "/v1/models", "/metrics", "/no/such/path", "//healthz", "/search", "/search/search/healthz"]


@pytest.fixture(params=["removes", "passes on"])
def url(harness: AppHarness, request: pytest.FixtureRequest) -> Iterator[str]:
    """What the app receives from a proxy that removes the prefix `/search`, and from one that passes it on."""
    harness.add_searchable_course("search/c", "copper")
    app = create_app(SearchSettings(internal_token=TOKEN), harness.services)
    with serving(app, root_path="/search") as url:
        yield url if request.param == "removes" else f"{url}/search"


@pytest.mark.parametrize("path", OPEN)
def test_open_path_needs_no_token(url: str, path: str) -> None:
    assert httpx.get(url + path).status_code == 200


@pytest.mark.parametrize("path", GUARDED)
def test_other_path_needs_the_token(url: str, path: str) -> None:
    assert httpx.get(url + path).json()["error"]["code"] == "unauthorized"


def test_token_and_api_key_are_accepted(url: str) -> None:
    token, key = {"X-Internal-Token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{url}/v1/models", headers=key).status_code == 200
    assert httpx.get(f"{url}/courses", headers=token).json()["courses"][0]["course_id"] == "search/c"
    answer = httpx.post(f"{url}/courses/search/c/search", json={"query": "copper"}, headers=token)
    assert answer.json()["results"][0]["text"] == "copper"
    chunk = httpx.get(f"{url}/courses/search%2Fc/chunks/chunk-0", headers=token)
    assert (chunk.json()["course_id"], chunk.json()["text"]) == ("search/c", "copper")
    assert 'route="/courses/{course_id:path}/search"' in httpx.get(f"{url}/metrics", headers=token).text


def test_documentation_links_to_paths_under_the_prefix(url: str) -> None:
    documentation = httpx.get(f"{url}/docs").text
    links = re.findall(r"""(?:src|href|url)(?:=|: )["']([^"']+)""", documentation)
    assert links
    assert all(link.startswith("/search/") for link in links)
    assert httpx.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/search"}]


def test_page_has_only_relative_links() -> None:
    links = [link for file in FILES.glob("*.html") for link in re.findall(r'(?:src|href)="([^"]+)"', file.read_text())]
    assert links
    assert not [link for link in links if link.startswith("/")]


@pytest.mark.parametrize("root_path", ["/search/", "search", "/", "/a/b"])
def test_every_spelling_of_the_prefix_works(harness: AppHarness, root_path: str) -> None:
    app = create_app(SearchSettings(internal_token=TOKEN), harness.services)
    with serving(app, root_path=root_path) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/{root_path.strip('/')}/healthz".replace("//healthz", "/healthz")).status_code == 200
        assert httpx.get(f"{url}/courses").status_code == 401
        assert f"'/{root_path.strip('/')}/openapi.json'".replace("//", "/") in httpx.get(f"{url}/docs").text


def test_prefix_may_be_the_name_of_a_path_if_the_proxy_removes_it(harness: AppHarness) -> None:
    harness.add_course("c")
    with serving(create_app(SearchSettings(), harness.services), root_path="/courses") as url:
        assert httpx.get(f"{url}/courses/c/embedding_status").status_code == 200
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_embedding_app_supports_the_prefix(harness: AppHarness) -> None:
    app = create_embedding_app(SearchSettings(internal_token=TOKEN), harness.services)
    with serving(app, root_path="/embedding") as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
