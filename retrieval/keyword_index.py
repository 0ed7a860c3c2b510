"""BM25 over the chunks of a course, for all of them at once.

A course is small enough to score every chunk: the postings of the query's terms are added up into one number a chunk.
So a filter is a mask, no candidate is missed, and a chunk that another channel found has its keyword score, too.

The index is made once, saved as one file and never changed; its rows are the chunks in the order of their ids.
"""

import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from retrieval.analysis import ANALYSIS_VERSION, terms

K1 = 1.2
"""How soon more occurrences of a term stop to count."""
B = 0.75
"""How much a long chunk has to make up for its length, 0 to 1."""
_FORMAT = 1
_MAX_COUNT = np.iinfo(np.uint16).max


class KeywordIndexError(Exception):
    """A saved index is missing, damaged, or of another version: it must be made anew."""


class Postings(NamedTuple):
    """Which terms the chunks hold: the plain facts, as they are saved. Terms are numbered as in the vocabulary."""

    starts: NDArray[np.int64]
    """(terms + 1): the postings of term t are at starts[t] to starts[t + 1]."""
    rows: NDArray[np.int32]
    """Row of a chunk a posting, rising within a term."""
    counts: NDArray[np.uint16]
    """How often the term occurs there."""
    lengths: NDArray[np.int32]
    """(chunks): terms of each chunk."""


class KeywordIndex:
    """The terms of a course's chunks. Nothing in it changes, so threads may share it.

    Args:
        chunk_ids: Id of each row, rising.
        vocabulary: The terms.
        postings: Where they occur.
    """

    def __init__(self, chunk_ids: Sequence[str], vocabulary: Sequence[str], postings: Postings) -> None:
        self.chunk_ids = tuple(chunk_ids)
        self._vocabulary = tuple(vocabulary)
        self._numbers: Mapping[str, int] = {term: number for number, term in enumerate(self._vocabulary)}
        self._postings = postings
        document_frequency = np.diff(postings.starts)
        chunks = len(self.chunk_ids)
        self._idf = np.log1p((chunks - document_frequency + 0.5) / (document_frequency + 0.5))
        mean_length = max(1.0, float(postings.lengths.mean())) if chunks else 1.0
        norms = K1 * (1 - B + B * postings.lengths[postings.rows] / mean_length)
        weights = np.repeat(self._idf, document_frequency) * postings.counts * (K1 + 1) / (postings.counts + norms)
        self._weights = weights.astype(np.float32)

    @property
    def terms(self) -> int:
        """How many different terms there are."""
        return len(self._vocabulary)

    @property
    def bytes(self) -> int:
        """Memory it takes, about."""
        return (
            sum(part.nbytes for part in (*self._postings, self._idf, self._weights))
            + sum(map(len, self._vocabulary)) * 2
            + (len(self._vocabulary) + len(self.chunk_ids)) * 150
        )

    def scores(self, query: Mapping[str, int]) -> NDArray[np.float32]:
        """BM25 of every chunk (chunks,) for a query of terms, each as often as it was asked; 0.0 holds none of them."""
        rows: list[NDArray[np.int32]] = []
        weights: list[NDArray[np.float32]] = []
        for term, count in query.items():
            number = self._numbers.get(term)
            if number is not None:
                start, end = self._postings.starts[number], self._postings.starts[number + 1]
                rows.append(self._postings.rows[start:end])
                weights.append(self._weights[start:end] * np.float32(count) if count > 1 else self._weights[start:end])
        if not rows:
            return np.zeros(len(self.chunk_ids), dtype=np.float32)
        scores = np.bincount(np.concatenate(rows), np.concatenate(weights), len(self.chunk_ids))
        return scores.astype(np.float32)

    def ideal(self, query: Mapping[str, int]) -> float:
        """The score of a chunk that says nothing but the query, over and over; no chunk has a higher one.

        A term that the course has not is as rare as a term can be.
        """
        rarest = math.log1p((len(self.chunk_ids) + 0.5) / 0.5)
        return (K1 + 1) * sum(
            count * (rarest if (number := self._numbers.get(term)) is None else float(self._idf[number]))
            for term, count in query.items()
        )

    def save(self, path: Path) -> None:
        """Write it to a file, which is there as a whole or not at all."""
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        header = {"format": _FORMAT, "analysis": ANALYSIS_VERSION}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    header=_packed(header),
                    chunk_ids=_packed(self.chunk_ids),
                    vocabulary=_packed(self._vocabulary),
                    **self._postings._asdict(),
                )
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote; every part of it carries a check sum.

        Raises:
            KeywordIndexError: there is none, it is damaged, or it was made by another analyser.
        """
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # NumPy may leave one open
                header = json.loads(file["header"].tobytes())
                if header != {"format": _FORMAT, "analysis": ANALYSIS_VERSION}:
                    raise KeywordIndexError(f"{path} was made by another version: {header}")
                postings = Postings(*(file[name] for name in Postings._fields))
                chunk_ids, vocabulary = (json.loads(file[name].tobytes()) for name in ("chunk_ids", "vocabulary"))
                return cls(chunk_ids, vocabulary, postings)
        except KeywordIndexError:
            raise
        except Exception as error:  # NumPy and zipfile raise almost anything over damaged bytes
            raise KeywordIndexError(f"The keyword index {path} cannot be read: {error}") from error


class KeywordIndexBuilder:
    """Takes the chunks of a course in any order and makes their index; some 20 bytes are held a term and chunk."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._chunk_ids: list[str] = []
        self._lengths = array("i")
        self._sizes = array("i")
        self._terms = array("i")
        self._counts = array("H")

    def add(self, chunk_id: str, text: str) -> None:
        """Take in a chunk that was not added before."""
        counts = Counter(terms(text))
        self._chunk_ids.append(chunk_id)
        self._lengths.append(counts.total())
        self._sizes.append(len(counts))
        for term, count in counts.items():
            self._terms.append(self._numbers.setdefault(term, len(self._numbers)))
            self._counts.append(min(count, _MAX_COUNT))

    def add_all(self, chunks: Iterable[tuple[str, str]]) -> Self:
        """Take in the ids and texts of chunks."""
        for chunk_id, text in chunks:
            self.add(chunk_id, text)
        return self

    def build(self) -> KeywordIndex:
        """The index of what was added."""
        order = sorted(range(len(self._chunk_ids)), key=self._chunk_ids.__getitem__)
        row_of = np.empty(len(order), dtype=np.int32)
        row_of[order] = np.arange(len(order), dtype=np.int32)
        rows = np.repeat(row_of, np.asarray(self._sizes, dtype=np.int32))
        numbers = np.asarray(self._terms, dtype=np.int32)
        by_term = np.lexsort((rows, numbers))
        starts = np.zeros(len(self._numbers) + 1, dtype=np.int64)
        np.cumsum(np.bincount(numbers, minlength=len(self._numbers)), out=starts[1:])
        postings = Postings(
            starts,
            rows[by_term],
            np.asarray(self._counts, dtype=np.uint16)[by_term],
            np.asarray(self._lengths, dtype=np.int32)[order],
        )
        return KeywordIndex([self._chunk_ids[index] for index in order], list(self._numbers), postings)


def _packed(value: object) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
