"""`POST /search`: several courses in one list, each with its own state."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col
from starlette.testclient import TestClient

from embedding.errors import ModelUnavailableError
from models.database import transaction
from models.tables import Course, EmbeddingStatus
from retrieval.relevance import Calibration
from search_api.search.several_courses import LEAST_STACKED
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.product import wait_until


def calibrate(harness: AppHarness, course_id: str, noise: float, signal: float = 1.0) -> None:
    calibration = Calibration(noise, noise, signal).as_text(harness.embedder.signature)
    with transaction(harness.engine) as session:
        session.execute(update(Course).where(col(Course.id) == course_id).values(embedding_calibration=calibration))


@pytest.fixture
def three_courses(harness: AppHarness) -> None:
    """In the third, cosines mean less: foreign questions reach .99."""
    harness.add_searchable_course("a", "copper is plated", "holes are drilled", "masks are cured")
    harness.add_searchable_course("b", "copper plating of holes", "tin is plated")
    harness.add_searchable_course("c", "violins are tuned", "copper strings are wound")
    for course_id, noise in (("a", 0.5), ("b", 0.5), ("c", 0.99)):
        calibrate(harness, course_id, noise)


def search(client: TestClient, query: Any = "copper plated", **body: Any) -> dict[str, Any]:
    response = client.post("/search", json={"query": query, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def places(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(result["citation"]["course_id"], result["metadata"]["chunk_id"]) for result in answer["results"]]


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {course["course_id"]: course["state"] for course in answer["courses"]}


@pytest.mark.usefixtures("three_courses")
def test_results_of_all_courses_are_in_one_list(client: TestClient) -> None:
    """The same words and cosines are worth less in a course where foreign questions reach them."""
    answer = search(client, courses=["c", "a", "b"])
    assert [course["course_id"] for course in answer["courses"]] == ["c", "a", "b"]
    assert states(answer) == dict.fromkeys("abc", "searched")
    scores = [result["score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {place[0] for place in places(answer)[:2]} == {"a", "b"}
    assert sum(course["results"] for course in answer["courses"]) == len(answer["results"]) == 5
    assert (answer["answerable"], answer["stale"], answer["degraded"], answer["unknown_terms"]) == (
        True,
        False,
        None,
        [],
    )
    best = {course["course_id"]: course["best_relevance"] for course in answer["courses"]}
    assert best["c"] < best["a"]
    assert answer["results"][0]["score"] <= max(best.values()) + 1e-6


@pytest.mark.usefixtures("three_courses")
def test_order_within_a_course_is_that_of_its_own_search(client: TestClient) -> None:
    answer = search(client, top_k=20)
    for course_id in "abc":
        alone = client.post(f"/courses/{course_id}/search", json={"query": "copper plated", "top_k": 20}).json()
        expected = [result["metadata"]["chunk_id"] for result in alone["results"]]
        assert [chunk_id for course, chunk_id in places(answer) if course == course_id] == expected


@pytest.mark.usefixtures("three_courses")
def test_pages_of_several_courses_neither_overlap_nor_leave_anything_out(client: TestClient) -> None:
    whole = places(search(client, top_k=20))
    pages: list[tuple[str, str]] = []
    offset: int | None = 0
    while offset is not None:
        answer = search(client, top_k=2, offset=offset)
        pages += places(answer)
        offset = answer["next_offset"]
    assert pages == whole
    assert len(whole) == 7


@pytest.mark.usefixtures("three_courses")
def test_what_no_threshold_lets_pass_does_not_answer(client: TestClient) -> None:
    answer = search(client, "holes", thresholds={"vector": 1.5})
    assert (answer["results"], answer["answerable"]) == ([], False)
    assert {course["best_relevance"] for course in answer["courses"]} == {0.0}


@pytest.mark.usefixtures("three_courses")
def test_quota_of_a_course(client: TestClient) -> None:
    counts = [course["results"] for course in search(client, per_course=1)["courses"]]
    assert counts == [1, 1, 1]


@pytest.mark.usefixtures("three_courses")
def test_course_that_cannot_be_searched_does_not_fail_the_others(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("new", EmbeddingStatus.PENDING)
    harness.add_course("gone")  # done, but without a collection
    answer = search(client, courses=["a", "new", "nobody", "gone"])
    assert states(answer) == {"a": "searched", "new": "not_ready", "nobody": "not_found", "gone": "not_ready"}
    errors = {course["course_id"]: course["error"] for course in answer["courses"]}
    assert errors["a"] is None
    assert errors["nobody"]["code"] == "course_not_found"
    assert errors["new"]["code"] == "embedding_not_ready"
    assert "pending" in errors["new"]["message"]
    assert {place[0] for place in places(answer)} == {"a"}
    none = search(client, courses=["new", "nobody"])
    assert (none["results"], none["answerable"], none["next_offset"]) == ([], None, None)


def test_without_a_model_the_search_fails_but_by_words(harness: AppHarness) -> None:
    """Callers choose their fallback by the code of the error."""
    harness.add_searchable_course("a", "copper")
    harness.load_error = ModelUnavailableError(harness.database, "there are no weights")
    with harness.client() as client:
        response = client.post("/search", json={"query": "copper"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "embedding_service_unavailable")
        assert places(search(client, "copper", method="keyword")) == [("a", "chunk-0")]


@pytest.mark.usefixtures("three_courses")
def test_all_courses_are_those_that_can_be_searched(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("new", EmbeddingStatus.PENDING)
    assert states(search(client)).keys() == {"a", "b", "c"}
    with harness.client(search_max_courses=2) as small:
        response = small.post("/search", json={"query": "copper"})
        assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
        assert "3 courses" in response.json()["error"]["message"]
        assert small.post("/search", json={"query": "copper", "courses": ["a", "b", "c"]}).status_code == 422
        assert small.post("/search", json={"query": "copper", "courses": ["a", "b"]}).status_code == 200


def test_course_of_another_model_or_without_a_calibration_is_searched_by_words(
    harness: AppHarness, client: TestClient
) -> None:
    """Its cosines cannot be compared, but its words can."""
    harness.add_searchable_course("plain", "copper is plated", "holes")
    harness.add_searchable_course("other", "copper is plated", "holes")
    harness.stub_store.by_course["other"].signature = "another"
    answer = search(client)
    assert states(answer) == {"plain": "stale", "other": "stale"}
    assert set(places(answer)) == {("plain", "chunk-0"), ("other", "chunk-0")}
    reasons = {course["course_id"]: course["degraded"] for course in answer["courses"]}
    assert "relevance is not measured" in reasons["plain"]
    assert "another model" in reasons["other"]


@pytest.mark.usefixtures("three_courses")
def test_word_that_one_of_the_courses_has_is_not_misspelt(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("d", "coppers are policemen")
    answer = search(client, "coper plating", method="keyword", explain=True)
    assert answer["results"], "no course has the word, so it is corrected"
    harness.add_searchable_course("e", "a coper deals in horses")
    answer = search(client, "coper", method="keyword")
    assert {place[0] for place in places(answer)} == {"e"}


def test_many_courses_give_the_same_answer_once_they_are_put_together(harness: AppHarness, client: TestClient) -> None:
    """The first searches look at each course alone."""
    for number in range(LEAST_STACKED + 1):
        harness.add_searchable_course(f"{number:02}", f"copper is plated {'in tin ' * number}", f"hole {number}")
        calibrate(harness, f"{number:02}", 0.3)
    stacks = harness.app_services.caches["course_stacks"]
    alone = search(client, "copper plated", top_k=20)
    wait_until(lambda: stacks.get_cache_stats().entries == 1, LIMIT_SECONDS, lambda: "the courses are put together")
    together = search(client, "copper plated", top_k=20)
    assert stacks.get_cache_stats().hits == 1
    assert together["results"] == alone["results"]
    assert together["answerable"] == alone["answerable"]
    filtered = search(client, "copper plated", filters={"not": {"chunk_id": "chunk-0"}}, top_k=20)
    assert {place[1] for place in places(filtered)} == {"chunk-1"}, "a filter is not forgotten"
    assert stacks.get_cache_stats().hits == 1


def lectures(count: int) -> Sequence[dict[str, Any]]:
    return [
        {"lecture_id": f"l{number // 2}", "lecture_number": number // 2, "source_type": ["pdf", "video"][number % 2]}
        for number in range(count)
    ]


@pytest.fixture
def two_lectured_courses(harness: AppHarness) -> None:
    for course_id in "xy":
        texts = [f"copper {course_id}{number}" for number in range(4)]
        harness.add_searchable_course(course_id, *texts, metadata=lectures(4))
        calibrate(harness, course_id, 0.1)


@pytest.mark.usefixtures("two_lectured_courses")
def test_groups_and_counts_over_all_courses(client: TestClient) -> None:
    answer = search(client, "copper", group_by="lecture", group_size=1, top_k=3, facets=["source_type"])
    assert [(group["course_id"], group["lecture_id"], group["count"]) for group in answer["groups"]] == [
        ("x", "l0", 2),
        ("y", "l0", 2),
        ("x", "l1", 2),
    ]
    for group in answer["groups"]:
        (place,) = group["results"]
        metadata = answer["results"][place]["metadata"]
        assert (metadata["course_id"], metadata["lecture_id"]) == (group["course_id"], group["lecture_id"])
    assert (answer["total"], answer["next_offset"]) == (8, 3)
    assert answer["facets"] == {
        "source_type": [{"value": value, "title": None, "count": 4} for value in ("pdf", "video")]
    }
    rest = search(client, "copper", group_by="lecture", group_size=1, top_k=3, offset=3)
    assert [(group["course_id"], group["lecture_id"]) for group in rest["groups"]] == [("y", "l1")]
    assert rest["next_offset"] is None
    by_course = search(client, "copper", group_by="course", group_size=2)
    assert [(group["course_id"], group["count"], len(group["results"])) for group in by_course["groups"]] == [
        ("x", 4, 2),
        ("y", 4, 2),
    ]


@pytest.mark.usefixtures("two_lectured_courses")
def test_course_without_the_field_of_a_facet_still_counts(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("z", "copper z", metadata=[{"lecture_id": "l0"}])
    calibrate(harness, "z", 0.1)
    answer = search(client, "copper", facets=["lecture_number", "lecture_id"], group_by="course")
    assert answer["total"] == 9
    assert [value["count"] for value in answer["facets"]["lecture_number"]] == [4, 4]
    assert [(value["value"], value["count"]) for value in answer["facets"]["lecture_id"]] == [("l0", 5), ("l1", 4)]
    assert {group["course_id"] for group in answer["groups"]} == set("xyz")
    response = client.post("/search", json={"query": "copper", "facets": ["lecture_id", "lectur"]})
    assert response.status_code == 422
    assert "no chunk of the courses has the field 'lectur'" in response.json()["error"]["message"]


@pytest.mark.usefixtures("two_lectured_courses")
def test_each_course_has_its_own_place_of_the_student(client: TestClient) -> None:
    courses: list[Any] = [{"course_id": "x", "up_to": {"lecture_id": "l0"}}, "y"]
    assert sorted(places(search(client, "copper", courses=courses, top_k=20))) == [
        ("x", "chunk-0"),
        ("x", "chunk-1"),
        *(("y", f"chunk-{number}") for number in range(4)),
    ]
    courses[0] = {"course_id": "x", "up_to": {"lecture_id": "unknown"}}
    answer = search(client, "copper", courses=courses)
    assert states(answer) == {"x": "failed", "y": "searched"}
    assert answer["courses"][0]["error"]["code"] == "invalid_request"
    assert "no lecture 'unknown'" in answer["courses"][0]["error"]["message"]


@pytest.mark.usefixtures("two_lectured_courses")
def test_field_that_one_course_has_filters_and_one_that_none_has_is_an_error(
    harness: AppHarness, client: TestClient
) -> None:
    harness.add_searchable_course("z", "copper z")
    calibrate(harness, "z", 0.1)
    answer = search(client, "copper", filters={"lecture_number": {"gte": 1}})
    assert states(answer) == {"x": "searched", "y": "searched", "z": "failed"}
    assert len(answer["results"]) == 4
    response = client.post("/search", json={"query": "copper", "filters": {"lecture_numbr": 1}})
    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith(
        "filters.lecture_numbr: no chunk of the course has this field"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"courses": []}, "courses"),
        ({"courses": "a"}, "courses"),
        ({"courses": ["a", "a"]}, "body"),
        ({"courses": [{"id": "a"}]}, "courses.0"),
        ({"courses": [1.5]}, "courses.0.course_id"),
        ({"up_to": {"lecture_id": "1"}}, "body"),
        ({"diversity": 0.5}, "body"),
        ({"per_course": 0}, "per_course"),
        ({"group_by": "chunk"}, "group_by"),
        ({"top_k": 21}, "top_k"),
    ],
)
def test_invalid_request_names_the_field(client: TestClient, body: dict[str, Any], field: str) -> None:
    response = client.post("/search", json={"query": "copper", **body})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "invalid_request")
    assert error["message"].startswith(f"{field}: ")
