"""The search page as HTTP shows it: open to everybody, closed to everything from elsewhere."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from search_api.page.routes import FILES
from tests.search_api.backstage import Backstage

PATHS = ["/", *(f"/static/{file.name}" for file in sorted(FILES.iterdir()))]
INDEX = (FILES / "index.html").read_text(encoding="utf-8")


def test_the_page_is_html(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == INDEX


@pytest.mark.parametrize("path", PATHS)
def test_every_file_is_open_and_strict(backstage: Backstage, path: str) -> None:
    """The page asks for the token, so it must come without one; it never runs what it did not bring."""
    with backstage.client(internal_token="secret") as client:
        response = client.get(path)
    assert response.status_code == 200
    policy = dict(directive.split(" ", 1) for directive in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[source] for source in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert response.headers["x-content-type-options"] == "nosniff"


def test_what_the_page_names_is_there(client: TestClient) -> None:
    for path in re.findall(r'(?:src|href)="([^"]+)"', INDEX):
        assert client.get(f"/{path}").status_code == 200, path


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_nothing_comes_from_elsewhere_and_no_text_becomes_markup(file: Path) -> None:
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
def test_errors_beside_the_page_have_the_one_shape(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_browser_asks_only_whether_it_changed(client: TestClient) -> None:
    etag = client.get("/").headers["etag"]
    assert client.get("/", headers={"if-none-match": etag}).status_code == 304
