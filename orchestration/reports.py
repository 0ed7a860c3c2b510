"""What one pass over a course did, as the Dagster UI shows it.

Numbers stay numbers, so that the UI plots them over time. Beside them stand a picture of how long the texts were, a
few of them as a table, and links to the search page. Everything here is made from an `IndexReport` or a `KeywordReport`
alone and costs well under a millisecond a course.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import dagster as dg
import numpy as np

from embedding.embedder import Embedder
from embedding.indexing import IndexReport
from embedding.vector_store import Record
from models.fingerprint import CourseFingerprint
from orchestration.course_keywords import KeywordReport
from orchestration.partitions import COLLECTION, KEYWORDS, courses
from retrieval.analysis import ANALYSIS_VERSION

EVERY_CHUNK_IS_SEARCHABLE = "every_chunk_is_searchable"
VECTORS_ARE_SOUND = "vectors_are_sound"
FEW_TEXTS_ARE_CUT = "few_texts_are_cut"
KEYWORD_INDEX_IS_COMPLETE = "keyword_index_complete"
MAX_TRUNCATED_SHARE = 0.05
"""More cut texts than this are worth a warning: what was cut off cannot be found."""

CHECK_SPECS = (
    dg.AssetCheckSpec(
        EVERY_CHUNK_IS_SEARCHABLE,
        asset=COLLECTION,
        blocking=True,
        partitions_def=courses,
        description="The collection holds as many documents as the course has chunks. "
        "A course is published only when it does.",
    ),
    dg.AssetCheckSpec(
        VECTORS_ARE_SOUND,
        asset=COLLECTION,
        blocking=True,
        partitions_def=courses,
        description="Vectors read back from the collection have the model's dimensions and length one, are finite, "
        "and are the ones that were written. A course is published only when they are.",
    ),
    dg.AssetCheckSpec(
        FEW_TEXTS_ARE_CUT,
        asset=COLLECTION,
        partitions_def=courses,
        description=f"At most {MAX_TRUNCATED_SHARE:.0%} of the texts embedded in the run were longer than the model's "
        "token limit. A warning only: raise EMBEDDING_MAX_TOKENS, or have stage one make smaller chunks.",
    ),
    dg.AssetCheckSpec(
        KEYWORD_INDEX_IS_COMPLETE,
        asset=KEYWORDS,
        blocking=True,
        partitions_def=courses,
        description="The keyword index, read back, holds every chunk of the course. A course is published only when "
        "it does.",
    ),
)

SAMPLE_CHARACTERS = 120
"""Of each text in the table, whose columns the UI makes equally narrow."""
SAMPLE_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("chunk", description="The chunk's id."),
        dg.TableColumn("place", description="Lecture › section: titles, or ids where there are none."),
        dg.TableColumn("text", description=f"Its first {SAMPLE_CHARACTERS} characters."),
    ]
)


def checks(course_id: str, report: IndexReport) -> Sequence[dg.AssetCheckEvaluation]:
    """The evaluations of the checks of the course's collection, in the order of `CHECK_SPECS`."""
    cut = _truncated_share(report)
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
            passed=cut <= MAX_TRUNCATED_SHARE,
            severity=dg.AssetCheckSeverity.WARN,
            partition=course_id,
            description=f"{report.truncated} of {report.embedded} texts were cut",
            metadata={
                "embedded": report.embedded,
                "truncated": report.truncated,
                "truncated_share": dg.MetadataValue.float(round(cut, 4)),
            },
        ),
    )


def keyword_check(course_id: str, report: KeywordReport) -> dg.AssetCheckEvaluation:
    """The evaluation of the check of the course's keyword index."""
    return dg.AssetCheckEvaluation(
        asset_key=KEYWORDS,
        check_name=KEYWORD_INDEX_IS_COMPLETE,
        passed=report.complete,
        partition=course_id,
        description=f"{report.indexed} chunks in the index, {report.chunks} in the course",
        metadata={"chunks": report.chunks, "indexed": report.indexed},
    )


