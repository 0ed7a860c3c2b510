"""A search: queries → the passages of the course that answer them.

Cheap questions come first: whether the course is ready costs a row; the model is asked only when there is a course to
search. The course is searched in memory (`retrieval.course_index`), where it stays for a while under its generation: a
new one is another key, so the first search after a publication sees it. A course that takes long to load, or is too
large to be kept, is answered by Chroma meanwhile. What an answer had to do without, it says.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from embedding.records import Record
from embedding.vector_store import CollectionInfo, CollectionNotFoundError, VectorStore
from models.catalogue import PublishedCourse
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from retrieval import search as retrieval
from retrieval.cache import InstanceCache, StillLoadingError
from retrieval.course_index import CourseIndex, CourseTooLargeError, make_course_index, read_course
from retrieval.highlights import matches
from retrieval.keyword_store import KeywordStore
from retrieval.search import Explanation, Method, Options, Query
from search_api.courses import Courses
from search_api.embedding_service import EmbeddingService
from search_api.errors import EmbeddingNotReadyError, InvalidRequestError, OverloadedError, quoted
from search_api.rerank_service import RerankService

logger = logging.getLogger(__name__)

LOAD_PATIENCE_SECONDS = 1.0
"""How long a search waits for a course to be loaded before it asks Chroma instead."""
LONG_PATIENCE_SECONDS = 20.0
"""The same where Chroma cannot help: for words, and for what was published before."""
_ATTEMPTS = 3
"""How often a course may be published anew while a search loads it."""


class IndexKey(NamedTuple):
    """What a loaded course is kept under."""

    course_id: str
    generation: int
    fingerprint: str | None


@dataclass(frozen=True)
class Plan:
    """What a caller wants to know, and how."""

    queries: Sequence[str]
    top_k: int = 5
    options: Options = field(default_factory=Options)
    rerank: bool = False
    """Whether a model reads query and passage together at the end."""
    context: int = 0
    """How many chunks before and after a hit, in its section, come with it."""


@dataclass(frozen=True)
class Found:
    """A passage of the answer."""

    record: Record
    score: float
    matches: Sequence[tuple[int, int]] = ()
    copies: Sequence[Record] = ()
    before: Sequence[Record] = ()
    after: Sequence[Record] = ()
    explanation: Explanation | None = None
    """None where Chroma found it."""


@dataclass(frozen=True)
class Answer:
    """The passages, best first, and how they were found."""

    found: Sequence[Found]
    generation: int
    is_stale: bool
    """The course is being embedded anew, and this is what was published last."""
    degraded: str | None
    """What the answer had to do without, and why."""


class CourseSearch:
    """Searches courses that are ready, and says why the others are not.

    Args:
        courses: The catalogue.
        vector_store: Where collections are.
        keyword_store: Where keyword indexes are.
        embedding: The model.
        reranking: The model that reads query and passage together.
        indexes: Courses in memory.
        serve_while_reembedding: Whether what was published last is searched while the course is not `done`.
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
        self._too_large: set[IndexKey] = set()

    def search(self, course_id: str, plan: Plan) -> Answer:
        """The passages that answer the queries best.

        Raises:
            CourseNotFoundError: there is no such course.
            EmbeddingNotReadyError: it cannot be searched now; the message says why and what to do.
            EmbeddingServiceUnavailableError, EmbeddingError: a query cannot be turned into a vector.
            OverloadedError: too many calls wait for the model.
            InvalidRequestError: the course is too large to be searched for words.
            VectorStoreError: the vector store failed.
            DatabaseUnavailableError: the course database failed.
        """
        for _ in range(_ATTEMPTS):
            course = self._courses.published(course_id)
            is_stale = self._require_servable(course)
            try:
                found, degraded = self._find(course, plan)
            except _ChangedMeanwhileError:
                continue
            except CollectionNotFoundError as error:  # also when it is deleted between opening and asking it
                raise EmbeddingNotReadyError(
                    f"Course {quoted(course_id)} has no collection; trigger its embedding again"
                ) from error
            return Answer(found, course.embedding_generation, is_stale, degraded or None)
        raise EmbeddingNotReadyError(f"Course {quoted(course_id)} is being embedded anew all the time; try again")

    def _require_servable(self, course: PublishedCourse) -> bool:
        """Whether it is served though it is not `done`."""
        if course.embedding_status == EmbeddingStatus.DONE:
            return False
        if self._serve_while_reembedding and course.embedding_generation and course.embedding_fingerprint:
            return True
        message = f"Course {quoted(course.id)} is not embedded: its state is {course.embedding_status}"
        if course.embedding_status == EmbeddingStatus.FAILED and course.embedding_error:
            message += f", because {course.embedding_error}"
        raise EmbeddingNotReadyError(message)

    def _find(self, course: PublishedCourse, plan: Plan) -> tuple[list[Found], str]:
        """The passages, and what had to be done without."""
        wants_words_alone = plan.options.method is Method.KEYWORD
        chroma_can_help = course.embedding_status == EmbeddingStatus.DONE and not wants_words_alone
        try:
            index = self._index(course, LOAD_PATIENCE_SECONDS if chroma_can_help else LONG_PATIENCE_SECONDS)
        except StillLoadingError as error:
            if not chroma_can_help:
                raise OverloadedError(f"Course {quoted(course.id)} is still being loaded; try again") from error
            return self._ask_chroma(course, plan, "the course is being loaded")
        except CourseTooLargeError as error:
            reason = f"course {quoted(course.id)} is larger than CACHE_MAX_MB"
            if wants_words_alone:
                raise InvalidRequestError(f"method: {reason}, so it can be searched by vector alone") from error
            return self._ask_chroma(course, plan, reason)
        if not wants_words_alone:
            self._require_same_model(course.id, index.info)
        queries = [self._query(text, with_vector=not wants_words_alone) for text in plan.queries]
        hits = retrieval.search(index, queries, plan.options, self._candidates(plan))
        return self._finish(plan, [_found(index, hit, plan.context) for hit in hits])

    def _index(self, course: PublishedCourse, patience_seconds: float) -> CourseIndex:
        key = IndexKey(course.id, course.embedding_generation, course.embedding_fingerprint)
        if key in self._too_large:
            raise CourseTooLargeError
        return self._indexes.get(key, lambda: self._load(key, course), patience_seconds)

    def _load(self, key: IndexKey, course: PublishedCourse) -> CourseIndex:
        try:
            content = read_course(self._vector_store.open(course.id), self._max_bytes)
        except CourseTooLargeError:
            self._too_large.add(key)
            raise
        published = CourseFingerprint.parse(course.embedding_fingerprint)
        if published is not None and content.digest != published.content:
            now = self._courses.published(course.id)
            if now != course:
                raise _ChangedMeanwhileError
            if now.embedding_status != EmbeddingStatus.DONE:
                raise EmbeddingNotReadyError(
                    f"Course {quoted(course.id)} is {now.embedding_status}, and what was published last is not in "
                    "memory"
                )
            logger.warning("The collection of course %s does not hold what was published: see doctor", course.id)
        return make_course_index(content, course.id, self._keyword_store)

    def _require_same_model(self, course_id: str, info: CollectionInfo) -> None:
        model = self._embedding.model
        if info.model_signature != model.signature:
            raise EmbeddingNotReadyError(
                f"Course {quoted(course_id)} was embedded with another model or other settings "
                f"({info.model_name or 'unknown'}; here {model.name} is loaded); "
                "trigger its embedding again, or start this app with the model it was made with"
            )

    def _query(self, text: str, *, with_vector: bool) -> Query:
        return Query(text, *self._embedding.embed_query(text)) if with_vector else Query(text, None)

    def _ask_chroma(self, course: PublishedCourse, plan: Plan, why: str) -> tuple[list[Found], str]:
        """The nearest passages by Chroma's approximate search; words are not looked at."""
        collection = self._vector_store.open(course.id)
        self._require_same_model(course.id, collection.info)
        least = plan.options.thresholds.vector
        found: dict[str, Found] = {}
        for text in plan.queries:
            vector = self._embedding.embed_query(text).vector
            for hit in collection.query(vector, self._candidates(plan), plan.options.filters):
                passage = Found(Record(hit.chunk_id, hit.text, hit.metadata, ""), hit.score)
                if least is None or hit.score >= least:
                    found[hit.chunk_id] = max(passage, found.get(hit.chunk_id, passage), key=lambda one: one.score)
        if self._courses.published(course.id) != course:
            raise _ChangedMeanwhileError
        ranked = sorted(found.values(), key=lambda passage: (-passage.score, passage.record.chunk_id))
        return self._finish(
            plan,
            _without_copies(ranked),
            f"{why}: its nearest vectors are approximate, and there are no words, context and explanations",
        )

    def _candidates(self, plan: Plan) -> int:
        return max(plan.top_k, self._reranking.top_n) if plan.rerank else plan.top_k

    def _finish(self, plan: Plan, found: list[Found], degraded: str = "") -> tuple[list[Found], str]:
        """Rerank where that is wanted; then the threshold of the score, and no more than was asked for.

        The threshold is meant for scores as they should be: those of a degraded answer are not held against it.
        """
        if plan.rerank:  # the first query is the question, further ones only help to find
            reranking = self._reranking.rerank(plan.queries[0], [passage.record.text for passage in found])
            if reranking.scores is None:
                degraded = "; ".join(filter(None, [degraded, f"not reranked: {reranking.reason}"]))
            else:
                scored = zip(found, reranking.scores.tolist(), strict=True)
                found = sorted((replace(passage, score=score) for passage, score in scored), key=lambda one: -one.score)
        least = plan.options.thresholds.score
        if least is not None and not degraded:
            found = [passage for passage in found if passage.score >= least]
        return found[: plan.top_k], degraded


class _ChangedMeanwhileError(Exception):
    """The course was published anew while it was being loaded."""


def _without_copies(found: list[Found]) -> list[Found]:
    """Each text once, the best with the records of the others."""
    by_text: dict[str, list[Found]] = {}
    for passage in found:
        by_text.setdefault(passage.record.text, []).append(passage)
    return [replace(best, copies=[other.record for other in others]) for best, *others in by_text.values()]


def _found(index: CourseIndex, hit: retrieval.Hit, context: int) -> Found:
    record = index.records[hit.row]
    before, after = index.neighbours(hit.row, context) if context else ([], [])
    return Found(
        record,
        hit.score,
        matches(record.text, hit.explanation.terms) if hit.explanation.bm25 else (),
        copies=[index.records[row] for row in hit.copies],
        before=[index.records[row] for row in before],
        after=[index.records[row] for row in after],
        explanation=hit.explanation,
    )
