"""Searches several courses at once: one list, whose scores can be compared between the courses.

    all courses → about their highest relevance → those with the highest → a search of each → one list by relevance

The scores of a search depend on the course: its statistics, its language, how its vectors spread. So the list is
ordered by relevance, which each course measures for itself (`retrieval.relevance`). The order within a course stays
that of its own search, which is better: the score of a result is the lowest relevance of the results before it and of
its own. To find out how relevant the best chunk of a course is takes a fraction of a search, and a course is searched
only if it is more relevant than the results that others have. So a hundred courses take a few times as long as one.

A course that cannot be searched never fails the others. Its entry in the answer says why.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from embedding.vector_store.errors import VectorStoreError
from models.courses import PublishedCourse
from models.messages import not_found_message
from retrieval.analysis.query import analyse_query
from retrieval.cache import InstanceCache, StillLoadingError
from retrieval.citations import LinkTemplate
from retrieval.fusion import readable
from retrieval.lecture_order import UpTo
from retrieval.query_terms import QueryTerms, resolve_together
from retrieval.relevance import Calibration
from retrieval.search import (
    Hit,
    Method,
    Query,
    RankedHits,
    Results,
    SearchOptions,
    highest_relevance,
    search_snapshot,
)
from retrieval.selection import Grouping, group, select
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.stack import CourseStack
from search_api.courses.service import Courses
from search_api.embeddings.service import EmbeddedQuery, EmbeddingService
from search_api.http.errors import (
    ApiError,
    CourseNotFoundError,
    EmbeddingNotReadyError,
    InvalidRequestError,
    OverloadedError,
    VectorStoreFailedError,
    check_at_most,
)
from search_api.http.server_timing import phase
from search_api.questions.service import QueryLog
from search_api.search.conversion import groups_of, options_of, result
from search_api.search.long_queries import FittedQuery, query_cuts
from search_api.search.pages import (
    GROUP_FIELDS,
    best_score,
    counted,
    facets_of,
    is_answerable,
    least_score,
    next_offset,
    not_applicable_as_api_error,
)
from search_api.search.schemas import CoursesSearchRequest
from search_api.search.service import ATTEMPTS, CourseSearch, is_stale, not_embedded, query_of, without_catalogue
from search_api.search.snapshots import CourseSnapshots, OpenedSnapshot, PublishedMeanwhileError
from telemetry.traces import span

LEAST_STACKED = 16
"""Number of courses from which on they are screened together (`retrieval.stack`)."""
MOST_STACKED = 64_000_000
"""Vector elements of these courses at most (chunks × dimensions). The copy in memory takes about two bytes for each."""
Published = tuple[str, int, str | None, str | None]
"""A course, its generation, what is in it, and what its cosines mean. A change of the status changes none of these."""
STACKS = 2
"""Number of sets of courses whose arrays are kept together."""
PATIENCE_SECONDS = 2.0
"""How long the search waits for snapshots that have to be built, all courses together."""
_NEARLY = 1e-3
"""Rounding errors of a relevance: the highest one of a course is computed from cosines in float32."""


@dataclass
class _Asked:
    """A course while it is searched."""

    course_id: str
    up_to: UpTo | None
    course: PublishedCourse | None
    may_be_old: bool = False
    """Whether the course may have changed since it was read, because the catalogue does not answer."""
    opened: OpenedSnapshot | None = None
    error: ApiError | None = None
    options: SearchOptions = field(default_factory=SearchOptions)
    calibration: Calibration | None = None
    queries: Sequence[Query] = ()
    by_words: str = ""
    """Why it is searched by words only; empty if it is not."""
    best: float = 0.0
    """The highest relevance of any of its chunks."""

    @property
    def published(self) -> Published:
        """What was published last."""
        assert self.course is not None  # noqa: S101 - a precondition
        row = self.course
        return row.id, row.embedding_generation, row.embedding_fingerprint, row.embedding_calibration

    @property
    def snapshot(self) -> CourseSnapshot:
        """Its snapshot, which is open."""
        assert self.opened is not None  # noqa: S101 - a precondition
        return self.opened.snapshot

    @property
    def is_stackable(self) -> bool:
        """Whether it can be screened together with others: it is searched as a whole, by words and vectors."""
        options, calibration = self.options, self.calibration
        return (
            options.method is Method.HYBRID
            and options.filters is None
            and options.up_to is None
            and calibration is not None
            and self.opened is not None
            and self.opened.is_current
            and len(self.snapshot) > 0
            and all(
                query.words is not None and not query.words.is_vague and calibration.shares_script(query.text)
                for query in self.queries
            )
        )

    @property
    def state(self) -> str:
        """Its state, as `SearchedCourse` documents it."""
        match self.error:
            case None:
                is_behind = self.course and self.opened and is_stale(self.course, self.opened)
                return "stale" if self.may_be_old or self.by_words or is_behind else "searched"
            case CourseNotFoundError():
                return "not_found"
            case EmbeddingNotReadyError() | OverloadedError():
                return "not_ready"
            case _:
                return "failed"

    def search(self, limit: int) -> Results:
        """Search it; the scores of the hits can be compared with those of other courses."""
        found = search_snapshot(self.snapshot, self.queries, self.options, limit, self.calibration)
        if found.best_relevance is not None:  # now that thresholds and what nothing supports are left out
            self.best = found.best_relevance
        ranked = found.ranked
        relevances = ranked.relevances if ranked.relevances is not None else np.zeros(len(ranked))
        scores = np.minimum.accumulate(relevances)

        def hit(rank: int) -> Hit:
            return ranked[rank]._replace(score=float(scores[rank]))

        comparable = RankedHits(ranked.rows, scores, relevances, is_complete=ranked.is_complete, hit=hit)
        return found._replace(ranked=comparable)


class _Found(NamedTuple):
    """A hit of one of the courses."""

    asked: _Asked
    hit: Hit


class _Page(NamedTuple):
    """The hits of an answer."""

    found: list[_Found]
    """Best first."""
    next_offset: int | None = None
    total: int | None = None
    groups: list[dict[str, Any]] | None = None
    facets: dict[str, list[dict[str, Any]]] | None = None


class SeveralCoursesSearch:
    """Searches several courses.

    Args:
        courses: The catalogue.
        snapshots: The snapshots of the courses.
        embedding: The embedding model.
        questions: What is asked.
        search: Searches one course; its rules hold for each of several.
        stacks: Courses that are searched together again and again.
        max_courses: Maximum number of courses in a search.
        link_template: Makes the links of the citations.
    """

    def __init__(
        self,
        *,
        courses: Courses,
        snapshots: CourseSnapshots,
        embedding: EmbeddingService,
        questions: QueryLog,
        search: CourseSearch,
        stacks: InstanceCache[tuple[Published, ...], CourseStack],
        max_courses: int,
        link_template: LinkTemplate | None,
    ) -> None:
        self._courses = courses
        self._snapshots = snapshots
        self._embedding = embedding
        self._questions = questions
        self._search = search
        self._stacks = stacks
        self._max_courses = max_courses
        self._link_template = link_template

    def search(self, request: CoursesSearchRequest) -> dict[str, Any]:
        """The passages of all courses that match the request best, as `CoursesSearchResponse` documents them.

        Raises:
            InvalidRequestError: There are too many courses, or a filter can be applied to none of them.
            EmbeddingServiceUnavailableError, EmbeddingError, OverloadedError: A query cannot be embedded.
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        for _ in range(ATTEMPTS):
            with span("catalogue"):
                asked, outage = self._asked(request)
            try:
                return self._answer(asked, request, outage)
            except (IndexError, KeyError, TypeError, ValueError):
                opened = [each.course for each in asked if each.course is not None and each.opened is not None]
                if not self._snapshots.discard_damaged(*opened):
                    raise
        raise OverloadedError("A snapshot was damaged and is replaced; try again")

    def _answer(self, asked: Sequence[_Asked], request: CoursesSearchRequest, outage: str) -> dict[str, Any]:
        with phase("open"):
            self._open(asked, request)
        opened = [each for each in asked if each.opened is not None]
        parts = self._search.fitted(request)
        embedded = self._add_queries(opened, parts)
        degraded: list[str] = []
        if any(len(each.queries) < len(parts) for each in opened):
            degraded.append(not_embedded(len(embedded), len(parts)))
        with phase("search"):
            self._screen(opened)
        searched = [each for each in opened if each.error is None]
        failures = [each.error for each in opened if isinstance(each.error, InvalidRequestError)]
        if failures and not searched:  # otherwise it is one course that differs from the others
            raise failures[0]
        page = self._page(searched, request, degraded)
        numbers = Counter(found.asked.course_id for found in page.found)
        best = max((each.best for each in searched), default=None)
        unknown = [{term for query in each.queries if query.words for term in query.words.unknown} for each in searched]
        unknown_everywhere = set.intersection(*unknown) if unknown else set()
        answer: dict[str, Any] = {
            "results": [result(found.hit, request, found.asked.snapshot, self._link_template) for found in page.found],
            "courses": [_entry(each, numbers[each.course_id]) for each in asked],
            "answerable": is_answerable(best, request),
            "unknown_terms": sorted(unknown_everywhere),
            "stale": any(each.state == "stale" for each in searched),
            "degraded": "; ".join(degraded) or None,
            "query_cut": query_cuts(parts, embedded),
            "next_offset": page.next_offset,
            "total": page.total,
            "groups": page.groups,
            "facets": page.facets,
        }
        answer |= without_catalogue(outage, answer["degraded"])
        about = _asked_about(searched, page.found)
        if about is not None:
            self._questions.recorded(about.course_id, request.query, answer, offset=request.offset)
        return answer

    def _asked(self, request: CoursesSearchRequest) -> tuple[list[_Asked], str]:
        """The courses that the request names, or all that can be searched; and why their rows may be old."""
        if request.courses is not None:
            check_at_most(self._max_courses, len(request.courses), "courses")
            ids = [each.course_id for each in request.courses]
            known, outage = self._search.unless_away(
                lambda: self._courses.published_together(ids),
                lambda last: _all_of(last, ids),
            )
            asked = [
                _Asked(each.course_id, each.lectures, known.get(each.course_id), bool(outage))
                for each in request.courses
            ]
            return asked, outage
        searchable = []
        rows, outage = self._search.unless_away(self._courses.all_published, lambda last: [*last.values()] or None)
        for course in sorted(rows, key=attrgetter("id")):  # equal scores keep this order
            try:
                self._search.require_searchable(course)
            except EmbeddingNotReadyError:
                continue
            searchable.append(_Asked(course.id, None, course, bool(outage)))
        if len(searchable) > self._max_courses:
            raise InvalidRequestError(
                f"courses: {len(searchable)} courses can be searched, which is more than SEARCH_MAX_COURSES "
                f"({self._max_courses}); name those to search"
            )
        return searchable, outage

    def _open(self, asked: Sequence[_Asked], request: CoursesSearchRequest) -> None:
        """Open the snapshots, and decide how each course is searched."""
        deadline, options = time.monotonic() + PATIENCE_SECONDS, options_of(request)
        if options.method is not Method.KEYWORD:
            _ = self._embedding.model  # raises its error: without a model, no course can be searched
        for each in asked:
            try:
                if each.course is None:
                    raise CourseNotFoundError(not_found_message(each.course_id))
                self._search.require_searchable(each.course)
                opened = self._snapshots.open_together(each.course, max(0.0, deadline - time.monotonic()))
                each.by_words = self._search.other_model(each.course, opened.snapshot, options)
            except PublishedMeanwhileError:
                each.error = OverloadedError("The course was published again; try again")
            except VectorStoreError as error:
                each.error = VectorStoreFailedError(str(error))
            except ApiError as error:
                each.error = error
            else:
                signature = opened.snapshot.info.model_signature
                each.opened = opened
                each.calibration = Calibration.parse(each.course.embedding_calibration, signature)
                if each.calibration is None and not each.by_words and options.method is not Method.KEYWORD:
                    each.by_words = "found by words only, because its relevance is not measured; embed it again"
                each.options = options.by_keyword() if each.by_words else options
                if each.up_to is not None:
                    each.options = replace(each.options, up_to=each.up_to)

    def _add_queries(self, opened: Sequence[_Asked], parts: Sequence[FittedQuery]) -> Mapping[str, EmbeddedQuery]:
        """Give each course the queries in its terms; the vectors of the queries that were embedded, by text."""
        courses = [each.snapshot.bm25 for each in opened]
        words = {part.text: resolve_together(analyse_query(part.text), courses) for part in parts}
        embedded: Mapping[str, EmbeddedQuery] = {}
        if any(each.options.method is not Method.KEYWORD for each in opened):
            read = {text: _as_read(text, terms) for text, terms in words.items()}
            with phase("embed"):
                vectors = self._embedding.embedded_queries([*read.values()])
            embedded = {text: vectors[as_read] for text, as_read in read.items() if as_read in vectors}
        for number, each in enumerate(opened):
            by_words = each.options.method is Method.KEYWORD
            each.queries = [
                query_of(part.text, None if by_words else embedded[part.text], words[part.text][number])
                for part in parts
                if by_words or part.text in embedded
            ]
        return embedded

    def _screen(self, opened: Sequence[_Asked]) -> None:
        """Find out how relevant the best chunk of each course is."""
        screened = self._screen_together([each for each in opened if each.is_stackable])
        for each in opened:
            if each.course_id in screened:
                continue
            try:
                with not_applicable_as_api_error():
                    each.best = highest_relevance(each.snapshot, each.queries, each.options, each.calibration)
            except InvalidRequestError as error:
                each.error = error

    def _screen_together(self, courses: Sequence[_Asked]) -> Set[str]:
        """The same for many courses in a fraction of the time; the ids of those that could be screened so.

        Their arrays are put together in the background, when they are searched together for the first time.
        """
        size = sum(each.snapshot.cosines.size for each in courses)
        if len(courses) < LEAST_STACKED or size > MOST_STACKED:
            return frozenset()
        calibrations = [each.calibration for each in courses if each.calibration]

        def build() -> CourseStack:
            return CourseStack([each.snapshot for each in courses], calibrations)

        try:
            stack = self._stacks.get(tuple(each.published for each in courses), build, timeout_seconds=0)
        except StillLoadingError:
            return frozenset()
        for number, query in enumerate(courses[0].queries):
            words = [each.queries[number].words for each in courses]
            assert query.vector is not None  # noqa: S101 - they are searched by vectors
            known = [each for each in words if each is not None]
            best = stack.highest_relevances(query.text, query.vector, known, readable(query.legibility))
            for each, relevance in zip(courses, best.tolist(), strict=True):
                each.best = max(each.best, relevance)
        return frozenset(each.course_id for each in courses)

    def _page(self, searched: Sequence[_Asked], request: CoursesSearchRequest, degraded: list[str]) -> _Page:
        """What the answer shows, reranked for the first query if the request asks for that."""
        counts = _Page([])
        with phase("search"):
            if request.group_by or request.facets:
                counts = _counted(searched, request)
                if request.group_by:
                    return counts
            end, window = request.offset + request.top_k, self._search.window(request)
            found = _best(searched, max(end + 1, window), request)
        if window and found:
            passages = [(each.asked.snapshot.texts[each.hit.row], each.hit.score) for each in found]
            order = self._search.rerank(passages, window, request.query[0], degraded)
            found = [found[place]._replace(hit=found[place].hit._replace(score=score)) for place, score in order]
        if found:
            least = least_score(request, found[0].hit.score, is_degraded=bool(degraded))
            found = [each for each in found if each.hit.score >= least]
        shown = found[request.offset : end]
        after = next_offset(request, len(shown)) if shown and len(found) > end else None
        return counts._replace(found=shown, next_offset=after)


