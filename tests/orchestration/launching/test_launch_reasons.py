"""Launch reasons are written to run tags and parsed from them."""

from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st

from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from orchestration.launching.courses_per_run import COURSES_PER_RUN
from orchestration.launching.launch_reasons import LaunchReason, reason_tags, reasons_of, tag_filters

CONTENT = CourseFingerprint(chunks=10, characters=1000, content="0" * 64, model="model")

reasons = st.builds(
    LaunchReason,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(0),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(reasons, max_size=COURSES_PER_RUN, unique_by=lambda reason: reason.course_id))
def test_reasons_are_parsed_from_the_tags_of_a_run(expected: list[LaunchReason]) -> None:
    assert list(reasons_of({"another": "tag", **reason_tags(expected)}).values()) == expected


def test_a_run_that_an_operator_launched_or_re_executed_has_no_reasons() -> None:
    assert reasons_of({"dagster/partition": "1"}) == {}
    re_executed = {**reason_tags([LaunchReason("1", "content", 0, None)]), "dagster/parent_run_id": "id of the parent"}
    assert reasons_of(re_executed) == {}, "Dagster copies the tags, but the operator wants the course to be embedded"


def test_an_automatic_retry_has_the_reasons_of_its_parent() -> None:
    reason = LaunchReason("1", "content", 0, None)
    tags = {**reason_tags([reason]), "dagster/parent_run_id": "id of the parent", "dagster/retry_number": "1"}
    assert reasons_of(tags) == {"1": reason}


def test_filters_match_a_reason_at_every_position_in_the_tags_of_a_run() -> None:
    run_reasons = [LaunchReason(str(number), "content", 0, None) for number in range(COURSES_PER_RUN)]
    run_tags = reason_tags(run_reasons)
    for position, reason in enumerate(run_reasons):
        matching = [
            tag_filter
            for tag_filter in tag_filters([reason])
            if all(run_tags[tag] in values for tag, values in tag_filter.items())
        ]
        assert len(matching) == 1, position


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
