"""Launch reasons are written to the configuration of a run and parsed from it."""

from datetime import UTC
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from orchestration.partitions import JOB
from orchestration.run_config import OP, PARENT_TAG, LaunchReason, reasons_of
from tests.orchestration.ticks import run_config

CONTENT = CourseFingerprint(chunks=10, characters=1000, content="0" * 64, model="model")

courses = st.builds(
    Course,
    id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    embedding_generation=st.integers(0, 2**31 - 1),
    embedding_requested_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


def run_with(config: Any, **tags: str) -> dg.DagsterRun:
    return dg.DagsterRun(JOB, str(UUID(int=0)), run_config=config, tags=tags)


@given(st.lists(courses, max_size=10, unique_by=lambda course: course.id))
def test_reasons_are_parsed_from_the_configuration_of_a_run(expected: list[Course]) -> None:
    run = run_with(run_config(*(LaunchReason.of(course, CONTENT) for course in expected)))
    reasons = reasons_of(run)
    assert list(reasons) == [course.id for course in expected], "in this order"
    for course in expected:
        reason = reasons[course.id]
        assert (reason.content, reason.generation) == (str(CONTENT), course.embedding_generation)
        assert reason.request == course.embedding_requested_at


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="no configuration"),
        pytest.param({"resources": {"gpu": {"config": {"embedding_device": "cpu"}}}}, id="resources"),
        pytest.param({"ops": {OP: {"config": {"rebuild": True}}}}, id="rebuild"),
        pytest.param({"ops": {OP: None}}, id="empty"),
        pytest.param({"ops": {"another_op": {"config": {"courses": [{"course_id": "1"}]}}}}, id="another op"),
    ],
)
def test_a_run_that_an_operator_launched_has_no_reasons(config: Any) -> None:
    assert reasons_of(run_with(config)) == {}


@pytest.mark.parametrize(
    "course",
    [
        pytest.param("1", id="not a mapping"),
        pytest.param({"course_id": "1"}, id="without content"),
        pytest.param({"course_id": "1", "content": "", "generation": "many"}, id="no generation"),
        pytest.param(
            {"course_id": "1", "content": "", "generation": 0, "requested_at": "yesterday"},
            id="no time",
        ),
    ],
)
def test_invalid_reasons_of_an_operator_are_not_used(course: Any) -> None:
    """The sensors read them at every tick. Dagster rejects most of them when the run is launched."""
    assert reasons_of(run_with({"ops": {OP: {"config": {"courses": [course]}}}})) == {}


def test_a_re_executed_run_has_no_reasons() -> None:
    """Dagster copies the configuration, but the operator wants the course to be embedded."""
    config = run_config(LaunchReason.of(Course(id="1", embedding_generation=0), CONTENT))
    assert set(reasons_of(run_with(config))) == {"1"}
    assert reasons_of(run_with(config, **{PARENT_TAG: "parent"})) == {}


def test_a_reason_is_superseded_only_by_a_later_publication() -> None:
    reason = LaunchReason.of(Course(id="1", embedding_generation=2), CONTENT)
    states = {
        (status, generation): reason.is_superseded(
            Course(id="1", embedding_status=status, embedding_generation=generation)
        )
        for status in EmbeddingStatus
        for generation in (2, 3)
    }
    assert [state for state, superseded in states.items() if superseded] == [(EmbeddingStatus.DONE, 3)]
