"""What `course-search doctor` checks of keyword indexes: each published course has its own, and no other is left.

None of this keeps a course from being searched: an index that is missing is made from the collection.
"""

from collections.abc import Iterator

from cli.checks import Finding, Level, named, read_courses
from cli.collection_checks import is_same
from cli.courses import counted, one_line, read
from embedding.vector_store import VectorStore
from models.catalogue import course_ids
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from retrieval.keyword_index import KeywordIndexError
from retrieval.keyword_store import KeywordStore, directory_name, index_of


def check_keyword_indexes(engine: Engine, store: VectorStore, keywords: KeywordStore) -> Iterator[Finding]:
    """Every published course has an index of what was published, and every directory belongs to a course."""
    yield from _check_directories(engine, keywords)
    yield from _check_courses(engine, store, keywords)


def _check_directories(engine: Engine, keywords: KeywordStore) -> Iterator[Finding]:
    directories = keywords.directories()  # before the courses: a new one's is not among them
    known = _known_directories(engine)
    orphans = [name for name in directories if name not in known]

    def delete(name: str) -> str:
        if name in _known_directories(engine):
            return f"{name} left alone: its course is in the catalogue now"
        keywords.delete_directory(name)
        return f"{name} deleted"

    if not orphans:
        return
    message = f"Keyword indexes of {counted(len(orphans), 'course')} that there is not: {named(orphans)}"
    if len(orphans) < len(directories):
        advice = "Their courses were removed: `course-search doctor --repair` deletes them"
        yield Finding("keywords", Level.WARNING, message, advice, orphans, delete)
    else:
        advice = (
            "Nothing here is repaired, since not one index belongs to a course of the catalogue: is DATABASE_URL, or "
            "KEYWORD_INDEX_DIR, the right one?"
        )
        yield Finding("keywords", Level.WARNING, message, advice, orphans)


def _check_courses(engine: Engine, store: VectorStore, keywords: KeywordStore) -> Iterator[Finding]:
    done = [course for course in read_courses(engine) if course.embedding_status == EmbeddingStatus.DONE]
    faults = {course.id: (course, fault) for course in done if (fault := _fault(course, keywords))}
    rows = read(engine, list(faults))
    faulty = [course_id for course_id, (course, _) in faults.items() if is_same(course, rows[course_id])]

    def make(course_id: str) -> str:
        course = read(engine, [course_id])[course_id]
        published = CourseFingerprint.parse(course.embedding_fingerprint) if course else None
        if published is None:
            return f"{course_id}: left alone, it is not published any more"
        index = index_of(store.open(course_id), published.content)
        keywords.save(course_id, published.content, index)
        return f"{course_id}: made from its collection"

    if faulty:
        _, fault = faults[faulty[0]]
        message = f"{counted(len(faulty), 'course')} without a usable keyword index: {named(faulty)} ({fault})"
        advice = "The first search makes it from the collection; `course-search doctor --repair` does so now"
        yield Finding("keywords", Level.WARNING, message, advice, faulty, make)
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
        return {directory_name(course_id) for course_id in course_ids(session) if course_id}
