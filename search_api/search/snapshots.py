"""Opens the snapshots of courses, and builds those that are missing from the collections.

A pipeline that shares the disk writes a snapshot before it publishes the course, so the app only maps the file. Without
a shared disk, a background thread fetches each new generation as it is published. So the app holds the last generation
when the next one is being made, and neither Chroma nor a running pipeline is needed to search it.
"""

import logging
import math
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from models.courses import PublishedCourse
from models.database import DatabaseUnavailableError
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from models.text import quoted
from retrieval.analysis import terms
from retrieval.cache import InstanceCache, StillLoadingError
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotError, SnapshotStore, SnapshotStoreError, directory_name
from search_api.courses.service import Courses
from search_api.http.errors import EmbeddingNotReadyError, OverloadedError
from search_api.http.waits import take_slot
from search_api.operations.measures import SearchMeasures

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 20.0
"""How long a search waits for a snapshot that is built, if there is no older one."""
SHORT_PATIENCE_SECONDS = 1.0
"""How long it waits before it uses an older one."""
MAX_WAITING = 20
"""Searches that may wait for Chroma at once. If all waited for a Chroma that hangs, no place would be left for courses
whose snapshots are here."""
PAUSE_SECONDS = 5.0
"""How long searches use the older one after that, without waiting or trying again."""
FETCH_SECONDS = 5.0
"""Pause between two looks for new generations."""
STOP_SECONDS = 2.0
RETRY_SECONDS = 60.0
"""Pause before a collection that could not be read is read again: a damaged one slows the whole server each time."""


class SnapshotKey(NamedTuple):
    """The cache key of an open snapshot."""

    course_id: str
    generation: int
    fingerprint: str | None


@dataclass(frozen=True)
class OpenedSnapshot:
    """A snapshot, and which generation of the course it is."""

    snapshot: CourseSnapshot
    generation: int
    is_current: bool
    """Whether it is the published generation, not an older one."""


class PublishedMeanwhileError(Exception):
    """The course was published again while its snapshot was built."""


