"""One course in a run: claim, embed, check and publish it, or mark it `failed` with the reason.

The course row is the only state of the run: the run claims the row first, checks the claim before every write to the
collection, and publishes the course last. The resources already wait for a database or a vector store that is briefly
unavailable, so this module does not retry.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial

import dagster as dg

from embedding.errors import EmbeddingServiceUnreachableError
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.embedded_texts import EmbeddedTexts
from embedding.vector_store.errors import VectorStoreUnhealthyError, VectorStoreUnreachableError
from embedding.vector_store.indexing import IndexReport, index_course
from models import course_state
from models.chunks import chunk_page, each_page
from models.context import ContextFields
from models.course_state import Retry
from models.courses import get_course
from models.database import Session, is_temporary
from models.embedded_texts import delete_texts
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.ingestion import ingestion_of_course
from models.tables import Chunk, Course, EmbeddingStatus
from orchestration import ui_metadata
from orchestration.counting import count, kind_of, of_publication
from orchestration.course_run.examination import ExaminationReport, examine_snapshot, keep_outcome
from orchestration.course_run.failures import reason_of
from orchestration.course_run.snapshot import keep_published, write_snapshot
from orchestration.course_status.endings import CANCELLED, INTERRUPTED
from orchestration.resources import PATIENCE_SECONDS, CatalogueResource, GpuResource, VectorStoreResource
from orchestration.run_config import LaunchReason
from orchestration.runs import is_being_cancelled
from orchestration.workers import Worker
from retrieval.relevance import Calibration
from retrieval.search import Method
from retrieval.snapshots.store import SnapshotStore, SnapshotStoreError
from telemetry.traces import span

PAGE_SIZE = 500
"""Chunks read and compared at a time. `index_course` embeds and writes smaller batches, and reports progress after
each batch."""
LOGGED_STEPS = 10
"""Maximum number of progress lines per course in the log of a run. Each line is a row in Dagster's database."""


class CourseNotEmbeddableError(Exception):
    """The course cannot be embedded in its current state, or not by this run."""


class NotIngestedError(CourseNotEmbeddableError):
    """Stage one has not finished the course. `stage_one_sensor` launches another run when it has."""


class CourseChunks:
    """The chunks of a course in id order, in pages. Can be iterated several times.

    Each page is read in a separate transaction, because embedding a page may take minutes.
    """

    def __init__(self, catalogue: CatalogueResource, course_id: str) -> None:
        self._catalogue = catalogue
        self._course_id = course_id

    def __iter__(self) -> Iterator[Sequence[Chunk]]:
        return each_page(
            lambda after: self._catalogue.attempt(
                partial(chunk_page, course_id=self._course_id, after=after, limit=PAGE_SIZE)
            )
        )


