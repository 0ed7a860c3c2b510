"""Checks that every published course has its collection, and that every collection belongs to a course.

The pipeline may embed courses during a check. So the row of a course that seems damaged is read again: if the row has
changed, the course was embedded meanwhile, and is not reported.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum

from embedding.interface import Embedder
from embedding.vector_store.collection_names import collection_name, course_id_of
from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.damage import MAX_DAMAGED, find_damaged
from embedding.vector_store.errors import (
    CollectionNotFoundError,
    VectorStoreError,
    VectorStoreUnhealthyError,
    VectorStoreUnreachableError,
)
from embedding.vectors import are_sound
from maintenance.checks.findings import Finding, Level, first_few
from maintenance.ownership import MAX_DELETIONS, compare_collections, is_same_publication
from maintenance.progress import progress
from maintenance.rebuild import CourseRefusedError, request_rebuild
from models.course_state import request_embedding
from models.courses import courses_by_id, get_course, list_course_ids, list_courses
from models.database import Engine, transaction
from models.embedded_texts import delete_texts
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.messages import not_found_message, running_message
from models.tables import Course, EmbeddingStatus
from models.text import counted, one_line


class Fault(StrEnum):
    """A problem of a published course, as it appears in a message."""

    MISSING = "without a collection"
    OTHER_MODEL = "with a collection of another model than published"
    OTHER_COUNT = "with more or fewer documents than published"
    DAMAGED = "with a damaged collection that cannot be read"
    UNREADABLE = "with a collection that could not be read, although it may be intact"
    UNSOUND = "with vectors of wrong dimensions, not finite or not of unit length"
    OTHER_CONTENT = "with other chunks or texts than published"


NEEDS_REBUILD = (Fault.DAMAGED, Fault.UNSOUND, Fault.OTHER_CONTENT)
"""Faults that require a rebuild, because an ordinary embedding writes only new and changed chunks."""


def _delete_vectors(engine: Engine, store: VectorStore, course_id: str) -> None:
    with transaction(engine) as session:
        delete_texts(session, course_id)  # first, because only the collection shows that there is something left
    store.delete(course_id)


def check_orphans(engine: Engine, store: VectorStore, collections: Sequence[CourseCollection]) -> Iterator[Finding]:
    """Check that every collection belongs to a course.

    Args:
        engine: The catalogue.
        store: The vector store.
        collections: All collections. They must be listed before this call reads the courses; otherwise the collection
            of a course that is added in between would seem orphaned.
    """
    with transaction(engine) as session:
        courses = set(list_course_ids(session))
    orphans: dict[str, str] = {}
    foreign: list[str] = []
    copies: set[str] = set()
    owned = 0
    for collection in collections:
        course_id = collection.info.course_id or course_id_of(collection.name)
        if collection.is_copy:
            copies.add(collection.info.course_id)
        elif course_id in courses:
            owned += 1
        elif collection.is_of_course:
            orphans[collection.name] = collection.info.course_id
        elif course_id:
            foreign.append(collection.name)

    def delete(name: str) -> str:
        course_id = orphans[name]
        if store.open(course_id).info.course_id != course_id:
            return f"{name} kept: it is another collection now"
        with transaction(engine) as session:
            course = get_course(session, course_id)
        if course is not None:
            return f"{name} kept: its course is in the catalogue now"
        _delete_vectors(engine, store, course_id)
        return f"{name} deleted"

    def delete_copies(course_id: str) -> str:
        with transaction(engine) as session:
            course = get_course(session, course_id)
        if course is not None and course.embedding_status == EmbeddingStatus.RUNNING:
            raise CourseRefusedError(running_message(course_id))
        with suppress(CollectionNotFoundError):
            store.adopt_copy(course_id)  # the vectors are kept if the copy has not yet replaced the collection
        store.delete_copies(course_id)
        return f"{course_id}: copies deleted"

    if copies:
        message = f"copies of collections that `course-search forget` left behind: {first_few(sorted(copies))}"
        advice = "Unless the command is running now, `course-search doctor --repair` deletes them"
        yield Finding("orphans", Level.WARNING, message, advice, sorted(copies), delete_copies)
    if orphans:
        names = list(orphans)
        if objection := compare_collections(engine, store, len(orphans)).objection(len(orphans)):
            message = f"{counted(len(orphans), 'collection')} without a course: {first_few(names)}"
            advice = (
                f"Not repaired, because {objection}. Are DATABASE_URL and CHROMA_URL correct? If they are, and the "
                "courses were deleted on purpose, delete each collection by hand: `curl -X DELETE "
                "$CHROMA_URL/api/v2/tenants/default_tenant/databases/default_database/collections/NAME`"
            )
            yield Finding("orphans", Level.WARNING, message, advice, names)
        else:
            message = f"{counted(len(orphans), 'collection')} without a course: {first_few(names, MAX_DELETIONS)}"
            advice = "Their courses were deleted: `course-search doctor --repair` deletes the collections"
            yield Finding("orphans", Level.WARNING, message, advice, names, delete, deletes=True)
    if foreign:
        message = f"{counted(len(foreign), 'collection')} of another program, but named like ours: {first_few(foreign)}"
        yield Finding("orphans", Level.WARNING, message, "Not repaired: delete those that are not needed", foreign)
    if not orphans and not foreign and not copies:
        yield Finding("orphans", Level.OK, f"{counted(owned, 'collection')}, each belongs to a course")


def check_courses(
    engine: Engine,
    store: VectorStore,
    collections: Sequence[CourseCollection],
    *,
    deep: bool = False,
    model: Embedder | None = None,
) -> Iterator[Finding]:
    """Check that every published course has the collection that was published.

    Args:
        engine: The catalogue.
        store: The vector store.
        collections: All collections.
        deep: Read every text and vector.
        model: The configured model, for the expected dimensions of collections with its signature.
    """

    def check_contents(collection: CourseCollection, published: CourseFingerprint | None) -> Fault | None:
        if deep:
            is_of_model = model is not None and collection.info.model_signature == model.signature
            return _fault_of_contents(collection, published, model.dimensions if model and is_of_model else None)
        next(collection.contents(page_size=1), None)
        return _fault_of_hashes(collection, published)

    with transaction(engine) as session:
        done = [course for course in list_courses(session) if course.embedding_status == EmbeddingStatus.DONE]
    by_name = {collection.name: collection for collection in collections}
    suspects: dict[str, tuple[Course, Fault]] = {}
    with progress("Reading collections", len(done)) as advance:
        for course in done:
            fault = _fault(course, store, by_name.get(collection_name(course.id)), check_contents)
            if fault:
                suspects[course.id] = course, fault
            advance(1)
    faults: dict[Fault, list[str]] = defaultdict(list)
    with transaction(engine) as session:
        rows = courses_by_id(session, list(suspects))
    for course_id, (course, fault) in suspects.items():
        if is_same_publication(course, rows[course_id]):
            faults[fault].append(course_id)
    cause = _confirm_damage(store, faults)

    def embed(course_id: str) -> str:
        with transaction(engine) as session:
            if request_embedding(session, course_id, datetime.now(UTC)):
                return f"{course_id}: embedding_started"
            course = get_course(session, course_id)
        if course is None:
            raise CourseRefusedError(not_found_message(course_id))
        return f"{course_id}: {running_message(course.id)}"

    def rebuild(course_id: str) -> str:
        with transaction(engine) as session:
            course = get_course(session, course_id)
        if course is None or course.embedding_status != EmbeddingStatus.DONE:
            return f"{course_id} kept: it is no longer published"
        fault = _fault(course, store, None, check_contents)
        is_damaged = fault is Fault.UNREADABLE and find_damaged(store, [course_id])
        if fault not in NEEDS_REBUILD and not is_damaged:
            return f"{course_id} kept: its collection is no longer faulty, or the error was temporary"
        request_rebuild(engine, course_id)
        return f"{course_id}: rebuild requested, embedding_started"

    for fault, ids in faults.items():
        others = len(done) - len(ids)
        repair = rebuild if fault in NEEDS_REBUILD else embed
        yield _course_finding(fault, ids, cause, repair, is_plausible=len(ids) <= max(MAX_DAMAGED, others))
    if not faults:
        result = "every text and vector correct" if deep else "every collection readable and with the published chunks"
        yield Finding("courses", Level.OK, f"{counted(len(done), 'course')} done, {result}")


def _confirm_damage(store: VectorStore, faults: dict[Fault, list[str]]) -> str:
    """Move the courses whose collection is certainly damaged from `UNREADABLE` to `DAMAGED`.

    Returns:
        Why no collection counts as damaged, if the server seems to be the cause; otherwise an empty string.
    """
    unreadable = faults.pop(Fault.UNREADABLE, [])
    damaged: list[str] = []
    cause = ""
    try:
        damaged = find_damaged(store, unreadable)
    except VectorStoreUnhealthyError as error:
        cause = f" ({one_line(str(error))})"
    for course_id in unreadable:
        faults[Fault.DAMAGED if course_id in damaged else Fault.UNREADABLE].append(course_id)
    return cause


def _course_finding(
    fault: Fault, ids: Sequence[str], cause: str, repair: Callable[[str], str], *, is_plausible: bool
) -> Finding:
    """The finding for the courses with one fault.

    Args:
        fault: The fault.
        ids: The courses.
        cause: Why courses could not be read, in parentheses.
        repair: Rebuilds or embeds a course.
        is_plausible: Whether so few courses have the fault that their collections may be deleted.
    """
    message = f"{counted(len(ids), 'course')} {fault}: {first_few(ids)}"
    if fault is Fault.UNREADABLE:
        advice = "Not repaired: remove the cause and run this again. If it remains, `course-search rebuild COURSE`"
        return Finding("courses", Level.ERROR, message + cause, advice, ids)
    if fault not in NEEDS_REBUILD:
        advice = "`course-search embed COURSE`, or `course-search doctor --repair`"
        return Finding("courses", Level.ERROR, message, advice, ids, repair)
    if not is_plausible:
        advice = (
            "Not repaired, because so many courses have this at once: are DATABASE_URL and CHROMA_URL correct? If they "
            "are, `course-search rebuild COURSE` deletes the collection and has the course embedded"
        )
        return Finding("courses", Level.ERROR, message, advice, ids)
    message = f"{counted(len(ids), 'course')} {fault}: {first_few(ids, MAX_DELETIONS)}"
    advice = (
        "`course-search rebuild COURSE`, or `course-search doctor --repair`: both delete the collection and have the "
        "course embedded"
    )
    return Finding("courses", Level.ERROR, message, advice, ids, repair, deletes=True)


def _fault(
    course: Course,
    store: VectorStore,
    collection: CourseCollection | None,
    check_contents: Callable[[CourseCollection, CourseFingerprint | None], Fault | None],
) -> Fault | None:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    try:
        collection = collection or store.open(course.id)  # it may have been created after the collections were listed
        if published and collection.info.model_signature != published.model:
            return Fault.OTHER_MODEL
        documents = collection.count()  # fails first on a damaged collection, where every read takes seconds
        if published and documents != published.chunks:
            return Fault.OTHER_COUNT
        return check_contents(collection, published)
    except CollectionNotFoundError:
        return Fault.MISSING
    except VectorStoreUnreachableError:
        raise
    except VectorStoreError:
        return Fault.UNREADABLE


def _fault_of_hashes(collection: CourseCollection, published: CourseFingerprint | None) -> Fault | None:
    """Compare the stored ids and hashes with the fingerprint. Neither texts nor vectors are read."""
    stored = FingerprintBuilder()
    for chunk_ids in collection.chunk_ids():
        for chunk_id, hashes in collection.hashes(chunk_ids).items():
            stored.add_hashed(chunk_id, hashes.content, characters=0)
    is_other = published is not None and stored.build(published.model).content != published.content
    return Fault.OTHER_CONTENT if is_other else None


def _fault_of_contents(
    collection: CourseCollection, published: CourseFingerprint | None, dimensions: int | None
) -> Fault | None:
    stored = FingerprintBuilder()
    for records, vectors in collection.contents():
        dimensions = dimensions or vectors.shape[1]
        if not are_sound(vectors, dimensions).all():
            return Fault.UNSOUND
        hashes = collection.hashes([record.chunk_id for record in records])
        for record in records:
            if hashes[record.chunk_id].text not in ("", record.text_hash):
                return Fault.OTHER_CONTENT
            stored.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    if published and stored.build(published.model).content != published.content:
        return Fault.OTHER_CONTENT
    return None
