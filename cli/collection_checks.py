"""What `course-search doctor` checks of courses and their collections: each published course has the one it should.

Courses go on being embedded meanwhile. So whatever looks wrong is looked at again: a course whose row says something
else than before was embedded, not damaged.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum

from cli.checks import Finding, Level, named, read_courses
from cli.courses import counted, is_active, read
from cli.embed import request
from cli.progress import progress
from cli.rebuild import rebuild_course
from embedding.collection_names import collection_name, course_id_of
from embedding.embedder import Embedder
from embedding.vector_store import (
    CollectionNotFoundError,
    CourseCollection,
    VectorStore,
    VectorStoreAwayError,
    VectorStoreError,
)
from embedding.vectors import are_sound
from models.catalogue import Ingestion, course_ids, ingestion
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Course, EmbeddingStatus
from search_api.errors import AlreadyRunningError


class Fault(StrEnum):
    """What can be wrong with a published course."""

    MISSING = "without a collection"
    OTHER_MODEL = "with a collection of another model than was published"
    OTHER_COUNT = "with more or fewer documents than were published"
    BROKEN = "with a collection that cannot be read"
    UNSOUND = "with vectors of a wrong size, not finite or not of length one"
    OTHER_CONTENT = "with other chunks or texts than were published"


NEEDS_REBUILD = (Fault.BROKEN, Fault.UNSOUND, Fault.OTHER_CONTENT)
"""An embedding would keep what is wrong: it writes only what is new or changed."""


def check_orphans(engine: Engine, store: VectorStore, collections: Sequence[CourseCollection]) -> Iterator[Finding]:
    """Every collection belongs to a course. `collections` were listed before: a new course's is not among them."""
    with transaction(engine) as session:
        courses = set(course_ids(session))
    orphans: dict[str, str] = {}
    strangers: list[str] = []
    belonging = 0
    for collection in collections:
        course_id = collection.info.course_id or course_id_of(collection.name)
        if course_id in courses:
            belonging += 1
        elif _is_ours(collection):
            orphans[collection.name] = collection.info.course_id
        elif course_id:
            strangers.append(collection.name)

    def delete(name: str) -> str:
        if read(engine, [orphans[name]])[orphans[name]]:
            return f"{name} left alone: its course is in the catalogue now"
        store.delete(orphans[name])
        return f"{name} deleted"

    if orphans:
        message = f"{counted(len(orphans), 'collection')} of no course: {named(list(orphans))}"
        if belonging:
            advice = "Their courses were removed: `course-search doctor --repair` deletes them"
            yield Finding("orphans", Level.WARNING, message, advice, list(orphans), delete)
        else:
            advice = (
                "Nothing here is repaired, since not one collection belongs to a course of the catalogue: is "
                "DATABASE_URL, or CHROMA_URL, the right one?"
            )
            yield Finding("orphans", Level.WARNING, message, advice, list(orphans))
    if strangers:
        message = f"{counted(len(strangers), 'collection')} named like ours, made by something else: {named(strangers)}"
        yield Finding("orphans", Level.WARNING, message, "Delete what nobody needs yourself", strangers)
    if not orphans and not strangers:
        yield Finding("orphans", Level.OK, f"{counted(belonging, 'collection')}, each of a course")


def check_courses(
    engine: Engine,
    store: VectorStore,
    collections: Sequence[CourseCollection],
    *,
    deep: bool = False,
    model: Embedder | None = None,
) -> Iterator[Finding]:
    """Every published course has the collection that was published.

    Args:
        engine: The catalogue.
        store: The vector store.
        collections: All it has.
        deep: Look at every text and vector.
        model: Says how large they are, where it made them.
    """

    def look(collection: CourseCollection, published: CourseFingerprint | None) -> Fault | None:
        if deep:
            made_by_model = model is not None and collection.info.model_signature == model.signature
            return _fault_of_contents(collection, published, model.dimensions if model and made_by_model else None)
        next(collection.contents(page_size=1), None)
        return None

    done = [course for course in read_courses(engine) if course.embedding_status == EmbeddingStatus.DONE]
    by_name = {collection.name: collection for collection in collections}
    suspects: dict[str, tuple[Course, Fault]] = {}
    with progress("Reading collections", len(done)) as advance:
        for course in done:
            fault = _fault(course, store, by_name.get(collection_name(course.id)), look)
            if fault:
                suspects[course.id] = course, fault
            advance(1)
    faults: dict[Fault, list[str]] = defaultdict(list)
    rows = read(engine, list(suspects))
    for course_id, (course, fault) in suspects.items():
        if is_same(course, rows[course_id]):
            faults[fault].append(course_id)

    def embed(course_id: str) -> str:
        refusal = request(engine, [course_id])[course_id]
        if refusal and not isinstance(refusal, AlreadyRunningError):
            raise refusal
        return f"{course_id}: {refusal.message if refusal else 'embedding_started'}"

    def rebuild(course_id: str) -> str:
        rebuild_course(engine, store, course_id)
        return f"{course_id}: collection deleted, embedding_started"

    for fault, ids in faults.items():
        message = f"{counted(len(ids), 'course')} {fault}: {named(ids)}"
        needs_rebuild = fault in NEEDS_REBUILD
        advice = f"`course-search {'rebuild' if needs_rebuild else 'embed'} COURSE`, or `course-search doctor --repair`"
        yield Finding("courses", Level.ERROR, message, advice, ids, rebuild if needs_rebuild else embed)
    if not faults:
        how = "every text and vector as it should be" if deep else "every collection readable and complete"
        yield Finding("courses", Level.OK, f"{counted(len(done), 'course')} done, {how}")


