"""The files of the search page: open without a token, and loading nothing from other hosts."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from search_api.page.routes import FILES
from tests.search_api.app_harness import AppHarness

PATHS = ["/", *(f"/static/{file.name}" for file in sorted(FILES.iterdir()))]
INDEX = (FILES / "index.html").read_text(encoding="utf-8")


def test_page_is_html(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == INDEX


@pytest.mark.parametrize("path", PATHS)
def test_every_file_needs_no_token_and_has_a_strict_policy(harness: AppHarness, path: str) -> None:
    """The page asks the user for the token, so it must be accessible without one."""
    with harness.client(internal_token="secret") as client:
        response = client.get(path)
    assert response.status_code == 200
    policy = dict(directive.split(" ", 1) for directive in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[source] for source in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert response.headers["x-content-type-options"] == "nosniff"


def test_all_files_that_the_page_references_exist(client: TestClient) -> None:
    for path in re.findall(r'(?:src|href)="([^"]+)"', INDEX):
        assert client.get(f"/{path}").status_code == 200, path


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_file_loads_nothing_external_and_inserts_no_markup(file: Path) -> None:
    content = file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\bon[a-z]+=", content)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/static/nothing.js", 404, "not_found"),
        ("GET", "/static/", 404, "not_found"),
        ("GET", "/static/..%2fapp.py", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/static/page.js", 405, "method_not_allowed"),
    ],
)
def test_errors_of_static_paths_have_the_error_shape(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_unchanged_page_is_not_sent_again(client: TestClient) -> None:
    etag = client.get("/").headers["etag"]
    assert client.get("/", headers={"if-none-match": etag}).status_code == 304
