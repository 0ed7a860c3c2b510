"""Uploads files as the search app does, and runs the job and the sensor that read them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import dagster as dg
from sqlalchemy import Engine, select
from sqlmodel import col

from documents.settings import DocumentSettings
from documents.uploads import Uploads
from maintenance.resources import add_file
from models.database import transaction
from models.resources import create_course, resources_of
from models.tables import Chunk, UploadedResource
from orchestration.definitions import defs
from orchestration.partitions import FILES_JOB
from orchestration.uploaded_files.run_config import FILES_OP
from orchestration.uploaded_files.sensor import resource_sensor
from tests.orchestration.ticks import Tick, all_resources, tick

TEXT = "Copper traces carry the current. A via joins two layers of the board.\n\n" * 20


def upload(engine: Engine, name: str = "notes.txt", content: str = TEXT, course_id: str = "c") -> UploadedResource:
    """Add a file to a course, which is created if needed."""
    uploads = Uploads(DocumentSettings().upload_dir)
    with transaction(engine) as session:
        create_course(session, course_id)
    with uploads.save(BytesIO(content.encode()), 10**6) as received:
        return add_file(engine, uploads, course_id, name, received, now=datetime.now(UTC))


def files(engine: Engine, course_id: str = "c") -> dict[str, UploadedResource]:
    """The rows of the course's files by name."""
    with transaction(engine) as session:
        return {row.name: row for row in resources_of(session, course_id)}


def chunks(engine: Engine, course_id: str = "c") -> Sequence[Chunk]:
    with transaction(engine) as session:
        return session.scalars(select(Chunk).where(col(Chunk.course_id) == course_id).order_by(col(Chunk.id))).all()


def read(instance: dg.DagsterInstance, *resource_ids: str) -> dg.ExecuteInProcessResult:
    """Execute a run that reads these files, or all that wait, in this process. A failed run does not raise."""
    return defs.resolve_job_def(FILES_JOB).execute_in_process(
        instance=instance,
        resources=all_resources(),
        run_config={"ops": {FILES_OP: {"config": {"resource_ids": list(resource_ids)}}}},
        raise_on_error=False,
    )


def resource_tick(
    instance: dg.DagsterInstance, cursor: str | None = None, status: dg.DagsterRunStatus | None = None
) -> Tick:
    """Evaluate `resource_sensor`, and create the requested runs as the daemon would. The runs do not execute."""
    result = tick(resource_sensor, instance, cursor)
    for request in result.requests:
        create_run(instance, request.run_config, request.tags, status or dg.DagsterRunStatus.NOT_STARTED)
    return result


def create_run(
    instance: dg.DagsterInstance,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED,
) -> dg.DagsterRun:
    job = defs.resolve_job_def(FILES_JOB)
    return instance.create_run_for_job(job, run_config=run_config, tags={**job.tags, **tags}, status=status)


def launched(result: Tick) -> list[list[str]]:
    """The files of each launched run."""
    return [request.run_config["ops"][FILES_OP]["config"]["resource_ids"] for request in result.requests]
