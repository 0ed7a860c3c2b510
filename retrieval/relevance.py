"""Relevance: the chance that a passage answers a query, comparable between queries, courses and models.

A cosine alone says little: one model gives .2 to a question that has nothing to do with a course, another one .85. So
each publication measures what its scores mean (`calibrate`): the best cosine of questions from other fields, which the
course does not answer (*noise*), and of questions made from its own passages (*signal*). The evidence for a passage is

* where its cosine lies between noise (0) and signal (1);
* its keyword share: BM25 divided by the highest score possible for the query;
* the best BM25 score of any passage, in rarest words: one word in common may be chance, several together are not. A
  word that the query repeats counts once; of a long query the share counts, because any passage has some of its words;
* the *unknown share* of the query: how much of the weight of its words belongs to words that the course never uses.

How far the words of a passage are behind the best ones counts as well: a query that the course answers is not answered
by all of its passages. A logistic function combines them. Its coefficients were fitted to the questions of several
courses, asked of their own and of each other's course, with two models of different families (docs/adr/0027).
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedding.vectors import Vectors
from retrieval.analysis.normalization import CJK
from retrieval.snapshots.snapshot import CourseSnapshot

Scores = NDArray[np.floating[Any]]

VERSION: Final = 1
"""To be incremented whenever a calibration means something else. One of another version is not used."""
MIN_RELEVANCE: Final = 0.25
"""A course answers a query if a passage has at least this relevance, unless the request sets another minimum."""
OWN_FIELD: Final = 0.9
"""Share of the foreign questions that are noise; the others, with the best cosines, may be of the course's field."""
SAME_SCRIPT: Final = 0.1
"""Least share of the course's own questions for its texts to count as written in a script."""
LEAST_DISTANCE: Final = 0.02
"""Smallest difference between signal and noise that is not measured by chance."""
BEHIND: Final = 1.0
"""By how much the log odds fall from the passage with the most words of the query to one without any."""
_NO_SHARE: Final = 1e-9
LONG_QUERY: Final = 12.0
"""A longer query, in rarest words, counts as one of this length."""
_CJK = re.compile(f"[{CJK}]")


class Calibration(NamedTuple):
    """What cosines mean in one generation of a course."""

    noise: float
    """Mean of the best cosines of questions that the course does not answer, in English."""
    cjk_noise: float
    """The same in Chinese: the cosines of one language are higher than those of another."""
    signal: float
    """Median of the best cosines of the course's own questions."""
    cjk_share: float = 0.0
    """Share of these questions that are in Chinese, Japanese or Korean."""

    def as_text(self, model_signature: str) -> str:
        """The text of the column."""
        values = {name: round(value, 6) for name, value in self._asdict().items()}
        return json.dumps({"version": VERSION, "model": model_signature, **values})

    @classmethod
    @lru_cache(1024)
    def parse(cls, text: str | None, model_signature: str) -> Self | None:
        """Read the text of the column; None if it is empty, of another version or model, or not a calibration."""
        try:
            values = json.loads(text or "null")
            version, model, *fields = (values[name] for name in ("version", "model", *cls._fields))
            return cls(*map(float, fields)) if (version, model) == (VERSION, model_signature) else None
        except (LookupError, TypeError, ValueError):
            return None

    def noise_of(self, query: str) -> float:
        """The noise for a query in its script."""
        return self.cjk_noise if _CJK.search(query) else self.noise

    def shares_script(self, query: str) -> bool:
        """Whether the course has texts in the script of a query. Otherwise its words tell nothing about the course."""
        share = self.cjk_share if _CJK.search(query) else 1 - self.cjk_share
        return share >= SAME_SCRIPT

    def between(self, query: str, cosines: Scores) -> Scores:
        """Where cosines lie between noise (0.0) and signal (1.0)."""
        noise, distance = self.noise_and_distance(query)
        return (cosines - noise) / distance

    def noise_and_distance(self, query: str) -> tuple[float, float]:
        """The noise for a query, and the difference between signal and noise."""
        noise = self.noise_of(query)
        return noise, max(self.signal - noise, LEAST_DISTANCE)


