"""Searches a course: queries → the passages that match best.

Cheap checks come first: a query is embedded only after the course row shows that the course can be searched. Courses
are searched in memory (`retrieval.course_index`). They are cached by generation, so the first search after a
publication loads the new one. While a course is being loaded, or if it is too large for the cache, Chroma answers
instead, and `degraded` in the answer says so.
"""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from models.courses import PublishedCourse
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from models.text import quoted
from retrieval.cache import InstanceCache, StillLoadingError
from retrieval.course_index import CourseIndex, CourseTooLargeError, make_course_index, read_course
from retrieval.keywords.store import KeywordStore
from retrieval.search import Hit, Method, Query, SearchOptions, search_index
from search_api.courses.service import Courses
from search_api.embeddings.service import EmbeddingService
from search_api.http.errors import EmbeddingNotReadyError, InvalidRequestError, OverloadedError
from search_api.reranking.service import RerankService
from search_api.search.conversion import options_of, search_response
from search_api.search.schemas import SearchRequest, SearchResponse

logger = logging.getLogger(__name__)

LOAD_PATIENCE_SECONDS = 1.0
"""How long a search waits for a course to be loaded before it searches in Chroma instead."""
LONG_PATIENCE_SECONDS = 20.0
"""How long it waits if Chroma cannot answer instead: in keyword searches, and in courses that are not `done`."""
_ATTEMPTS = 3
"""Attempts of a search whose course is published while it is being loaded."""


class IndexKey(NamedTuple):
    """The cache key of a loaded course."""

    course_id: str
    generation: int
    fingerprint: str | None


@dataclass(frozen=True)
class Hits:
    """The hits in a course."""

    hits: list[Hit]
    """Best first."""
    index: CourseIndex | None
    """The course index that was searched; None if Chroma answered."""
    degraded: str = ""
    """What is missing from the answer, and why; empty if nothing is."""


