"""`course_chunks` (written by stage one) → `course_collection` and `course_snapshot`, one partition per course.

One pass over the chunks builds both assets, and both are published together. So a run builds both, even if only one is
selected.

A run may contain many courses, because starting a run takes seconds and loading the model takes longer. Courses succeed
or fail independently: a course that fails is marked `failed` with the reason, and the run continues with the next
course. The run fails at the end and names the failed courses.
"""

from collections.abc import Iterator

import dagster as dg

from models.tables import Chunk
from orchestration.course_run.failures import places_of
from orchestration.course_run.published_texts import record_published_texts
from orchestration.course_run.run import INTERRUPTIONS, CourseRun
from orchestration.launching.courses_per_run import COURSES_PER_RUN
from orchestration.partitions import COLLECTION, OWNERS, SNAPSHOT, course_partitions
from orchestration.resources import (
    CatalogueResource,
    ExaminationResource,
    GpuResource,
    SearchAppResource,
    SnapshotResource,
    VectorStoreResource,
)
from orchestration.run_config import OP, RunConfig, reasons_of
from orchestration.runs import require_unfinished
from orchestration.traces import traced_run
from orchestration.ui_metadata import CHECK_SPECS
from orchestration.workers import register_worker
from retrieval.analysis import ANALYSIS_VERSION
from telemetry.traces import span

GPU_POOL = "gpu"

course_chunks = dg.AssetSpec(
    "course_chunks",
    partitions_def=course_partitions,
    group_name="stage_one",
    kinds={"sql"},
    owners=["team:stage-one"],
    tags={"stage": "one"},
    metadata={"dagster/table_name": str(Chunk.__tablename__), "partition": "chunk.course_id"},
    description="Ready-to-Embed rows of the course in stage one's `chunk` table. `stage_one_sensor` records an "
    "observation of every version that it launches a run for.",
)


@dg.multi_asset(
    name=OP,
    specs=[
        dg.AssetSpec(
            COLLECTION,
            deps=[course_chunks],
            skippable=True,
            group_name="embedding",
            kinds={"chroma", "pytorch"},
            owners=OWNERS,
            tags={"stage": "two"},
            metadata={"collection": "course_{course_id}", "space": "cosine"},
            description="The Chroma collection `course_{course_id}`: vector, text and metadata of every chunk.",
            code_version="1",
        ),
        dg.AssetSpec(
            SNAPSHOT,
            deps=[course_chunks],
            skippable=True,
            group_name="embedding",
            kinds={"numpy"},
            owners=OWNERS,
            tags={"stage": "two"},
            metadata={"file": "SNAPSHOT_DIR/course_{course_id}/{key}.{digest}.safetensors", "scoring": "cosine, BM25"},
            description="The snapshot of the course that searches read: one file with the vectors, texts, metadata and "
            "terms of every chunk.",
            code_version=str(ANALYSIS_VERSION),
        ),
    ],
    check_specs=CHECK_SPECS,
    partitions_def=course_partitions,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=COURSES_PER_RUN),
    pool=GPU_POOL,
    can_subset=True,  # makes the outputs optional: the function yields events per course instead
)
def course_collection(  # noqa: PLR0917 - Dagster passes the resources by name
    context: dg.AssetExecutionContext,
    config: RunConfig,
    catalogue: CatalogueResource,
    vector_store: VectorStoreResource,
    snapshots: SnapshotResource,
    examination: ExaminationResource,
    gpu: GpuResource,
    search_app: SearchAppResource,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Embed and publish the courses of this run, one after the other."""
    with traced_run(context.run):
        worker = register_worker(context.instance, context.run.run_id)
        reasons = reasons_of(context.run)
        course_ids = list(reasons) or context.partition_keys
        failures: dict[str, str] = {}
        unreadable: set[str] = set()
        record_published_texts(catalogue, gpu.settings().context, worker.beat)
        for course_id in course_ids:
            require_unfinished(context.instance, context.run.run_id)
            course = CourseRun(
                context,
                worker,
                course_id,
                reasons.get(course_id),
                rebuild=config.rebuild,
                catalogue=catalogue,
                vector_store=vector_store,
                snapshot_store=snapshots.store(),
                unreadable=unreadable,
                examination_blocks=examination.examination_blocks,
                gpu=gpu,
                search_url=search_app.search_url,
            )
            try:
                with span("course", course_id=course_id):
                    yield from course.embed_and_publish()
            except INTERRUPTIONS as interruption:  # the run is terminated: by an operator, or by a shutdown
                course.record_failure(interruption)
                raise
            except BaseException as error:  # noqa: BLE001 - the messages of libraries do not belong into the log
                failures[course_id] = course.record_failure(error)
                context.log.error(f"Course {course_id} failed: {failures[course_id]}\n{places_of(error)}")
                if not isinstance(error, Exception):  # a panic in a library, whose state is unknown now
                    break
        if failures:
            summary = "; ".join(f"{course_id}: {reason}" for course_id, reason in failures.items())
            raise dg.Failure(
                f"{len(failures)} of {len(course_ids)} courses failed: {summary}",
                metadata={"failed": dg.MetadataValue.json(failures)},
                allow_retries=False,
            )
