"""The index of embedded texts, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from models import embedded_texts
from models.course_state import claim_course, fail_course, record_attempt, request_embedding
from models.database import transaction
from models.embedded_texts import (
    TextSource,
    count_texts,
    delete_texts,
    find_source,
    published_without_texts,
    record_texts,
    recorded_chunks,
    remove_texts,
    text_key,
)
from tests.support.catalogue import Catalogue
from tests.support.courses import change_course
from tests.support.published import add_courses, publish_row

BIGGEST = 2**63


@pytest.fixture
def engine(text_catalogue: Catalogue) -> Engine:
    return text_catalogue.engine


def record(engine: Engine, course_id: str, keys: dict[str, int]) -> None:
    with transaction(engine) as session:
        record_texts(session, course_id, keys)


def find(engine: Engine, keys: set[int], *excluded: str, only_own: bool = False) -> TextSource | None:
    with transaction(engine) as session:
        return find_source(session, keys, "own", excluded, only_own=only_own)


def test_keys_differ_by_model_and_text_and_fit_the_column(engine: Engine) -> None:
    keys = {text_key(model, text) for model in ("m1", "m2") for text in ("a", "b")}
    assert len(keys) == 4
    assert all(-BIGGEST <= key < BIGGEST for key in keys)
    extremes = {"low": -BIGGEST, "high": BIGGEST - 1}
    record(engine, "1", extremes)
    assert find(engine, set(extremes.values())) == TextSource("1", {key: name for name, key in extremes.items()})


def test_the_course_with_most_of_the_texts_is_found_first(engine: Engine) -> None:
    record(engine, "few", {"a": 1, "b": 1, "c": 1, "d": 9})
    record(engine, "most", {"a": 1, "b": 2})
    record(engine, "none", {"a": 7})
    assert find(engine, {1, 2, 3}) == TextSource("most", {1: "a", 2: "b"})
    few = find(engine, {1, 2, 3}, "most")
    assert few is not None
    assert few.course_id == "few"
    assert few.chunk_ids.keys() == {1}
    assert find(engine, {1, 2, 3}, "most", "few") is None
    assert find(engine, set()) is None
    assert find(engine, {1, 2, 3}, only_own=True) is None
    record(engine, "own", {"x": 3})
    for only_own in (True, False):
        assert find(engine, {1, 2, 3}, only_own=only_own) == TextSource("own", {3: "x"})


def test_vectors_that_are_to_be_rebuilt_are_not_taken(catalogue: Catalogue) -> None:
    """With every type of ids. The course itself deletes its own first."""
    add_courses(catalogue.engine, "1", "2")
    for course_id in ("1", "2"):
        record(catalogue.engine, course_id, {"c": 1})
    with transaction(catalogue.engine) as session:
        request_embedding(session, "1", datetime.now(UTC), rebuild=True)
    found = TextSource("2", {1: "c"})
    assert find(catalogue.engine, {1}) == found
    assert find(catalogue.engine, {1}, "2") is None
    with transaction(catalogue.engine) as session:
        assert find_source(session, {1}, "1", ()) == TextSource("1", {1: "c"})


def test_vectors_of_a_failed_course_are_not_taken(catalogue: Catalogue) -> None:
    """It may have been withheld because of its vectors."""
    add_courses(catalogue.engine, "1")
    record(catalogue.engine, "1", {"c": 1})
    assert find(catalogue.engine, {1}) == TextSource("1", {1: "c"})
    change_course(catalogue.engine, "1", embedding_status="failed")
    assert find(catalogue.engine, {1}) is None


def test_vectors_that_are_not_published_yet_are_not_taken(catalogue: Catalogue) -> None:
    """Also while a course that was withheld waits to be embedded again."""
    add_courses(catalogue.engine, "1")
    record(catalogue.engine, "1", {"c": 1})
    with transaction(catalogue.engine) as session:
        claim_course(session, "1", "run")
        record_attempt(session, "1", "run", "content")
    assert find(catalogue.engine, {1}) is None
    with transaction(catalogue.engine) as session:
        fail_course(session, "1", "run", "Its own passages are not found.")
        request_embedding(session, "1", datetime.now(UTC))
    assert find(catalogue.engine, {1}) is None
    publish_row(catalogue.engine, "1")
    assert find(catalogue.engine, {1}) == TextSource("1", {1: "c"})
    change_course(catalogue.engine, "1", embedding_attempted="content of a run that was cancelled before it began")
    assert find(catalogue.engine, {1}) == TextSource("1", {1: "c"})


def test_entries_are_replaced_and_deleted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_texts, "READ_BATCH", 2)
    record(engine, "1", {f"c{number}": number for number in range(5)})
    record(engine, "2", {"c0": 0})
    record(engine, "1", {"c0": 100, "c1": 1, "c5": 5})
    with transaction(engine) as session:
        assert count_texts(session, "1") == 6
        assert recorded_chunks(session, "1") == ["c0", "c1"]
        assert recorded_chunks(session, "1", "c3") == ["c4", "c5"]
        remove_texts(session, "1", ["c1", "c5", "unknown"])
        assert count_texts(session, "1") == 4
    assert find(engine, {1, 5}) is None
    assert find(engine, {100}) == TextSource("1", {100: "c0"})
    with transaction(engine) as session:
        delete_texts(session, "1")
    assert find(engine, {0, 100}) == TextSource("2", {0: "c0"})


def test_two_runs_may_record_the_same_course(engine: Engine) -> None:
    """One embeds it, and another one finds it without entries."""
    texts = {f"c{number:03}": number for number in range(500)}
    with ThreadPoolExecutor(4) as threads:
        for result in [threads.submit(record, engine, "1", texts) for _ in range(4)]:
            result.result()
    with transaction(engine) as session:
        assert count_texts(session, "1") == 500


def test_published_courses_without_entries_are_found(catalogue: Catalogue) -> None:
    """With every type of ids."""
    add_courses(catalogue.engine, "1", "2", "3")
    for course_id in ("1", "2"):
        publish_row(catalogue.engine, course_id)
    record(catalogue.engine, "2", {"c": 1})
    with transaction(catalogue.engine) as session:
        assert [course.id for course in published_without_texts(session)] == ["1"]
