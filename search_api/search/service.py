"""Searches a course: queries → the passages that match best.

Cheap checks come first: a query is embedded only after the course row shows that the course can be searched. The course
is searched in its snapshot (`retrieval.snapshots`), which `CourseSnapshots` opens. While the course is not `done`, the
last published generation answers, and the answer is `stale`.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from models.courses import PublishedCourse
from models.tables import EmbeddingStatus
from models.text import quoted
from retrieval.diversity import CANDIDATES, diverse, without_repeats
from retrieval.query_terms import QueryTerms
from retrieval.relevance import MIN_RELEVANCE, Calibration
from retrieval.search import Hit, Method, Query, search_snapshot, terms_of
from retrieval.snapshots.snapshot import CourseSnapshot
from search_api.courses.service import Courses
from search_api.embeddings.service import EmbeddedQuery, EmbeddingService
from search_api.http.errors import EmbeddingNotReadyError
from search_api.reranking.service import RerankService
from search_api.search.conversion import options_of, search_response
from search_api.search.long_queries import FittedQuery, fitted, query_cuts
from search_api.search.schemas import SearchRequest
from search_api.search.snapshots import CourseSnapshots, OpenedSnapshot, PublishedMeanwhileError

SHORT_SEARCH = 8_000_000
"""Up to this number of vector elements (queries × chunks × dimensions), a search takes less time than a change of
threads costs the other requests."""
SHORT_QUERY = 200
"""Up to this number of characters, all phrasings together, so does the analysis of a query. The words of a long
one may take 0.1 s, because near terms are sought for each that the course does not have."""
_ATTEMPTS = 3
"""Attempts of a search whose course is published while its snapshot is opened."""


class CourseSearch:
    """Searches published courses.

    Args:
        courses: The catalogue.
        snapshots: The snapshots of the courses.
        embedding: The embedding model.
        reranking: The rerank model.
        max_query_chars: The part of a query that is searched, in characters.
        serve_while_reembedding: Whether a course that is not `done` is searched in its last published generation.
        max_stale_seconds: For how long at most.
    """

    def __init__(
        self,
        *,
        courses: Courses,
        snapshots: CourseSnapshots,
        embedding: EmbeddingService,
        reranking: RerankService,
        max_query_chars: int,
        serve_while_reembedding: bool,
        max_stale_seconds: float,
    ) -> None:
        self._courses = courses
        self._snapshots = snapshots
        self._embedding = embedding
        self._reranking = reranking
        self._max_query_chars = max_query_chars
        self._serve_while_reembedding = serve_while_reembedding
        self._max_stale_seconds = max_stale_seconds

    def search(self, course_id: str, request: SearchRequest) -> dict[str, Any]:
        """The passages of the course that match the request best.

        Raises:
            CourseNotFoundError: No course has this id.
            EmbeddingNotReadyError: The course cannot be searched now; the message says why and what to do.
            EmbeddingServiceUnavailableError, EmbeddingError: A query cannot be embedded.
            OverloadedError: Too many calls wait for the model, or the snapshot is still being built.
            VectorStoreError: There is no snapshot, and the vector store failed.
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        for _ in range(_ATTEMPTS):
            course = self._courses.published(course_id)
            self._require_searchable(course)
            try:
                opened = self._snapshots.open(course)
            except PublishedMeanwhileError:
                continue
            try:
                return self._answer(course, opened, request, self._parts(request, opened), self._embedding.embed_query)
            except (IndexError, KeyError, TypeError, ValueError):
                if not self._snapshots.discard_damaged(course):
                    raise
        raise EmbeddingNotReadyError(f"Course {quoted(course_id)} was published again during every attempt; try again")

    def search_at_once(self, course_id: str, request: SearchRequest) -> dict[str, Any] | None:
        """The same answer, if it takes a fraction of a millisecond and nothing in it has to wait; otherwise None.

        Raises:
            EmbeddingNotReadyError: The course cannot be searched now.
        """
        course = self._courses.published_at_once(course_id)
        if course is None or request.rerank == "model" or sum(map(len, request.query)) > SHORT_QUERY:
            return None
        opened = self._snapshots.opened(course)
        if opened is None or len(request.query) * opened.snapshot.cosines.size > SHORT_SEARCH:
            return None
        self._require_searchable(course)
        parts = self._parts(request, opened)
        embedded: dict[str, EmbeddedQuery] = {}
        if request.method != "keyword":
            for part, words in parts:
                text = words.corrected(part.text)
                known = self._embedding.known_query(text)
                if known is None:
                    return None
                embedded[text] = known
        return self._answer(course, opened, request, parts, embedded.__getitem__)

    def _parts(self, request: SearchRequest, opened: OpenedSnapshot) -> list[tuple[FittedQuery, QueryTerms]]:
        """What is searched of each phrasing, and the terms of the course for it."""
        parts = [fitted(query, self._max_query_chars) for query in request.query]
        return [(part, terms_of(part.text, opened.snapshot)) for part in parts]

    def _require_searchable(self, course: PublishedCourse) -> None:
        """Check that the course is published, and in the strict mode that it is `done`.

        Raises:
            EmbeddingNotReadyError: The course cannot be searched.
        """
        if course.embedding_status == EmbeddingStatus.DONE:
            return
        message = f"Course {quoted(course.id)} is not embedded: its status is {course.embedding_status}"
        if course.embedding_status == EmbeddingStatus.FAILED and course.embedding_error:
            message += f", because {course.embedding_error}"
        if not (self._serve_while_reembedding and course.embedding_generation and course.embedding_fingerprint):
            raise EmbeddingNotReadyError(message)
        since = course.embedding_due_since
        if since is not None and (datetime.now(UTC) - since).total_seconds() > self._max_stale_seconds:
            raise EmbeddingNotReadyError(f"{message}; its last generation is older than MAX_STALE_SECONDS")

    def _answer(
        self,
        course: PublishedCourse,
        opened: OpenedSnapshot,
        request: SearchRequest,
        parts: Sequence[tuple[FittedQuery, QueryTerms]],
        embed: Callable[[str], EmbeddedQuery],
    ) -> dict[str, Any]:
        snapshot, options, degraded = opened.snapshot, options_of(request), []
        is_stale = course.embedding_status != EmbeddingStatus.DONE or not opened.is_current
        if options.method is not Method.KEYWORD and snapshot.info.model_signature != self._embedding.model.signature:
            reason = (
                f"{quoted(course.id)} was embedded with another model or other settings "
                f"({snapshot.info.model_name or 'unknown'}; this app uses {self._embedding.model.name})"
            )
            if options.method is Method.VECTOR or not self._serve_while_reembedding:
                raise EmbeddingNotReadyError(
                    f"Course {reason}; trigger its embedding again, or start this app with the other model"
                )
            options, is_stale = options.by_keyword(), True
            degraded.append(f"found by words only, because course {reason}")
        by_vector = options.method is not Method.KEYWORD
        embedded = {part.text: embed(words.corrected(part.text)) for part, words in parts} if by_vector else {}
        queries = [_query(part.text, embedded.get(part.text), words) for part, words in parts]
        limit = max(request.top_k, self._reranking.top_n) if request.rerank == "model" else request.top_k
        if request.diversity and request.rerank != "model":
            limit *= CANDIDATES
        calibration = Calibration.parse(course.embedding_calibration, snapshot.info.model_signature)
        search = partial(search_snapshot, snapshot, queries, options, calibration=calibration)
        found = without_repeats(snapshot, search, limit)
        hits, least, best = found.hits, request.min_relevance, found.best_relevance
        if least is not None:
            hits = [hit for hit in hits if hit.relevance is None or hit.relevance >= least]
        if request.rerank == "model":
            hits = self._rerank(snapshot, hits, queries[0].text, degraded)
        threshold = request.thresholds.score
        if threshold is not None and not degraded:  # the scores of a degraded answer have another range
            hits = [hit for hit in hits if hit.score >= threshold]
        return search_response(
            diverse(snapshot.cosines, hits, request.top_k, request.diversity),
            request,
            snapshot,
            answerable=None if best is None else best >= (MIN_RELEVANCE if least is None else least),
            unknown_terms=found.unknown_terms,
            generation=opened.generation,
            stale=is_stale,
            degraded="; ".join(degraded) or None,
            query_cut=query_cuts([part for part, _ in parts], embedded),
        )

    def _rerank(self, snapshot: CourseSnapshot, hits: Sequence[Hit], query: str, degraded: list[str]) -> list[Hit]:
        """The hits in the order of the rerank model for the first query; the others only help to find candidates.

        If only the first hits could be scored, they stay before the others, whose scores continue below theirs.
        """
        reranking = self._reranking.rerank(query, [snapshot.texts[hit.row] for hit in hits])
        count = len(reranking.scores)
        if count < len(hits):
            part = f"only the first {count} of {len(hits)} passages were reranked" if count else "not reranked"
            degraded.append(f"{part}: {reranking.reason}")
        if not count:
            return list(hits)
        scored = zip(hits[:count], reranking.scores, strict=True)
        reranked = sorted((hit._replace(score=score) for hit, score in scored), key=lambda hit: -hit.score)
        return [*reranked, *_scaled(hits[count:], reranked[-1].score)]


def _query(text: str, embedded: EmbeddedQuery | None, words: QueryTerms) -> Query:
    if embedded is None:
        return Query(text, None, words=words)
    return Query(text, embedded.vector, embedded.legibility, words)


def _scaled(hits: Sequence[Hit], highest: float) -> list[Hit]:
    """The hits with scores in the same proportion, but the first has the score `highest`; negative ones become 0."""
    best = max(hits[0].score, 0.0) if hits else 0.0
    return [hit._replace(score=highest * max(hit.score, 0.0) / best if best else 0.0) for hit in hits]
