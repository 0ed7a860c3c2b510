"""The tools: what agents may send, and what is called with it. Each is a call of the API, made for a model to use.

The docstrings and descriptions of this module are what the model reads.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from course_search_client import AsyncCourseSearch, CourseSearchError
from course_search_client.answers import CourseOutcome, CoursesSearchAnswer, SearchAnswer
from course_search_client.options import CourseScope
from models.text import one_line
from search_api.http.request_body import RequestBody, Text
from search_api.mcp.answers import (
    MAX_FOUND_CHARACTERS,
    MAX_OPENED_CHARACTERS,
    Answer,
    CourseEntries,
    CourseEntry,
    FoundPassage,
    FoundPassages,
    OpenedPassage,
    Passage,
)

MAX_NOTES = 10
"""Courses with a note of their own in one answer."""

NOT_ANSWERABLE = (
    "Nothing in the courses seems to answer the question. Say so; do not make up an answer. Other words for the same "
    "question may find more. The passages below are only the nearest ones."
)
ANSWERABLE = "Answer from these passages, and cite those that you use."
RELEVANCE_UNKNOWN = "Read whether the passages answer the question; how relevant they are is not known."
STALE = "The newest content of the course is not published yet; this is from its last published version."
QUERY_CUT = "The query was too long and was searched by its beginning only."
NO_COURSE = "There is no course that can be searched."
NOTHING_FOUND = "No passage was found. Say so, or search with other words or without filters; do not make up an answer."


def _decoded(value: object) -> object:
    """A list or object that was sent as text, as some clients do."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _sendable(value: Any) -> Any:
    """The value, if it is JSON: a client may send `NaN`, which Python reads."""
    try:
        json.dumps(value, allow_nan=False)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _as_list(value: object) -> object:
    decoded = _decoded(value)
    return decoded if isinstance(decoded, list) else [decoded]


def _as_text(value: object) -> object:
    return str(value) if type(value) is int else value


Id = Annotated[Text, BeforeValidator(_as_text)]
"""An id, which a model may send as a number if it looks like one."""
Ids = Annotated[list[Id], BeforeValidator(_as_list), Field(min_length=1)]


class ListCoursesArguments(RequestBody):
    """Arguments of `list_courses`."""

    search: str | None = Field(None, description="Only courses whose id contains this text, in any case.")
    limit: int = Field(20, ge=1, le=100, description="Most courses to list.")


class SearchArguments(RequestBody):
    """Arguments of `search_courses`."""

    query: str | list[str] = Field(
        description="The question as a whole, in any language, or keywords; or up to 8 phrasings of one question."
    )
    courses: Ids | None = Field(None, description="Ids of the courses to search. Without it, all are searched.")
    top_k: int = Field(5, ge=1, description="Most passages to return, usually at most 20.")
    filters: Annotated[dict[str, Any], BeforeValidator(_decoded), AfterValidator(_sendable)] | None = Field(
        None,
        description='Only passages with these metadata: {"lecture_id": "7"}, {"source_type": ["pdf", "slides"]}, '
        '{"page": {"gte": 10, "lt": 20}}, {"not": {"section_id": "3"}}. Operators: eq, in, not, gt, gte, lt, lte, '
        "exists; and, or, not combine filters.",
    )
    up_to_lecture: Id | None = Field(
        None,
        description="Only passages up to and with the lecture of this id: what a student has already reached. Name one "
        "course with it.",
    )
    lecture_order: Ids | None = Field(
        None,
        description="Ids of the lectures from first to last. Only needed with up_to_lecture, if the search says that "
        "the order is not known.",
    )
    min_relevance: float | None = Field(
        None, ge=0, le=1, description="Only passages of at least this relevance, 0 to 1; 0.25 is a good value."
    )
    per_course: int | None = Field(None, ge=1, description="Most passages of one course.")
    offset: int = Field(0, ge=0, description="Passages to skip: the next_offset of the answer before.")


class OpenPassageArguments(RequestBody):
    """Arguments of `open_passage`."""

    course_id: Id = Field(description="The id of the course, as in the result of a search.")
    chunk_id: Id = Field(description="The id of the chunk, as in the result of a search.")
    context: int = Field(1, ge=0, le=5, description="Number of chunks before and after it.")


async def list_courses(client: AsyncCourseSearch, arguments: ListCoursesArguments) -> CourseEntries:
    """List the courses, with their ids and whether they can be searched."""
    part = (arguments.search or "").casefold()
    courses = [course for course in await client.courses() if part in course["course_id"].casefold()]
    entries = [
        CourseEntry(
            course_id=course["course_id"], status=course["embedding_status"], progress=course["embedding_progress"]
        )
        for course in courses[: arguments.limit]
    ]
    return CourseEntries(courses=entries, total=len(courses))


