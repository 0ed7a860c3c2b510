"""Whatever a caller sends, the answer is the app's own: below 500, and an error has the error shape."""

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
from tests.search_api.backstage import Backstage

any_text = st.text(st.characters(), max_size=20)  # half surrogate pairs included
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
filters = st.dictionaries(
    st.sampled_from(["section_id", "lecture_id", "source_type"]) | any_text, json_values | any_text
)
near_misses = st.fixed_dictionaries(
    {"query": any_text | json_values},
    optional={"top_k": st.integers(-1, 25) | json_values, "filters": filters | json_values, "texts": json_values},
)
bodies = (json_values | near_misses).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50)
content_types = st.sampled_from(
    [b"application/json", b"application/json;charset=utf-16", b"text/plain", b""]
) | st.binary(max_size=20)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    backstage = Backstage(tmp_path_factory.mktemp("fuzz"))
    backstage.add_searchable_course("c", "text")
    with backstage.client() as client:
        yield client


def assert_own_answer(response: Response) -> None:
    assert response.status_code < 500
    if response.status_code >= 400:
        error: dict[str, Any] = response.json()["error"]
        assert set(error) == {"code", "message"}
        assert ERRORS[error["code"]].status == response.status_code
        assert len(error["message"]) < 1000


@FUZZ
@given(body=bodies)
def test_search_bodies(app: TestClient, body: bytes) -> None:
    assert_own_answer(app.post("/courses/c/search", content=body, headers={"content-type": "application/json"}))


@FUZZ
@given(body=near_misses | json_values.map(lambda texts: {"texts": texts}))
def test_embed_bodies(app: TestClient, body: Any) -> None:
    headers = {"content-type": "application/json"}
    assert_own_answer(app.post("/embed", content=json.dumps(body).encode(), headers=headers))


@FUZZ
@given(
    body=st.fixed_dictionaries(
        {"input": json_values | st.lists(any_text | json_values)},
        optional={"model": json_values, "dimensions": json_values | st.integers(0, 5), "encoding_format": json_values},
    )
)
def test_openai_bodies(app: TestClient, body: Any) -> None:
    headers = {"content-type": "application/json"}
    assert_own_answer(app.post("/v1/embeddings", content=json.dumps(body).encode(), headers=headers))


@FUZZ
@given(content_type=content_types)
def test_content_types(app: TestClient, content_type: bytes) -> None:
    headers = {b"content-type": content_type}
    assert_own_answer(app.post("/courses/c/search", content=b'{"query": "x"}', headers=headers))


@FUZZ
@given(course_id=st.text(max_size=30), end=st.sampled_from(["embed", "embedding_status", "search"]))
def test_course_ids(app: TestClient, course_id: str, end: str) -> None:
    path = f"/courses/{quote(course_id, safe='')}/{end}"
    assert_own_answer(app.get(path))
    assert_own_answer(app.post(path, json={"query": "x"}))


@FUZZ
@given(token=st.binary(max_size=30))
def test_headers(app: TestClient, token: bytes) -> None:
    assert_own_answer(app.get("/courses", headers={b"x-internal-token": token}))
