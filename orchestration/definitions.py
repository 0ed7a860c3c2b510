"""The code location: assembles what the other modules define. Importing it loads neither torch nor Chroma."""

import dagster as dg

from orchestration.assets import course_chunks, course_collection
from orchestration.jobs import embed_course
from orchestration.resources import CatalogueResource, GpuResource, VectorStoreResource
from orchestration.sensors import course_status_sensor, deleted_course_sensor, stage_one_sensor

defs = dg.Definitions(
    assets=[course_chunks, course_collection],
    jobs=[embed_course],
    sensors=[stage_one_sensor, course_status_sensor, deleted_course_sensor],
    resources={"catalogue": CatalogueResource(), "vector_store": VectorStoreResource(), "gpu": GpuResource()},
    executor=dg.in_process_executor,  # one process a run: half the start-up time of one process a step
)
