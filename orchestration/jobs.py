"""The Dagster job of this stage. In the queue that both stages share, a job is a task type."""

import dagster as dg

from orchestration.assets import course_collection
from orchestration.partitions import JOB, OWNERS

embed_course = dg.define_asset_job(
    JOB,
    selection=[course_collection],
    description="Embed the changed chunks of the selected courses and publish their collections and keyword indexes.",
    owners=OWNERS,
)
