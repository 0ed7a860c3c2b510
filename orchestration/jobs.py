"""The Dagster job that embeds courses."""

import dagster as dg

from orchestration.assets import course_collection
from orchestration.partitions import JOB, OWNERS

embed_course = dg.define_asset_job(
    JOB,
    selection=[course_collection],
    description="Embed the changed chunks of the selected courses and publish their collections and snapshots.",
    owners=OWNERS,
)
