"""Counts what the pipeline does, in the catalogue (see `models.counters`), for the metrics of the search app."""

import logging

from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.indexing import EmptyCourseError, IndexReport, UnusableChunkError
from models import counters
from models.database import DatabaseUnavailableError, UnreadableDataError
from orchestration.course_run.failures import reason_of
from orchestration.resources import CatalogueResource
from retrieval.snapshots.store import SnapshotError, SnapshotStoreError

logger = logging.getLogger(__name__)

_KINDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((EmptyCourseError, UnusableChunkError, UnreadableDataError), "content"),
    ((DatabaseUnavailableError,), "catalogue"),
    ((VectorStoreError,), "vector_store"),
    ((EmbeddingError,), "embedding"),
    ((SnapshotError, SnapshotStoreError), "snapshot"),
)


def count(catalogue: CatalogueResource, amounts: counters.Amounts) -> None:
    """Increase counters, in a transaction of their own after what they count: they must not make it fail."""
    if not any(amounts.values()):
        return
    try:
        with catalogue.transaction() as session:
            counters.add(session, amounts)
    except Exception as error:  # noqa: BLE001 - a lost count is no reason to stop
        logger.warning("The metrics lack what a run did, because it could not be counted: %s", reason_of(error))


def of_publication(report: IndexReport, model_load_seconds: float) -> counters.Amounts:
    """What is counted of a course that was published.

    Args:
        report: The report of its indexing pass.
        model_load_seconds: How long it waited for the model.
    """
    return {
        ("courses_published", ""): 1,
        ("chunks", "embedded"): report.embedded,
        ("chunks", "reused"): report.reused,
        ("chunks", "updated"): report.updated,
        ("chunks", "kept"): report.kept,
        ("chunks", "deleted"): report.removed,
        ("tokens", ""): report.tokens,
        ("indexing_seconds", ""): report.seconds,
        ("model_load_seconds", ""): model_load_seconds,
    }


def kind_of(error: BaseException) -> str:
    """The kind of failure of a course that failed with this error."""
    return next((kind for errors, kind in _KINDS if isinstance(error, errors)), "other")
