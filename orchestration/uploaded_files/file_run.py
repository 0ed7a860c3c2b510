"""One uploaded file in a run: claim it, read it, divide it, and store its chunks; or record why that failed.

The row of the file is the only state of the run. The run claims it first, and every later write is a conditional
UPDATE, so a file that is deleted or uploaded again meanwhile is left alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import dagster as dg

from documents.chunking import Passage, divide
from documents.document import Document, UnreadableFileError
from documents.reading import Limits, read_document
from documents.settings import DocumentSettings
from embedding.errors import EmbeddingError
from embedding.model_settings import EmbeddingSettings
from embedding.token_counts import TokenCounter, TokenEstimate, token_counter
from models import resources
from models.database import Session, is_temporary
from models.resources import NewChunk
from models.tables import ResourceStatus, UploadedResource
from orchestration.counting import count
from orchestration.course_run.failures import places_of, reason_of
from orchestration.course_run.run import INTERRUPTIONS
from orchestration.resources import CatalogueResource, DocumentResource, GpuResource
from orchestration.runs import is_being_cancelled
from orchestration.workers import Worker

READING: Final = 0.8
"""Progress of a file that is read and not divided."""
DIVIDED: Final = 0.95
REPORT_SECONDS = 1.0
"""Least time between two reports of progress. Each is a write to the catalogue."""

CANCELLED = "The run that reads the file was cancelled. Upload the file again to try again."
NO_TEXT = "The file contains no text that could be searched. If it consists of images, run a text recognition first."
MISSING = "The file is not in UPLOAD_DIR. Does the pipeline use the same UPLOAD_DIR as the search app?"


class FileLeftError(Exception):
    """The file was deleted or uploaded again, or another run reads it."""


class Outcome(StrEnum):
    """What a run did with a file."""

    SUCCEEDED = "succeeded"
    UNREADABLE = "unreadable"
    """It has failed, and its owner must do something about it."""
    POSTPONED = "postponed"
    """The cause may be temporary. The file is tried again a few times."""
    LEFT = "left"
    """It was deleted, uploaded again, or is read by another run."""


_COUNTED_AS = {Outcome.SUCCEEDED: "succeeded", Outcome.UNREADABLE: "failed", Outcome.POSTPONED: "postponed"}
"""In `models.counters`. A file that was left is not counted."""


@dataclass(frozen=True)
class FileReport:
    """What a run did with a file. Contains nothing of its name and its text."""

    resource_id: str
    outcome: Outcome
    course_id: str = ""
    source_type: str = ""
    chunks: int = 0
    seconds: float = 0.0


class FileRuns:
    """Reads the files of one run, one after the other.

    Args:
        context: Dagster's context of the run.
        worker: The worker process of the run.
        catalogue: The database.
        documents: The uploaded files, and the limits for reading one.
        gpu: The embedding model, whose tokens are counted. It is not loaded.
    """

    def __init__(
        self,
        context: dg.OpExecutionContext,
        worker: Worker,
        *,
        catalogue: CatalogueResource,
        documents: DocumentResource,
        gpu: GpuResource,
    ) -> None:
        self._context = context
        self._worker = worker
        self._catalogue = catalogue
        self._settings: DocumentSettings = documents.settings()
        self._uploads = documents.uploads()
        self._model: EmbeddingSettings = gpu.settings()
        self._counter: TokenCounter | TokenEstimate | None = None
        record = context.instance.get_run_record_by_id(context.run_id)
        self._created_at = record.create_timestamp if record else datetime.now(UTC)

    def process(self, resource_id: str) -> FileReport:
        """Read a file and store its chunks.

        A failure of the file is recorded on its row, and does not raise.

        Raises:
            DatabaseUnavailableError: The catalogue is unavailable, so no other file can be read either.
            BaseException: The run is interrupted, or a library has panicked.
        """
        started = time.perf_counter()
        claimed = self._claim(resource_id)
        if claimed is None:
            return FileReport(resource_id, Outcome.LEFT)
        try:
            source_type, chunks = self._read(claimed)
            outcome = Outcome.SUCCEEDED
        except FileLeftError:
            self._context.log.info(f"File {resource_id} was deleted or uploaded again: its old content is left")
            return FileReport(resource_id, Outcome.LEFT, claimed.course_id)
        except BaseException as error:
            self._context.log.warning(f"File {resource_id}: {reason_of(error)}")
            failure = self._record_failure(claimed, error)
            if failure is None:
                raise
            outcome, source_type, chunks = failure, "", 0
        if outcome in _COUNTED_AS:
            count(self._catalogue, {("resources", _COUNTED_AS[outcome]): 1, ("resource_chunks", ""): chunks})
        seconds = round(time.perf_counter() - started, 3)
        return FileReport(resource_id, outcome, claimed.course_id, source_type, chunks, seconds)

    def _claim(self, resource_id: str) -> UploadedResource | None:
        known = self._catalogue.attempt(lambda session: resources.get_resource(session, resource_id))
        if known is None:
            return None
        if known.status == ResourceStatus.SUCCEEDED and known.updated_at > self._created_at:
            return None  # another run has read it since this one was launched
        owner = self._context.instance.get_run_by_id(known.run_id) if known.run_id else None
        dead_owner = known.run_id if owner is None or owner.is_finished else None
        claimed = self._catalogue.attempt(
            lambda session: resources.claim(
                session, resource_id, self._context.run_id, datetime.now(UTC), dead_owner=dead_owner
            )
        )
        self._worker.beat()
        return claimed

    def _read(self, claimed: UploadedResource) -> tuple[str, int]:
        progress = _Progress(self._catalogue, claimed, self._worker)
        path = self._uploads.path(claimed.resource_id, claimed.sha256)
        if not path.is_file():
            raise FileNotFoundError(MISSING)
        if self._counter is None:
            self._counter = token_counter(self._model)
        limits = Limits(
            timeout_seconds=self._settings.document_timeout_seconds,
            max_memory_mb=self._settings.document_max_memory_mb,
            max_characters=self._settings.document_max_characters,
        )
        document = read_document(
            path, claimed.name, limits=limits, on_progress=lambda share: progress.report(READING * share)
        )
        chunks = self._divide(claimed, document, self._counter, progress)
        if not chunks:
            raise UnreadableFileError(NO_TEXT)
        progress.report(DIVIDED, at_once=True)

        def succeed(session: Session) -> bool:
            if resources.succeed(session, claimed, chunks, source_type=document.source_type, now=datetime.now(UTC)):
                return True
            # An earlier try may have been committed although its response was lost.
            row = resources.get_resource(session, claimed.resource_id)
            return row is not None and (row.status, row.run_id, row.sha256) == (
                ResourceStatus.SUCCEEDED,
                claimed.run_id,
                claimed.sha256,
            )

        if not self._catalogue.attempt(succeed):
            raise FileLeftError
        self._worker.beat()
        return document.source_type, len(chunks)

    def _divide(
        self,
        claimed: UploadedResource,
        document: Document,
        counter: TokenCounter | TokenEstimate,
        progress: "_Progress",
    ) -> list[NewChunk]:
        characters = sum(len(block.text) for block in document.blocks) or 1
        done, chunks = 0, []
        passages = divide(
            document,
            title=claimed.name,
            count_tokens=counter,
            max_tokens=counter.max_tokens,
        )
        for passage in passages:
            chunks.append(_chunk(passage, document.language))
            done += len(passage.text)
            progress.report(READING + (DIVIDED - READING) * min(1.0, done / characters))
        return chunks

    def _record_failure(self, claimed: UploadedResource, error: BaseException) -> Outcome | None:
        """Record why the file was not read; None if the run must end."""
        now, reason = datetime.now(UTC), reason_of(error)
        if isinstance(error, INTERRUPTIONS):
            if is_being_cancelled(self._context.instance, self._context.run_id):
                self._write(lambda session: resources.fail(session, claimed, CANCELLED, now))
            else:
                self._write(lambda session: resources.release(session, claimed, now))
            return None
        if is_temporary(error):  # the sensor finds out that this run has ended
            return None
        if not isinstance(error, UnreadableFileError):
            self._context.log.error(places_of(error))
        if isinstance(error, OSError | EmbeddingError | MemoryError) or not isinstance(error, Exception):
            is_written = self._write(lambda session: resources.try_again(session, claimed, reason, now))
            outcome = Outcome.POSTPONED
        else:
            is_written = self._write(lambda session: resources.fail(session, claimed, reason, now))
            outcome = Outcome.UNREADABLE
        if not isinstance(error, Exception):
            return None
        return outcome if is_written else Outcome.LEFT  # an error may be due to the deletion of the file

    def _write(self, operation: Callable[[Session], bool]) -> bool:
        try:
            with self._catalogue.transaction() as session:
                return operation(session)
        except Exception as unavailable:  # noqa: BLE001 - `resource_sensor` records it when it can
            self._context.log.error(f"Could not record what became of the file: {reason_of(unavailable)}")
            return True


class _Progress:
    """Reports the progress of a file, but not too often."""

    def __init__(self, catalogue: CatalogueResource, claimed: UploadedResource, worker: Worker) -> None:
        self._catalogue = catalogue
        self._claimed = claimed
        self._worker = worker
        self._reported_at = time.monotonic()

    def report(self, share: float, *, at_once: bool = False) -> None:
        """Record the progress, 0.0 to 1.0.

        Raises:
            FileLeftError: The run should stop with this file.
        """
        self._worker.beat()
        if not at_once and time.monotonic() - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        if not self._catalogue.attempt(
            lambda session: resources.progress(session, self._claimed, share, datetime.now(UTC))
        ):
            raise FileLeftError


def _chunk(passage: Passage, language: str | None) -> NewChunk:
    metadata = {
        "lecture_title": passage.lecture_title,
        "section_title": passage.section_title,
        "headings": list(passage.headings) or None,
        "page": passage.page,
        "page_end": passage.page_end,
        "start": passage.start,
        "end": passage.end,
    }
    known = {name: value for name, value in metadata.items() if value is not None}
    return NewChunk(passage.text, passage.lecture, passage.section, language, known)
