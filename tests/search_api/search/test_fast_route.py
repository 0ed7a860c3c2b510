"""Where a search runs: a short one on the event loop, any other on a thread; and which requests FastAPI handles."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from starlette.concurrency import run_in_threadpool
from starlette.testclient import TestClient

from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.product import wait_until

PATH = "/courses/c/search"


def knows_row(harness: AppHarness) -> bool:
    """Whether the row of course c is known without a query: if the database was not written for a moment."""
    courses = harness.app_services.courses
    return courses.published("c") is courses.published_at_once("c")


def test_short_search_needs_no_thread(harness: AppHarness, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """To pass a search to a thread and back takes as long as a search in a small course."""
    harness.add_searchable_course("c", "copper is plated", "holes are drilled")
    wait_until(partial(knows_row, harness), LIMIT_SECONDS, lambda: "the row is read each time", every=0.01)
    on_a_thread: list[Any] = []

    async def run_and_record(search: Any, *arguments: Any) -> Any:
        on_a_thread.append(search)
        return await run_in_threadpool(search, *arguments)

    monkeypatch.setattr("search_api.search.routes.run_in_threadpool", run_and_record)
    first, second = (client.post(PATH, json={"query": "copper"}) for _ in range(2))
    assert len(on_a_thread) == 1, "only the first search loads the course and embeds the query"
    assert (first.status_code, list(first.headers), first.content) == (200, list(second.headers), second.content)
    assert first.headers["content-type"] == "application/json"
    assert client.post(PATH, json={"query": "holes"}).status_code == 200
    assert len(on_a_thread) == 2, "a new query has to be embedded"
    assert client.post(PATH, json={"query": "absent " * 100, "method": "keyword"}).status_code == 200
    assert len(on_a_thread) == 3, "the analysis of a long query takes longer"


def test_search_that_waits_for_the_model_does_not_block_other_requests(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    expected = client.post(PATH, json={"query": "copper"}).content
    with ThreadPoolExecutor(1) as pool:
        with harness.embedder.blocked():
            waiting = pool.submit(client.post, PATH, json={"query": "new"})
            wait_until(
                lambda: "new" in harness.embedder.embedded_texts, LIMIT_SECONDS, lambda: "not embedded", every=0.01
            )
            assert client.post(PATH, json={"query": "copper"}).content == expected
            assert client.get("/healthz").status_code == 200
            assert not waiting.done()
        assert waiting.result(LIMIT_SECONDS).status_code == 200


def test_settings_limit_a_short_search_too(harness: AppHarness) -> None:
    harness.add_searchable_course("c", "copper")
    with harness.client(search_max_top_k=5) as client:
        assert client.post(PATH, json={"query": "copper", "top_k": 5}).status_code == 200
        response = client.post(PATH, json={"query": "copper", "top_k": 6})
        assert (response.status_code, response.json()["error"]["message"]) == (422, "top_k: at most 5")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
def test_integer_may_be_written_with_a_fraction_of_zero(
    harness: AppHarness, client: TestClient, content_type: str
) -> None:
    """In JSON 5.0 is an integer, also for the parser of a route that is not FastAPI's."""
    harness.add_searchable_course("c", "copper", metadata=[{"lecture_id": "4", "lecture_number": 1}])
    written = {"top_k": 5.0, "offset": 0.0, "context": 1.0, "group_by": "lecture", "group_size": 2.0}
    of_lecture = {"up_to": {"lecture_id": 4.0}, "filters": {"lecture_id": [4.0]}}
    body = json.dumps({"query": "copper", **written, **of_lecture})
    answer = client.post(PATH, content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["total"]) == (200, 1)
    assert client.get("/courses/c/chunks/chunk-0?context=1.0").status_code == 200
    for number in ("NaN", "Infinity", "-Infinity", "1e400"):
        for field in ("top_k", "min_relevance", "ignored"):
            body = f'{{"query": "copper", "{field}": {number}}}'
            assert client.post(PATH, content=body, headers={"content-type": content_type}).status_code == 422


def test_body_with_any_json_content_type_gets_the_same_answer(harness: AppHarness, client: TestClient) -> None:
    """FastAPI handles every content type but the usual one."""
    harness.add_searchable_course("c", "copper")
    body = b'{"query": "copper", "explain": true}'
    answers = [
        client.post(PATH, content=body, headers={"content-type": content_type})
        for content_type in ("application/json", "application/json; charset=utf-8", "application/vnd.course+json")
    ]
    assert {(answer.status_code, answer.content, answer.headers["content-type"]) for answer in answers} == {
        (200, answers[0].content, "application/json")
    }
    assert len({tuple(answer.headers) for answer in answers}) == 1


def test_first_of_two_content_types_counts(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    for first, second, status in (
        ("text/plain", "application/json", 415),
        ("application/json", "text/plain", 200),
    ):
        headers = [("content-type", first), ("content-type", second)]
        assert client.post(PATH, content=b'{"query": "copper"}', headers=headers).status_code == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(harness: AppHarness, client: TestClient, method: str) -> None:
    harness.add_searchable_course("c", "copper")
    response = client.request(method, PATH, headers={"content-type": "application/json"})
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_body_that_is_sent_in_pieces(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    headers = {"content-type": "application/json"}
    for pieces, status in (((b'{"query": ', b'"copper"}'), 200), ((b'{"query": ', b'"copper"'), 422)):
        assert client.post(PATH, content=iter(pieces), headers=headers).status_code == status
