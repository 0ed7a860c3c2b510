"""What the Dagster UI shows for one course of a run: check results, metrics and links, but no text of a chunk.

A text in Dagster's history would outlive the chunk. Metrics are numeric metadata, so the UI plots them over time.
Everything is computed from the reports of the run, in well under a millisecond per course.
"""

from collections.abc import Sequence
from urllib.parse import quote

import dagster as dg
import numpy as np

from embedding.interface import Embedder
from embedding.vector_store.indexing import IndexReport
from models.fingerprint import CourseFingerprint
from orchestration.course_run.examination import ExaminationReport
from orchestration.course_run.snapshot import SnapshotReport
from orchestration.partitions import COLLECTION, SNAPSHOT, course_partitions
from orchestration.search_link import course_page
from retrieval.analysis import ANALYSIS_VERSION
from retrieval.examination.examine import LIMIT, MAX_MISSED
from retrieval.examination.questions import Kind

EVERY_CHUNK_IS_SEARCHABLE = "every_chunk_is_searchable"
VECTORS_ARE_SOUND = "vectors_are_sound"
FEW_TEXTS_ARE_CUT = "few_texts_are_cut"
SNAPSHOT_IS_COMPLETE = "snapshot_is_complete"
SEARCH_FINDS_ITS_OWN_PASSAGES = "search_finds_its_own_passages"
MAX_TRUNCATED_SHARE = 0.05
"""Warn above this share of truncated texts. The vector of a truncated text does not represent its end."""

CHECK_SPECS = (
    dg.AssetCheckSpec(
        EVERY_CHUNK_IS_SEARCHABLE,
        asset=COLLECTION,
        blocking=True,
        partitions_def=course_partitions,
        description="The collection contains as many documents as the course has chunks. "
        "Otherwise the course is not published.",
    ),
    dg.AssetCheckSpec(
        VECTORS_ARE_SOUND,
        asset=COLLECTION,
        blocking=True,
        partitions_def=course_partitions,
        description="Vectors read back from the collection have the dimensions of the model and length one, are "
        "finite, and equal the vectors that were written. Otherwise the course is not published.",
    ),
    dg.AssetCheckSpec(
        FEW_TEXTS_ARE_CUT,
        asset=COLLECTION,
        partitions_def=course_partitions,
        description=f"At most {MAX_TRUNCATED_SHARE:.0%} of the texts embedded in the run were longer than the model's "
        "token limit. Only a warning: increase EMBEDDING_MAX_TOKENS, or let stage one write smaller chunks.",
    ),
    dg.AssetCheckSpec(
        SNAPSHOT_IS_COMPLETE,
        asset=SNAPSHOT,
        blocking=True,
        partitions_def=course_partitions,
        description="The snapshot, read back from disk, contains exactly the chunks of the course, and its digest is "
        "correct. Otherwise the course is not published.",
    ),
    dg.AssetCheckSpec(
        SEARCH_FINDS_ITS_OWN_PASSAGES,
        asset=SNAPSHOT,
        partitions_def=course_partitions,
        description="About fifty questions made from the course (titles, definitions, sentences with words left out, "
        f"sentences with a typo) find the chunks they were made from among the first {LIMIT} results. It fails if a "
        "channel finds no more than chance, and then the course is not published unless EXAMINATION_BLOCKS is false. "
        "It warns if clearly fewer are found than in the last generation.",
    ),
)


def collection_checks(course_id: str, report: IndexReport) -> Sequence[dg.AssetCheckEvaluation]:
    """The results of the checks of the collection, in the order of `CHECK_SPECS`."""
    truncated_share = _truncated_share(report)
    vectors = report.vectors
    return (
        dg.AssetCheckEvaluation(
            asset_key=COLLECTION,
            check_name=EVERY_CHUNK_IS_SEARCHABLE,
            passed=report.complete,
            partition=course_id,
            description=f"{report.stored} documents for {report.fingerprint.chunks} chunks",
            metadata={"chunks": report.fingerprint.chunks, "documents": report.stored},
        ),
        dg.AssetCheckEvaluation(
            asset_key=COLLECTION,
            check_name=VECTORS_ARE_SOUND,
            passed=report.sound,
            partition=course_id,
            description=f"{vectors.unsound} of {vectors.checked} vectors are unsound; "
            f"{vectors.dimensions} dimensions of {vectors.expected_dimensions}",
            metadata={
                "checked": vectors.checked,
                "unsound": vectors.unsound,
                "dimensions": vectors.dimensions,
                "expected_dimensions": vectors.expected_dimensions,
            },
        ),
        dg.AssetCheckEvaluation(
            asset_key=COLLECTION,
            check_name=FEW_TEXTS_ARE_CUT,
            passed=truncated_share <= MAX_TRUNCATED_SHARE,
            severity=dg.AssetCheckSeverity.WARN,
            partition=course_id,
            description=f"{report.truncated} of {report.embedded} embedded texts were truncated"
            + (f"; the {report.reused} that were embedded before are not counted" if report.reused else ""),
            metadata={
                "embedded": report.embedded,
                "truncated": report.truncated,
                "truncated_share": dg.MetadataValue.float(round(truncated_share, 4)),
            },
        ),
    )


def snapshot_check(course_id: str, report: SnapshotReport) -> dg.AssetCheckEvaluation:
    """The result of the check of the snapshot."""
    return dg.AssetCheckEvaluation(
        asset_key=SNAPSHOT,
        check_name=SNAPSHOT_IS_COMPLETE,
        passed=report.complete,
        partition=course_id,
        description=f"{report.stored} chunks in the snapshot, {report.chunks} in the course",
        metadata={"chunks": report.chunks, "stored": report.stored},
    )


