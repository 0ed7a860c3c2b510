"""What students asked about a course: the most frequent questions, and groups of those that it does not answer.

Questions that differ only in case, spaces and punctuation at the ends are one question. Questions that ask the same in
other words are one group: by their vectors, if an embedding model is at hand, and by their words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from embedding.vectors import Vectors
from models.database import Engine, transaction
from models.questions import (
    MAX_DISTINCT,
    CourseCounts,
    asked_texts,
    chunk_text,
    course_counts,
    judged_chunks,
    judged_texts,
)
from retrieval.analysis.normalization import CJK, normalize
from retrieval.analysis.query import analyse_query
from retrieval.relevance import foreign_questions

Embed = Callable[[Sequence[str]], Vectors]
"""Texts → their unit vectors (texts, dimensions), all of them embedded as queries."""

MAX_GROUPED = 200
"""Number of different questions that are grouped, the most frequent first."""
MAX_PASSAGES = 20
SAME_WORDS = 0.6
"""Share of the weight of their words from which on two questions ask the same."""
SAME_MEANING = 0.5
"""Where the cosine of two questions that ask the same lies at least, between that of unrelated questions (0) and 1."""
UNRELATED = 0.95
"""Share of the pairs of questions from many fields that have a lower cosine than unrelated questions are said to have.
Models differ in their cosines, so each is asked."""

_ENDS = regex.compile(r"^[\s\p{P}]+|[\s\p{P}]+$")
_CJK = regex.compile(f"[{CJK}]")

Similarities = NDArray[np.float64]


class AskedQuestion(NamedTuple):
    """A question, in its most frequent spelling."""

    question: str
    asked: int
    found_nothing: int
    helpful: int
    not_helpful: int
    best_relevance: float | None
    unknown_terms: Sequence[str]


class Gap(NamedTuple):
    """Questions that ask the same, and that the course does not answer."""

    asked: int
    questions: Sequence[AskedQuestion]
    """The most frequent first."""


class JudgedPassage(NamedTuple):
    """A passage on which there was feedback."""

    chunk_id: str
    helpful: int
    not_helpful: int
    text: str | None
    """None if the course no longer has the passage."""


@dataclass(frozen=True)
class QuestionReport:
    """What was asked about a course."""

    counts: CourseCounts
    most_asked: Sequence[AskedQuestion]
    gaps: Sequence[Gap]
    """Groups of questions that found nothing relevant, or whose answer did not help; the most frequent first."""
    ungrouped: int
    """Number of such questions that are rarer than those in `gaps`."""
    passages: Sequence[JudgedPassage]
    """The least helpful first."""
    is_complete: bool
    """Whether all different questions were read."""


def question_report(engine: Engine, course_id: str, since: datetime, embed: Embed | None) -> QuestionReport:
    """What was asked about a course since then.

    Args:
        engine: The catalogue.
        course_id: The course.
        since: Beginning of the time.
        embed: Embeds questions to find those that ask the same; None to compare only their words.

    Raises:
        EmbeddingError: The questions cannot be embedded.
        DatabaseUnavailableError: The catalogue is unavailable.
    """
    with transaction(engine) as session:
        counts = next(iter(course_counts(session, since, course_id)), CourseCounts(course_id))
        asked = asked_texts(session, course_id, since)
        judged = judged_texts(session, course_id, since)
        chunks = list(judged_chunks(session, course_id, since).items())[:MAX_PASSAGES]
        passages = [JudgedPassage(key, *judgement, chunk_text(session, course_id, key)) for key, judgement in chunks]
    questions: dict[str, AskedQuestion] = {}
    for spelling in asked:
        key = _key(spelling.text)
        first = questions.get(key)
        question = AskedQuestion(
            spelling.text, spelling.asked, spelling.found_nothing, 0, 0, spelling.best_relevance, spelling.unknown_terms
        )
        questions[key] = question if first is None else _together(first, question)
    for text, judgement in judged.items():
        key = _key(text)
        unasked = AskedQuestion(text, 0, 0, *judgement, None, ())
        questions[key] = _together(questions[key], unasked) if key in questions else unasked
    most_asked = sorted(questions.values(), key=lambda question: -question.asked)
    unanswered = [question for question in most_asked if question.found_nothing or question.not_helpful]
    unanswered.sort(key=lambda question: -max(question.found_nothing, question.not_helpful))
    grouped = unanswered[:MAX_GROUPED]
    return QuestionReport(
        counts,
        [question for question in most_asked if question.asked],
        _gaps(grouped, embed) if grouped else [],
        len(unanswered) - len(grouped),
        passages,
        len(asked) < MAX_DISTINCT,
    )


def _key(text: str) -> str:
    normalized = " ".join(normalize(text)[0].casefold().split())
    return _ENDS.sub("", normalized) or normalized


def _together(first: AskedQuestion, second: AskedQuestion) -> AskedQuestion:
    known = [relevance for relevance in (first.best_relevance, second.best_relevance) if relevance is not None]
    return first._replace(
        asked=first.asked + second.asked,
        found_nothing=first.found_nothing + second.found_nothing,
        helpful=first.helpful + second.helpful,
        not_helpful=first.not_helpful + second.not_helpful,
        best_relevance=max(known, default=None),
        unknown_terms=list(dict.fromkeys([*first.unknown_terms, *second.unknown_terms])),
    )


def _gaps(questions: Sequence[AskedQuestion], embed: Embed | None) -> list[Gap]:
    texts = [question.question for question in questions]
    similarities = _similarity_of_words(texts) / SAME_WORDS
    if embed is not None:
        similarities = np.maximum(similarities, _similarity_of_meaning(texts, embed) / SAME_MEANING)
    gaps = [
        Gap(sum(questions[index].asked for index in group), [questions[index] for index in group])
        for group in groups(similarities, 1.0)
    ]
    return sorted(gaps, key=lambda gap: -gap.asked)


def groups(similarities: Similarities, least: float) -> list[list[int]]:
    """Group by average linkage: the two groups with the highest mean similarity are joined, while it is at least this.

    Args:
        similarities: Symmetric (things, things).
        least: Lowest mean similarity of two groups that are joined.

    Returns:
        The indices of each group, in ascending order.
    """
    means = similarities.copy()
    np.fill_diagonal(means, -np.inf)
    members = [[index] for index in range(len(means))]
    while len(members) > 1:
        first, second = sorted(divmod(int(means.argmax()), len(means)))
        if means[first, second] < least:
            break
        sizes = len(members[first]), len(members[second])
        means[first] = means[:, first] = (means[first] * sizes[0] + means[second] * sizes[1]) / sum(sizes)
        means[first, first] = means[second] = means[:, second] = -np.inf
        members[first] = sorted(members[first] + members[second])
        members[second] = []
    return [group for group in members if group]


def _similarity_of_words(texts: Sequence[str]) -> Similarities:
    """Twice the weight of the words in common, divided by the weight of all: 0.0 to 1.0, (texts, texts)."""
    weights = [{word.term: word.weight for word in analyse_query(text).words} for text in texts]
    terms = {term: column for column, term in enumerate({term for words in weights for term in words})}
    matrix = np.zeros((len(texts), len(terms)))
    for row, words in enumerate(weights):
        for term, weight in words.items():
            matrix[row, terms[term]] = weight
    common = np.array([np.minimum(row, matrix).sum(axis=1) for row in matrix])
    totals = matrix.sum(axis=1)
    similarities: Similarities = 2 * common / np.maximum(totals[:, None] + totals, 1e-9)
    return similarities


def _similarity_of_meaning(texts: Sequence[str], embed: Embed) -> Similarities:
    """Where the cosine lies between that of unrelated questions (0.0) and 1.0, (texts, texts)."""
    foreign = foreign_questions()
    vectors = embed([*texts, *foreign])
    own, others = vectors[: len(texts)], vectors[len(texts) :]
    is_cjk, foreign_is_cjk = ([_CJK.search(text) is not None for text in each] for each in (texts, foreign))
    chance = [_cosine_by_chance(others[np.array(foreign_is_cjk) == script]) for script in (False, True)]
    noise = np.array([chance[script] for script in is_cjk])
    noise = np.maximum(noise[:, None], noise)
    similarities: Similarities = (own @ own.T - noise) / np.maximum(1 - noise, 1e-3)
    return similarities


def _cosine_by_chance(unrelated: Vectors) -> float:
    cosines = (unrelated @ unrelated.T)[np.triu_indices(len(unrelated), 1)]
    return float(np.quantile(cosines, UNRELATED))
