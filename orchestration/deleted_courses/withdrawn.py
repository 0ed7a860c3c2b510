"""`withdrawn_course_sensor`: removes the texts of a course whose last uploaded file was deleted.

Such a course is withdrawn (`models.course_state.withdraw_deleted`), which its row shows: it was published once, and is
neither published nor requested now. So there is no doubt that the texts are to be deleted, unlike for a course without
a row.
"""

import json
from collections.abc import Mapping, Sequence

import dagster as dg

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError
from maintenance.ownership import compare_collections
from models.courses import withdrawn_courses
from models.database import DatabaseUnavailableError, Engine, transaction
from models.embedded_texts import delete_texts
from models.ingestion import ingestion_by_course, ingestion_of_course
from orchestration.instance.prepared import SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.partitions import OWNERS
from orchestration.resources import CatalogueResource, SnapshotResource, VectorStoreResource
from orchestration.runs import courses_with_run
from retrieval.snapshots.store import SnapshotStore, SnapshotStoreError

REMOVAL_INTERVAL_SECONDS = 10


@dg.sensor(
    minimum_interval_seconds=REMOVAL_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Removes the collection and snapshot of every course whose last uploaded file was deleted. "
    + SKIPS_UNLESS_PREPARED,
)
def withdrawn_course_sensor(
    context: dg.SensorEvaluationContext,
    catalogue: CatalogueResource,
    vector_store: VectorStoreResource,
    snapshots: SnapshotResource,
) -> dg.SkipReason:
    """Remove the texts of withdrawn courses. The cursor has those of which nothing is left, with their generation."""
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)
    removed_before = _parse_cursor(context.cursor)
    try:
        with catalogue.transaction() as session:
            withdrawn = withdrawn_courses(session)
            known = {course_id: removed_before.get(course_id) == number for course_id, number in withdrawn.items()}
            left = [course_id for course_id, is_removed in known.items() if not is_removed]
            ingestion = ingestion_by_course(session, left) if left else {}
        busy = courses_with_run(context.instance) if left else set()
        empty = {
            course_id: withdrawn[course_id]
            for course_id, counts in ingestion.items()
            if not counts.chunks and course_id not in busy
        }
        removed = remove_texts(catalogue.engine(), vector_store.store(), snapshots.store(), empty) if empty else []
    except (DatabaseUnavailableError, VectorStoreError, SnapshotStoreError) as error:
        return dg.SkipReason(str(error))
    kept = {course_id: withdrawn[course_id] for course_id, is_removed in known.items() if is_removed}
    context.update_cursor(json.dumps(kept | {course_id: withdrawn[course_id] for course_id in removed}))
    for course_id in removed:
        context.log.info(f"Course {course_id} has no texts any more: removed its collection and snapshot")
    if refused := len(empty) - len(removed):
        message = (
            f"{refused} courses have no texts any more, but nothing is removed: they are not withdrawn now, or a "
            "published course has another collection here, or none. Check DATABASE_URL and CHROMA_URL"
        )
        context.log.warning(message)
        return dg.SkipReason(message)
    return dg.SkipReason(f"Removed the texts of {len(removed)} courses" if removed else "No course is withdrawn")


def remove_texts(
    engine: Engine, store: VectorStore, snapshots: SnapshotStore, withdrawn: Mapping[str, int]
) -> Sequence[str]:
    """Delete the collections and snapshots of withdrawn courses without chunks.

    Nothing is removed if a published course has another collection here than it should have: then the vector store
    may be that of another catalogue.

    Args:
        engine: The catalogue.
        store: The vector store.
        snapshots: The snapshots.
        withdrawn: Generation by course id.

    Returns:
        Ids of the courses of which nothing is left.

    Raises:
        VectorStoreError: A collection could not be deleted.
        SnapshotStoreError: A snapshot could not be deleted.
        DatabaseUnavailableError: The catalogue is unavailable.
    """
    if compare_collections(engine, store, 0).contradicting:
        return []
    removed = []
    for course_id, generation in withdrawn.items():
        with transaction(engine) as session:  # again, because time has passed
            is_withdrawn = withdrawn_courses(session).get(course_id) == generation
            is_empty = ingestion_of_course(session, course_id).chunks == 0
        if is_withdrawn and is_empty:
            store.delete(course_id)
            snapshots.delete(course_id)
            with transaction(engine) as session:
                delete_texts(session, course_id)
            removed.append(course_id)
    return removed


def _parse_cursor(cursor: str | None) -> dict[str, int]:
    return {str(course_id): int(generation) for course_id, generation in json.loads(cursor or "{}").items()}