def _all_of(last: Mapping[str, PublishedCourse], ids: Sequence[str]) -> dict[str, PublishedCourse] | None:
    """The rows with these ids; None if one is missing. Other threads change the rows meanwhile."""
    found = {id_: course for id_ in ids if (course := last.get(id_)) is not None}
    return found if found.keys() == set(ids) else None


def _asked_about(searched: Sequence[_Asked], found: Sequence[_Found]) -> _Asked | None:
    """The course under which a question is recorded: that of the best result, else the only or the most relevant one.

    None if nothing was found, and no course is more relevant than another.
    """
    if found:
        return found[0].asked
    nearest = max(searched, key=lambda asked: asked.best, default=None)
    return nearest if nearest is not None and (nearest.best or len(searched) == 1) else None


def _best(searched: Sequence[_Asked], number: int, request: CoursesSearchRequest) -> list[_Found]:
    """The best hits of all courses, best first.

    A course is searched only if it may have one of them: its hits are at most as relevant as its best chunk.
    """
    limit = number if request.per_course is None else min(number, request.per_course)
    found: list[_Found] = []
    for each in sorted(searched, key=lambda asked: -asked.best):
        least = found[number - 1].hit.score if len(found) >= number else request.min_relevance or 0.0
        if each.best < least - _NEARLY:
            break
        selection = select(each.snapshot, each.search, limit, request.min_relevance)
        found += [_Found(each, hit) for hit in selection.hits]
        found.sort(key=lambda one: -one.hit.score)
    return found


