"""Which courses are candidates, and which of them are due."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from models.fingerprint import CourseFingerprint
from models.ingestion import Ingestion
from models.tables import Course, EmbeddingStatus
from orchestration.launching.due_courses import Candidates, find_candidates, is_due, is_retry_due

INGESTED = Ingestion(resources=2, succeeded=2, chunks=10)
PUBLISHED = CourseFingerprint(chunks=10, characters=1000, content="0" * 64, model="model")
EDITED = CourseFingerprint(chunks=10, characters=1000, content="1" * 64, model="model")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def done(course_id: str, fingerprint: CourseFingerprint = PUBLISHED) -> Course:
    return Course(
        id=course_id,
        embedding_status=EmbeddingStatus.DONE,
        embedding_fingerprint=str(fingerprint),
        embedding_generation=1,
    )


def failed(attempted: CourseFingerprint | None) -> Course:
    return Course(
        id="1", embedding_status=EmbeddingStatus.FAILED, embedding_attempted=str(attempted) if attempted else None
    )


def candidates(
    *courses: Course,
    ingestion: Ingestion = INGESTED,
    with_run: frozenset[str] = frozenset(),
    model: str | None = "model",
    cursor: str | None = None,
) -> Candidates:
    return find_candidates(
        courses,
        {course.id: ingestion for course in courses},
        with_run=with_run,
        model_signature=model,
        cursor=cursor,
        now=NOON,
    )


def ids(courses: Sequence[Course]) -> list[str]:
    return [course.id for course in courses]


def test_a_course_is_a_candidate_after_all_its_resources_succeeded() -> None:
    new = Course(id="1")
    assert ids(candidates(new).changed) == ["1"]
    assert ids(candidates(new, ingestion=Ingestion(2, 1, 10)).changed) == []
    assert ids(candidates(new, ingestion=Ingestion(0, 0, 10)).changed) == []


def test_a_course_without_chunks_is_a_candidate_only_if_it_was_published() -> None:
    empty = Ingestion(resources=1, succeeded=1, chunks=0)
    assert ids(candidates(Course(id="1"), ingestion=empty).changed) == []
    assert ids(candidates(done("1"), ingestion=empty).changed) == ["1"]


def test_another_chunk_count_or_model_makes_a_published_course_changed() -> None:
    assert ids(candidates(done("1")).changed) == []
    assert ids(candidates(done("1"), ingestion=Ingestion(2, 2, 11)).changed) == ["1"]
    assert ids(candidates(done("1"), model="another").changed) == ["1"]


def test_models_are_not_compared_if_the_model_is_unavailable() -> None:
    assert ids(candidates(done("1"), model=None).unchanged) == ["1"]


def test_unchanged_courses_start_after_the_cursor() -> None:
    courses = [done(name) for name in "dbca"]
    assert ids(candidates(*courses).unchanged) == ["a", "b", "c", "d"]
    assert ids(candidates(*courses, cursor="b").unchanged) == ["c", "d", "a", "b"]
    assert ids(candidates(*courses, cursor="d").unchanged) == ["a", "b", "c", "d"]


def test_a_request_makes_any_course_a_requested_candidate() -> None:
    requested = Course(id="2", embedding_status=EmbeddingStatus.PENDING, embedding_requested_at=NOON)
    not_ingested = candidates(Course(id="1"), requested, ingestion=Ingestion(2, 1, 0))
    assert ids(not_ingested.requested) == ["2"]
    assert ids(candidates(done("1"), requested).requested) == ["2"]


def test_a_course_of_an_unfinished_run_is_not_a_candidate() -> None:
    running = Course(id="1", embedding_status=EmbeddingStatus.RUNNING, embedding_requested_at=NOON)
    queued = Course(id="2")
    result = candidates(running, queued, with_run=frozenset({"2"}))
    assert not result.requested
    assert not result.changed
    assert result.ingested == ["1", "2"], "they still get partitions"


def test_a_course_whose_owner_ended_is_not_a_candidate_until_the_end_is_recorded() -> None:
    pending = Course(id="1", embedding_status=EmbeddingStatus.PENDING, embedding_run_id="run that ended")
    assert ids(candidates(pending).changed) == []


def test_a_course_that_is_running_without_an_owner_is_not_a_candidate_until_it_is_repaired() -> None:
    result = candidates(Course(id="1", embedding_status=EmbeddingStatus.RUNNING, embedding_requested_at=NOON))
    assert (ids(result.requested), ids(result.changed)) == ([], [])


def test_a_course_is_no_candidate_before_its_retry_is_due() -> None:
    course = failed(PUBLISHED)
    course.embedding_retry_at = NOON + timedelta(seconds=1)
    result = candidates(course)
    assert (ids(result.changed), ids(result.unchanged), result.ingested) == ([], [], ["1"])
    course.embedding_requested_at = NOON
    assert ids(candidates(course).requested) == [], "a request whose runs died waits as well"
    course.embedding_retry_at = NOON
    assert ids(candidates(course).requested) == ["1"]


def test_a_course_whose_retry_is_due_is_launched_with_the_attempted_content() -> None:
    course = failed(PUBLISHED)
    course.embedding_retry_at = NOON
    assert ids(candidates(course).changed) == ["1"], "it is not read in rotation"
    assert is_due(course, PUBLISHED, NOON)
    assert not is_retry_due(course, NOON - timedelta(seconds=1))


def test_a_retry_waits_until_stage_one_has_finished() -> None:
    course = failed(PUBLISHED)
    course.embedding_retry_at = NOON
    assert ids(candidates(course, ingestion=Ingestion(2, 1, 10)).changed) == []


def test_a_published_course_is_due_if_its_content_differs() -> None:
    assert not is_due(done("1"), PUBLISHED, NOON)
    assert is_due(done("1"), EDITED, NOON)
    skipped = done("1")
    skipped.embedding_attempted = str(EDITED)
    assert not is_due(skipped, EDITED, NOON), "its run was cancelled"


def test_a_failed_course_is_due_if_its_content_differs_from_the_attempted_content() -> None:
    assert ids(candidates(failed(PUBLISHED)).unchanged) == ["1"]
    assert not is_due(failed(PUBLISHED), PUBLISHED, NOON)
    assert is_due(failed(PUBLISHED), EDITED, NOON)


def test_a_failed_course_without_attempted_content_is_due() -> None:
    assert ids(candidates(failed(None)).changed) == ["1"]
    assert is_due(failed(None), PUBLISHED, NOON)


def test_a_request_makes_any_course_due() -> None:
    course = done("1")
    course.embedding_requested_at = NOON
    assert is_due(course, PUBLISHED, NOON)