class CourseRun:
    """The steps of one run for one course.

    Args:
        context: Dagster's context of the run.
        worker: The worker process of the run.
        course_id: The course.
        reason: Why the run was launched for the course; None if an operator launched it.
        rebuild: Delete the collection and embed every chunk, even if the row does not ask for it.
        catalogue: The database that contains the row and the chunks.
        vector_store: The vector store to write the collection to.
        snapshot_store: The store to write the snapshot to.
        unreadable: Ids of courses whose vectors cannot be read for this one; shared by the courses of a run.
        examination_blocks: Withhold the course if its examination shows that a channel does not work.
        gpu: The embedding model.
        search_url: URL of the search app, for links in the Dagster UI.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        worker: Worker,
        course_id: str,
        reason: LaunchReason | None,
        *,
        rebuild: bool,
        catalogue: CatalogueResource,
        vector_store: VectorStoreResource,
        snapshot_store: SnapshotStore,
        unreadable: set[str],
        examination_blocks: bool,
        gpu: GpuResource,
        search_url: str,
    ) -> None:
        self._context = context
        self._worker = worker
        self._course_id = course_id
        self._catalogue = catalogue
        self._vector_store = vector_store
        self._snapshot_store = snapshot_store
        self._unreadable = unreadable
        self._examination_blocks = examination_blocks
        self._gpu = gpu
        self._search_url = search_url
        self._run_id = context.run.run_id
        self._rebuild = rebuild
        self._generation = 0
        self._published: CourseFingerprint | None = None
        self._reason = reason
        self._chunks = CourseChunks(catalogue, course_id)

    def embed_and_publish(self) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """Claim the course, update its collection and snapshot, check them, and publish the course.

        Does nothing if the course was published after this run was launched.

        Yields:
            Check results and materializations for the Dagster UI.

        Raises:
            CourseNotEmbeddableError: The course does not exist, is not ingested, is owned by another run, or failed a
                check or its examination.
            EmptyCourseError: The course has no chunks.
            EmbeddingError: The model failed.
            VectorStoreError: The vector store failed.
            SnapshotError, SnapshotStoreError: The snapshot could not be written or read back.
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        with span("claim"):
            if not self._claim():
                return
            self._check_ingested()
        started = time.perf_counter()
        with span("load model"):
            embedder = self._gpu.embedder()
        model_load_seconds = time.perf_counter() - started
        self._worker.beat()
        with span("fingerprint"):
            content = self._record_attempt(embedder)
        with span("keep"):
            keep_published(
                self._snapshot_store,
                self._course_id,
                self._published,
                self._store,
                generation=self._generation - 1,
                on_page=self._worker.beat,
            )
        with span("index", chunks=content.chunks, rebuild=self._rebuild):
            if self._rebuild:
                self._delete_collection()
            report = self._index(embedder, content.chunks)
        yield from ui_metadata.collection_checks(self._course_id, report)
        _require_correct_collection(report)
        with span("snapshot"):
            snapshot = write_snapshot(
                self._snapshot_store,
                self._course_id,
                report.fingerprint,
                self._store.open(self._course_id),
                generation=self._generation,
                keep=not (self._rebuild or report.embedded or report.reused),
                on_page=self._worker.beat,
            )
        yield ui_metadata.snapshot_check(self._course_id, snapshot)
        if not snapshot.complete:
            raise CourseNotEmbeddableError(
                f"The snapshot contains {snapshot.stored} chunks, which are not the {snapshot.chunks} of the course"
            )
        with span("examine"):
            examined = self._examine(embedder, report.fingerprint)
        yield ui_metadata.examination_check(self._course_id, examined, blocks=self._examination_blocks)
        if examined.examination.broken and self._examination_blocks:
            self._check_ownership()  # another run may have published this generation
            self._snapshot_store.discard(self._course_id, self._generation)
            raise CourseNotEmbeddableError(_what_to_do(self._course_id, examined.examination.broken))
        with span("publish"):
            self._publish(report.fingerprint, examined.calibration)
            count(self._catalogue, of_publication(report, model_load_seconds))
            self._clean_up(report.fingerprint, examined)
        yield ui_metadata.collection_materialization(
            self._course_id,
            report,
            embedder,
            search_url=self._search_url,
            model_load_seconds=model_load_seconds,
        )
        yield ui_metadata.snapshot_materialization(self._course_id, report.fingerprint, snapshot, examined)

    def record_failure(self, error: BaseException) -> str:
        """Set the course to `failed` with the reason, if this run owns it.

        It is tried again if the cause may be temporary: the database, the vector store or the embedding service
        is unavailable, or the run was interrupted but not cancelled.

        Returns:
            The reason.
        """
        reason = reason_of(error)
        kind = "check" if isinstance(error, CourseNotEmbeddableError) else kind_of(error)
        retry = Retry.LATER if _may_succeed_later(error) else Retry.NEVER
        if isinstance(error, NotIngestedError):
            retry, kind = Retry.WHEN_INGESTED, "not_ingested"
        if isinstance(error, GeneratorExit):  # Dagster could not store an event
            reason = "Dagster stopped the step; the log of the run says why."
        elif isinstance(error, INTERRUPTIONS):
            is_cancelled = is_being_cancelled(self._context.instance, self._run_id)
            reason, retry = (CANCELLED, Retry.NEVER) if is_cancelled else (INTERRUPTED, Retry.NOW)
            kind = "cancelled" if is_cancelled else "interrupted"
        try:
            with self._catalogue.transaction() as session:
                failed = course_state.fail_course(session, self._course_id, self._run_id, reason, retry=retry)
        except Exception as unavailable:  # noqa: BLE001 - `course_status_sensor` records it when it can
            self._context.log.error(
                f"Could not record the failure of course {self._course_id}: {reason_of(unavailable)}"
            )
        else:
            count(self._catalogue, {("course_failures", kind): failed})
        return reason

    def _claim(self) -> bool:
        """Make this run the owner of the course, so that no other run embeds the course at the same time.

        Returns:
            False if the course was published after this run was launched.
        """
        course = self._catalogue.attempt(lambda session: get_course(session, self._course_id))
        if course is None:
            raise CourseNotEmbeddableError(f"There is no course {self._course_id} in the catalogue")
        if self._reason and self._reason.is_superseded(course):
            self._context.log.info(f"Course {self._course_id} was published after this run was launched: nothing to do")
            return False
        if self._reason and course.embedding_requested_at is None and self._is_empty():
            self._context.log.info(f"Everything in course {self._course_id} was deleted since: nothing to do")
            return False
        if not self._catalogue.attempt(lambda session: self._claim_row(session, course)):
            raise CourseNotEmbeddableError(
                f"Course {self._course_id} is being embedded by run {course.embedding_run_id}"
            )
        self._worker.beat()
        count(self._catalogue, {("course_retries", ""): course.embedding_retry_at is not None})
        return True

    def _claim_row(self, session: Session, course: Course) -> bool:
        """Claim the row. A finished run that could not update the row loses its claim."""
        owner = course.embedding_run_id if course.embedding_status == EmbeddingStatus.RUNNING else None
        run = self._context.instance.get_run_by_id(owner) if owner else None
        dead_owner = owner if run and run.is_finished else None
        content = self._reason.content if self._reason else None
        if not course_state.claim_course(
            session, course.id, self._run_id, dead_owner, rebuild=self._rebuild, content=content
        ):
            return False
        claimed = get_course(session, course.id)
        if claimed is not None:
            self._rebuild, self._generation = claimed.embedding_rebuild, claimed.embedding_generation + 1
            self._published = CourseFingerprint.parse(claimed.embedding_fingerprint)
        return True

    def _is_empty(self) -> bool:
        ingestion = self._catalogue.attempt(lambda session: ingestion_of_course(session, self._course_id))
        return ingestion.resources == ingestion.chunks == 0

    def _check_ingested(self) -> None:
        ingestion = self._catalogue.attempt(lambda session: ingestion_of_course(session, self._course_id))
        if not ingestion.finished:
            raise NotIngestedError(
                f"Course {self._course_id} is not ingested yet: "
                f"{ingestion.succeeded} of {ingestion.resources} resources succeeded"
            )

    @property
    def _store(self) -> VectorStore:
        return self._vector_store.store(PATIENCE_SECONDS)

    @property
    def _context_fields(self) -> ContextFields:
        settings: EmbeddingSettings = self._gpu.settings()
        return settings.context

    @property
    def _embedded_texts(self) -> EmbeddedTexts:
        """Where vectors of the course's texts may be.

        A rebuild takes none of other courses, which may have copies of the vectors that it replaces.
        """
        return EmbeddedTexts(
            self._course_id,
            self._catalogue.attempt,
            self._store,
            self._unreadable,
            only_own=self._rebuild,
        )

    def _index(self, embedder: Embedder, chunks: int) -> IndexReport:
        logged = 0

        def report_progress(finished: int) -> None:
            nonlocal logged
            self._worker.beat()
            progress = min(1.0, finished / max(1, chunks))
            if not self._catalogue.attempt(
                lambda session: course_state.report_progress(session, self._course_id, self._run_id, progress)
            ):
                raise self._claim_lost_error()
            if int(progress * LOGGED_STEPS) > logged:
                logged = int(progress * LOGGED_STEPS)
                self._context.log.info(f"Course {self._course_id}: {finished} of {chunks} chunks")

        return index_course(
            self._course_id,
            self._chunks,
            self._store,
            embedder,
            on_page=report_progress,
            context_fields=self._context_fields,
            embedded_texts=self._embedded_texts,
            before_write=self._check_ownership,
        )

    def _record_attempt(self, embedder: Embedder) -> CourseFingerprint:
        """Record the content to embed, so that `stage_one_sensor` does not launch it again if it fails."""
        content = FingerprintBuilder(self._context_fields).add_all(self._chunks).build(embedder.signature)
        self._catalogue.attempt(
            lambda session: course_state.record_attempt(session, self._course_id, self._run_id, str(content))
        )
        return content

    def _delete_collection(self) -> None:
        """Delete the collection, so that every chunk is embedded again.

        The snapshot of what was published remains searchable. If this run dies, the next one deletes the collection
        again: the row keeps the request until the course is published.
        """
        self._store.delete(self._course_id, self._check_ownership)
        self._catalogue.attempt(lambda session: delete_texts(session, self._course_id))
        self._context.log.info(f"Course {self._course_id}: deleted the collection, to rebuild it")

    def _check_ownership(self) -> None:
        if not self._catalogue.attempt(
            lambda session: course_state.owns_course(session, self._course_id, self._run_id)
        ):
            raise self._claim_lost_error()

    def _claim_lost_error(self) -> CourseNotEmbeddableError:
        return CourseNotEmbeddableError(f"This run no longer owns course {self._course_id}, so it stops")

    def _publish(self, content: CourseFingerprint, calibration: Calibration | None) -> None:
        """Set the course to `done`. From now on, searches use the new generation."""
        fingerprint, measured = str(content), calibration.as_text(content.model) if calibration else None

        def publish(session: Session) -> bool:
            if course_state.publish(session, self._course_id, self._run_id, fingerprint, calibration=measured):
                return True
            # An earlier try may have been committed although its response was lost.
            course = get_course(session, self._course_id)
            return course is not None and (
                course.embedding_status == EmbeddingStatus.DONE
                and course.embedding_run_id == self._run_id
                and course.embedding_fingerprint == fingerprint
            )

        if not self._catalogue.attempt(publish):
            raise self._claim_lost_error()

    def _examine(self, embedder: Embedder, content: CourseFingerprint) -> ExaminationReport:
        """Ask the snapshot, which is not published yet, questions that are made from it."""
        snapshot = self._snapshot_store.open(self._course_id, content, self._generation)
        return examine_snapshot(self._snapshot_store, self._course_id, snapshot, embedder, self._worker.beat)

    def _clean_up(self, published: CourseFingerprint, examined: ExaminationReport) -> None:
        try:
            keep_outcome(self._snapshot_store, self._course_id, examined.examination)
            self._snapshot_store.keep_only(self._course_id, published, self._generation)
        except SnapshotStoreError as error:  # the course is already published; the next run deletes older snapshots
            self._context.log.warning(str(error))


