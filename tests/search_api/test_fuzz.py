"""Random input never causes a status of 500 or above, and every error has the error shape."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from search_api.http.errors import ERRORS
from tests.search_api.app_harness import AppHarness

any_text = st.text(st.characters(), max_size=20)  # including unpaired surrogates
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
filters = st.dictionaries(
    st.sampled_from(["section_id", "lecture_id", "source_type"]) | any_text, json_values | any_text
)
almost_valid_bodies = st.fixed_dictionaries(
    {"query": any_text | json_values},
    optional={"top_k": st.integers(-1, 25) | json_values, "filters": filters | json_values, "texts": json_values},
)
bodies = (json_values | almost_valid_bodies).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50)
content_types = st.sampled_from(
    [b"application/json", b"application/json;charset=utf-16", b"text/plain", b""]
) | st.binary(max_size=20)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    harness = AppHarness(tmp_path_factory.mktemp("fuzz"))
    harness.add_searchable_course("c", "text")
    with harness.client() as client:
        yield client


def assert_valid_answer(response: Response) -> None:
    assert response.status_code < 500
    if response.status_code >= 400:
        error: dict[str, Any] = response.json()["error"]
        assert set(error) == {"code", "message"}
        assert ERRORS[error["code"]].status == response.status_code
        assert len(error["message"]) < 1000


@FUZZ
@given(body=bodies)
def test_search_accepts_or_rejects_any_body(app: TestClient, body: bytes) -> None:
    assert_valid_answer(app.post("/courses/c/search", content=body, headers={"content-type": "application/json"}))


@FUZZ
@given(body=almost_valid_bodies | json_values.map(lambda texts: {"texts": texts}))
def test_embed_accepts_or_rejects_any_body(app: TestClient, body: Any) -> None:
    headers = {"content-type": "application/json"}
    assert_valid_answer(app.post("/embed", content=json.dumps(body).encode(), headers=headers))


@FUZZ
@given(
    body=st.fixed_dictionaries(
        {"input": json_values | st.lists(any_text | json_values)},
        optional={"model": json_values, "dimensions": json_values | st.integers(0, 5), "encoding_format": json_values},
    )
)
def test_openai_embeddings_accepts_or_rejects_any_body(app: TestClient, body: Any) -> None:
    headers = {"content-type": "application/json"}
    assert_valid_answer(app.post("/v1/embeddings", content=json.dumps(body).encode(), headers=headers))


@FUZZ
@given(
    body=st.fixed_dictionaries(
        {"query": any_text | json_values, "documents": json_values | st.lists(any_text | json_values)},
        optional={"top_n": json_values, "return_documents": json_values, "rank_fields": json_values},
    )
)
def test_rerank_accepts_or_rejects_any_body(app: TestClient, body: Any) -> None:
    headers = {"content-type": "application/json"}
    response = app.post("/v1/rerank", content=json.dumps(body).encode(), headers=headers)
    if response.status_code != 503:  # there is no model
        assert_valid_answer(response)


@FUZZ
@given(content_type=content_types)
def test_search_accepts_or_rejects_any_content_type(app: TestClient, content_type: bytes) -> None:
    headers = {b"content-type": content_type}
    assert_valid_answer(app.post("/courses/c/search", content=b'{"query": "x"}', headers=headers))


@FUZZ
@given(course_id=st.text(max_size=30), end=st.sampled_from(["embed", "embedding_status", "search"]))
def test_course_routes_accept_or_reject_any_course_id(app: TestClient, course_id: str, end: str) -> None:
    path = f"/courses/{quote(course_id, safe='')}/{end}"
    assert_valid_answer(app.get(path))
    assert_valid_answer(app.post(path, json={"query": "x"}))


@pytest.mark.parametrize(
    ("path", "field", "rest"),
    [
        ("/courses/c/search", "query", {}),
        ("/courses/c/search", "lecture_order", {"query": "x"}),
        ("/search", "courses", {"query": "x"}),
        ("/embed", "texts", {}),
        ("/v1/embeddings", "input", {}),
        ("/v1/rerank", "documents", {"query": "x"}),
    ],
)
def test_items_beyond_the_limit_of_a_list_are_not_validated(
    app: TestClient, path: str, field: str, rest: dict[str, Any]
) -> None:
    """Millions of items fit into a request, and the event loop waits for their validation."""
    items: list[Any] = [str(number) for number in range(100_001)]
    answer = app.post(path, json={field: [*items, 5 * [None]], **rest})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(f"{field}: ")
    assert "at most" in answer.json()["error"]["message"]


@FUZZ
@given(token=st.binary(max_size=30))
def test_any_token_header_is_handled(app: TestClient, token: bytes) -> None:
    assert_valid_answer(app.get("/courses", headers={b"x-internal-token": token}))
