"""One partition per course, and the names that assets, runs and the Dagster UI share."""

import warnings
from collections.abc import Sequence

import dagster as dg

# Backfill policies and per-partition checks are beta in the pinned Dagster; the warnings would fill every log.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

NAME = "courses"
course_partitions = dg.DynamicPartitionsDefinition(name=NAME)
"""The partition key is the course's id as text."""

COLLECTION = dg.AssetKey("course_collection")
KEYWORD_INDEX = dg.AssetKey("course_keyword_index")
JOB = "embed_course"
OWNERS = ("team:course-search",)

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


def partition_keys(instance: dg.DagsterInstance) -> Sequence[str]:
    """The ids of all courses that have a partition, in the order the partitions were added."""
    return instance.get_dynamic_partitions(NAME)


def range_tags(first: str, last: str) -> dict[str, str]:
    """The tags of a run over all partitions from the first to the last."""
    return {RANGE_START_TAG: first, RANGE_END_TAG: last}
