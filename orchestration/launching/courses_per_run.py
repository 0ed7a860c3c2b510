"""Groups due courses into runs."""

from collections.abc import Iterable, Sequence

COURSES_PER_RUN = 20
"""Maximum number of courses in a run. Starting a run takes seconds and loading the model takes longer, while most
courses take little time. A larger number would make other runs wait long."""


def group_courses(course_ids: Iterable[str], partition_keys: Sequence[str]) -> list[list[str]]:
    """Group courses into runs of at most `COURSES_PER_RUN`, each over consecutive partitions.

    The partitions must be consecutive, because Dagster describes a run of several partitions by the first and the last
    one. Courses that were ingested together usually have consecutive partitions.

    Args:
        course_ids: Ids of the due courses, most urgent first.
        partition_keys: All partition keys, in the order in which they were added. They include `course_ids`.

    Returns:
        The course ids of each run, in partition order. The run with the most urgent course is first.
    """
    rank = {course_id: number for number, course_id in enumerate(course_ids)}
    position = {key: number for number, key in enumerate(partition_keys)}
    runs: list[list[str]] = []
    for course_id in sorted(rank, key=position.__getitem__):
        last = runs[-1] if runs else []
        if last and len(last) < COURSES_PER_RUN and position[last[-1]] + 1 == position[course_id]:
            last.append(course_id)
        else:
            runs.append([course_id])
    return sorted(runs, key=lambda run: min(map(rank.__getitem__, run)))
