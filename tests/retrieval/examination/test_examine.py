"""The examination fails a channel that does not work, and no other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from retrieval.examination.examine import CHANNELS, MAX_MISSED, Change, Examination, examine
from retrieval.examination.questions import EmbeddedQuestion, embed_questions, make_questions
from retrieval.search import Method
from retrieval.snapshots.snapshot import CourseSnapshot, snapshot_arrays
from tests.support.word_courses import WordEmbedder, prose

CHUNKS = 60
INFO = CollectionInfo("c", "words", "signature")


class ExaminedCourse:
    """A course with its questions, whose vectors and arrays may be damaged before it is examined."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.records = [Record(f"{number:05}", text, {}, "hash") for number, text in enumerate(texts)]
        embedder = WordEmbedder()
        self.vectors: Vectors = embedder.embed_documents(texts).vectors
        self.questions: list[EmbeddedQuestion] = embed_questions(make_questions(self.snapshot()), embedder)

    def snapshot(self, **arrays: Any) -> CourseSnapshot:
        return CourseSnapshot({**snapshot_arrays(self.records, self.vectors), **arrays}, INFO, 1)

    def examine(self, **arrays: Any) -> Examination:
        return examine(self.snapshot(**arrays), self.questions)


@pytest.fixture
def course() -> ExaminedCourse:
    return ExaminedCourse([prose(number) for number in range(CHUNKS)])


def test_a_healthy_course(course: ExaminedCourse) -> None:
    examination = course.examine()
    assert examination.broken == []
    assert examination.missed == []
    assert all((examination.channels[method].found() or 0.0) >= 0.95 for method in CHANNELS)


@pytest.mark.parametrize("damage", ["shifted", "permuted", "constant", "random"])
def test_vectors_that_are_not_those_of_their_chunks(course: ExaminedCourse, damage: str) -> None:
    random = np.random.default_rng(0)
    if damage == "shifted":
        course.vectors = np.roll(course.vectors, 1, axis=0)
    elif damage == "permuted":
        course.vectors = random.permutation(course.vectors)
    elif damage == "constant":
        course.vectors = np.repeat(course.vectors[:1], CHUNKS, axis=0)
    else:
        noise = random.standard_normal(course.vectors.shape, dtype=np.float32)
        course.vectors = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    assert course.examine().broken == [Method.VECTOR]


def test_a_model_that_gives_every_query_the_same_vector(course: ExaminedCourse) -> None:
    """As with the first token for pooling, which is that of the prompt."""
    course.questions = [each._replace(vector=course.questions[0].vector) for each in course.questions]
    assert course.examine().broken == [Method.VECTOR]


def emptied(course: ExaminedCourse) -> dict[str, Any]:
    """The arrays of a keyword index without postings and places."""
    starts = np.zeros_like(snapshot_arrays(course.records, course.vectors)["postings.starts"])
    nothing = np.empty(0, np.int32)
    return {
        "postings.starts": starts,
        "postings.rows": nothing,
        "postings.weights": np.empty(0, np.float32),
        "places.starts": starts,
        "places.data": nothing,
    }


def test_an_emptied_keyword_index(course: ExaminedCourse) -> None:
    examination = course.examine(**emptied(course))
    assert examination.broken == [Method.KEYWORD]
    assert examination.channels[Method.KEYWORD].found() == 0.0


def test_vectors_are_not_judged_in_a_language_that_the_model_cannot_read(course: ExaminedCourse) -> None:
    course.vectors = np.roll(course.vectors, 1, axis=0)
    course.questions = [each._replace(legibility=0.2) for each in course.questions]
    examination = course.examine()
    assert examination.broken == []
    assert examination.channels[Method.VECTOR].found() is None
    assert examination.channels[Method.HYBRID].found() == 1.0


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 8, 12, 20])
def test_a_small_course_that_works_never_fails(chunks: int) -> None:
    for start in range(5):
        examination = ExaminedCourse([prose(100 * start + number) for number in range(chunks)]).examine()
        assert examination.broken == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!?",
        "Copper",
        "Copper of board number {}",
        "Exercise {}: solve the following equation for the variable.",
        "{}",
    ],
)
@pytest.mark.parametrize("chunks", [1, 7, 60])
def test_repetitive_and_odd_courses_never_fail(text: str, chunks: int) -> None:
    assert ExaminedCourse([text.format(number) for number in range(chunks)]).examine().broken == []


def test_missed_chunks_are_listed(course: ExaminedCourse) -> None:
    """Here neither channel finds anything."""
    course.vectors = np.roll(course.vectors, CHUNKS // 2, axis=0)
    examination = course.examine(**emptied(course))
    assert set(examination.broken) == {Method.VECTOR, Method.KEYWORD}
    assert len(examination.missed) == MAX_MISSED
    assert set(examination.missed) <= set(examination.questions)


def test_a_generation_that_finds_fewer_is_worse(course: ExaminedCourse) -> None:
    before = course.examine().outcome
    assert not any(change.is_worse for change in course.examine().compare(before).values())
    course.vectors[::2] = np.roll(course.vectors, 1, axis=0)[::2]
    changes = course.examine().compare(before)
    assert changes[Method.VECTOR].is_worse
    assert not changes[Method.KEYWORD].is_worse


@pytest.mark.parametrize(("lost", "gained", "is_worse"), [(0, 0, False), (4, 0, False), (5, 0, True), (6, 4, False)])
def test_few_changes_are_chance(lost: int, gained: int, is_worse: bool) -> None:
    assert Change(50, lost, gained).is_worse is is_worse


def test_only_questions_asked_of_both_generations_are_compared() -> None:
    assert Change.between({"a": True, "b": True}, {"b": False, "c": True}) == Change(asked=1, lost=1, gained=0)


def test_the_outcome_contains_no_text(course: ExaminedCourse) -> None:
    outcome = str([list(found.items()) for found in course.examine().outcome.values()])
    assert not any(word in outcome for question in course.questions for word in question.question.words)
