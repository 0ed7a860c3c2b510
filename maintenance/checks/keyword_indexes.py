"""Checks that every published course has a keyword index, and that every index belongs to a course.

All problems are warnings: a course without an index can be searched, because the first search builds the index from the
collection.
"""

from collections.abc import Iterator

from embedding.vector_store.collections import VectorStore
from maintenance.checks.findings import Finding, Level, first_few
from maintenance.ownership import MAX_DELETIONS, compare_keyword_indexes, is_same_publication
from models.courses import courses_by_id, get_course, list_course_ids, list_courses
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from models.text import counted, one_line
from retrieval.keywords.index import KeywordIndexError
from retrieval.keywords.store import KeywordStore, directory_name, index_from_collection


def check_keyword_indexes(engine: Engine, store: VectorStore, keywords: KeywordStore) -> Iterator[Finding]:
    """Check that every published course has an index of the published chunks, and every directory a course."""
    yield from _check_directories(engine, keywords)
    yield from _check_courses(engine, store, keywords)


def _check_directories(engine: Engine, keywords: KeywordStore) -> Iterator[Finding]:
    directories = keywords.directories()  # listed before the courses: the directory of a new course is not orphaned
    known = _known_directories(engine)
    orphans = [name for name in directories if name not in known]

    def delete(name: str) -> str:
        if name in _known_directories(engine):
            return f"{name} kept: its course is in the catalogue now"
        keywords.delete_directory(name)
        return f"{name} deleted"

    if not orphans:
        return
    message = f"Keyword indexes of {counted(len(orphans), 'course')} not in the catalogue"
    if objection := compare_keyword_indexes(engine, keywords).objection(len(orphans)):
        advice = (
            f"Not repaired, because {objection}. Are DATABASE_URL and KEYWORD_INDEX_DIR correct? If they are, remove "
            "these directories in KEYWORD_INDEX_DIR"
        )
        yield Finding("keywords", Level.WARNING, f"{message}: {first_few(orphans)}", advice, orphans)
    else:
        message = f"{message}: {first_few(orphans, MAX_DELETIONS)}"
        advice = "`course-search doctor --repair` deletes them"
        yield Finding("keywords", Level.WARNING, message, advice, orphans, delete, deletes=True)


def _check_courses(engine: Engine, store: VectorStore, keywords: KeywordStore) -> Iterator[Finding]:
    with transaction(engine) as session:
        done = [course for course in list_courses(session) if course.embedding_status == EmbeddingStatus.DONE]
    suspects = {course.id: (course, fault) for course in done if (fault := _fault(course, keywords))}
    with transaction(engine) as session:
        rows = courses_by_id(session, list(suspects))
    faulty = [course_id for course_id, (course, _) in suspects.items() if is_same_publication(course, rows[course_id])]

    def build(course_id: str) -> str:
        with transaction(engine) as session:
            course = get_course(session, course_id)
        published = CourseFingerprint.parse(course.embedding_fingerprint) if course else None
        if published is None:
            return f"{course_id}: not repaired, it is no longer published"
        index = index_from_collection(store.open(course_id), published.content)
        keywords.save(course_id, published.content, index)
        return f"{course_id}: built from its collection"

    if faulty:
        _, fault = suspects[faulty[0]]
        message = f"{counted(len(faulty), 'course')} without a usable keyword index: {first_few(faulty)} ({fault})"
        advice = "The first search builds it from the collection; `course-search doctor --repair` builds it now"
        yield Finding("keywords", Level.WARNING, message, advice, faulty, build)
    else:
        yield Finding("keywords", Level.OK, f"{counted(len(done), 'course')} done, each with a keyword index")


def _fault(course: Course, keywords: KeywordStore) -> str:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    if published:
        try:
            keywords.load(course.id, published.content)
        except KeywordIndexError as error:
            return one_line(str(error))
    return ""


def _known_directories(engine: Engine) -> set[str]:
    with transaction(engine) as session:
        return {directory_name(course_id) for course_id in list_course_ids(session) if course_id}
