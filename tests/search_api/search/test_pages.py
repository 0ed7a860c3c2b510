"""Pages, groups, facets and what a student has reached, in the search of one course."""

from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from models.database import transaction
from models.tables import Course
from retrieval.relevance import Calibration
from tests.search_api.app_harness import AppHarness

LECTURES = 3
ROWS = [
    {
        "lecture_id": f"l{number % LECTURES}",
        "section_id": str(number % 2),
        "lecture_title": f"Lecture {number % LECTURES + 1}: Metals",
        "section_title": f"Part {number % 2}",
        "page": number,
        "tags": ["even"] if number % 2 == 0 else ["odd", "rare"],
    }
    for number in range(10)
]


@pytest.fixture(autouse=True)
def course(harness: AppHarness) -> None:
    """Ten passages with falling cosines, chunk-0 the best."""
    harness.add_searchable_course("c", *(f"copper n{number}" for number in range(10)), metadata=ROWS)


def search(client: TestClient, query: str = "copper", **body: Any) -> dict[str, Any]:
    response = client.post("/courses/c/search", json={"query": query, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def numbers(answer: dict[str, Any]) -> list[int]:
    return [result["metadata"]["page"] for result in answer["results"]]


def error(client: TestClient, **body: Any) -> str:
    response = client.post("/courses/c/search", json={"query": "copper", **body})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    message: str = response.json()["error"]["message"]
    return message


@pytest.mark.parametrize("method", ["hybrid", "vector", "keyword"])
def test_pages_neither_overlap_nor_leave_anything_out(client: TestClient, method: str) -> None:
    whole = numbers(search(client, method=method, top_k=20))
    found: list[int] = []
    offset: int | None = 0
    while offset is not None:
        answer = search(client, method=method, top_k=4, offset=offset)
        found += numbers(answer)
        offset = answer["next_offset"]
    assert found == whole
    assert len(whole) == 10
    after = search(client, offset=10)
    assert (after["results"], after["next_offset"]) == ([], None)


def test_last_page_says_so(client: TestClient) -> None:
    assert search(client, top_k=10)["next_offset"] is None
    assert search(client, top_k=9)["next_offset"] == 9


def test_pages_of_relevant_results_end_with_the_last_relevant_one(harness: AppHarness, client: TestClient) -> None:
    with transaction(harness.engine) as session:
        calibration = Calibration(0.0, 0.0, 1.0).as_text(harness.embedder.signature)
        session.execute(update(Course).values(embedding_calibration=calibration))
    relevances = [result["relevance"] for result in search(client, top_k=10)["results"]]
    least = (relevances[5] + relevances[6]) / 2
    first = search(client, top_k=4, min_relevance=least)
    second = search(client, top_k=4, min_relevance=least, offset=4)
    assert numbers(first) + numbers(second) == [0, 1, 2, 3, 4, 5]
    assert (first["next_offset"], second["next_offset"]) == (4, None)


def test_relative_threshold_is_a_share_of_the_best_score(client: TestClient) -> None:
    """The cosines are 1, .9, .8 and so on."""
    assert numbers(search(client, method="vector", top_k=10, relative_threshold=0.75)) == [0, 1, 2]
    assert len(numbers(search(client, method="vector", top_k=10, relative_threshold=0))) == 10


def test_groups_are_ordered_by_their_best_result(client: TestClient) -> None:
    answer = search(client, method="vector", group_by="lecture", group_size=2, top_k=2)
    assert numbers(answer) == [0, 1, 3, 4], "in the order of the scores"
    assert answer["groups"] == [
        {
            "course_id": "c",
            "lecture_id": f"l{number}",
            "section_id": None,
            "title": f"Lecture {number + 1}: Metals",
            "results": results,
            "count": count,
        }
        for number, results, count in ((0, [0, 2], 4), (1, [1, 3], 3))
    ]
    assert (answer["total"], answer["next_offset"], answer["facets"]) == (10, 2, None)
    rest = search(client, method="vector", group_by="lecture", group_size=2, top_k=2, offset=2)
    assert (numbers(rest), [group["lecture_id"] for group in rest["groups"]]) == ([2, 5], ["l2"])
    assert rest["next_offset"] is None
    sections = search(client, method="vector", group_by="section", group_size=1, top_k=6)["groups"]
    assert [(group["lecture_id"], group["section_id"], group["title"]) for group in sections[:2]] == [
        ("l0", "0", "Part 0"),
        ("l1", "1", "Part 1"),
    ]
    assert len(sections) == 6


def test_facets_count_all_results_not_only_those_shown(client: TestClient) -> None:
    answer = search(client, top_k=1, facets=["lecture_id", "tags"], filters={"page": {"lt": 9}})
    assert answer["total"] == 9
    assert answer["facets"] == {
        "lecture_id": [
            {"value": f"l{number}", "title": f"Lecture {number + 1}: Metals", "count": 3} for number in range(3)
        ],
        "tags": [
            {"value": tag, "title": None, "count": count} for tag, count in (("even", 5), ("odd", 4), ("rare", 4))
        ],
    }
    assert search(client, facets=["source_type"])["facets"] == {"source_type": []}
    assert "'pages'" in error(client, facets=["pages"])
    few = search(client, method="vector", facets=["tags"], thresholds={"score": 0.75})
    assert (few["total"], few["facets"]["tags"][0]) == (3, {"value": "even", "title": None, "count": 2})


def test_facets_tell_true_from_1_and_count_a_passage_once(harness: AppHarness, client: TestClient) -> None:
    values: list[Any] = [True, 1, 1.0, ["x", "y", "x"]]
    metadata = [{"mixed": value, "lecture_id": 7} for value in values]
    harness.add_searchable_course("d", *(f"copper n{number}" for number in range(4)), metadata=metadata)
    body = {"query": "copper", "facets": ["mixed", "lecture_id"]}
    facets = client.post("/courses/d/search", json=body).json()["facets"]
    counts = sorted((str(each["value"]), each["count"]) for each in facets["mixed"])
    assert counts == [("1", 2), ("True", 1), ("x", 1), ("y", 1)]
    assert client.post("/search", json={**body, "courses": ["d"]}).json()["facets"] == facets
    groups = client.post("/courses/d/search", json={"query": "copper", "group_by": "lecture"}).json()["groups"]
    assert [group["lecture_id"] for group in groups] == ["7"], "ids are texts, as in citations"


def test_filters_on_any_metadata(client: TestClient) -> None:
    assert sorted(numbers(search(client, filters={"page": {"gte": 3, "lt": 6}}, top_k=10))) == [3, 4, 5]
    only = {"or": [{"tags": "rare", "page": {"gt": 7}}, {"chunk_id": "chunk-2"}], "not": {"lecture_id": "l1"}}
    assert sorted(numbers(search(client, filters=only, top_k=10))) == [2, 9]
    assert error(client, filters={"pgae": 3}).startswith("filters.pgae: no chunk of the course has this field")
    assert "numbers, like '0', not text" in error(client, filters={"page": "3"})
    assert error(client, filters=[1]) == 'filters: must be an object like {"lecture_id": "12"}'
    assert error(client, filters={"": 1}).startswith("filters: no chunk of the course has this field")
    assert len(error(client, filters={"pgae" * 1000: 1})) < 1000


@pytest.mark.parametrize("where", ["/courses/c/search", "/search"])
def test_name_that_is_no_unicode_is_an_unknown_field(client: TestClient, where: str) -> None:
    response = client.post(
        where, content=r'{"query": "x", "filters": {"\ud800": 1}}', headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    assert r"filters.'\ud800': no chunk" in response.json()["error"]["message"]


def test_what_a_student_has_not_reached_is_not_found(client: TestClient) -> None:
    assert sorted(numbers(search(client, up_to={"lecture_id": "l1"}, top_k=10))) == [0, 1, 3, 4, 6, 7, 9]
    order = ["l2", "l0", "l1"]
    answer = search(client, up_to={"lecture_id": "l0"}, lecture_order=order, top_k=10, filters={"page": {"gt": 4}})
    assert sorted(numbers(answer)) == [5, 6, 8, 9]
    assert error(client, up_to={"lecture_id": "7"}) == "up_to: the course has no lecture '7'; it has 'l0', 'l1', 'l2'"


def test_without_an_order_of_the_lectures_nothing_is_guessed(harness: AppHarness, client: TestClient) -> None:
    metadata = [{"lecture_id": "10"}, {"lecture_id": "2"}]
    harness.add_searchable_course("d", "copper", "tin", metadata=metadata)
    body = {"query": "copper", "up_to": {"lecture_id": "2"}}
    response = client.post("/courses/d/search", json=body)
    assert response.status_code == 422
    assert "send lecture_order" in response.json()["error"]["message"]
