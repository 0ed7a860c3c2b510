"""One partition a course, and the names that tie partitions, runs and assets together."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from orchestration.reasons import reasons_of

# Backfill policies and per-partition checks are beta in this pinned Dagster; the warnings would fill every log.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

NAME = "courses"
courses = dg.DynamicPartitionsDefinition(name=NAME)
"""The key is the course's id as text."""

COLLECTION = dg.AssetKey("course_collection")
KEYWORDS = dg.AssetKey("course_keyword_index")
JOB = "embed_course"
OWNERS = ("team:course-search",)

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


def all_courses(instance: dg.DagsterInstance) -> Sequence[str]:
    """All partition keys, in the order they were added."""
    return instance.get_dynamic_partitions(NAME)


def range_tags(first: str, last: str) -> dict[str, str]:
    """The tags of a run over all partitions from the first to the last."""
    return {RANGE_START_TAG: first, RANGE_END_TAG: last}


def courses_of(
    runs: Iterable[dg.DagsterRun], instance: dg.DagsterInstance
) -> Iterator[tuple[dg.DagsterRun, Sequence[str]]]:
    """The runs, each with the courses it works on.

    Runs say so in three ways: the reasons they were launched for, one partition, or (under a backfill policy) a range
    in the order the keys were added. The keys are read only where a run needs them.
    """
    keys: Sequence[str] | None = None
    for run in runs:
        first, last = run.tags.get(RANGE_START_TAG), run.tags.get(RANGE_END_TAG)
        if reasons := reasons_of(run.tags):
            yield run, list(reasons)
        elif key := run.tags.get(PARTITION_TAG):
            yield run, [key]
        elif first is not None and last is not None:
            keys = all_courses(instance) if keys is None else keys
            is_known = first in keys and last in keys
            yield run, keys[keys.index(first) : keys.index(last) + 1] if is_known else []
        else:
            yield run, []
