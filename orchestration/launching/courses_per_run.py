"""How many courses share a run, and which ones."""

from collections.abc import Iterable, Sequence

COURSES_PER_RUN = 10
"""Starting a run takes seconds and loading the model more, while a course takes little. With a larger number, the last
courses of a run would wait long."""


def group_courses(course_ids: Iterable[str], partition_keys: Sequence[str]) -> list[list[str]]:
    """Group courses into runs of at most `COURSES_PER_RUN`, each over consecutive partitions.

    Dagster describes a run of several partitions by the first and the last of a range. Courses that were ingested
    together have consecutive partitions.

    Args:
        course_ids: The most urgent first.
        partition_keys: All partitions in the order they were added, these courses among them.

    Returns:
        The courses of each run, in partition order; the run with the most urgent course first.
    """
    urgency = {course_id: number for number, course_id in enumerate(course_ids)}
    position = {key: number for number, key in enumerate(partition_keys)}
    runs: list[list[str]] = []
    for course_id in sorted(urgency, key=position.__getitem__):
        last = runs[-1] if runs else []
        if last and len(last) < COURSES_PER_RUN and position[last[-1]] + 1 == position[course_id]:
            last.append(course_id)
        else:
            runs.append([course_id])
    return sorted(runs, key=lambda run: min(map(urgency.__getitem__, run)))