async def search_courses(client: AsyncCourseSearch, arguments: SearchArguments) -> FoundPassages:
    """Search the teaching material of one course, several, or all, by meaning and by words.

    Returns the passages that match best, with a citation for each, and says whether they seem to answer the question.
    """
    search = _search_one if len(arguments.courses or ()) == 1 else _search_several
    answer, notes = await search(client, arguments.courses or (), arguments)
    if answer["degraded"]:
        notes.append(answer["degraded"])
    if answer["query_cut"]:
        notes.append(QUERY_CUT)
    return FoundPassages(
        answerable=answer["answerable"],
        advice=_advice(answer),
        notes=notes,
        unknown_terms=answer["unknown_terms"],
        passages=[
            FoundPassage.of(result, MAX_FOUND_CHARACTERS, relevance=result["relevance"], score=result["score"])
            for result in answer["results"]
        ],
        next_offset=answer["next_offset"],
    )


async def open_passage(client: AsyncCourseSearch, arguments: OpenPassageArguments) -> OpenedPassage:
    """Read a passage that a search found in full, with the text before and after it."""
    answer = await client.passage(arguments.course_id, arguments.chunk_id, context=arguments.context)
    before, after = answer["context"]["before"], answer["context"]["after"]
    return OpenedPassage(
        before=[Passage.of(passage, MAX_FOUND_CHARACTERS) for passage in before],
        passage=Passage.of(answer, MAX_OPENED_CHARACTERS),
        after=[Passage.of(passage, MAX_FOUND_CHARACTERS) for passage in after],
        notes=[STALE] if answer["stale"] else [],
    )


async def _search_one(
    client: AsyncCourseSearch, courses: Sequence[str], arguments: SearchArguments
) -> tuple[SearchAnswer, list[str]]:
    """Search one course, for which a search of its own is faster and finds more; the answer, and notes about it."""
    answer = await client.search(
        courses[0],
        arguments.query,
        top_k=min(arguments.top_k, arguments.per_course or arguments.top_k),
        filters=arguments.filters,
        up_to=_up_to(arguments),
        lecture_order=arguments.lecture_order,
        min_relevance=arguments.min_relevance,
        offset=arguments.offset,
    )
    return answer, [STALE] if answer["stale"] else []


async def _search_several(
    client: AsyncCourseSearch, courses: Sequence[str], arguments: SearchArguments
) -> tuple[CoursesSearchAnswer, list[str]]:
    """Search several courses; the answer, and notes about courses that were not searched as usual."""
    up_to, order = _up_to(arguments), arguments.lecture_order
    if up_to and not courses:
        raise CourseSearchError("invalid_request", "courses: name the course that up_to_lecture belongs to")
    scopes = [CourseScope(course_id=each, up_to=up_to, lecture_order=order) for each in courses]
    answer = await client.search_courses(
        arguments.query,
        scopes or None,
        top_k=arguments.top_k,
        filters=arguments.filters,
        min_relevance=arguments.min_relevance,
        offset=arguments.offset,
        per_course=arguments.per_course,
    )
    outcomes = answer["courses"]
    errors = [outcome["error"] for outcome in outcomes if outcome["error"]]
    if errors and len(errors) == len(outcomes):
        messages = dict.fromkeys(error["message"] for error in errors[:MAX_NOTES])
        raise CourseSearchError(errors[0]["code"], "; ".join(messages))
    notes = [note for outcome in outcomes if (note := _note(outcome))] or ([] if outcomes else [NO_COURSE])
    more = len(notes) - MAX_NOTES
    return answer, notes[:MAX_NOTES] + ([f"{more} more courses have such a note."] if more > 0 else [])


def _up_to(arguments: SearchArguments) -> Mapping[str, str] | None:
    return {"lecture_id": arguments.up_to_lecture} if arguments.up_to_lecture else None


def _note(outcome: CourseOutcome) -> str:
    """What is not as usual with a course; empty if nothing is."""
    course = f"Course {one_line(outcome['course_id'])}"
    if outcome["error"]:
        return f"{course} was not searched: {outcome['error']['message']}"
    if outcome["degraded"]:
        return f"{course}: {outcome['degraded']}"
    return f"{course}: {STALE}" if outcome["state"] == "stale" else ""


def _advice(answer: SearchAnswer | CoursesSearchAnswer) -> str:
    if not answer["results"]:
        return NOTHING_FOUND
    if answer["answerable"] is None:
        return RELEVANCE_UNKNOWN
    return ANSWERABLE if answer["answerable"] else NOT_ANSWERABLE


ArgumentsT = TypeVar("ArgumentsT", bound=RequestBody)


@dataclass(frozen=True)
class Tool(Generic[ArgumentsT]):
    """A tool; its description is the docstring of the function."""

    title: str
    arguments: type[ArgumentsT]
    answer: type[Answer]
    call: Callable[[AsyncCourseSearch, ArgumentsT], Awaitable[Answer]]

    @property
    def description(self) -> str:
        """What the model reads about the tool."""
        return inspect.getdoc(self.call) or ""


TOOLS: Mapping[str, Tool[Any]] = {
    "list_courses": Tool("List courses", ListCoursesArguments, CourseEntries, list_courses),
    "search_courses": Tool("Search courses", SearchArguments, FoundPassages, search_courses),
    "open_passage": Tool("Open a passage", OpenPassageArguments, OpenedPassage, open_passage),
}
"""All tools, by name."""