INTERRUPTIONS = (KeyboardInterrupt, SystemExit, dg.DagsterExecutionInterruptedError, GeneratorExit)
_TEMPORARY = (
    EmbeddingServiceUnreachableError,
    SnapshotStoreError,
    VectorStoreUnhealthyError,
    VectorStoreUnreachableError,
)


def _may_succeed_later(error: BaseException) -> bool:
    """Whether the cause may be temporary.

    Anything that is not an `Exception`, such as a panic in a library, counts as temporary.
    """
    return is_temporary(error) or isinstance(error, _TEMPORARY) or not isinstance(error, Exception)


def _require_correct_collection(report: IndexReport) -> None:
    if not report.complete:
        raise CourseNotEmbeddableError(
            f"The collection contains {report.stored} documents, but the course has {report.fingerprint.chunks} chunks"
        )
    if not report.sound:
        raise CourseNotEmbeddableError(
            f"{report.vectors.unsound} of {report.vectors.checked} vectors read back from the collection are wrong"
        )


def _what_to_do(course_id: str, broken: Sequence[Method]) -> str:
    channels = " and ".join(broken)
    cause = (
        "the embedding model and its settings" if Method.VECTOR in broken else "the disks of Chroma and SNAPSHOT_DIR"
    )
    return (
        f"By {channels} search, the course's own passages are not found: check {cause}, then run `course-search "
        f"rebuild {course_id}`, or set EXAMINATION_BLOCKS=false to publish the course nevertheless"
    )
