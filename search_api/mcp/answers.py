"""What the tools answer: data for programs, and the same as text for the model.

Passages and titles are untrusted. In the text, each line of a passage begins with `>`, so a passage can neither end
early nor look like another one. All answers are bounded, because they fill the context of a model.
"""

from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, Field

from course_search_client.answers import ContextPassage, PassageAnswer, SearchResult
from models.text import cut_at_word, one_line

MAX_FOUND_CHARACTERS = 3000
"""Of a passage in the results of a search. Most chunks are shorter."""
MAX_OPENED_CHARACTERS = 20_000
"""Of a passage that is opened."""
MAX_TITLE_CHARACTERS = 300


class Answer(BaseModel):
    """The answer of a tool."""

    def text(self) -> str:
        """The answer for the model."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        raise NotImplementedError


class Passage(BaseModel):
    """A passage and where it is."""

    course_id: str
    chunk_id: str = Field(description="Opens the passage with its neighbours, by the tool open_passage.")
    lecture_id: str | None
    label: str = Field(description="Where the passage is, for people: the citation.")
    link: str | None
    text: str
    is_cut: bool = Field(description="The text is only the beginning of the passage.")

    @classmethod
    def of(cls, found: SearchResult | PassageAnswer | ContextPassage, limit: int, **more: object) -> Self:
        """A passage of an answer of the API, with at most `limit` characters of its text."""
        citation, chunk_id = found["citation"], str(found["metadata"]["chunk_id"])
        label = citation["label"] or f"Chunk {chunk_id}"
        return cls.model_validate(
            {
                "course_id": citation["course_id"],
                "chunk_id": chunk_id,
                "lecture_id": citation["lecture_id"],
                "label": cut_at_word(one_line(label), MAX_TITLE_CHARACTERS),
                "link": citation["link"],
                "text": cut_at_word(found["text"], limit),
                "is_cut": len(found["text"]) > limit,
                **more,
            }
        )

    def heading(self) -> str:
        """One line that says where the passage is."""
        return f"{self.label} (course {one_line(self.course_id)}, chunk {one_line(self.chunk_id)})"

    def lines(self) -> Iterator[str]:
        """The link and the text."""
        if self.link:
            yield self.link
        yield from (f"> {line}" for line in self.text.splitlines())
        if self.is_cut:
            yield "(cut)"
        yield ""


class FoundPassage(Passage):
    """A result of a search."""

    relevance: float | None = Field(
        description="Estimated chance that the passage answers the query, 0 to 1; null if it is not known."
    )
    score: float = Field(description="Orders the results of this answer, and means nothing else.")

    def heading(self) -> str:
        """One line that says where the passage is, and how relevant."""
        relevance = "not known" if self.relevance is None else f"{self.relevance:.0%}"
        return f"{super().heading()}, relevance {relevance}"


class FoundPassages(Answer):
    """What a search found."""

    answerable: bool | None = Field(
        description="Whether the courses seem to answer the query; if false, an answer would be made up. null if this "
        "is not known."
    )
    advice: str = Field(description="What to do with the passages.")
    notes: list[str] = Field(description="What the answer lacks: courses that were not searched, for example.")
    unknown_terms: list[str] = Field(description="Words of the query that the courses never use.")
    passages: list[FoundPassage] = Field(description="Best first.")
    next_offset: int | None = Field(description="The offset of the next passages; null if there are no more.")

    def _lines(self) -> Iterator[str]:
        yield self.advice
        yield from (f"Note: {note}" for note in self.notes)
        if self.unknown_terms:
            yield f"Words that the courses never use: {', '.join(map(one_line, self.unknown_terms))}"
        yield ""
        for number, passage in enumerate(self.passages, 1):
            yield f"[{number}] {passage.heading()}"
            yield from passage.lines()
        if self.next_offset is not None:
            yield f"There are more: the next ones have the offset {self.next_offset}."


class OpenedPassage(Answer):
    """A passage with its neighbours."""

    before: list[Passage] = Field(description="The chunks before the passage, in reading order.")
    passage: Passage
    after: list[Passage] = Field(description="The chunks after the passage, in reading order.")
    notes: list[str]

    def _lines(self) -> Iterator[str]:
        yield from (f"Note: {note}" for note in self.notes)
        for passage in self.before:
            yield f"Before it: {passage.heading()}"
            yield from passage.lines()
        yield f"The passage: {self.passage.heading()}"
        yield from self.passage.lines()
        for passage in self.after:
            yield f"After it: {passage.heading()}"
            yield from passage.lines()


class CourseEntry(BaseModel):
    """A course."""

    course_id: str
    status: str = Field(
        description="`done`: it can be searched. `not_started`, `pending`, `running`, `failed`: its newest content is "
        "not searchable yet, but an earlier version may be."
    )
    progress: float = Field(description="Of the embedding, 0 to 1.")


class CourseEntries(Answer):
    """Courses, by id."""

    courses: list[CourseEntry]
    total: int = Field(description="How many courses there are, or match; `courses` contains the first of them.")

    def _lines(self) -> Iterator[str]:
        yield f"{len(self.courses)} of {self.total} courses:" if self.total else "There is no such course."
        for course in self.courses:
            progress = f", {course.progress:.0%}" if course.status == "running" else ""
            yield f"- {one_line(course.course_id)} ({course.status}{progress})"
        if len(self.courses) < self.total:
            yield "To see others, search for a part of their ids, or increase the limit."