def _counted(searched: Sequence[_Asked], request: CoursesSearchRequest) -> _Page:
    """The groups of a request with `group_by`, and the counts.

    Raises:
        InvalidRequestError: No course has the field of a facet.
    """
    found = [(each, each.search(max(1, len(each.snapshot)))) for each in searched]
    best = max((best_score(results_.ranked, request) for _, results_ in found), default=0.0)
    counts = [counted(each.snapshot, results_.ranked, request, best) for each, results_ in found]
    groups: list[tuple[float, _Asked, dict[str, Any], list[Hit]]] = []
    by, end = request.group_by, request.offset + request.top_k
    if by:
        grouping = Grouping(GROUP_FIELDS[by], 0, end + 1, request.group_size)
        for (each, results_), of_course in zip(found, counts, strict=True):
            hits, chosen, _ = group(each.snapshot, results_.ranked, of_course.ranks, grouping)
            for listed, one in zip(groups_of(chosen, by, each.snapshot), chosen, strict=True):
                of_group = [hits[place] for place in one.places]
                groups.append((of_group[0].score, each, listed, of_group))
    page = _Page([], None, sum(len(each.ranks) for each in counts), None, facets_of(counts, request))
    if not by:
        return page
    groups.sort(key=lambda one: -one[0])
    shown = groups[request.offset : end]
    in_order = sorted(
        ((_Found(asked, hit), number) for number, (_, asked, _, hits) in enumerate(shown) for hit in hits),
        key=lambda one: -one[0].hit.score,
    )
    for number, (_, _, entry, _) in enumerate(shown):
        entry["results"] = [place for place, (_, of_group) in enumerate(in_order) if of_group == number]
    after = next_offset(request, len(shown)) if len(groups) > end else None
    return page._replace(
        found=[one for one, _ in in_order], next_offset=after, groups=[entry for _, _, entry, _ in shown]
    )


def _entry(asked: _Asked, number: int) -> dict[str, Any]:
    """A course in the answer, as `SearchedCourse` documents it."""
    error = asked.error
    return {
        "course_id": asked.course_id,
        "state": asked.state,
        "generation": asked.opened.generation if asked.opened and error is None else None,
        "results": number,
        "best_relevance": asked.best if error is None else None,
        "degraded": asked.by_words or None,
        "error": None if error is None else {"code": error.code, "message": error.message},
    }


def _as_read(text: str, words: Sequence[QueryTerms]) -> str:
    """The text for the embedding model: corrected as most courses do that correct it."""
    corrected = Counter(terms.corrected(text) for terms in words if terms.corrections)
    return corrected.most_common(1)[0][0] if corrected else text
