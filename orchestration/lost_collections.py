"""`lost_collection_sensor`: requests an embedding of every `done` course whose collection is gone."""

import json
from datetime import UTC, datetime

import dagster as dg

from embedding.vector_store.errors import VectorStoreError
from models.course_state import request_embedding
from models.courses import list_courses
from models.database import DatabaseUnavailableError
from models.tables import EmbeddingStatus
from orchestration.instance.prepared import SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.partitions import OWNERS
from orchestration.resources import CatalogueResource, VectorStoreResource

LOOK_INTERVAL_SECONDS = 60
MAX_REQUESTS = 50
"""Maximum number of requests per tick, so that a wrong CHROMA_URL is noticed before the whole catalogue is embedded."""


@dg.sensor(
    minimum_interval_seconds=LOOK_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Requests an embedding of every course that is `done` and has no collection. " + SKIPS_UNLESS_PREPARED,
)
def lost_collection_sensor(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, vector_store: VectorStoreResource
) -> dg.SkipReason:
    """Request an embedding of the courses whose collection two consecutive ticks did not find."""
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)
    missing_before = set(json.loads(context.cursor or "[]"))
    try:
        with catalogue.transaction() as session:
            done = [course.id for course in list_courses(session) if course.embedding_status == EmbeddingStatus.DONE]
        collections = vector_store.store().collections()
        existing = {collection.info.course_id for collection in collections if collection.is_of_course}
        missing = [course_id for course_id in done if course_id not in existing]
        lost = sorted(missing_before.intersection(missing))[:MAX_REQUESTS]
        with catalogue.transaction() as session:
            for course_id in lost:
                request_embedding(session, course_id, datetime.now(UTC))
    except (DatabaseUnavailableError, VectorStoreError) as error:
        return dg.SkipReason(str(error))
    context.update_cursor(json.dumps(sorted(set(missing).difference(lost)), ensure_ascii=False))
    if lost:
        message = (
            f"{len(lost)} done courses have no collection, so their embedding was requested: {', '.join(lost[:5])}"
        )
        context.log.warning(message)
        return dg.SkipReason(message)
    return dg.SkipReason(
        f"{len(missing)} done courses have no collection; the next tick looks again"
        if missing
        else "Every done course has a collection"
    )