class CourseSnapshots:
    """The snapshots of all courses. Threads may share it.

    A thread fetches each new generation, deletes what it supersedes, and verifies the files that were opened.

    Args:
        courses: The catalogue.
        vector_store: The collections.
        store: The files.
        cache: The open snapshots.
        together: Those that only searches of several courses have opened.
        serve_older: Whether an older generation may answer while the published one cannot be had.
        measures: What is measured.
    """

    def __init__(
        self,
        *,
        courses: Courses,
        vector_store: VectorStore,
        store: SnapshotStore,
        cache: InstanceCache[SnapshotKey, CourseSnapshot],
        together: InstanceCache[SnapshotKey, CourseSnapshot],
        serve_older: bool,
        measures: SearchMeasures,
    ) -> None:
        self._courses = courses
        self._vector_store = vector_store
        self._store = store
        self._cache = cache
        self._together = together
        self._serve_older = serve_older
        self._builds = measures.snapshot_builds
        self._building: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._fetched: dict[str, _Fetched] = {}
        self._pauses: dict[SnapshotKey, float] = {}
        self._places = threading.Semaphore(MAX_WAITING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def opened(self, course: PublishedCourse) -> OpenedSnapshot | None:
        """The snapshot of the published generation, if it is open."""
        snapshot = self._cache.peek(_key(course))
        return None if snapshot is None else OpenedSnapshot(snapshot, course.embedding_generation, is_current=True)

    def open(self, course: PublishedCourse) -> OpenedSnapshot:
        """The snapshot of the published generation, or of an older one while that cannot be had.

        Raises:
            EmbeddingNotReadyError: There is no snapshot, and the collection is missing or being written.
            OverloadedError: There is no snapshot, and building one takes long, or too many searches wait for Chroma.
            VectorStoreError: There is no snapshot, and the vector store failed.
            DatabaseUnavailableError: The catalogue is unavailable.
            PublishedMeanwhileError: The row of the course has changed; read it again.
        """
        opened = self._open_file(course, self._cache)
        if opened is not None:
            return opened
        if time.monotonic() < self._pauses.get(_key(course), 0.0) and (older := self._older(course)) is not None:
            return older
        try:
            return self._build(course, SHORT_PATIENCE_SECONDS)
        except (StillLoadingError, OverloadedError, EmbeddingNotReadyError, VectorStoreError) as error:
            self._require_unchanged(course)
            older = self._older(course)
            if older is not None:
                self._pauses[_key(course)] = time.monotonic() + PAUSE_SECONDS
                return older
            if not isinstance(error, StillLoadingError):
                raise
        try:
            return self._build(course, PATIENCE_SECONDS)
        except StillLoadingError as error:
            raise OverloadedError(f"Course {quoted(course.id)} is still being loaded; try again") from error

    def open_together(self, course: PublishedCourse, patience_seconds: float) -> OpenedSnapshot:
        """The same for a search of several courses, which open more snapshots than are kept for single ones.

        An older generation answers at once if the published one has no file. If there is none either, it is built.

        Args:
            course: The course.
            patience_seconds: How long to wait for a snapshot that has to be built.

        Raises:
            EmbeddingNotReadyError, OverloadedError, VectorStoreError, DatabaseUnavailableError,
                PublishedMeanwhileError: As for `open`.
        """
        known = self.opened(course) or self._open_file(course, self._together) or self._older(course)
        if known is not None:
            return known
        try:
            if patience_seconds <= 0:  # it is not even begun: the thread of `start` builds it
                raise StillLoadingError
            return self._build(course, patience_seconds)
        except StillLoadingError as error:
            raise OverloadedError(f"Course {quoted(course.id)} is still being loaded; try again") from error

    def discard_damaged(self, *courses: PublishedCourse) -> bool:
        """Delete the snapshots of courses that cannot be searched, if their content has changed since it was written.

        Returns:
            Whether one was deleted.

        Raises:
            SnapshotStoreError: A file cannot be read or deleted.
        """
        found = False
        for course in courses:
            published = CourseFingerprint.parse(course.embedding_fingerprint)
            if published and self._store.verify_again(course.id, published, course.embedding_generation):
                found = True
        if found:
            self._close_all()
        return found

    def build(self, course: PublishedCourse, trigger: str) -> CourseSnapshot:
        """Build the snapshot of a published course from its collection; errors as for `open`.

        Args:
            course: The course.
            trigger: What needs it, as the metrics name it.
        """
        try:
            snapshot, result = self._built(course)
        except (EmbeddingNotReadyError, PublishedMeanwhileError):
            self._builds[trigger, "not_ready"].inc()
            raise
        except Exception:
            self._builds[trigger, "failed"].inc()
            raise
        if result:
            self._builds[trigger, result].inc()
        return snapshot

    def _built(self, course: PublishedCourse) -> tuple[CourseSnapshot, str]:
        """The snapshot, and the result as the metrics name it; empty if another thread had built it."""
        published = CourseFingerprint.parse(course.embedding_fingerprint)
        with self._building[course.id]:
            if published is not None:
                with suppress(SnapshotError):  # built meanwhile
                    return self._store.open(course.id, published, course.embedding_generation), ""
            try:
                built = build_snapshot(self._vector_store.open(course.id), course.embedding_generation)
            except CollectionNotFoundError as error:  # also raised if it is deleted meanwhile
                raise EmbeddingNotReadyError(
                    f"Course {quoted(course.id)} has no collection; trigger its embedding again"
                ) from error
            if published is None:
                return built.in_memory(), "built"
            if not built.is_of(published):
                self._require_unchanged(course)
                self._require_done(course)
                return built.in_memory(), "built"
            try:
                self._store.save(course.id, built)
            except SnapshotStoreError as error:
                logger.warning("The snapshot of course %s is built again at every load: %s", quoted(course.id), error)
                return built.in_memory(), "not_saved"
            return self._store.open(course.id, published, course.embedding_generation), "built"

    def mapped(self) -> tuple[int, int]:
        """How many files are mapped into memory, and their size in bytes."""
        return self._store.mapped()

    def start(self) -> None:
        """Start the background thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the background thread; a snapshot that takes longer to build is abandoned."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def fetch(self) -> None:
        """Hold the snapshot of every published course, and delete what it supersedes.

        A course that cannot be read now is tried again later.

        Raises:
            DatabaseUnavailableError: The catalogue is unavailable.
            SnapshotStoreError: A file cannot be deleted.
            VectorStoreUnreachableError: The vector store is unavailable.
        """
        is_first = not self._fetched
        directories = self._store.directories() if is_first else []  # before the rows: a new course is no orphan
        courses = {course.id: course for course in self._courses.all_published()}
        # Each process has an order of its own, as hashes differ, so those on one disk seldom build the same snapshot.
        for course in sorted(courses.values(), key=lambda course: hash(course.id)):
            key, last = _key(course), self._fetched.get(course.id)
            if self._stopping.is_set():
                return
            if last is not None and last.key == key and time.monotonic() < last.next_at:
                continue
            next_at = self._fetch(course)
            held = key if next_at == math.inf else last and last.held
            if last is not None and last.held is not None and last.held != held:
                self._discard(last.held)  # otherwise a deleted file would stay mapped
                self._pauses.pop(last.held, None)
            self._fetched[course.id] = _Fetched(key, next_at, held)
        for course_id in self._fetched.keys() - courses.keys():  # deleted from the catalogue
            self._discard(self._fetched.pop(course_id).key)
            self._store.delete(course_id)
        if is_first:
            known = {directory_name(course_id) for course_id in courses}
            orphans = [name for name in directories if name not in known]
            if len(orphans) < len(directories) / 2:  # otherwise it may be another catalogue
                for name in orphans:
                    self._store.delete_directory(name)

    def verify(self) -> None:
        """Compare the files that were opened since the last call with their digests, and delete damaged ones."""
        if self._store.delete_damaged():
            self._close_all()
            self._fetched.clear()

    def _fetch(self, course: PublishedCourse) -> float:
        """When to fetch this generation again, by the monotonic clock; infinity if its snapshot is held."""
        published = CourseFingerprint.parse(course.embedding_fingerprint)
        try:
            if published is None:
                if course.embedding_generation and course.embedding_status == EmbeddingStatus.FAILED:
                    self._store.delete(course.id)  # the publication was withdrawn
                return math.inf
            if self._store.find(course.id, published, course.embedding_generation) is None:
                self.build(course, "fetch")
            self._store.keep_only(course.id, published, course.embedding_generation, keep_newer=True)
        except VectorStoreUnreachableError:
            raise
        except (PublishedMeanwhileError, EmbeddingNotReadyError, VectorStoreError, SnapshotStoreError) as error:
            logger.info("Course %s is not fetched yet: %s", quoted(course.id), error)
            return time.monotonic() + RETRY_SECONDS
        return math.inf

    def _run(self) -> None:
        terms("预热")  # loads the dictionary, which takes longer than a search
        while not self._stopping.wait(FETCH_SECONDS):
            try:
                self.verify()
                self.fetch()
            except (DatabaseUnavailableError, VectorStoreError, SnapshotStoreError) as error:
                logger.info("New snapshots are fetched later: %s", error)
            except Exception:
                logger.exception("New snapshots could not be fetched")

    def _close_all(self) -> None:
        self._cache.clear_cache()
        self._together.clear_cache()

    def _discard(self, key: SnapshotKey) -> None:
        self._cache.discard(key)
        self._together.discard(key)

    def _open_file(
        self, course: PublishedCourse, cache: InstanceCache[SnapshotKey, CourseSnapshot]
    ) -> OpenedSnapshot | None:
        """The snapshot of the published generation, if there is a file: never waits for Chroma."""
        snapshot, published = cache.peek(_key(course)), CourseFingerprint.parse(course.embedding_fingerprint)
        if snapshot is not None:
            return OpenedSnapshot(snapshot, course.embedding_generation, is_current=True)
        generation = course.embedding_generation
        if published is None or self._store.find(course.id, published, generation) is None:
            return None
        with suppress(SnapshotError):  # damaged
            snapshot = cache.get(_key(course), lambda: self._store.open(course.id, published, generation))
            return OpenedSnapshot(snapshot, course.embedding_generation, is_current=True)
        return None

    def _build(self, course: PublishedCourse, patience_seconds: float) -> OpenedSnapshot:
        with take_slot(self._places, "Chroma"):
            snapshot = self._cache.get(_key(course), lambda: self.build(course, "search"), patience_seconds)
        return OpenedSnapshot(snapshot, course.embedding_generation, is_current=True)

    def _older(self, course: PublishedCourse) -> OpenedSnapshot | None:
        """The last generation that this app holds. An unchanged course may have a file of an earlier generation."""
        if not self._serve_older:
            return None
        last = self._fetched.get(course.id)
        held = last.held if last else None
        fingerprint = CourseFingerprint.parse(held.fingerprint) if held else None
        with suppress(SnapshotError):
            if held is not None and fingerprint is not None:
                return OpenedSnapshot(
                    self._store.open(course.id, fingerprint, held.generation), held.generation, is_current=False
                )
        latest = self._store.open_latest(course.id, course.embedding_generation)
        return None if latest is None else OpenedSnapshot(latest, latest.generation, is_current=False)

    def _require_unchanged(self, course: PublishedCourse) -> None:
        if self._courses.published(course.id) != course:
            raise PublishedMeanwhileError

    def _require_done(self, course: PublishedCourse) -> None:
        """The collection differs from what was published: accept that only if no run explains it."""
        if course.embedding_status != EmbeddingStatus.DONE:
            raise EmbeddingNotReadyError(
                f"Course {quoted(course.id)} is {course.embedding_status}, and this app has no snapshot of what was "
                "published before"
            )
        logger.warning(
            "The collection of course %s differs from what was published: run `course-search doctor --deep`",
            quoted(course.id),
        )


class _Fetched(NamedTuple):
    """The generation that was fetched, or tried, last; and the last one that was fetched."""

    key: SnapshotKey
    next_at: float
    held: SnapshotKey | None


def _key(course: PublishedCourse) -> SnapshotKey:
    return SnapshotKey(course.id, course.embedding_generation, course.embedding_fingerprint)