def examination_check(course_id: str, report: ExaminationReport, *, blocks: bool) -> dg.AssetCheckEvaluation:
    """The result of the examination. Questions are made of texts, so only ids of chunks and kinds are shown.

    Args:
        course_id: The course.
        report: Its examination.
        blocks: Whether a channel that does not work withholds the course.
    """
    examination = report.examination
    shares = {method: result.found() for method, result in examination.channels.items()}
    shown = ", ".join(f"{method} {share:.0%}" for method, share in shares.items() if share is not None)
    notes = [
        f"{len(examination.questions)} questions; found: {shown}"
        if shown
        else "No question can be made from the texts",
        *(f"{method} search does not work" for method in examination.broken),
        *(f"{method} search finds fewer than in the last generation" for method in report.worse),
    ]
    return dg.AssetCheckEvaluation(
        asset_key=SNAPSHOT,
        check_name=SEARCH_FINDS_ITS_OWN_PASSAGES,
        passed=not (examination.broken or report.worse),
        severity=dg.AssetCheckSeverity.ERROR if examination.broken and blocks else dg.AssetCheckSeverity.WARN,
        partition=course_id,
        description="; ".join(notes),
        metadata={
            "questions": len(examination.questions),
            **_examination_figures(report),
            "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
            f"missed (at most {MAX_MISSED})": dg.MetadataValue.table(
                [
                    dg.TableRecord({"chunk_id": question.chunk_id, "question": question.kind.value})
                    for question in examination.missed
                ],
                dg.TableSchema([dg.TableColumn("chunk_id"), dg.TableColumn("question")]),
            ),
        },
    )


def _examination_figures(report: ExaminationReport) -> dict[str, dg.MetadataValue | int]:
    figures: dict[str, dg.MetadataValue | int] = {}

    def add(name: str, share: float | None) -> None:
        if share is not None:  # a zero would look like a failure in the plots
            figures[name] = dg.MetadataValue.float(round(share, 4))

    for method, result in report.examination.channels.items():
        add(f"{method}_found", result.found())
        for kind in Kind:
            add(f"{method}_found_{kind}", result.found(kind))
        if easy := result.easy:
            add(f"{method}_first", sum(answer.first for answer in easy) / len(easy))
            add(f"{method}_first_by_chance", sum(answer.chance for answer in easy) / len(easy))
        if change := report.changes.get(method):
            figures |= {f"{method}_lost": change.lost, f"{method}_gained": change.gained}
    return figures


def collection_materialization(
    course_id: str,
    report: IndexReport,
    embedder: Embedder,
    *,
    search_url: str,
    model_load_seconds: float,
) -> dg.AssetMaterialization:
    """The materialization of the collection.

    Rates and token counts are omitted if nothing was embedded, because zeros would suggest a slow run in the plots.

    Args:
        course_id: The course.
        report: The report of the published indexing pass.
        embedder: The embedder that computed the vectors.
        search_url: URL of the search app.
        model_load_seconds: Time that the course waited for the model. Only the first course of a run loads it.
    """
    search_url, quoted_id = search_url.rstrip("/"), quote(course_id, safe="")
    metadata: dict[str, dg.MetadataValue | int | str] = {
        "search": dg.MetadataValue.url(course_page(search_url, course_id)),
        "status": dg.MetadataValue.url(f"{search_url}/courses/{quoted_id}/embedding_status"),
        "dagster/partition_row_count": report.fingerprint.chunks,
        "chunks": report.fingerprint.chunks,
        "embedded": report.embedded,
        "reused": report.reused,
        "reused_from_other_courses": report.reused_from_other_courses,
        "updated": report.updated,
        "kept": report.kept,
        "removed": report.removed,
        "truncated": report.truncated,
        "truncated_share": dg.MetadataValue.float(round(_truncated_share(report), 4)),
        "tokens": report.tokens,
        "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
        "model_load_seconds": dg.MetadataValue.float(round(model_load_seconds, 3)),
    }
    if report.embedded:
        seconds = max(report.seconds, 1e-9)
        metadata["tokens_per_second"] = dg.MetadataValue.float(round(report.tokens / seconds, 1))
        metadata["chunks_per_second"] = dg.MetadataValue.float(round(report.embedded / seconds, 1))
        p50, p95 = np.percentile(report.token_counts, [50, 95])
        metadata |= {"tokens_p50": round(p50), "tokens_p95": round(p95), "tokens_longest": max(report.token_counts)}
    metadata |= {
        "model": embedder.name,
        "model_signature": report.fingerprint.model,
        "dimensions": report.vectors.dimensions,
        "device": embedder.device,
        "rebuilt": dg.MetadataValue.bool(report.rebuilt),
    }
    return dg.AssetMaterialization(
        COLLECTION,
        partition=course_id,
        metadata=metadata,
        tags={"dagster/data_version": report.fingerprint.content},
    )


def snapshot_materialization(
    course_id: str, published: CourseFingerprint, report: SnapshotReport, examined: ExaminationReport
) -> dg.AssetMaterialization:
    """The materialization of the snapshot, with what each channel finds: only its metadata are plotted over time."""
    found = {f"{method}_found": result.found() for method, result in examined.examination.channels.items()}
    return dg.AssetMaterialization(
        SNAPSHOT,
        partition=course_id,
        metadata={
            "dagster/partition_row_count": report.stored,
            "chunks": report.stored,
            "terms": report.terms,
            "bytes": report.bytes,
            "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
            "kept": dg.MetadataValue.bool(report.kept),
            "analysis_version": ANALYSIS_VERSION,
            **{name: dg.MetadataValue.float(round(share, 4)) for name, share in found.items() if share is not None},
        },
        tags={"dagster/data_version": published.content},
    )


def _truncated_share(report: IndexReport) -> float:
    return report.truncated / max(1, report.embedded)
