"""The Dagster code location: all assets, jobs, sensors and resources. Importing it loads neither torch nor Chroma."""

import dagster as dg

from orchestration.assets import course_chunks, course_collection
from orchestration.course_status.sensor import course_status_sensor
from orchestration.deleted_courses.sensor import deleted_course_sensor
from orchestration.jobs import embed_course
from orchestration.launching.sensor import stage_one_sensor
from orchestration.resources import (
    CatalogueResource,
    GpuResource,
    KeywordIndexResource,
    SearchAppResource,
    VectorStoreResource,
)

defs = dg.Definitions(
    assets=[course_chunks, course_collection],
    jobs=[embed_course],
    sensors=[stage_one_sensor, course_status_sensor, deleted_course_sensor],
    resources={
        "catalogue": CatalogueResource.from_environment(),
        "vector_store": VectorStoreResource.from_environment(),
        "keyword_indexes": KeywordIndexResource.from_environment(),
        "gpu": GpuResource.from_environment(),
        "search_app": SearchAppResource.from_environment(),
    },
    executor=dg.in_process_executor,  # one process per run starts twice as fast as one per step
)
