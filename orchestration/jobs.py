"""The Dagster job of this stage. Jobs are the task types of the shared queue; stage one's is `process_resource`."""

import dagster as dg

from orchestration.assets import course_collection
from orchestration.partitions import JOB, OWNERS

embed_course = dg.define_asset_job(
    JOB,
    selection=[course_collection],
    description="Bring collections and keyword indexes of some courses in line with their chunks, and publish them.",
    owners=OWNERS,
)
