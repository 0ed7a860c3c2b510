"""Records the texts of published courses that the index of embedded texts lacks, so that their copies embed nothing.

A course records its texts whenever it is embedded. Those that an earlier version published are not embedded again, and
those of which `course-search forget` deleted a text have no entries either. An entry is made from the chunks in the
catalogue, without reading the collection, because it is only a hint.
"""

import logging
import random
import time
from collections.abc import Callable
from functools import partial

from embedding.vector_store.indexing import UnusableChunkError, record_of
from models.chunks import chunk_pages
from models.context import ContextFields
from models.database import DatabaseUnavailableError, Session
from models.embedded_texts import published_without_texts, record_texts, text_key
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Course
from orchestration.course_run.failures import reason_of
from orchestration.resources import CatalogueResource

RECORDING_SECONDS = 30.0
"""Time limit in a run, in seconds. About 300,000 chunks; the next run continues."""

logger = logging.getLogger(__name__)


def record_published_texts(
    catalogue: CatalogueResource, context_fields: ContextFields, on_course: Callable[[], object]
) -> None:
    """Record the texts of published courses that have no entries, until the time limit. An error stops no run.

    Args:
        catalogue: The catalogue.
        context_fields: Where the contexts of the chunks come from.
        on_course: Called after each course.
    """
    started = time.monotonic()
    try:
        with catalogue.transaction() as session:
            courses = published_without_texts(session)
    except DatabaseUnavailableError as error:
        logger.warning("Texts of published courses may be embedded again for other courses: %s", error)
        return
    for course in random.sample(courses, len(courses)):  # those that have changed since must not delay the others
        if time.monotonic() - started > RECORDING_SECONDS:
            return
        try:
            catalogue.attempt(partial(_record, course=course, context_fields=context_fields))
        except (DatabaseUnavailableError, UnusableChunkError, TypeError, ValueError) as error:
            logger.warning(
                "The texts of course %s may be embedded again for other courses: %s", course.id, reason_of(error)
            )
        on_course()


def _record(session: Session, course: Course, context_fields: ContextFields) -> None:
    """Record a course in one transaction: a course that has entries counts as complete.

    All chunks are read before the first write, which locks a SQLite catalogue. If they have changed since the
    publication, nothing is recorded: the collection does not have them yet, and the run that embeds them does it.
    """
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    if published is None:
        return
    pages, content = [], FingerprintBuilder()
    for page in chunk_pages(session, course.id):
        records = [record_of(chunk, context_fields.of(chunk)) for chunk in page]
        for record in records:
            content.add_hashed(record.chunk_id, record.content_hash, characters=len(record.text))
        pages.append({record.chunk_id: text_key(published.model, record.text_hash) for record in records})
    if content.build(published.model) == published:
        for keys in pages:
            record_texts(session, course.id, keys)
