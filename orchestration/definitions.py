"""The Dagster code location: assets, jobs, schedules, sensors and resources.

Importing it loads neither torch nor Chroma. It also sets up the log of the process, because Dagster's processes run
nothing else of this product before it.
"""

import dagster as dg

from orchestration.assets import course_chunks, course_collection
from orchestration.course_status.sensor import course_status_sensor
from orchestration.deleted_courses.sensor import deleted_course_sensor
from orchestration.deleted_courses.withdrawn import withdrawn_course_sensor
from orchestration.housekeeping.alerts import alert_sensor
from orchestration.housekeeping.backup import backup, backup_schedule
from orchestration.housekeeping.check import check, check_schedule
from orchestration.housekeeping.prune_runs import prune_runs, prune_schedule
from orchestration.housekeeping.questions import course_questions, questions_schedule, refresh_questions
from orchestration.jobs import embed_course
from orchestration.launching.sensor import stage_one_sensor
from orchestration.lost_collections import lost_collection_sensor
from orchestration.resources import (
    CatalogueResource,
    DocumentResource,
    ExaminationResource,
    GpuResource,
    SearchAppResource,
    SnapshotResource,
    VectorStoreResource,
)
from orchestration.traces import configure_pipeline_logs
from orchestration.uploaded_files.job import process_resource
from orchestration.uploaded_files.sensor import resource_sensor

configure_pipeline_logs()

defs = dg.Definitions(
    assets=[course_chunks, course_collection, course_questions],
    jobs=[embed_course, process_resource, backup, check, prune_runs, refresh_questions],
    schedules=[backup_schedule, check_schedule, prune_schedule, questions_schedule],
    sensors=[
        stage_one_sensor,
        resource_sensor,
        course_status_sensor,
        deleted_course_sensor,
        withdrawn_course_sensor,
        lost_collection_sensor,
        alert_sensor,
    ],
    resources={
        "catalogue": CatalogueResource.from_environment(),
        "vector_store": VectorStoreResource.from_environment(),
        "snapshots": SnapshotResource.from_environment(),
        "documents": DocumentResource.from_environment(),
        "examination": ExaminationResource.from_environment(),
        "gpu": GpuResource.from_environment(),
        "search_app": SearchAppResource.from_environment(),
    },
    executor=dg.in_process_executor,  # one process per run starts twice as fast as one per step
)
