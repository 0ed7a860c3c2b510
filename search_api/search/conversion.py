"""Converts a request body to search options, and hits to a response body.

An answer is bounded, whatever the chunks are: long texts and metadata are cut, and `cut` says so.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from models.text import cut_at_word
from retrieval.citations import LinkTemplate, citation, language
from retrieval.fusion import Weights
from retrieval.highlights import matches
from retrieval.search import Explanation, Fusion, Hit, Method, SearchOptions, Thresholds
from retrieval.selection import Group
from retrieval.snapshots.snapshot import CourseSnapshot
from search_api.search.schemas import (
    MAX_COPIES,
    MAX_METADATA_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    SearchRequest,
    up_to_of,
)

MAX_COPIES_CHARACTERS: Final = 2 * MAX_METADATA_CHARACTERS
"""Of the metadata of all copies of a result, as JSON."""
_KEPT = ("chunk_id", "course_id", "lecture_id", "section_id", "source_type", "language", "order_in_section")


def options_of(request: SearchRequest) -> SearchOptions:
    """The options that the request asks for."""
    weights, thresholds = request.weights, request.thresholds
    return SearchOptions(
        method=Method(request.method),
        fusion=Fusion(request.fusion),
        weights=Weights(weights.vector, weights.keyword) if weights else None,
        thresholds=Thresholds(thresholds.vector, thresholds.keyword),
        filters=request.filters,
        up_to=up_to_of(request.up_to, request.lecture_order),
    )


def groups_of(groups: Sequence[Group], by: str, snapshot: CourseSnapshot) -> list[dict[str, Any]]:
    """The groups of an answer, as `ResultGroup` documents them.

    Args:
        groups: Best first.
        by: `course`, `lecture` or `section`.
        snapshot: The snapshot that was searched.
    """
    listed = []
    for row, places, count in groups:
        cited = citation(metadata_of(snapshot, row), snapshot.info.course_id, None)
        listed.append(
            {
                "course_id": cited["course_id"],
                "lecture_id": cited["lecture_id"] if by != "course" else None,
                "section_id": cited["section_id"] if by == "section" else None,
                "title": cited[f"{by}_title"],
                "results": places,
                "count": count,
            }
        )
    return listed


def chunk_response(
    row: int,
    context: int,
    snapshot: CourseSnapshot,
    *,
    generation: int,
    stale: bool,
    link_template: LinkTemplate | None,
) -> dict[str, Any]:
    """The response body, as `ChunkResponse` documents it.

    Args:
        row: The chunk.
        context: Number of chunks before and after it, in its section.
        snapshot: Contains the chunk.
        generation: The generation of the course.
        stale: Whether something newer exists, or is being made.
        link_template: Makes the links of the citations.
    """
    passage = _passage(snapshot, row, link_template, is_whole=True)
    return {
        "chunk_id": snapshot.chunk_ids[row],
        "course_id": snapshot.info.course_id,
        **passage,
        "language": language(passage["metadata"], passage["text"]),
        "generation": generation,
        "stale": stale,
        "context": _neighbours(snapshot, row, context, link_template),
    }


def result(
    hit: Hit, request: SearchRequest, snapshot: CourseSnapshot, link_template: LinkTemplate | None
) -> dict[str, Any]:
    """A result of an answer, as `SearchResult` documents it. Pydantic does not validate it again.

    Args:
        hit: The hit.
        request: Decides which optional fields are included.
        snapshot: The snapshot that was searched.
        link_template: Makes the link of the citation.
    """
    passage, explanation = _passage(snapshot, hit.row, link_template), hit.explanation
    return {
        **passage,
        "language": language(passage["metadata"], passage["text"]),
        "score": hit.score,
        "relevance": hit.relevance,
        "matches": matches(passage["text"], explanation.words.marks) if explanation.bm25 else [],
        "copies": _metadata_of_copies(snapshot, hit.copies[:MAX_COPIES].tolist()),
        "copy_count": len(hit.copies),
        "near_copies": _metadata_of_copies(snapshot, hit.near_copies[:MAX_COPIES].tolist()),
        "near_copy_count": len(hit.near_copies),
        "context": _neighbours(snapshot, hit.row, request.context, link_template) if request.context else None,
        "explanation": _explanation(explanation) if request.explain else None,
    }


def metadata_of(snapshot: CourseSnapshot, row: int) -> dict[str, Any]:
    """The metadata of a chunk; without the largest values if they are longer than an answer may have."""
    metadata = snapshot.metadata(row)
    if snapshot.metadata_length(row) <= MAX_METADATA_CHARACTERS:
        return metadata
    sizes = {name: len(json.dumps({name: value})) for name, value in metadata.items()}
    kept, left = {name for name in _KEPT if name in metadata}, MAX_METADATA_CHARACTERS
    for name in sorted(sizes.keys() - kept, key=lambda name: (sizes[name], name)):
        left -= sizes[name]
        if left < 0:
            break
        kept.add(name)
    return {name: value for name, value in metadata.items() if name in kept}


def _metadata_of_copies(snapshot: CourseSnapshot, rows: Sequence[int]) -> list[dict[str, Any]]:
    """The metadata of as many chunks as there is room for."""
    listed, left = [], MAX_COPIES_CHARACTERS
    for row in rows:
        left -= min(snapshot.metadata_length(row), MAX_METADATA_CHARACTERS)
        if left < 0:
            break
        listed.append(metadata_of(snapshot, row))
    return listed


def _passage(
    snapshot: CourseSnapshot, row: int, link_template: LinkTemplate | None, *, is_whole: bool = False
) -> dict[str, Any]:
    text, metadata = snapshot.texts[row], snapshot.metadata(row) if is_whole else metadata_of(snapshot, row)
    cut = []
    if not is_whole and len(text) > MAX_TEXT_CHARACTERS:
        text = cut_at_word(text, MAX_TEXT_CHARACTERS)
        cut.append("text")
    if not is_whole and snapshot.metadata_length(row) > MAX_METADATA_CHARACTERS:
        cut.append("metadata")
    cited = citation(metadata, snapshot.info.course_id, link_template)
    return {"text": text, "metadata": metadata, "citation": cited, "cut": cut}


def _neighbours(
    snapshot: CourseSnapshot, row: int, distance: int, link_template: LinkTemplate | None
) -> dict[str, Any]:
    before, after = snapshot.neighbours(row, distance)
    return {
        "before": [_passage(snapshot, other, link_template) for other in before],
        "after": [_passage(snapshot, other, link_template) for other in after],
    }


def _explanation(explanation: Explanation) -> dict[str, Any]:
    weights, words = explanation.weights, explanation.words
    fields = explanation._asdict() | {"weights": weights._asdict() if weights else None}
    del fields["words"]
    return fields | {"terms": list(words.terms), "expansions": words.expansions}
