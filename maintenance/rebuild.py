"""Rebuilds a course: deletes its collection and keyword index, and requests an embedding of all chunks.

The rebuild claims the course like a run, so that no run writes to a collection that is being deleted. If the rebuild is
killed, the course stays `running` with an owner that is not a run. `course_status_sensor` then sets the course to
`failed` and requests its embedding.
"""

from datetime import UTC, datetime
from uuid import uuid4

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError
from models.course_state import (
    REBUILD_OWNER_PREFIX,
    claim_course,
    fail_course,
    owns_course,
    request_after_rebuild,
    request_embedding,
)
from models.courses import get_course
from models.database import Engine, transaction
from models.messages import not_found_message, running_message
from retrieval.keywords.store import KeywordStore, KeywordStoreError


class CourseRefusedError(Exception):
    """The course does not exist, or is running."""


class RebuildLostError(Exception):
    """Another process took the course over during the rebuild."""


def rebuild_course(engine: Engine, store: VectorStore, keywords: KeywordStore, course_id: str) -> None:
    """Delete the course's collection and keyword index, and request an embedding of all of its chunks.

    Raises:
        CourseRefusedError: The course does not exist, or is running.
        VectorStoreError: The collection could not be deleted; the course is `failed` and its embedding is requested.
        KeywordStoreError: The keyword index could not be deleted; the course is `failed`, its embedding is requested.
        RebuildLostError: Another process took the course over. If its collection was already deleted, an embedding is
            requested, unless the course is running: that run fails because its collection is missing.
    """
    owner = f"{REBUILD_OWNER_PREFIX}{uuid4()}"
    with transaction(engine) as session:
        course = get_course(session, course_id)
        if course is None:
            raise CourseRefusedError(not_found_message(course_id))
        if not claim_course(session, course_id, owner):
            raise CourseRefusedError(running_message(course))

    def check_ownership() -> None:
        with transaction(engine) as session:
            is_owner = owns_course(session, course_id, owner)
        if not is_owner:
            raise RebuildLostError(f"Course {course_id} was taken over: rebuild it again")

    try:
        store.delete(course_id, check_ownership)
        keywords.delete(course_id)
    except BaseException as error:
        reason = str(error) if isinstance(error, VectorStoreError | KeywordStoreError) else "interrupted"
        with transaction(engine) as session:
            fail_course(session, course_id, owner, f"The rebuild failed: {reason}", retry_at=datetime.now(UTC))
        raise
    with transaction(engine) as session:
        is_requested = request_after_rebuild(session, course_id, owner, datetime.now(UTC))
        if not is_requested:
            request_embedding(session, course_id, datetime.now(UTC))
    if not is_requested:
        raise RebuildLostError(f"Course {course_id} was taken over while its collection was deleted: rebuild it again")
