"""The job `process_resource`: reads uploaded files, and stores what is in them as chunks.

A run reads several files, because starting one takes seconds. They succeed or fail independently. The run itself fails
only if a file could not be read for a reason that its owner can do nothing about.
"""

from collections import Counter

import dagster as dg

from models.resources import active_resources
from models.tables import ResourceStatus
from models.text import counted
from orchestration.partitions import FILES_JOB, FILES_TAG, OWNERS
from orchestration.resources import CatalogueResource, DocumentResource, GpuResource
from orchestration.runs import require_unfinished
from orchestration.traces import traced_run
from orchestration.uploaded_files.file_run import FileReport, FileRuns, Outcome
from orchestration.uploaded_files.run_config import FILES_OP, FilesConfig
from orchestration.workers import register_worker
from telemetry.traces import span


@dg.op(name=FILES_OP, description="Reads uploaded files one after the other, and stores their chunks.")
def read_files(
    context: dg.OpExecutionContext,
    config: FilesConfig,
    catalogue: CatalogueResource,
    documents: DocumentResource,
    gpu: GpuResource,
) -> None:
    """Read the files of the run, and report counts: names and contents of files are not for Dagster's history."""
    worker = register_worker(context.instance, context.run_id)
    runs = FileRuns(context, worker, catalogue=catalogue, documents=documents, gpu=gpu)
    reports: list[FileReport] = []
    with traced_run(context.run):
        for resource_id in config.resource_ids or _all_that_wait(catalogue):
            require_unfinished(context.instance, context.run_id)
            with span("file", resource_id=resource_id):
                report = runs.process(resource_id)
            reports.append(report)
            context.log.info(
                f"File {resource_id}: {report.outcome}, {counted(report.chunks, 'chunk')} in {report.seconds:g} s"
            )
    outcomes = Counter(report.outcome for report in reports)
    metadata: dict[str, dg.MetadataValue | int] = {
        "files": len(reports),
        **{str(outcome): outcomes[outcome] for outcome in Outcome},
        "chunks": sum(report.chunks for report in reports),
        "seconds": dg.MetadataValue.float(round(sum(report.seconds for report in reports), 3)),
        "by_file": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "resource_id": report.resource_id,
                        "course_id": report.course_id,
                        "outcome": str(report.outcome),
                        "source_type": report.source_type,
                        "chunks": report.chunks,
                        "seconds": report.seconds,
                    }
                )
                for report in reports
            ]
        )
        if reports
        else dg.MetadataValue.text("no file waits"),
    }
    if postponed := outcomes[Outcome.POSTPONED]:
        raise dg.Failure(
            f"{postponed} of {counted(len(reports), 'file')} could not be read now; the rows and the log say why. They "
            "are tried again.",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)


def _all_that_wait(catalogue: CatalogueResource) -> list[str]:
    files = catalogue.attempt(active_resources)
    return [file.resource_id for file in files if file.status == ResourceStatus.PENDING]


@dg.job(
    name=FILES_JOB,
    tags={FILES_TAG: "read"},
    owners=OWNERS,
    description="Read uploaded files, and divide them into chunks, which `stage_one_sensor` then has embedded.",
)
def process_resource() -> None:
    """Read uploaded files."""
    read_files()