def materialization(
    course_id: str,
    report: IndexReport,
    embedder: Embedder,
    *,
    search_url: str,
    model_load_seconds: float,
) -> dg.AssetMaterialization:
    """What the asset's page shows of the course.

    Where nothing was embedded there are no rates and no picture: a zero would read as a slow run.

    Args:
        course_id: The course.
        report: Of the pass that was published.
        embedder: Made the vectors.
        search_url: Where people reach the search app.
        model_load_seconds: How long the course waited for the model to be loaded: the first of a run does.
    """
    search_url, quoted_id = search_url.rstrip("/"), quote(course_id, safe="")
    metadata: dict[str, dg.MetadataValue | int | str] = {
        "search": dg.MetadataValue.url(f"{search_url}/?course={quoted_id}"),
        "status": dg.MetadataValue.url(f"{search_url}/courses/{quoted_id}/embedding_status"),
        "dagster/partition_row_count": report.fingerprint.chunks,
        "chunks": report.fingerprint.chunks,
        "embedded": report.embedded,
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
        metadata["token_lengths"] = dg.MetadataValue.md(histogram(report.token_counts, embedder.max_tokens))
    metadata |= {
        "model": embedder.name,
        "model_signature": report.fingerprint.model,
        "dimensions": report.vectors.dimensions,
        "device": embedder.device,
        "rebuilt": dg.MetadataValue.bool(report.rebuilt),
        "sample": dg.MetadataValue.table([_sample_row(record) for record in report.sample], SAMPLE_SCHEMA),
    }
    return dg.AssetMaterialization(
        COLLECTION,
        partition=course_id,
        metadata=metadata,
        tags={"dagster/data_version": report.fingerprint.content},
    )


def keyword_materialization(
    course_id: str, published: CourseFingerprint, report: KeywordReport
) -> dg.AssetMaterialization:
    """What the page of the keyword index shows of the course; the search app takes about as many `bytes` of memory."""
    return dg.AssetMaterialization(
        KEYWORDS,
        partition=course_id,
        metadata={
            "dagster/partition_row_count": report.indexed,
            "chunks": report.indexed,
            "terms": report.terms,
            "bytes": report.bytes,
            "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
            "kept": dg.MetadataValue.bool(report.kept),
            "analysis_version": ANALYSIS_VERSION,
        },
        tags={"dagster/data_version": published.content},
    )


_BARS, _BAR = 20, 16
"""How many bars, and how wide each is in pixels."""
_LEFT, _BOTTOM, _HEIGHT = 40, 150, 110
_READABLE = " !$&'()*+,-./:;=?@[]_~"
"""What a Markdown destination in angle brackets may hold as it is."""


def histogram(token_counts: Sequence[int], limit: int) -> str:
    """A picture of how many texts have how many tokens, as Markdown.

    The UI shows Markdown beside the other values while it is shorter than 1000 characters, and else behind a button;
    so this is a small SVG in a data URI, whose colours can be read on white and on black. The axis ends at the token
    limit, or at a half, a quarter, … of it where no text is longer.

    Args:
        token_counts: At least one; none is above the limit.
        limit: Texts are cut to this many tokens.
    """
    longest, median = max(token_counts), int(np.median(token_counts))
    end = limit
    while end >= 2 * max(longest, _BARS):
        end //= 2
    counts, _ = np.histogram(token_counts, bins=_BARS, range=(0, end))
    highest = int(counts.max())
    bars = "".join(
        f"M{_LEFT + _BAR // 2 + index * _BAR} {_BOTTOM}v-{max(1, round(count / highest * _HEIGHT))}"
        for index, count in enumerate(counts)
        if count
    )
    right, top = _LEFT + _BARS * _BAR, _BOTTOM - _HEIGHT
    mark = f"<path stroke='tomato' stroke-dasharray='4' d='M{right} {_BOTTOM}V{top}'/>" if end == limit else ""
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='380' height='170' font-family='sans-serif' font-size='11' "
        f"fill='#777'><text x='{_LEFT}' y='12' font-weight='700'>Tokens of {len(token_counts)} texts, "
        f"median {median}, longest {longest}</text>"
        f"<path stroke='#6495ed' stroke-width='{_BAR - 1}' d='{bars}'/>"
        f"<path stroke='#777' d='M{_LEFT} {_BOTTOM}H{right}'/>{mark}"
        f"<text x='{_LEFT}' y='{_BOTTOM + 14}'>0</text>"
        f"<g text-anchor='end'><text x='{_LEFT - 4}' y='{top + 8}'>{highest}</text>"
        f"<text x='{_LEFT - 4}' y='{top + 22}'>texts</text>"
        f"<text x='{right}' y='{_BOTTOM + 14}'>{end} tokens</text>"
        f"<text x='{right}' y='{top - 4}' fill='tomato'>limit {limit}{'' if end == limit else ' →'}</text></g></svg>"
    )
    return f"![Token lengths](<data:image/svg+xml,{quote(svg, safe=_READABLE)}>)"


def _truncated_share(report: IndexReport) -> float:
    return report.truncated / max(1, report.embedded)


def _sample_row(record: Record) -> dg.TableRecord:
    text = record.text if len(record.text) <= SAMPLE_CHARACTERS else f"{record.text[:SAMPLE_CHARACTERS]}…"
    places = (_first(record.metadata, f"{part}_title", f"{part}_id") for part in ("lecture", "section"))
    return dg.TableRecord({"chunk": record.chunk_id, "place": " › ".join(filter(None, places)), "text": text})


def _first(metadata: Mapping[str, object], *names: str) -> str:
    """The first of these values that says something."""
    return next((str(value) for name in names if (value := metadata.get(name)) not in (None, "")), "")
