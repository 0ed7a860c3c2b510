"""Which courses are due, as a pure decision: nothing is forgotten, nothing is embedded twice for one reason."""

from datetime import UTC, datetime

from models.fingerprint import CourseFingerprint
from models.ingestion import Ingestion
from models.tables import Course, EmbeddingStatus
from orchestration.launching.due_courses import Candidates, find_candidates, is_due

INGESTED = Ingestion(resources=2, succeeded=2, chunks=10)
PUBLISHED = CourseFingerprint(chunks=10, characters=1000, content="0" * 64, model="model")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def done(course_id: str, fingerprint: CourseFingerprint = PUBLISHED) -> Course:
    return Course(
        id=course_id,
        embedding_status=EmbeddingStatus.DONE,
        embedding_fingerprint=str(fingerprint),
        embedding_generation=1,
    )


def decide(
    *courses: Course,
    ingestion: Ingestion = INGESTED,
    with_run: frozenset[str] = frozenset(),
    model: str | None = "model",
    cursor: str | None = None,
) -> Candidates:
    stage_one = {course.id: ingestion for course in courses}
    return find_candidates(courses, stage_one, with_run=with_run, cancelled=set(), model_signature=model, cursor=cursor)


def ids(courses: object) -> list[str]:
    assert isinstance(courses, list)
    return [course.id for course in courses]


def test_an_ingested_course_is_due_once_all_its_resources_succeeded() -> None:
    new = Course(id="1")
    assert ids(decide(new).changed) == ["1"]
    assert ids(decide(new, ingestion=Ingestion(2, 1, 10)).changed) == []
    assert ids(decide(new, ingestion=Ingestion(0, 0, 10)).changed) == []


def test_a_course_without_chunks_is_due_only_when_it_was_published_with_some() -> None:
    empty = Ingestion(resources=1, succeeded=1, chunks=0)
    assert ids(decide(Course(id="1"), ingestion=empty).changed) == []
    assert ids(decide(done("1"), ingestion=empty).changed) == ["1"]


def test_the_number_of_chunks_and_the_model_tell_a_change() -> None:
    assert ids(decide(done("1")).changed) == []
    assert ids(decide(done("1"), ingestion=Ingestion(2, 2, 11)).changed) == ["1"]
    assert ids(decide(done("1"), model="another").changed) == ["1"]


def test_without_a_model_at_hand_no_published_course_is_out_of_date() -> None:
    assert ids(decide(done("1"), model=None).unchanged) == ["1"]


def test_courses_that_look_unchanged_take_turns() -> None:
    courses = [done(name) for name in "dbca"]
    assert ids(decide(*courses).unchanged) == ["a", "b", "c", "d"]
    assert ids(decide(*courses, cursor="b").unchanged) == ["c", "d", "a", "b"]
    assert ids(decide(*courses, cursor="d").unchanged) == ["a", "b", "c", "d"]


def test_a_request_comes_first_whatever_the_course_looks_like() -> None:
    asked = Course(id="2", embedding_status=EmbeddingStatus.PENDING, embedding_requested_at=NOON)
    found = decide(Course(id="1"), asked, ingestion=Ingestion(2, 1, 0))
    assert ids(found.requested) == ["2"]
    assert ids(decide(done("1"), asked).requested) == ["2"]


def test_a_course_that_a_run_holds_is_left_alone() -> None:
    running = Course(id="1", embedding_status=EmbeddingStatus.RUNNING, embedding_requested_at=NOON)
    queued = Course(id="2")
    found = decide(running, queued, with_run=frozenset({"2"}))
    assert not found.requested
    assert not found.changed
    assert found.ingested == ["1", "2"], "they keep their partitions all the same"


EDITED = CourseFingerprint(chunks=10, characters=1000, content="1" * 64, model="model")


def failed(attempted: CourseFingerprint | None) -> Course:
    return Course(
        id="1", embedding_status=EmbeddingStatus.FAILED, embedding_attempted=str(attempted) if attempted else None
    )


def test_a_published_course_is_due_when_its_content_differs() -> None:
    assert not is_due(done("1"), PUBLISHED)
    assert is_due(done("1"), EDITED)


def test_a_failed_course_is_due_when_its_content_differs_from_what_was_tried() -> None:
    assert ids(decide(failed(PUBLISHED)).unchanged) == ["1"]
    assert not is_due(failed(PUBLISHED), PUBLISHED)
    assert is_due(failed(PUBLISHED), EDITED)


def test_a_course_whose_run_failed_before_it_began_is_due() -> None:
    assert ids(decide(failed(None)).changed) == ["1"]
    assert is_due(failed(None), PUBLISHED)


def test_a_request_makes_any_course_due() -> None:
    asked = done("1")
    asked.embedding_requested_at = NOON
    assert is_due(asked, PUBLISHED)