@cache
def foreign_questions() -> tuple[str, ...]:
    """Questions from many fields, in English and Chinese."""
    lines = Path(__file__).with_name("foreign_questions.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def calibrate(
    snapshot: CourseSnapshot,
    own: Mapping[str, Vectors],
    foreign: Vectors,
    on_question: Callable[[], object] = lambda: None,
) -> Calibration | None:
    """Measure what cosines mean in a course.

    Args:
        snapshot: The course.
        own: Questions made from it, with their unit vectors (dimensions,).
        foreign: Unit vectors (questions, dimensions) of `foreign_questions`.
        on_question: Called after each question, because a large course takes seconds.

    Returns:
        None if the course has no questions of its own.
    """

    def best(vector: Vectors) -> float:
        highest = float(snapshot.cosines.product(vector).max())
        on_question()
        return highest

    if not own or not len(snapshot):
        return None
    noise: dict[bool, list[float]] = {False: [], True: []}
    for question, vector in zip(foreign_questions(), foreign, strict=True):
        noise[bool(_CJK.search(question))].append(best(vector))
    english, cjk = (float(np.mean(sorted(cosines)[: int(len(cosines) * OWN_FIELD)])) for cosines in noise.values())
    cjk_share = sum(bool(_CJK.search(question)) for question in own) / len(own)
    return Calibration(english, cjk, float(np.median([best(vector) for vector in own.values()])), cjk_share)


class _Coefficients(NamedTuple):
    """Of the logistic function."""

    intercept: float
    cosine: float = 0.0
    keyword_share: float = 0.0
    best: float = 0.0
    unknown: float = 0.0


BY_BOTH = _Coefficients(-4.0, cosine=1.9, keyword_share=4.2, best=3.0, unknown=-3.2)
BY_KEYWORD = _Coefficients(-3.7, keyword_share=5.2, best=3.7, unknown=-3.7)
BY_VECTOR = _Coefficients(-2.5, cosine=3.7)


class KeywordEvidence(NamedTuple):
    """How the words of a query match."""

    shares: Scores
    """BM25 of each passage as a share of the highest score possible, 0.0 to 1.0."""
    best: float | Scores
    """The highest share of any passage of the course."""
    length: float | Scores
    """The highest score possible for the query, without repetitions, divided by that of a word that only one passage
    contains."""
    unknown: float | Scores
    """Unknown share of the query, 0.0 to 1.0."""

    def logit(self, coefficients: _Coefficients) -> Scores:
        """The part of the log odds that is due to the words."""
        best = self.best * np.minimum(self.length, LONG_QUERY)
        of_query = coefficients.best * np.log1p(best) + coefficients.unknown * self.unknown
        behind = BEHIND * (1 - self.shares / np.maximum(self.best, _NO_SHARE))
        return np.asarray(coefficients.intercept + of_query + coefficients.keyword_share * self.shares - behind)


def relevance(cosines: Scores | None, words: KeywordEvidence | None, readable: float = 1.0) -> Scores:
    """The chance that each passage answers, 0.0 to 1.0.

    Args:
        cosines: Where the cosines lie between noise and signal (`Calibration.between`); None in a keyword search.
        words: None in a vector search. One of the two is given.
        readable: How far the model can be trusted to read the query, 0.0 to 1.0.
    """
    bounded = None if cosines is None else np.minimum(np.maximum(cosines, -1.0), 1.5)
    logit: Scores
    if words is None:
        logit = BY_VECTOR.intercept + BY_VECTOR.cosine * np.asarray(bounded)
    elif bounded is None:
        logit = words.logit(BY_KEYWORD)
    else:
        logit = words.logit(BY_BOTH) + BY_BOTH.cosine * bounded
        if readable < 1:
            logit = readable * logit + (1 - readable) * words.logit(BY_KEYWORD)
    return np.asarray(1 / (1 + np.exp(-logit)))
