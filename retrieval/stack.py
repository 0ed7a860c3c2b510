"""The words and vectors of many courses side by side, to find out at once how relevant the best chunk of each is.

For a course of a few hundred chunks, a call of NumPy takes longer than its work. So the arrays of all courses are put
together: the rows and places of a course follow those of the course before. A query is then scored by as many calls as
in a single course. The scores are the same as those of the courses (`retrieval.bm25`), whose statistics stay their own.

A stack is a copy in memory. It holds vectors in 8 bits, so its cosines are upper bounds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding.vectors import Vectors
from retrieval.analysis.query import Pair
from retrieval.bm25 import K1, MAX_PLACES, NEAR, PAIRS
from retrieval.cosines import StackedCosines
from retrieval.query_terms import QueryTerms
from retrieval.relevance import Calibration, KeywordEvidence, Scores, relevance
from retrieval.snapshots.file import text_hash
from retrieval.snapshots.snapshot import CourseSnapshot

_APART = 10_000
"""Places between two courses, so that no pair is found across them."""

Numbers = NDArray[np.int64]


class CourseStack:
    """Several courses. Threads may share it.

    Args:
        courses: Their snapshots, each with at least one chunk.
        calibrations: What cosines mean in each course.
    """

    def __init__(self, courses: Sequence[CourseSnapshot], calibrations: Sequence[Calibration]) -> None:
        self._sizes = np.array([len(course) for course in courses])
        self._first_rows = _starts(self._sizes)
        self._calibrations = calibrations
        self._words = _StackedWords(courses, self._sizes)
        self._cosines = StackedCosines([course.cosines for course in courses])

    def highest_relevances(
        self, query: str, vector: Vectors, words: Sequence[QueryTerms], readable: float
    ) -> NDArray[np.float32]:
        """About the highest relevance of any chunk of each course, (courses,): never too low.

        Args:
            query: The query.
            vector: Its unit vector (dimensions,).
            words: The query in the terms of each course. It has more than words of grammar, and is in a script in which
                the courses have texts.
            readable: How far the model can be trusted to read the query, 0.0 to 1.0.
        """
        bm25, highest, length = self._words.scores(words)
        highest = np.where(highest > 0, highest, 1.0)
        best = np.maximum.reduceat(bm25, self._first_rows) / highest
        noise, distance = np.array([each.noise_and_distance(query) for each in self._calibrations]).T
        between = (self._cosines.upper_bounds(vector) - self._of_rows(noise)) / self._of_rows(distance)
        unknown = np.array([1 - each.known_share for each in words])
        evidence = KeywordEvidence(
            bm25 / self._of_rows(highest), self._of_rows(best), self._of_rows(length), self._of_rows(unknown)
        )
        highest_of_each: NDArray[np.float32] = np.maximum.reduceat(
            relevance(between, evidence, readable), self._first_rows
        )
        return highest_of_each

    def _of_rows(self, of_courses: NDArray[Any]) -> NDArray[np.float32]:
        """The value of the course of each row."""
        return np.repeat(of_courses.astype(np.float32), self._sizes)


class _StackedWords:
    """The postings and places of several courses."""

    def __init__(self, courses: Sequence[CourseSnapshot], sizes: Numbers) -> None:
        words = [course.bm25 for course in courses]
        self._sizes, self._rarest = sizes, np.array([each.rarest for each in words])
        arrays = [each.arrays for each in words]
        hashes = [each.vocabulary.hashes for each in words]
        self._first_terms = _starts([len(each) for each in hashes])
        joined = np.concatenate(hashes)
        self._terms = np.argsort(joined, kind="stable")  # of equal hashes, the course that comes first
        self._hashes = joined[self._terms]
        self._rows = _shifted([each["postings.rows"] for each in arrays], _starts(sizes))
        self._weights = np.concatenate([each["postings.weights"] for each in arrays])
        self._starts = _joined_starts([each["postings.starts"] for each in arrays])
        ends = [max(each["places.data"].max(initial=0), each["places.chunks"].max(initial=0)) for each in arrays]
        apart = _starts([int(end) + _APART for end in ends])
        self._places = _shifted([each["places.data"] for each in arrays], apart)
        self._place_starts = _joined_starts([each["places.starts"] for each in arrays])
        self._first_places = _shifted([each["places.chunks"] for each in arrays], apart)
        self._norms = np.concatenate([each["postings.norms"] for each in arrays])
        self._course_of_row = np.repeat(np.arange(len(courses)), sizes)

    def scores(self, words: Sequence[QueryTerms]) -> tuple[NDArray[np.float32], Scores, Scores]:
        """The BM25 scores of all rows; and for each course the highest score possible, and the length of the query.

        The length is the highest score without repetitions, divided by that of a word that only one chunk contains.
        """
        of_terms = _together([each.terms for each in words])
        of_pairs = _together([each.pairs for each in words])
        courses = len(words)
        highest, repeated = np.zeros(courses), np.zeros(courses)
        rows: list[NDArray[Any]] = []
        weights: list[NDArray[Any]] = []
        numbers = {term: self._find(term, courses) for term in of_terms}
        for term, of_courses in of_terms.items():
            found = numbers[term]
            has = found >= 0
            frequency = np.zeros(courses, dtype=np.int64)
            frequency[has] = self._starts[found[has] + 1] - self._starts[found[has]]
            most = (K1 + 1) * np.log1p((self._sizes - frequency + 0.5) / (frequency + 0.5))
            highest += of_courses * most
            repeated += np.maximum(of_courses - 1, 0) * most
            postings = _ranges(self._starts, found[has])
            rows.append(self._rows[postings])
            weights.append(self._weights[postings] * np.repeat(of_courses[has], frequency[has]))
        if of_pairs:
            highest += self._add_pairs(numbers, of_pairs, rows, weights)
        size = int(self._sizes.sum())
        scores = np.bincount(np.concatenate(rows), np.concatenate(weights), size) if rows else np.zeros(size)
        return scores.astype(np.float32), highest, (highest - repeated) / self._rarest

    def _find(self, term: str, courses: int) -> Numbers:
        """The number of a term in each course, (courses,); -1 in a course that does not have it."""
        sought = np.uint64(text_hash(term))
        first, last = self._hashes.searchsorted(sought, "left"), self._hashes.searchsorted(sought, "right")
        found = np.full(courses, -1, dtype=np.int64)
        terms = self._terms[first:last]
        found[self._first_terms.searchsorted(terms, "right") - 1] = terms
        return found

    def _add_pairs(
        self,
        numbers: Mapping[str, Numbers],
        of_pairs: Mapping[Pair, Scores],
        rows: list[NDArray[Any]],
        weights: list[NDArray[Any]],
    ) -> Scores:
        """Append the rows and scores of the pairs; the highest score of those that occur, (courses,)."""
        courses, chunks = len(self._sizes), len(self._norms)
        here: list[NDArray[Any]] = []
        away: list[NDArray[Any]] = []
        used: list[Scores] = []
        for (first, second, distance), of_courses in of_pairs.items():
            if first not in numbers or second not in numbers:
                continue
            near = self._near(numbers[first], numbers[second], distance)
            if near is not None:
                here.append(near[0])
                away.append(near[1])
                used.append(of_courses)
        if not used:
            return np.zeros(courses)
        out = np.concatenate(away)
        near_ = (out <= NEAR).nonzero()[0]
        of_pair = np.repeat(np.arange(len(used)), [len(each) for each in here])[near_]
        row = self._first_places.searchsorted(np.concatenate(here)[near_], "right") - 1
        starts = np.diff(row + of_pair * chunks, prepend=-1).nonzero()[0]
        if not len(starts):
            return np.zeros(courses)
        counts = np.add.reduceat(1.0 / (1.0 + out[near_]) ** 2, starts)
        row, of_pair = row[starts], of_pair[starts]
        group = of_pair * courses + self._course_of_row[row]
        frequency = np.bincount(group, minlength=len(used) * courses).reshape(len(used), courses)
        idf = np.log1p((self._sizes - frequency + 0.5) / (frequency + 0.5))
        factors = PAIRS * (K1 + 1) * np.where(frequency, idf * np.stack(used), 0.0)
        rows.append(row)
        weights.append(factors.reshape(-1)[group] * counts / (counts + self._norms[row]))
        highest: Scores = factors.sum(axis=0)
        return highest

    def _near(self, first: Numbers, second: Numbers, distance: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Places of the rarer of two terms of each course, and by how many words the nearest other one is misplaced."""
        has = ((first >= 0) & (second >= 0)).nonzero()[0]
        first, second = first[has], second[has]
        lengths = self._place_starts[first + 1] - self._place_starts[first]
        others = self._place_starts[second + 1] - self._place_starts[second]
        swapped = lengths > others
        rarer, other = np.where(swapped, second, first), np.where(swapped, first, second)
        fewest = np.minimum(lengths, others)
        kept = (fewest > 0) & (fewest <= MAX_PLACES)
        if not kept.any():
            return None
        here = self._places[_ranges(self._place_starts, rarer[kept])]
        there = self._places[_ranges(self._place_starts, other[kept])]
        wanted = here + np.repeat(np.where(swapped, -distance, distance)[kept], fewest[kept])
        at = there.searchsorted(wanted)
        after, before = there.take(at, mode="clip"), there.take(at - 1, mode="clip")
        return here, np.minimum(np.abs(after - wanted), np.abs(before - wanted))


