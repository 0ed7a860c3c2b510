"""Evidence that a catalogue and a vector store, or a directory of snapshots, belong together.

A wrong DATABASE_URL looks like a catalogue whose courses were deleted, and one common course id proves nothing: a test
system has copies of real courses. So what belongs to no course is deleted only if the published courses have here
exactly what was published, and if they are not fewer than the courses to be removed.
"""

from dataclasses import dataclass

from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from models.courses import courses_by_id, list_courses
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from models.text import counted
from retrieval.snapshots.store import SnapshotStore

SMALL_REMOVAL = 3
"""Up to this many courses may be removed at once even if fewer courses match; at least one must."""
MAX_DELETIONS = 50
"""Maximum number of courses whose collections or snapshots are deleted at once."""
MIN_COUNTED = 20
"""Number of published courses, at least, whose documents are counted. Counting loads a collection into Chroma."""


@dataclass(frozen=True)
class Evidence:
    """How the published courses of a catalogue compare with what is stored."""

    matching: int
    """Number of published courses of which exactly the published content is stored. Not all courses are compared."""
    contradicting: str = ""
    """Id of a published course of which something else is stored, or nothing; empty if there is none."""

    def objection(self, removals: int) -> str:
        """The reason why this number of courses must not be removed, or an empty string."""
        if self.contradicting:
            return (
                f"published course {self.contradicting} has another collection here, or none. If it is damaged, have "
                "it embedded first (`course-search embed COURSE`)"
            )
        if not self.matching:
            return "nothing at all here belongs to a published course of the catalogue"
        if removals > max(SMALL_REMOVAL, self.matching):
            return f"{counted(removals, 'course')} would be removed, and only {self.matching} would remain"
        return ""


def compare_collections(engine: Engine, store: VectorStore, removals: int) -> Evidence:
    """Compare the published courses with their collections: model, and number of documents.

    Args:
        engine: The catalogue.
        store: The vector store.
        removals: Number of courses to be removed. Documents are counted until so many courses match.

    Raises:
        VectorStoreError: The vector store failed.
    """
    published = _published_courses(engine)  # read before the collections: a course is published after its collection
    collections = {collection.name: collection for collection in store.collections()}
    pairs = [(course, collections.get(collection_name(course.id))) for course in published]
    different = [course for course, collection in pairs if not _has_published_model(course, collection)]
    if contradicting := _first_unchanged(engine, different):
        return Evidence(0, contradicting)
    different_ids = {course.id for course in different}
    matching = 0
    for course, collection in pairs:
        if matching >= max(removals, MIN_COUNTED):
            break
        if collection is None or course.id in different_ids:  # its row has changed since
            continue
        if _has_published_count(course, collection):
            matching += 1
        elif contradicting := _first_unchanged(engine, [course]):
            return Evidence(0, contradicting)
    return Evidence(matching)


def compare_snapshots(engine: Engine, snapshots: SnapshotStore) -> Evidence:
    """Count the published courses whose snapshot of exactly the published content exists.

    A missing snapshot contradicts nothing: the search app or the doctor builds it.
    """
    return Evidence(
        sum(
            snapshots.find(course.id, published, course.embedding_generation) is not None
            for course in _published_courses(engine)
            if (published := CourseFingerprint.parse(course.embedding_fingerprint))
        )
    )


def is_same_publication(before: Course, now: Course | None) -> bool:
    """Whether the course has not been embedded since its row was read."""
    return now is not None and all(
        getattr(before, column) == getattr(now, column)
        for column in ("embedding_status", "embedding_generation", "embedding_fingerprint")
    )


def _published_courses(engine: Engine) -> list[Course]:
    with transaction(engine) as session:
        return [
            course
            for course in list_courses(session)
            if course.embedding_status == EmbeddingStatus.DONE
            and CourseFingerprint.parse(course.embedding_fingerprint)
            and course.id
        ]


def _has_published_model(course: Course, collection: CourseCollection | None) -> bool:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    if collection is None or published is None:
        return False
    return (collection.info.course_id, collection.info.model_signature) == (course.id, published.model)


def _has_published_count(course: Course, collection: CourseCollection) -> bool:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    try:
        return published is not None and collection.count() == published.chunks
    except CollectionNotFoundError:
        return False


def _first_unchanged(engine: Engine, courses: list[Course]) -> str:
    """The id of the first of these courses that is still published as it was; empty if all have changed."""
    with transaction(engine) as session:
        rows = courses_by_id(session, [course.id for course in courses])
    return next((course.id for course in courses if is_same_publication(course, rows[course.id])), "")
