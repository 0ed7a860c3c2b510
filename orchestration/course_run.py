"""One course in a run: claimed, indexed for both searches, checked, published, or `failed` with its reason.

The row is the run's only say in the matter: it is claimed first, asked for before everything that is written to the
collection, and published last. Waits for a database or a vector store that is away belong to the resources; what comes
through here has lasted longer than that.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import dagster as dg

from embedding.embedder import Embedder
from embedding.errors import EmbeddingServiceAwayError
from embedding.indexing import IndexReport, index_course
from embedding.vector_store import VectorStore, VectorStoreAwayError
from models import catalogue as catalogue_rows
from models.database import DatabaseUnavailableError, Session
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk, Course, EmbeddingStatus
from orchestration import reports
from orchestration.course_keywords import CourseKeywords, KeywordReport
from orchestration.reasons import reasons_of
from orchestration.resources import PATIENCE_SECONDS, CatalogueResource, GpuResource, VectorStoreResource
from orchestration.settings import PipelineSettings
from retrieval.keyword_store import KeywordStore, KeywordStoreError
from retrieval.settings import KeywordSettings

PAGE_SIZE = 500
"""Chunks read and compared at a time; `embedding.indexing` embeds and writes fewer at once, and tells its progress."""
LOGGED_STEPS = 10
"""Lines of progress in a run's log; each is a row in Dagster's database."""


class CourseNotEmbeddableError(Exception):
    """The course cannot be embedded as things stand, or may not be by this run."""


class NotIngestedError(CourseNotEmbeddableError):
    """Stage one is not done with the course yet; the sensor launches a run when it is."""


class CourseChunks:
    """A course's chunks in id order, page by page, as often as they are asked for.

    Each page is a short transaction of its own: embedding a page may take minutes.
    """

    def __init__(self, catalogue: CatalogueResource, course_id: str) -> None:
        self._catalogue = catalogue
        self._course_id = course_id

    def __iter__(self) -> Iterator[Sequence[Chunk]]:
        after: str | None = None
        while page := self._catalogue.attempt(
            partial(catalogue_rows.chunk_page, course_id=self._course_id, after=after, limit=PAGE_SIZE)
        ):
            yield page
            after = page[-1].id


class CourseRun:
    """The work of one run on one course.

    Args:
        context: Of the run.
        catalogue: Holds the row and the chunks.
        vector_store: Holds the collection.
        gpu: Holds the model.
        course_id: The course.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        catalogue: CatalogueResource,
        vector_store: VectorStoreResource,
        gpu: GpuResource,
        course_id: str,
    ) -> None:
        self._context = context
        self._catalogue = catalogue
        self._vector_store = vector_store
        self._gpu = gpu
        self._course_id = course_id
        self._run_id = context.run.run_id
        self._reason = reasons_of(context.run.tags).get(course_id)
        self._chunks = CourseChunks(catalogue, course_id)
        self._keyword_store = KeywordStore(KeywordSettings())

    def work(self) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """Bring collection and keyword index in line with the chunks and publish; yields what the Dagster UI shows.

        Raises:
            CourseNotEmbeddableError: it may not be embedded, or did not pass a check.
            EmptyCourseError: it has no chunks.
            EmbeddingError, VectorStoreError, KeywordStoreError, DatabaseUnavailableError: a part failed.
        """
        if not self._claim():
            return
        self._make_sure_it_is_ingested()
        started = time.perf_counter()
        embedder = self._gpu.embedder()
        loaded_in = time.perf_counter() - started
        content = self._note_attempt(embedder)
        keywords = CourseKeywords(self._keyword_store, self._course_id, self._chunks, content)
        report = self._index(embedder, keywords, content.chunks)
        yield from reports.checks(self._course_id, report)
        _make_sure_it_is_right(report)
        keyword_report = keywords.write(report.fingerprint, partial(self._store.open, self._course_id))
        yield reports.keyword_check(self._course_id, keyword_report)
        _make_sure_it_is_complete(keyword_report)
        self._publish(report.fingerprint)
        self._delete_older_keywords(report.fingerprint)
        yield reports.materialization(
            self._course_id,
            report,
            embedder,
            search_url=PipelineSettings().search_url,
            model_load_seconds=loaded_in,
        )
        yield reports.keyword_materialization(self._course_id, report.fingerprint, keyword_report)

    def give_up(self, error: BaseException) -> str:
        """Note on the course's row why it was given up, if this run owns it, and return the reason.

        What may work by itself another time asks for another run: a part is away, or the run was interrupted though
        nobody cancelled it. A course that is not ingested is tried when it is.
        """
        retry = isinstance(error, (DatabaseUnavailableError, EmbeddingServiceAwayError)) or (
            isinstance(error, VectorStoreAwayError) and not self._vector_store.store().answers()
        )
        reason = str(error) or type(error).__name__
        if not isinstance(error, Exception):
            retry = not self._is_being_cancelled()
            reason = "interrupted" if retry else "cancelled"
        retry_at = datetime.now(UTC) if retry else None
        attempted = self._reason.content if self._reason and not isinstance(error, NotIngestedError) else None
        try:
            with self._catalogue.transaction() as session:
                catalogue_rows.fail_course(
                    session, self._course_id, self._run_id, reason, retry_at=retry_at, attempted=attempted
                )
        except Exception:  # the status sensor tells it once the catalogue is back
            self._context.log.exception(f"Could not note the failure of course {self._course_id}")
        return reason

    def _claim(self) -> bool:
        """Make this run the owner of the course: two runs never embed one course at once.

        Returns:
            False when somebody has done since what this run was launched for.
        """
        course = self._catalogue.attempt(lambda session: catalogue_rows.get_course(session, self._course_id))
        if course is None:
            raise CourseNotEmbeddableError(f"There is no course {self._course_id} in the catalogue")
        if self._reason and self._reason.is_settled(course):
            self._context.log.info(f"Course {self._course_id} has been published since: nothing to do")
            return False
        if not self._catalogue.attempt(lambda session: self._take_over(session, course)):
            raise CourseNotEmbeddableError(
                f"Course {self._course_id} is being embedded by run {course.embedding_run_id}"
            )
        return True

    def _take_over(self, session: Session, course: Course) -> bool:
        if catalogue_rows.claim_course(session, course.id, self._run_id):
            return True
        owner = course.embedding_run_id
        run = self._context.instance.get_run_by_id(owner) if owner else None
        return bool(run and run.is_finished) and catalogue_rows.claim_course(session, course.id, self._run_id, owner)

    def _make_sure_it_is_ingested(self) -> None:
        ingestion = self._catalogue.attempt(lambda session: catalogue_rows.ingestion_of(session, self._course_id))
        if not ingestion.finished:
            raise NotIngestedError(
                f"Stage one has not ingested course {self._course_id} yet: "
                f"{ingestion.succeeded} of {ingestion.resources} resources succeeded"
            )

    @property
    def _store(self) -> VectorStore:
        return self._vector_store.store(PATIENCE_SECONDS)

    def _index(self, embedder: Embedder, pages: Iterable[Sequence[Chunk]], chunks: int) -> IndexReport:
        logged = 0

        def report_progress(finished: int) -> None:
            nonlocal logged
            progress = min(1.0, finished / max(1, chunks))
            if not self._catalogue.attempt(
                lambda session: catalogue_rows.report_progress(session, self._course_id, self._run_id, progress)
            ):
                raise self._lost()
            if int(progress * LOGGED_STEPS) > logged:
                logged = int(progress * LOGGED_STEPS)
                self._context.log.info(f"Course {self._course_id}: {finished} of {chunks} chunks")

        return index_course(
            self._course_id,
            pages,
            self._store,
            embedder,
            on_page=report_progress,
            before_write=self._make_sure_it_is_ours,
        )

    def _note_attempt(self, embedder: Embedder) -> CourseFingerprint:
        """Say what is going to be embedded, so that the sensor does not try the same again if it fails."""
        content = FingerprintBuilder().add_all(self._chunks).build(embedder.signature)
        self._catalogue.attempt(
            lambda session: catalogue_rows.note_attempt(session, self._course_id, self._run_id, str(content))
        )
        return content

    def _make_sure_it_is_ours(self) -> None:
        if not self._catalogue.attempt(
            lambda session: catalogue_rows.owns_course(session, self._course_id, self._run_id)
        ):
            raise self._lost()

    def _lost(self) -> CourseNotEmbeddableError:
        return CourseNotEmbeddableError(f"Course {self._course_id} no longer belongs to this run: it was taken over")

    def _publish(self, content: CourseFingerprint) -> None:
        """The last step that matters: from here on the course is `done` and searchable."""
        fingerprint = str(content)

        def publish(session: Session) -> bool:
            if catalogue_rows.publish(session, self._course_id, self._run_id, fingerprint):
                return True
            # An attempt whose answer got lost may have been written all the same.
            course = catalogue_rows.get_course(session, self._course_id)
            return course is not None and (
                course.embedding_status == EmbeddingStatus.DONE
                and course.embedding_run_id == self._run_id
                and course.embedding_fingerprint == fingerprint
            )

        if not self._catalogue.attempt(publish):
            raise self._lost()

    def _delete_older_keywords(self, published: CourseFingerprint) -> None:
        try:
            self._keyword_store.keep_only(self._course_id, published.content)
        except KeywordStoreError as error:  # the course is published; its next run tries again
            self._context.log.warning(str(error))

    def _is_being_cancelled(self) -> bool:
        run = self._context.instance.get_run_by_id(self._run_id)
        return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


def _make_sure_it_is_right(report: IndexReport) -> None:
    if not report.complete:
        raise CourseNotEmbeddableError(
            f"The collection holds {report.stored} documents where the course has {report.fingerprint.chunks} chunks"
        )
    if not report.sound:
        raise CourseNotEmbeddableError(
            f"{report.vectors.unsound} of {report.vectors.checked} vectors are not as they were written"
        )


def _make_sure_it_is_complete(report: KeywordReport) -> None:
    if not report.complete:
        raise CourseNotEmbeddableError(
            f"The keyword index holds {report.indexed} chunks where the course has {report.chunks}"
        )
