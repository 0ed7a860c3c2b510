"""Searches a course: queries → the passages that match best.

Cheap checks come first: a query is embedded only after the course row shows that the course can be searched. The course
is searched in its snapshot (`retrieval.snapshots`), which `CourseSnapshots` opens. While the course is not `done`, the
last published generation answers, and the answer is `stale`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from models.courses import PublishedCourse
from models.tables import EmbeddingStatus
from models.text import quoted
from retrieval.citations import LinkTemplate
from retrieval.diversity import CANDIDATES
from retrieval.query_terms import QueryTerms
from retrieval.relevance import Calibration
from retrieval.search import Method, Query, Results, SearchOptions, search_snapshot, terms_of
from retrieval.selection import select
from retrieval.snapshots.snapshot import CourseSnapshot
from search_api.courses.service import Courses
from search_api.embeddings.service import EmbeddedQuery, EmbeddingService
from search_api.http.errors import ChunkNotFoundError, EmbeddingNotReadyError
from search_api.http.server_timing import phase
from search_api.questions.service import QueryLog
from search_api.reranking.service import RerankService
from search_api.search.conversion import chunk_response, options_of, result
from search_api.search.long_queries import FittedQuery, fitted, query_cuts
from search_api.search.pages import (
    Page,
    best_score,
    counted,
    grouped,
    is_answerable,
    not_applicable_as_api_error,
    page_of,
)
from search_api.search.schemas import SearchRequest
from search_api.search.snapshots import CourseSnapshots, OpenedSnapshot, PublishedMeanwhileError
from telemetry.traces import span

SHORT_SEARCH = 8_000_000
"""Up to this number of vector elements (queries × chunks × dimensions), a search takes less time than a change of
threads costs the other requests."""
SHORT_QUERY = 200
"""Up to this number of characters, all phrasings together, so does the analysis of a query. The words of a long
one may take 0.1 s, because near terms are sought for each that the course does not have."""
_Rows = TypeVar("_Rows")
ATTEMPTS = 3
"""Attempts of a search whose course is published while its snapshot is opened."""


class CourseSearch:
    """Searches published courses.

    Args:
        courses: The catalogue.
        snapshots: The snapshots of the courses.
        embedding: The embedding model.
        reranking: The rerank model.
        questions: Records what is asked, if that is switched on.
        max_query_chars: The part of a query that is searched, in characters.
        serve_while_reembedding: Whether a course that is not `done` is searched in its last published generation.
        max_stale_seconds: For how long at most.
        link_template: Makes the links of the citations.
    """

    def __init__(
        self,
        *,
        courses: Courses,
        snapshots: CourseSnapshots,
        embedding: EmbeddingService,
        reranking: RerankService,
        questions: QueryLog,
        max_query_chars: int,
        serve_while_reembedding: bool,
        max_stale_seconds: float,
        link_template: LinkTemplate | None,
    ) -> None:
        self._courses = courses
        self._snapshots = snapshots
        self._embedding = embedding
        self._reranking = reranking
        self._questions = questions
        self._max_query_chars = max_query_chars
        self._serve_while_reembedding = serve_while_reembedding
        self._max_stale_seconds = max_stale_seconds
        self._link_template = link_template

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

        def answer(course: PublishedCourse, opened: OpenedSnapshot, outage: str) -> dict[str, Any]:
            parts = self._parts(request, opened)
            answer = self._answer(course, opened, request, parts, self._embedding.embedded_queries)
            return {**answer, **without_catalogue(outage, answer["degraded"])}

        return self._questions.recorded(
            course_id, request.query, self._in_snapshot(course_id, answer), offset=request.offset
        )

    def chunk(self, course_id: str, chunk_id: str, context: int) -> dict[str, Any]:
        """A chunk of the generation that a search of the course would use, and its neighbours.

        Raises:
            ChunkNotFoundError: The generation has no chunk with this id.
            CourseNotFoundError, EmbeddingNotReadyError, OverloadedError, VectorStoreError, DatabaseUnavailableError: As
                for a search.
        """

        def answer(course: PublishedCourse, opened: OpenedSnapshot, outage: str) -> dict[str, Any]:
            row = opened.snapshot.row_of(chunk_id)
            if row is None:
                raise ChunkNotFoundError(
                    f"Generation {opened.generation} of course {quoted(course_id)} has no chunk {quoted(chunk_id)}; "
                    "search again"
                )
            return chunk_response(
                row,
                context,
                opened.snapshot,
                generation=opened.generation,
                stale=is_stale(course, opened) or bool(outage),
                link_template=self._link_template,
            )

        return self._in_snapshot(course_id, answer)

    def _in_snapshot(
        self, course_id: str, answer: Callable[[PublishedCourse, OpenedSnapshot, str], dict[str, Any]]
    ) -> dict[str, Any]:
        """What is answered from the snapshot of a course, which is opened again if it is replaced or damaged.

        The answer is given why the row of the course may be old; empty if it is current.
        """
        for _ in range(ATTEMPTS):
            with span("catalogue"):
                course, outage = self.unless_away(
                    lambda: self._courses.published(course_id), lambda known: known.get(course_id)
                )
            self.require_searchable(course)
            try:
                with phase("open"):
                    opened = self._snapshots.open(course)
            except PublishedMeanwhileError:
                continue
            try:
                return answer(course, opened, outage)
            except (IndexError, KeyError, TypeError, ValueError):
                if not self._snapshots.discard_damaged(course):
                    raise
        raise EmbeddingNotReadyError(f"Course {quoted(course_id)} was published again during every attempt; try again")

    def unless_away(
        self, read: Callable[[], _Rows], last: Callable[[Mapping[str, PublishedCourse]], _Rows | None]
    ) -> tuple[_Rows, str]:
        """What is read from the catalogue, or was read last (see `Courses.unless_away`); the latter not in strict mode.

        Raises:
            DatabaseUnavailableError: The catalogue is unavailable, and the rows are not known.
        """
        return self._courses.unless_away(read, last) if self._serve_while_reembedding else (read(), "")

    def search_at_once(self, course_id: str, request: SearchRequest) -> dict[str, Any] | None:
        """The same answer, if it takes a fraction of a millisecond and nothing in it has to wait; otherwise None.

        Raises:
            EmbeddingNotReadyError: The course cannot be searched now.
        """
        course = self._courses.published_at_once(course_id)
        scores_many = request.rerank == "model" or request.group_by or request.facets or request.offset
        if course is None or scores_many or sum(map(len, request.query)) > SHORT_QUERY:
            return None
        opened = self._snapshots.opened(course)
        if opened is None or len(request.query) * opened.snapshot.cosines.size > SHORT_SEARCH:
            return None
        self.require_searchable(course)
        try:
            parts = self._parts(request, opened)
            embedded: dict[str, EmbeddedQuery] = {}
            if request.method != "keyword":
                for part, words in parts:
                    text = words.corrected(part.text)
                    known = self._embedding.known_query(text)
                    if known is None:
                        return None
                    embedded[text] = known
            answer = self._answer(course, opened, request, parts, lambda _: embedded)
        except (IndexError, KeyError, TypeError, ValueError):
            return None  # if the snapshot is damaged, `search` replaces it
        return self._questions.recorded(course.id, request.query, answer, offset=request.offset)

    def fitted(self, request: SearchRequest) -> list[FittedQuery]:
        """What is searched of each phrasing."""
        return [fitted(query, self._max_query_chars) for query in request.query]

    def _parts(self, request: SearchRequest, opened: OpenedSnapshot) -> list[tuple[FittedQuery, QueryTerms]]:
        """The same, and the terms of the course for it."""
        parts = self.fitted(request)
        return [(part, terms_of(part.text, opened.snapshot)) for part in parts]

    def require_searchable(self, course: PublishedCourse) -> None:
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
        embed: Callable[[Sequence[str]], Mapping[str, EmbeddedQuery]],
    ) -> dict[str, Any]:
        snapshot, options, degraded = opened.snapshot, options_of(request), []
        stale = is_stale(course, opened)
        other_model = self.other_model(course, snapshot, options)
        if other_model:
            options, stale = options.by_keyword(), True
            degraded.append(other_model)
        by_vector = options.method is not Method.KEYWORD
        corrected = {part.text: words.corrected(part.text) for part, words in parts} if by_vector else {}
        with phase("embed"):
            vectors = embed([*corrected.values()]) if by_vector else {}
        embedded = {text: vectors[read] for text, read in corrected.items() if read in vectors}
        if len(embedded) < len(corrected):
            degraded.append(not_embedded(len(embedded), len(corrected)))
        queries = [
            query_of(part.text, embedded.get(part.text), words)
            for part, words in parts
            if not by_vector or part.text in embedded
        ]
        calibration = Calibration.parse(course.embedding_calibration, snapshot.info.model_signature)
        search = partial(search_snapshot, snapshot, queries, options, calibration=calibration)
        with not_applicable_as_api_error():
            page = self._page(snapshot, search, request, queries[0].text, degraded)
        return {
            "results": [result(hit, request, snapshot, self._link_template) for hit in page.hits],
            "answerable": is_answerable(page.found.best_relevance, request),
            "unknown_terms": page.found.unknown_terms,
            "generation": opened.generation,
            "stale": stale,
            "degraded": "; ".join(degraded) or None,
            "query_cut": query_cuts([part for part, _ in parts], embedded),
            "next_offset": page.next_offset,
            "total": page.total,
            "groups": page.groups,
            "facets": page.facets,
        }

    def other_model(self, course: PublishedCourse, snapshot: CourseSnapshot, options: SearchOptions) -> str:
        """Why the course can be searched by words only; empty if its vectors are of the model of this app.

        Raises:
            EmbeddingNotReadyError: Then it must not be searched.
        """
        if options.method is Method.KEYWORD or snapshot.info.model_signature == self._embedding.model.signature:
            return ""
        reason = (
            f"{quoted(course.id)} was embedded with another model or other settings "
            f"({snapshot.info.model_name or 'unknown'}; this app uses {self._embedding.model.name})"
        )
        if options.method is Method.VECTOR or not self._serve_while_reembedding:
            raise EmbeddingNotReadyError(
                f"Course {reason}; trigger its embedding again, or start this app with the other model"
            )
        return f"found by words only, because course {reason}"

    def _page(
        self,
        snapshot: CourseSnapshot,
        search: Callable[[int], Results],
        request: SearchRequest,
        query: str,
        degraded: list[str],
    ) -> Page:
        """What the answer shows of the hits, reranked for the query if the request asks for that."""
        end, by_model = request.offset + request.top_k, request.rerank == "model"
        window = self.window(request)
        most = end * CANDIDATES if request.diversity and not by_model else end
        counts = None
        with phase("search"):
            if request.group_by or request.facets:
                found = search(max(1, len(snapshot)))
                counts = counted(snapshot, found.ranked, request, best_score(found.ranked, request))
                if request.group_by:
                    return grouped(snapshot, found, counts, request)
            selection = select(snapshot, search, max(window, most), request.min_relevance, offset=request.offset)
        if by_model:
            passages = [(snapshot.texts[hit.row], hit.score) for hit in selection.hits]
            order = self.rerank(passages, window, query, degraded)
            hits = [selection.hits[place]._replace(score=score) for place, score in order]
            selection = selection._replace(hits=hits)
        return page_of(snapshot, selection, request, counts, is_degraded=bool(degraded))

    def window(self, request: SearchRequest) -> int:
        """How many hits are reranked."""
        return max(request.top_k, self._reranking.top_n) if request.rerank == "model" else 0

    def rerank(
        self, passages: Sequence[tuple[str, float]], window: int, query: str, degraded: list[str]
    ) -> list[tuple[int, float]]:
        """Order passages by the rerank model, the first `window` of them.

        If only the first of these could be scored, they stay before the others, whose scores continue below theirs.

        Args:
            passages: Their texts and scores, best first.
            window: How many of them are reranked.
            query: The query.
            degraded: What is missing is appended.

        Returns:
            The places of the passages in the new order, and their new scores.
        """
        texts = [text for text, _ in passages[:window]]
        with phase("rerank"):
            reranking = self._reranking.rerank(query, texts)
        count = len(reranking.scores)
        if count < len(texts):
            part = f"only the first {count} of {len(texts)} passages were reranked" if count else "not reranked"
            degraded.append(f"{part}: {reranking.reason}")
        scores = [score for _, score in passages]
        if not count:
            return list(enumerate(scores))
        order = sorted(enumerate(reranking.scores), key=lambda scored: -scored[1])
        return [*order, *enumerate(_scaled(scores[count:], order[-1][1]), count)]


def is_stale(course: PublishedCourse, opened: OpenedSnapshot) -> bool:
    """Whether something newer than the snapshot exists, or is being made."""
    return course.embedding_status != EmbeddingStatus.DONE or not opened.is_current


def without_catalogue(outage: str, degraded: str | None) -> dict[str, Any]:
    """What changes in an answer if the catalogue did not answer; nothing if it did."""
    if not outage:
        return {}
    reason = f"the catalogue is unavailable, so this may not be the newest generation: {outage}"
    return {"stale": True, "degraded": f"{degraded}; {reason}" if degraded else reason}


def not_embedded(embedded: int, queries: int) -> str:
    """What `degraded` says if the model refused some of the phrasings."""
    return f"{queries - embedded} of {queries} queries could not be embedded"


def query_of(text: str, embedded: EmbeddedQuery | None, words: QueryTerms) -> Query:
    """A phrasing of the query; without a vector if it is searched by its words."""
    if embedded is None:
        return Query(text, None, words=words)
    return Query(text, embedded.vector, embedded.legibility, words)


def _scaled(scores: Sequence[float], highest: float) -> list[float]:
    """Scores in the same proportion, but the first is `highest`; negative ones become 0."""
    best = max(scores[0], 0.0) if scores else 0.0
    return [highest * max(score, 0.0) / best if best else 0.0 for score in scores]