def _fault(
    course: Course,
    store: VectorStore,
    collection: CourseCollection | None,
    look: Callable[[CourseCollection, CourseFingerprint | None], Fault | None],
) -> Fault | None:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    try:
        collection = collection or store.open(course.id)  # it may be younger than the list
        if published and collection.info.model_signature != published.model:
            return Fault.OTHER_MODEL
        documents = collection.count()  # the first read, and of a broken collection the only one: each takes seconds
        if published and documents != published.chunks:
            return Fault.OTHER_COUNT
        return look(collection, published)
    except CollectionNotFoundError:
        return Fault.MISSING
    except VectorStoreAwayError:
        raise
    except VectorStoreError:
        return Fault.BROKEN


def _fault_of_contents(
    collection: CourseCollection, published: CourseFingerprint | None, dimensions: int | None
) -> Fault | None:
    held = FingerprintBuilder()
    for records, vectors in collection.contents():
        dimensions = dimensions or vectors.shape[1]
        if not are_sound(vectors, dimensions).all():
            return Fault.UNSOUND
        noted = collection.hashes([record.chunk_id for record in records])
        for record in records:
            if noted[record.chunk_id].text not in ("", record.text_hash):
                return Fault.OTHER_CONTENT
            held.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    if published and held.build(published.model).content != published.content:
        return Fault.OTHER_CONTENT
    return None


def check_states(engine: Engine, signature: str | None) -> Iterator[Finding]:
    """What the pipeline is at, and what it left: nothing to repair here."""
    with transaction(engine) as session:
        totals = ingestion(session)
    courses = read_courses(engine)
    failed = [course.id for course in courses if course.embedding_status == EmbeddingStatus.FAILED]
    active = [course.id for course in courses if is_active(course)]
    outdated = [course.id for course in courses if _is_outdated(course, totals, signature)]
    if failed:
        advice = "`course-search status` shows why; mend the cause, then `course-search embed COURSE`"
        yield Finding(
            "states", Level.WARNING, f"{counted(len(failed), 'failed course')}: {named(failed)}", advice, failed
        )
    if active:
        message = f"{counted(len(active), 'course')} pending or running: {named(active)}"
        yield Finding("states", Level.OK, message, subjects=active)
    if outdated:
        message = (
            f"{counted(len(outdated), 'course')} to be embedded anew, for other chunks or model: {named(outdated)}"
        )
        yield Finding("states", Level.OK, message, subjects=outdated)
    if not failed and not active and not outdated:
        yield Finding("states", Level.OK, f"{counted(len(courses), 'course')}, all at rest")


def _is_outdated(course: Course, totals: Mapping[str, Ingestion], signature: str | None) -> bool:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    if course.embedding_status != EmbeddingStatus.DONE or course.id not in totals:
        return False
    if published is None or published.chunks != totals[course.id].chunks:
        return True
    return signature is not None and published.model != signature


def _is_ours(collection: CourseCollection) -> bool:
    """Whether this product made it: it then says of which course, and has that course's name."""
    course_id = collection.info.course_id
    return bool(course_id) and collection.name == collection_name(course_id)


def is_same(before: Course, now: Course | None) -> bool:
    """Whether nobody embedded the course since its row was read."""
    return now is not None and all(
        getattr(before, column) == getattr(now, column)
        for column in ("embedding_status", "embedding_generation", "embedding_fingerprint")
    )
