"""What the clients send: paths, fields and headers, without a server."""

import inspect
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, get_type_hints

import httpx
import pytest

from course_search_client import AsyncCourseSearch, CourseSearch
from course_search_client.errors import UnexpectedAnswerError, UnreachableError
from tests.course_search_client.clients import connect

ANSWER = {"results": [], "courses": [], "resources": [], "a field of a newer app": 1}


class Recorder:
    """Answers every request, and keeps it."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200, json=ANSWER)

    @property
    def sent(self) -> tuple[str, str, Any]:
        """Method, raw path and body of the last request."""
        request = self.requests[-1]
        return request.method, request.url.raw_path.decode(), json.loads(request.content) if request.content else None


CALLS: list[tuple[Callable[[Any], Any], tuple[str, str, Any]]] = [
    (lambda c: c.search("a/b", "q"), ("POST", "/courses/a%2Fb/search", {"query": "q"})),
    (
        lambda c: c.search("ü", ["q", "r"], top_k=3, filters={"week": {"lte": 3}}, method=None, explain=False),
        (
            "POST",
            "/courses/%C3%BC/search",
            {"query": ["q", "r"], "top_k": 3, "filters": {"week": {"lte": 3}}, "explain": False},
        ),
    ),
    (
        lambda c: c.search("x", "q", up_to={"lecture_id": "7"}, lecture_order=["6", "7"], offset=20, facets=["week"]),
        (
            "POST",
            "/courses/x/search",
            {"query": "q", "up_to": {"lecture_id": "7"}, "lecture_order": ["6", "7"], "offset": 20, "facets": ["week"]},
        ),
    ),
    (
        lambda c: c.search(
            "x", "q", filters={"held": {"gte": date(2026, 1, 31), "lt": datetime(2026, 3, 1, 9, tzinfo=UTC)}}
        ),
        (
            "POST",
            "/courses/x/search",
            {"query": "q", "filters": {"held": {"gte": "2026-01-31", "lt": "2026-03-01T09:00:00+00:00"}}},
        ),
    ),
    (lambda c: c.search("x", "\ud800"), ("POST", "/courses/x/search", {"query": "\ud800"})),  # the app refuses it
    (lambda c: c.search_courses("q"), ("POST", "/search", {"query": "q"})),
    (
        lambda c: c.search_courses("q", ["a", {"course_id": "b", "up_to": {"lecture_id": "2"}}], per_course=2),
        (
            "POST",
            "/search",
            {"query": "q", "courses": ["a", {"course_id": "b", "up_to": {"lecture_id": "2"}}], "per_course": 2},
        ),
    ),
    (lambda c: c.passage("a", "1/2#3?"), ("GET", "/courses/a/chunks/1%2F2%233%3F", None)),
    (lambda c: c.passage("..", "1", context=2), ("GET", "/courses/%2E%2E/chunks/1?context=2", None)),
    (lambda c: c.courses(), ("GET", "/courses", None)),
    (
        lambda c: c.courses(search="a b", status="done", limit=2),
        ("GET", "/courses?search=a+b&status=done&limit=2", None),
    ),
    (lambda c: c.course_page(limit=2, cursor="YQ=="), ("GET", "/courses?limit=2&cursor=YQ%3D%3D", None)),
    (lambda c: c.create_course("a/b"), ("POST", "/courses", {"course_id": "a/b"})),
    (lambda c: c.resources("a/b"), ("GET", "/courses/a%2Fb/resources", None)),
    (lambda c: c.resource("1/2"), ("GET", "/resources/1%2F2", None)),
    (lambda c: c.delete_resource(".."), ("DELETE", "/resources/%2E%2E", None)),
    (lambda c: c.embedding_status("a"), ("GET", "/courses/a/embedding_status", None)),
    (lambda c: c.embed("a"), ("POST", "/courses/a/embed", None)),
    (
        lambda c: c.rerank("q", ["t"], top_n=1),
        ("POST", "/v1/rerank", {"query": "q", "documents": ["t"], "top_n": 1}),
    ),
    (
        lambda c: c.feedback("a", "q", helpful=False),
        ("POST", "/feedback", {"course_id": "a", "query": "q", "helpful": False}),
    ),
    (
        lambda c: c.feedback("a", "q", helpful=True, chunk_id="7"),
        ("POST", "/feedback", {"course_id": "a", "query": "q", "helpful": True, "chunk_id": "7"}),
    ),
    (lambda c: c.embed_texts(["t"]), ("POST", "/embed", {"texts": ["t"]})),
]


@pytest.mark.parametrize(("call", "sent"), CALLS)
def test_request(kind: str, call: Callable[[Any], Any], sent: tuple[str, str, Any]) -> None:
    recorder = Recorder()
    with connect(kind, "http://app/", recorder) as client:
        call(client)
    assert recorder.sent == sent


def test_fields_of_a_newer_app_are_in_the_answer(kind: str) -> None:
    with connect(kind, handler=Recorder()) as client:
        assert client.search("a", "q") == ANSWER


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_number_that_json_does_not_have_is_not_sent(kind: str, number: float) -> None:
    recorder = Recorder()
    with connect(kind, handler=recorder) as client, pytest.raises(ValueError, match="not JSON compliant"):
        client.search("a", "q", min_relevance=number)
    assert not recorder.requests


@pytest.mark.parametrize(("token", "header"), [("é", "é"), (" from a file\n", "from a file"), ("", None), (None, None)])
def test_token(kind: str, token: str | None, header: str | None) -> None:
    recorder = Recorder()
    with connect(kind, handler=recorder, token=token) as client:
        client.courses()
    sent = dict(recorder.requests[-1].headers.raw).get(b"X-Internal-Token")
    assert sent == (header.encode() if header else None)


def test_address_and_token_may_be_in_the_environment(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setenv("COURSE_SEARCH_URL", "https://courses.example/prefix/")
    monkeypatch.setenv("COURSE_SEARCH_TOKEN", "secret")
    with connect(kind, url="", handler=recorder) as client:
        client.courses()
    request = recorder.requests[-1]
    assert (str(request.url), request.headers["X-Internal-Token"]) == (
        "https://courses.example/prefix/courses",
        "secret",
    )


@pytest.mark.parametrize(
    ("url", "token", "reason"),
    [
        ("", None, "COURSE_SEARCH_URL"),
        ("courses.example:8000", None, "begins with http"),
        ("http://", None, "begins with http"),
        ("http://user:secret@app", None, "contains a password"),
        ("http://app", "a\nb", "cannot be sent"),
    ],
)
def test_unusable_address_or_token_is_refused_at_once(kind: str, url: str, token: str | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised, connect(kind, url, token=token):
        pass
    assert "secret" not in str(raised.value)


def test_the_environment_cannot_send_requests_through_a_proxy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx itself would fail for this proxy, even if the app is on loopback."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks9://nowhere")
    with (
        connect(kind, "http://127.0.0.1:1", attempts=1) as client,
        pytest.raises(UnreachableError, match="ConnectError"),
    ):
        client.courses()


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, {"html": "<h1>Welcome</h1>"}),
        (200, {"json": ["x"]}),
        (200, {"json": {"no": "courses"}}),
        (301, {"headers": {"Location": "https://app"}}),
        (404, {"html": "<h1>Not found</h1>"}),
        (404, {"json": {"error": "not found"}}),
    ],
)
def test_what_is_no_answer_of_the_app_is_an_error(kind: str, status: int, content: dict[str, Any]) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, **content)

    with (
        connect(kind, handler=answer) as client,
        pytest.raises(UnexpectedAnswerError, match="no answer of the search app") as raised,
    ):
        client.courses()
    assert raised.value.status == status


def test_given_http_client_keeps_its_headers_and_is_not_closed() -> None:
    recorder = Recorder()
    with httpx.Client(transport=httpx.MockTransport(recorder), headers={"Authorization": "Bearer gateway"}) as http:
        with CourseSearch("http://app", http=http) as client:
            client.courses()
        assert recorder.requests[-1].headers["Authorization"] == "Bearer gateway"
        assert not http.is_closed


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> dict[str, Any]:
        return {
            name: (inspect.signature(method).parameters, get_type_hints(method), inspect.getdoc(method))
            for name, method in vars(client).items()
            if inspect.isfunction(method) and not name.startswith("_")
        }

    assert methods(CourseSearch) == methods(AsyncCourseSearch)
