"""`course_chunks` (stage one writes them) → `course_collection` and `course_keyword_index`, one partition a course.

Both are made by one pass over the chunks and published together: a run does both, whichever of them was selected.

A run may hold many courses: starting one costs seconds and loading the model more, a course costs little. Each course
is on its own all the same. It is published, or marked `failed` with its own reason while the others go on; the run then
fails and names it.
"""

from collections.abc import Iterator

import dagster as dg

from orchestration import workers
from orchestration.course_run import CourseRun
from orchestration.partitions import COLLECTION, KEYWORDS, OWNERS, courses
from orchestration.reasons import COURSES_PER_RUN, reasons_of
from orchestration.reports import CHECK_SPECS
from orchestration.resources import CatalogueResource, GpuResource, VectorStoreResource
from retrieval.analysis import ANALYSIS_VERSION

GPU_POOL = "gpu"

course_chunks = dg.AssetSpec(
    "course_chunks",
    partitions_def=courses,
    group_name="stage_one",
    kinds={"sql"},
    owners=["team:stage-one"],
    description="Ready-to-Embed rows of the course in stage one's `chunk` table. The sensor notes every new version.",
)


@dg.multi_asset(
    name="course_collection",
    specs=[
        dg.AssetSpec(
            COLLECTION,
            deps=[course_chunks],
            skippable=True,
            group_name="embedding",
            kinds={"chroma", "pytorch"},
            owners=OWNERS,
            description="The Chroma collection `course_{course_id}`: vector, text and metadata of every chunk.",
            code_version="1",
        ),
        dg.AssetSpec(
            KEYWORDS,
            deps=[course_chunks],
            skippable=True,
            group_name="embedding",
            kinds={"numpy"},
            owners=OWNERS,
            description="The keyword index of the course: which terms its chunks hold, in one file, for BM25.",
            code_version=str(ANALYSIS_VERSION),
        ),
    ],
    check_specs=CHECK_SPECS,
    partitions_def=courses,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=COURSES_PER_RUN),
    pool=GPU_POOL,
    can_subset=True,  # lets every course report for itself, as it is published
)
def course_collection(
    context: dg.AssetExecutionContext,
    catalogue: CatalogueResource,
    vector_store: VectorStoreResource,
    gpu: GpuResource,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Embed the courses of this run, one after the other."""
    workers.begin_work(context.instance, context.run.run_id)
    course_ids = list(reasons_of(context.run.tags)) or context.partition_keys
    failures: dict[str, str] = {}
    for course_id in course_ids:
        course = CourseRun(context, catalogue, vector_store, gpu, course_id)
        try:
            yield from course.work()
        except Exception as error:
            context.log.exception(f"Course {course_id} failed")
            failures[course_id] = course.give_up(error)
        except BaseException as interruption:  # the run is being terminated: by the operator, or with everything else
            course.give_up(interruption)
            raise
    if failures:
        summary = "; ".join(f"{course_id}: {reason}" for course_id, reason in failures.items())
        raise dg.Failure(
            f"{len(failures)} of {len(course_ids)} courses failed: {summary}",
            metadata={"failed": dg.MetadataValue.json(failures)},
            allow_retries=False,
        )
