"""Checks that every published course has an intact snapshot, and that every snapshot belongs to a course.

All problems are warnings: a course without a snapshot can be searched, because the search app builds the snapshot from
the collection.
"""

from collections.abc import Iterator

from embedding.vector_store.collections import VectorStore
from maintenance.checks.findings import Finding, Level, first_few
from maintenance.ownership import MAX_DELETIONS, compare_snapshots, is_same_publication
from models.courses import courses_by_id, get_course, list_course_ids, list_courses
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from models.text import counted, one_line
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotError, SnapshotStore, directory_name


def check_snapshots(engine: Engine, store: VectorStore, snapshots: SnapshotStore) -> Iterator[Finding]:
    """Check that every published course has an intact snapshot of its content, and every directory a course."""
    yield from _check_directories(engine, snapshots)
    yield from _check_courses(engine, store, snapshots)


def _check_directories(engine: Engine, snapshots: SnapshotStore) -> Iterator[Finding]:
    directories = snapshots.directories()  # listed before the courses: the directory of a new course is not orphaned
    known = _known_directories(engine)
    orphans = [name for name in directories if name not in known]

    def delete(name: str) -> str:
        if name in _known_directories(engine):
            return f"{name} kept: its course is in the catalogue now"
        snapshots.delete_directory(name)
        return f"{name} deleted"

    if not orphans:
        return
    message = f"Snapshots of {counted(len(orphans), 'course')} not in the catalogue"
    if objection := compare_snapshots(engine, snapshots).objection(len(orphans)):
        advice = (
            f"Not repaired, because {objection}. Are DATABASE_URL and SNAPSHOT_DIR correct? If they are, remove "
            "these directories in SNAPSHOT_DIR"
        )
        yield Finding("snapshots", Level.WARNING, f"{message}: {first_few(orphans)}", advice, orphans)
    else:
        message = f"{message}: {first_few(orphans, MAX_DELETIONS)}"
        advice = "`course-search doctor --repair` deletes them"
        yield Finding("snapshots", Level.WARNING, message, advice, orphans, delete, deletes=True)


def _check_courses(engine: Engine, store: VectorStore, snapshots: SnapshotStore) -> Iterator[Finding]:
    with transaction(engine) as session:
        done = [course for course in list_courses(session) if course.embedding_status == EmbeddingStatus.DONE]
    suspects = {course.id: (course, fault) for course in done if (fault := _fault(course, snapshots))}
    with transaction(engine) as session:
        rows = courses_by_id(session, list(suspects))
    faulty = [course_id for course_id, (course, _) in suspects.items() if is_same_publication(course, rows[course_id])]

    def build(course_id: str) -> str:
        with transaction(engine) as session:
            course = get_course(session, course_id)
        published = CourseFingerprint.parse(course.embedding_fingerprint) if course else None
        if course is None or published is None or course.embedding_status != EmbeddingStatus.DONE:
            return f"{course_id}: not repaired, it is no longer published"
        built = build_snapshot(store.open(course_id), course.embedding_generation)
        if not built.is_of(published):
            raise SnapshotError("its collection contains other chunks than were published")
        damaged = snapshots.find(course_id, published, course.embedding_generation)
        if damaged is not None:
            damaged.unlink(missing_ok=True)
        snapshots.save(course_id, built)
        return f"{course_id}: built from its collection"

    if faulty:
        _, fault = suspects[faulty[0]]
        message = f"{counted(len(faulty), 'course')} without a usable snapshot: {first_few(faulty)} ({fault})"
        advice = "The search app builds it from the collection; `course-search doctor --repair` builds it now"
        yield Finding("snapshots", Level.WARNING, message, advice, faulty, build)
    else:
        yield Finding("snapshots", Level.OK, f"{counted(len(done), 'course')} done, each with an intact snapshot")


def _fault(course: Course, snapshots: SnapshotStore) -> str:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    if published is None:
        return ""
    try:
        snapshots.open(course.id, published, course.embedding_generation)
        path = snapshots.find(course.id, published, course.embedding_generation)
        return f"{path} is damaged" if path and snapshots.is_damaged(path) else ""
    except (OSError, SnapshotError) as error:
        return one_line(str(error))


def _known_directories(engine: Engine) -> set[str]:
    with transaction(engine) as session:
        return {directory_name(course_id) for course_id in list_course_ids(session) if course_id}
