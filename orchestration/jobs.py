"""The task type of this stage, as `process_resource` is stage one's."""

import dagster as dg

from orchestration.assets import course_collection
from orchestration.partitions import JOB, OWNERS

embed_course = dg.define_asset_job(
    JOB,
    selection=[course_collection],
    description="Bring the collections of some courses in line with their chunks and publish them.",
    owners=OWNERS,
)