class CourseSearch:
    """Searches published courses.

    Args:
        courses: The catalogue.
        vector_store: The collections.
        keyword_store: The keyword indexes.
        embedding: The embedding model.
        reranking: The rerank model.
        indexes: Cache of courses in memory.
        serve_while_reembedding: Whether a course that is not `done` is searched in its last published generation.
    """

    def __init__(
        self,
        *,
        courses: Courses,
        vector_store: VectorStore,
        keyword_store: KeywordStore,
        embedding: EmbeddingService,
        reranking: RerankService,
        indexes: InstanceCache[IndexKey, CourseIndex],
        serve_while_reembedding: bool = False,
    ) -> None:
        self._courses = courses
        self._vector_store = vector_store
        self._keyword_store = keyword_store
        self._embedding = embedding
        self._reranking = reranking
        self._indexes = indexes
        self._serve_while_reembedding = serve_while_reembedding
        self._max_bytes = indexes.get_cache_stats().max_bytes
        self._too_large: dict[str, IndexKey] = {}

    def search(self, course_id: str, request: SearchRequest) -> SearchResponse:
        """The passages of the course that match the request best.

        Raises:
            CourseNotFoundError: No course has this id.
            EmbeddingNotReadyError: The course cannot be searched now; the message says why and what to do.
            EmbeddingServiceUnavailableError, EmbeddingError: A query cannot be embedded.
            OverloadedError: Too many calls wait for the model, or the course is still being loaded.
            InvalidRequestError: The course is too large for a keyword search.
            VectorStoreError: The vector store failed.
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        for _ in range(_ATTEMPTS):
            course = self._courses.published(course_id)
            is_stale = self._require_searchable(course)
            try:
                hits = self._find(course, request)
            except _PublishedMeanwhileError:
                continue
            except CollectionNotFoundError as error:  # also raised if it is deleted during the search
                raise EmbeddingNotReadyError(
                    f"Course {quoted(course_id)} has no collection; trigger its embedding again"
                ) from error
            return search_response(
                hits.hits,
                request,
                index=hits.index,
                generation=course.embedding_generation,
                stale=is_stale,
                degraded=hits.degraded or None,
            )
        raise EmbeddingNotReadyError(f"Course {quoted(course_id)} was published again during every attempt; try again")

    def _require_searchable(self, course: PublishedCourse) -> bool:
        """Check that the course can be searched; true if only its last published generation can (stale).

        Raises:
            EmbeddingNotReadyError: The course cannot be searched.
        """
        if course.embedding_status == EmbeddingStatus.DONE:
            return False
        if self._serve_while_reembedding and course.embedding_generation and course.embedding_fingerprint:
            return True
        message = f"Course {quoted(course.id)} is not embedded: its status is {course.embedding_status}"
        if course.embedding_status == EmbeddingStatus.FAILED and course.embedding_error:
            message += f", because {course.embedding_error}"
        raise EmbeddingNotReadyError(message)

    def _find(self, course: PublishedCourse, request: SearchRequest) -> Hits:
        options = options_of(request)
        by_keyword_only = options.method is Method.KEYWORD
        chroma_can_answer = course.embedding_status == EmbeddingStatus.DONE and not by_keyword_only
        try:
            index = self._index(course, LOAD_PATIENCE_SECONDS if chroma_can_answer else LONG_PATIENCE_SECONDS)
        except StillLoadingError as error:
            if not chroma_can_answer:
                raise OverloadedError(f"Course {quoted(course.id)} is still being loaded; try again") from error
            return self._search_chroma(course, request, options, "the course is being loaded")
        except CourseTooLargeError as error:
            reason = f"course {quoted(course.id)} is larger than CACHE_MAX_MB"
            if by_keyword_only:
                raise InvalidRequestError(f"method: {reason}, so keyword search is not available") from error
            return self._search_chroma(course, request, options, reason)
        if not by_keyword_only:
            self._require_same_model(course.id, index.info)
        queries = [self._query(text, with_vector=not by_keyword_only) for text in request.query]
        hits = search_index(index, queries, options, self._candidates(request))
        return self._rerank_and_limit(Hits(hits, index), request)

    def _index(self, course: PublishedCourse, patience_seconds: float) -> CourseIndex:
        key = IndexKey(course.id, course.embedding_generation, course.embedding_fingerprint)
        if self._too_large.get(course.id) == key:
            raise CourseTooLargeError
        return self._indexes.get(key, lambda: self._load(key, course), patience_seconds)

    def _load(self, key: IndexKey, course: PublishedCourse) -> CourseIndex:
        try:
            content = read_course(self._vector_store.open(course.id), self._max_bytes)
        except CourseTooLargeError:
            self._too_large[course.id] = key
            raise
        published = CourseFingerprint.parse(course.embedding_fingerprint)
        if published is not None and content.digest != published.content:
            now = self._courses.published(course.id)
            if now != course:
                raise _PublishedMeanwhileError
            if now.embedding_status != EmbeddingStatus.DONE:
                raise EmbeddingNotReadyError(
                    f"Course {quoted(course.id)} is {now.embedding_status}, and its last published generation is not "
                    "in memory"
                )
            logger.warning(
                "The collection of course %s differs from what was published: run `course-search doctor --deep`",
                course.id,
            )
        return make_course_index(content, course.id, self._keyword_store)

    def _require_same_model(self, course_id: str, info: CollectionInfo) -> None:
        model = self._embedding.model
        if info.model_signature != model.signature:
            raise EmbeddingNotReadyError(
                f"Course {quoted(course_id)} was embedded with another model or other settings "
                f"({info.model_name or 'unknown'}; this app uses {model.name}); "
                "trigger its embedding again, or start this app with the other model"
            )

    def _query(self, text: str, *, with_vector: bool) -> Query:
        return Query(text, *self._embedding.embed_query(text)) if with_vector else Query(text, None)

    def _search_chroma(
        self, course: PublishedCourse, request: SearchRequest, options: SearchOptions, reason: str
    ) -> Hits:
        """The nearest chunks by Chroma's approximate vector search; keywords are ignored."""
        collection = self._vector_store.open(course.id)
        self._require_same_model(course.id, collection.info)
        threshold = options.thresholds.vector
        best: dict[str, Hit] = {}
        for text in request.query:
            vector = self._embedding.embed_query(text).vector
            for record, cosine in collection.query(vector, self._candidates(request), options.filters):
                hit = Hit(record, cosine)
                if threshold is None or cosine >= threshold:
                    best[record.chunk_id] = max(
                        hit, best.get(record.chunk_id, hit), key=lambda candidate: candidate.score
                    )
        if self._courses.published(course.id) != course:
            raise _PublishedMeanwhileError
        ranked = sorted(best.values(), key=lambda hit: (-hit.score, hit.record.chunk_id))
        degraded = f"{reason}: the vector search is approximate, without keywords, context and explanations"
        return self._rerank_and_limit(Hits(_group_copies(ranked), None, degraded), request)

    def _candidates(self, request: SearchRequest) -> int:
        """Number of hits to find before reranking."""
        return max(request.top_k, self._reranking.top_n) if request.rerank == "model" else request.top_k

    def _rerank_and_limit(self, candidates: Hits, request: SearchRequest) -> Hits:
        """Rerank the hits if requested, apply the score threshold, and keep `top_k`.

        The threshold is not applied to a degraded answer, because its scores have another range.
        """
        hits, degraded = candidates.hits, candidates.degraded
        if request.rerank == "model":  # by the first query; the others only help to find candidates
            reranking = self._reranking.rerank(request.query[0], [hit.record.text for hit in hits])
            if reranking.scores is None:
                degraded = "; ".join(filter(None, [degraded, f"not reranked: {reranking.reason}"]))
            else:
                scored = zip(hits, reranking.scores.tolist(), strict=True)
                hits = sorted((hit._replace(score=score) for hit, score in scored), key=lambda hit: -hit.score)
        threshold = request.thresholds.score
        if threshold is not None and not degraded:
            hits = [hit for hit in hits if hit.score >= threshold]
        return Hits(hits[: request.top_k], candidates.index, degraded)


class _PublishedMeanwhileError(Exception):
    """The course was published again during the search."""


def _group_copies(hits: list[Hit]) -> list[Hit]:
    """One hit per text: the best one, with the records of the others as copies."""
    by_text: dict[str, list[Hit]] = {}
    for hit in hits:
        by_text.setdefault(hit.record.text, []).append(hit)
    return [best._replace(copies=tuple(other.record for other in others)) for best, *others in by_text.values()]
