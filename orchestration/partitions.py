"""The partitions, one per course, and names that several modules use."""

import warnings
from collections.abc import Sequence

import dagster as dg

# Backfill policies are beta and per-partition checks are in preview. The warnings would fill every log.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

PARTITIONS_NAME = "courses"
course_partitions = dg.DynamicPartitionsDefinition(name=PARTITIONS_NAME)
"""The partition key is the course id as text."""

COLLECTION = dg.AssetKey("course_collection")
SNAPSHOT = dg.AssetKey("course_snapshot")
QUESTIONS = dg.AssetKey("course_questions")
JOB = "embed_course"
OWNERS = ("team:course-search",)
HOUSEKEEPING_TAG = "course_search/housekeeping"
"""Tag of the runs that embed no course: they back up, check, delete old runs or count questions."""
FILES_JOB = "process_resource"
FILES_TAG = "course_search/files"
"""Tag that our job of this name gives to each of its runs, which read uploaded files. In the same instance, the code
location of stage one may have a job with the same name; its runs do not have the tag."""

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


def partition_keys(instance: dg.DagsterInstance) -> Sequence[str]:
    """The ids of all courses that have a partition, in the order in which the partitions were added."""
    return instance.get_dynamic_partitions(PARTITIONS_NAME)


def partition_tags(keys: Sequence[str]) -> dict[str, str]:
    """The tags of a run over consecutive partitions."""
    return {PARTITION_TAG: keys[0]} if len(keys) == 1 else {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]}
