"""Due courses are grouped into runs over consecutive partitions."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from orchestration.launching.courses_per_run import COURSES_PER_RUN, group_courses


@given(st.sets(st.integers(0, 40)), st.permutations(range(41)))
def test_every_course_is_in_one_run_over_consecutive_partitions(due: set[int], order: list[int]) -> None:
    partition_keys = [str(number) for number in order]
    course_ids = [str(number) for number in due]
    runs = group_courses(course_ids, partition_keys)
    assert sorted(chain(*runs)) == sorted(course_ids)
    for run in runs:
        assert len(run) <= COURSES_PER_RUN
        first = partition_keys.index(run[0])
        assert run == partition_keys[first : first + len(run)]
    assert not due or course_ids[0] in runs[0], "the run with the most urgent course is first"
