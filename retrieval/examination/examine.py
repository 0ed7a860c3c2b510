"""Asks a course its own questions, and judges by the answers whether each channel works.

A question is *found* by a channel if one of the first `LIMIT` results answers it. Whether a channel *works* is judged
by the questions that contain half of a passage, because they are easy: the words are those of the passage, and the
vector of a passage resembles that of its half under any model that reads the language. A channel is called broken only
if fewer than half of these are found, and their first results are right so rarely that a working channel does that
once in a thousand examinations. Chance is measured rather than assumed: how often the first result of *another*
question answers this one. So nothing can be proved in a course of a few chunks, or of chunks that all say the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from retrieval.analysis import terms
from retrieval.examination.questions import EmbeddedQuestion, Kind, Question
from retrieval.fusion import LEGIBLE
from retrieval.search import Method, SearchOptions, search_snapshot
from retrieval.snapshots.snapshot import CourseSnapshot

LIMIT: Final = 5
"""Results per question."""
MAX_MISSED: Final = 20
CHANNELS: Final = (Method.VECTOR, Method.KEYWORD, Method.HYBRID)
EASY: Final = frozenset({Kind.SENTENCE, Kind.TYPO})
"""The kinds that show whether a channel works."""
FLOOR: Final = 0.25
"""Share of the easy questions that a working channel answers with its first result, beyond chance. Measured on five
courses with MiniLM: .30 to .83 (.27 with another pooling); with vectors of other chunks .00 to .08."""
IMPROBABLE: Final = 1e-3
"""Probability below which a working channel would answer so few."""
WORSE: Final = 0.05
"""Probability below which an unchanged channel would lose so many more questions than it gains."""


class Answer(NamedTuple):
    """How one channel answered one question."""

    found: bool
    """Whether one of the results answers it."""
    first: bool
    """Whether the first result answers it."""
    chance: float
    """Share of the other questions whose first result answers this one."""


@dataclass(frozen=True)
class ChannelResult:
    """How one channel answered the questions that it can be asked.

    The vector channel cannot be asked in a language that the model does not read, nor the keyword channel without a
    word.
    """

    answers: Mapping[Question, Answer]

    def found(self, kind: Kind | None = None) -> float | None:
        """Share of the questions (of a kind) that are found, 0.0 to 1.0; None without such questions."""
        answers = [answer for question, answer in self.answers.items() if kind in {None, question.kind}]
        return sum(answer.found for answer in answers) / len(answers) if answers else None

    @property
    def easy(self) -> Sequence[Answer]:
        """The answers to the questions that show whether the channel works."""
        return [answer for question, answer in self.answers.items() if question.kind in EASY]

    @property
    def is_broken(self) -> bool:
        """Whether there is strong evidence that the channel does not work."""
        easy = self.easy
        if 2 * sum(answer.found for answer in easy) >= len(easy):
            return False
        working = [answer.chance + FLOOR * (1 - answer.chance) for answer in easy]
        return _probability_at_most(sum(answer.first for answer in easy), working) < IMPROBABLE


@dataclass(frozen=True)
class Examination:
    """How a course answered the questions that were made from it."""

    questions: Sequence[Question]
    channels: Mapping[Method, ChannelResult]

    @property
    def broken(self) -> list[Method]:
        """The channels that do not work; a hybrid search that fails because of the others is not listed."""
        broken = [method for method, result in self.channels.items() if result.is_broken]
        return [method for method in broken if method is not Method.HYBRID] or broken

    @property
    def missed(self) -> list[Question]:
        """At most `MAX_MISSED` of the questions that a hybrid search does not find."""
        answers = self.channels[Method.HYBRID].answers.items()
        return [question for question, answer in answers if not answer.found][:MAX_MISSED]

    @property
    def outcome(self) -> dict[str, dict[str, bool]]:
        """What was found, to compare the next generation with: channel → `Question.key` → found. Contains no text."""
        return {
            method.value: {question.key: answer.found for question, answer in result.answers.items()}
            for method, result in self.channels.items()
        }

    def compare(self, last: Mapping[str, Mapping[str, bool]]) -> dict[Method, "Change"]:
        """The changes of each channel since the `outcome` of the last generation; only of questions asked of both."""
        return {
            method: Change.between(last.get(method.value, {}), now)
            for method, now in ((method, self.outcome[method.value]) for method in self.channels)
        }


class Change(NamedTuple):
    """What became of the questions that were asked of the last generation, too."""

    asked: int
    lost: int
    """Found before, but not now."""
    gained: int

    @classmethod
    def between(cls, last: Mapping[str, bool], now: Mapping[str, bool]) -> "Change":
        """The change from one outcome of a channel to the next."""
        both = [(last[key], now[key]) for key in now if key in last]
        return cls(len(both), sum(old and not new for old, new in both), sum(new and not old for old, new in both))

    @property
    def is_worse(self) -> bool:
        """Whether more was lost than chance explains (sign test)."""
        changed = self.lost + self.gained
        return self.lost > self.gained and _probability_at_most(self.gained, [0.5] * changed) < WORSE


def examine(
    snapshot: CourseSnapshot, questions: Sequence[EmbeddedQuestion], on_question: Callable[[], object] = lambda: None
) -> Examination:
    """Ask a course every question by each channel.

    Args:
        snapshot: The course.
        questions: Questions made from this snapshot.
        on_question: Called after each question, because the searches in a large course take a while.
    """
    results: dict[Method, dict[Question, list[int]]] = {method: {} for method in CHANNELS}
    for embedded in questions:
        for method in CHANNELS:
            if _can_be_asked(embedded, method):
                hits = search_snapshot(snapshot, [embedded.query], SearchOptions(method), LIMIT).hits
                results[method][embedded.question] = [hit.row for hit in hits]
        on_question()
    known: dict[tuple[Question, int], bool] = {}

    def is_right(question: Question, row: int) -> bool:
        if (question, row) not in known:
            known[question, row] = question.is_answered_by(snapshot, row)
        return known[question, row]

    def answer(question: Question, results: Mapping[Question, list[int]]) -> Answer:
        own, others = results[question], [rows for other, rows in results.items() if other is not question]
        by_chance = sum(bool(rows) and is_right(question, rows[0]) for rows in others)
        return Answer(
            any(is_right(question, row) for row in own),
            bool(own) and is_right(question, own[0]),
            by_chance / max(1, len(others)),
        )

    channels = {
        method: ChannelResult({question: answer(question, of_channel) for question in of_channel})
        for method, of_channel in results.items()
    }
    return Examination([embedded.question for embedded in questions], channels)


def _can_be_asked(question: EmbeddedQuestion, method: Method) -> bool:
    if method is Method.VECTOR:
        return question.legibility >= LEGIBLE
    return method is Method.HYBRID or bool(terms(question.question.text))


def _probability_at_most(count: int, probabilities: Sequence[float]) -> float:
    """Probability of at most `count` successes in independent trials with these probabilities."""
    distribution = np.ones(1)
    for probability in probabilities:
        distribution = np.convolve(distribution, (1 - probability, probability))
    return float(distribution[: count + 1].sum())
