"""Questions are recorded without slowing or failing a search, and without who asked."""

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import col, select
from starlette.testclient import TestClient

from models.database import create_catalogue_engine, transaction
from models.questions import MAX_CHARACTERS, MAX_UNKNOWN_TERMS, NewQuestion, write_questions
from models.tables import Feedback, Question
from search_api.questions import service
from search_api.questions.service import QueryLog
from tests.search_api.app_harness import AppHarness
from tests.search_api.operations.test_metrics import samples
from tests.search_api.search.test_several_courses import calibrate

ANSWER = {"results": [{"relevance": 0.5}, {"relevance": 0.75}], "answerable": True, "unknown_terms": ["via"]}


@pytest.fixture
def logging_client(harness: AppHarness) -> Iterator[TestClient]:
    harness.add_searchable_course("c", "Solder mask is cured by light", "Copper foil")
    with harness.client(query_log=True) as client:
        yield client


@pytest.fixture
def log(harness: AppHarness) -> QueryLog:
    """A log whose thread does not run, so that the test decides when it writes."""
    return QueryLog(harness.engine, is_on=True, days=90)


def written(harness: AppHarness) -> list[Question]:
    with transaction(harness.engine) as session:
        return list(session.scalars(select(Question).order_by(col(Question.id))))


def search(client: TestClient, query: str | list[str], **fields: object) -> dict[str, object]:
    response = client.post("/courses/c/search", json={"query": query, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, object] = response.json()
    return answer


@contextmanager
def write_lock(harness: AppHarness) -> Iterator[None]:
    with closing(sqlite3.connect(harness.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_search_is_recorded_with_its_figures(harness: AppHarness, logging_client: TestClient) -> None:
    before = datetime.now(UTC)
    answer = search(logging_client, ["solder kangaroo", "another phrasing"])
    search(logging_client, "solder kangaroo")  # the second time by the fast path
    for query in ("solder kangaroo", "not in the cache"):  # not recorded: the second page of the same question
        search(logging_client, query, offset=1)
    harness.app_services.questions.write()
    first, second = written(harness)
    assert (first.course_id, first.text, first.results) == ("c", "solder kangaroo", 2)
    assert (second.text, second.results) == (first.text, first.results)
    assert first.unknown_terms.split("\n") == answer["unknown_terms"]
    assert first.answerable == answer["answerable"]
    assert before <= first.asked_at <= datetime.now(UTC)


def test_a_search_of_several_courses_is_recorded_even_if_it_finds_nothing(
    harness: AppHarness, logging_client: TestClient
) -> None:
    """What is not found is what the teacher wants to know. It is recorded under the most relevant course."""
    harness.add_searchable_course("d", "Copper foil")
    for course_id, signal in (("c", 3.0), ("d", 2.0)):
        calibrate(harness, course_id, 0.1, signal)
    nowhere = {"filters": {"chunk_id": "none"}}
    for courses, query, fields in (
        (["c"], "of c", nowhere),
        (["c", "missing"], "of c, too", nowhere),
        (["c", "d"], "of d", {"min_relevance": 1}),
        (["c", "d"], "of neither", nowhere),
    ):
        response = logging_client.post("/search", json={"query": query, "courses": courses, **fields})
        assert response.json()["results"] == [], response.text
    harness.app_services.questions.write()
    recorded = [(question.course_id, question.text) for question in written(harness)]
    assert recorded == [("c", "of c"), ("c", "of c, too"), ("d", "of d")]


def test_nothing_tells_who_asked() -> None:
    """A new column must be looked at with that in mind."""
    assert Question.__table__.columns.keys() == [  # type: ignore[attr-defined]
        *("id", "course_id", "asked_at", "text", "results", "best_relevance", "answerable", "unknown_terms")
    ]
    assert Feedback.__table__.columns.keys() == ["id", "course_id", "asked_at", "text", "chunk_id", "helpful"]  # type: ignore[attr-defined]


def test_it_is_off_by_default(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "Solder mask")
    search(client, "solder")
    harness.app_services.questions.write()
    assert written(harness) == []
    response = client.post("/feedback", json={"course_id": "c", "query": "solder", "helpful": True})
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "query_log_off"


def test_what_waits_is_written_at_the_end(harness: AppHarness) -> None:
    harness.add_searchable_course("c", "Solder mask")
    with harness.client(query_log=True) as client:
        search(client, "solder")
    assert [question.text for question in written(harness)] == ["solder"]


def test_best_relevance_and_long_and_unstorable_texts(harness: AppHarness, log: QueryLog) -> None:
    terms = [f"{number}\0\ud800" for number in range(100)]
    log.recorded("c", ["a\0b\ud800" + "x" * 10_000], {**ANSWER, "unknown_terms": terms})
    log.write()
    [question] = written(harness)
    assert question.text == "a b\ufffd" + "x" * (MAX_CHARACTERS - 4)
    assert question.best_relevance == 0.75
    assert question.unknown_terms.split("\n") == [f"{number} \ufffd" for number in range(MAX_UNKNOWN_TERMS)]


def test_no_result_and_unknown_relevance(harness: AppHarness, log: QueryLog) -> None:
    log.recorded("c", ["a"], {"results": [], "answerable": False, "unknown_terms": []})
    log.recorded("c", ["b"], {"results": [{"relevance": None}], "answerable": None, "unknown_terms": []})
    log.write()
    nothing, unknown = written(harness)
    assert (nothing.results, nothing.best_relevance, nothing.answerable, nothing.unknown_terms) == (0, None, False, "")
    assert (unknown.results, unknown.best_relevance, unknown.answerable) == (1, None, None)


@pytest.mark.parametrize("failure", ["locked", "away", "refused", "not migrated"])
def test_what_cannot_be_written_is_dropped_with_one_line(
    failure: str, harness: AppHarness, caplog: pytest.LogCaptureFixture
) -> None:
    settings = harness.catalogue_settings.model_copy(update={"database_timeout_seconds": 0})
    log = QueryLog(create_catalogue_engine(settings), is_on=True, days=90)
    caplog.set_level(logging.INFO)

    def ask_twice() -> None:
        for _ in range(2):
            log.recorded("c", ["a secret question"], ANSWER)
            log.write()

    if failure == "locked":
        with write_lock(harness):
            ask_twice()
    elif failure == "away":
        harness.database.rename(harness.database.with_suffix(".away"))
        ask_twice()
        harness.database.with_suffix(".away").rename(harness.database)
    elif failure == "refused":
        with closing(sqlite3.connect(harness.database)) as connection:
            connection.execute(
                "CREATE TRIGGER t BEFORE INSERT ON course_search_question BEGIN "
                "SELECT RAISE(FAIL, 'a secret question'); END"
            )
            ask_twice()
            connection.execute("DROP TRIGGER t")
    else:
        with closing(sqlite3.connect(harness.database)) as connection:
            connection.execute("ALTER TABLE course_search_question RENAME TO moved")
            ask_twice()
            connection.execute("ALTER TABLE moved RENAME TO course_search_question")
    assert log.dropped == 2
    [line] = [record.getMessage() for record in caplog.records if "recorded" in record.getMessage()]
    assert "secret" not in line
    assert "dropped until this works again" in line
    log.recorded("c", ["b"], ANSWER)
    log.write()
    assert [question.text for question in written(harness)] == ["b"]


def test_more_than_can_wait_is_dropped_and_counted(
    harness: AppHarness, logging_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_WAITING", 0)
    search(logging_client, "solder")
    response = logging_client.post("/feedback", json={"course_id": "c", "query": "solder", "helpful": True})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert samples(logging_client, "course_search_questions_dropped_total") == {(): 2}


def test_a_search_does_not_wait_for_a_locked_catalogue(harness: AppHarness, logging_client: TestClient) -> None:
    search(logging_client, "solder")
    with write_lock(harness):
        search(logging_client, "solder")
    harness.app_services.questions.write()
    assert len(written(harness)) == 2


def test_many_questions_are_written_in_batches(
    harness: AppHarness, log: QueryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BATCH", 3)
    for number in range(10):
        log.recorded("c", [str(number)], ANSWER)
    log.write()
    assert [question.text for question in written(harness)] == [str(number) for number in range(10)]


@pytest.mark.parametrize("is_on", [True, False])
def test_old_questions_are_deleted_even_if_recording_is_off(harness: AppHarness, is_on: bool) -> None:
    now = datetime.now(UTC)
    with transaction(harness.engine) as session:
        write_questions(
            session,
            [NewQuestion("c", now - timedelta(days=days), str(days), 1, None, None, ()) for days in (89, 91)] * 600,
        )
    QueryLog(harness.engine, is_on=is_on, days=90).expire()
    assert {question.text for question in written(harness)} == {"89"}


class TestFeedback:
    def test_it_is_recorded(self, harness: AppHarness, logging_client: TestClient) -> None:
        body = {"course_id": "c", "query": "solder", "chunk_id": "chunk-0", "helpful": False}
        response = logging_client.post("/feedback", json=body)
        assert (response.status_code, response.json()) == (202, {"status": "accepted"})
        harness.app_services.questions.write()
        with transaction(harness.engine) as session:
            [feedback] = session.scalars(select(Feedback))
        assert (feedback.course_id, feedback.text, feedback.chunk_id, feedback.helpful) == (
            *("c", "solder", "chunk-0", False),
        )

    def test_unknown_course(self, logging_client: TestClient) -> None:
        response = logging_client.post("/feedback", json={"course_id": "x", "query": "solder", "helpful": True})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "course_not_found")

    @pytest.mark.parametrize(
        "change",
        [
            {"helpful": "yes"},
            {"helpful": None},
            {"query": " "},
            {"query": ["a"]},
            {"chunk_id": ""},
            {"chunk_id": "x" * 501},
            {"course_id": "x" * 501},
            {"course_id": "\ud800"},
            {"user": "somebody"},
        ],
    )
    def test_invalid_request(self, logging_client: TestClient, change: dict[str, object]) -> None:
        body = {"course_id": "c", "query": "solder", "helpful": True} | change
        response = logging_client.post(
            "/feedback", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")

    def test_it_needs_the_token(self, harness: AppHarness) -> None:
        with harness.client(query_log=True, internal_token="secret") as client:
            body = {"course_id": "c", "query": "solder", "helpful": True}
            assert client.post("/feedback", json=body).status_code == 401