def _together(of_courses: Sequence[Mapping[Any, float]]) -> dict[Any, Scores]:
    """The weight of each key in each course, (courses,); 0 in a course that does not have it."""
    usual = of_courses[0]
    weights = {key: np.full(len(of_courses), weight) for key, weight in usual.items()}
    for course, own in enumerate(of_courses):
        if own != usual:
            for key in usual:
                weights[key][course] = own.get(key, 0.0)
            for key in own.keys() - usual.keys():
                weights.setdefault(key, np.zeros(len(of_courses)))[course] = own[key]
    return weights


def _starts(sizes: Sequence[int] | Numbers) -> Numbers:
    """Where each of several ranges of these sizes starts."""
    starts = np.zeros(len(sizes), dtype=np.int64)
    np.cumsum(sizes[:-1], out=starts[1:])
    return starts


def _shifted(parts: Sequence[NDArray[np.int32]], by: Numbers) -> NDArray[np.int32]:
    """The parts, each shifted by its number, one after the other."""
    return np.concatenate([part + np.int32(number) for part, number in zip(parts, by.tolist(), strict=True)])


def _joined_starts(parts: Sequence[Numbers]) -> Numbers:
    """The starts of ranges, each part of which ends with the end of its last range."""
    ends = np.cumsum([part[-1] for part in parts])
    shifted = [part[:-1] + end - part[-1] for part, end in zip(parts, ends.tolist(), strict=True)]
    return np.concatenate([*shifted, ends[-1:]])


def _ranges(starts: Numbers, numbers: Numbers) -> Numbers:
    """The members of the ranges with these numbers, one range after the other."""
    first = starts[numbers]
    lengths = starts[numbers + 1] - first
    before = np.cumsum(lengths) - lengths
    return np.repeat(first - before, lengths) + np.arange(int(lengths.sum()))
