"""Why a run was launched, through the tags of a run and back."""

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
def test_tags_tell_the_reasons(some: list[LaunchReason]) -> None:
    assert list(reasons_of({"another": "tag", **reason_tags(some)}).values()) == some


def test_a_run_of_an_operator_has_none() -> None:
    assert reasons_of({"dagster/partition": "1"}) == {}
    again = {
        **reason_tags([LaunchReason("1", "content", 0, None)]),
        "dagster/parent_run_id": "of a run that was launched for it",
    }
    assert reasons_of(again) == {}, "launched again by hand, it is to be embedded whatever was published"
    assert reasons_of({**again, "dagster/retry_number": "1"}), "tried again by Dagster, it is the same work"


def test_a_filter_finds_a_reason_wherever_it_stands_among_a_runs_tags() -> None:
    some = [LaunchReason(str(number), "content", 0, None) for number in range(COURSES_PER_RUN)]
    for position, reason in enumerate(some):
        run_tags = reason_tags(some)
        hits = [filters for filters in tag_filters([reason]) if all(run_tags[t] in v for t, v in filters.items())]
        assert len(hits) == 1, position


def test_a_reason_is_superseded_by_a_publication_and_by_nothing_else() -> None:
    reason = LaunchReason.of(Course(id="1", embedding_generation=2), CONTENT)
    states = {
        (status, generation): reason.is_superseded(
            Course(id="1", embedding_status=status, embedding_generation=generation)
        )
        for status in EmbeddingStatus
        for generation in (2, 3)
    }
    assert [state for state, superseded in states.items() if superseded] == [(EmbeddingStatus.DONE, 3)]
