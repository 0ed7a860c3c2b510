"""The keyword index of a course: BM25 scores of all its chunks.

A course is small enough to score every chunk: one pass over the postings of the query's terms sums them into one score
per chunk. So filters are masks, no candidate is missed, and chunks found by vector have a BM25 score as well.

An index is built once, saved to one file and never changed. Its rows are the chunks in the order of their ids.
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

from retrieval.keywords.analysis import ANALYSIS_VERSION, terms

K1 = 1.2
"""Term frequency saturation in BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
2009). Same value as the default of Lucene."""
B = 0.75
"""Strength of the length normalization in BM25, 0.0 to 1.0. Same value as the default of Lucene."""
_FORMAT = 1
_MAX_COUNT = np.iinfo(np.uint16).max


class KeywordIndexError(Exception):
    """A saved index is missing, damaged or of another version, and must be rebuilt."""


class Postings(NamedTuple):
    """Which terms occur in which chunks, in the saved form. The number of a term is its position in the vocabulary."""

    starts: NDArray[np.int64]
    """(terms + 1,): the postings of term t are in the range starts[t] to starts[t + 1]."""
    rows: NDArray[np.int32]
    """(postings,): one chunk row per posting, ascending within each term."""
    counts: NDArray[np.uint16]
    """(postings,): number of occurrences of the term in the chunk."""
    lengths: NDArray[np.int32]
    """(chunks,): number of terms in each chunk, with repetitions."""


class KeywordIndex:
    """The keyword index of a course. It is immutable, so threads may share it.

    Args:
        chunk_ids: The chunk id of each row, ascending.
        vocabulary: The distinct terms.
        postings: The occurrences of the terms.
    """

    def __init__(self, chunk_ids: Sequence[str], vocabulary: Sequence[str], postings: Postings) -> None:
        self.chunk_ids = tuple(chunk_ids)
        self._vocabulary = tuple(vocabulary)
        self._numbers: Mapping[str, int] = {term: number for number, term in enumerate(self._vocabulary)}
        self._postings = postings
        document_frequency = np.diff(postings.starts)
        chunks = len(self.chunk_ids)
        # The idf of Lucene, which is never negative.
        self._idf = np.log1p((chunks - document_frequency + 0.5) / (document_frequency + 0.5))
        mean_length = max(1.0, float(postings.lengths.mean())) if chunks else 1.0
        norms = K1 * (1 - B + B * postings.lengths[postings.rows] / mean_length)
        weights = np.repeat(self._idf, document_frequency) * postings.counts * (K1 + 1) / (postings.counts + norms)
        self._weights = weights.astype(np.float32)

    @property
    def terms(self) -> int:
        """Number of distinct terms."""
        return len(self._vocabulary)

    @property
    def bytes(self) -> int:
        """Estimated memory in bytes."""
        return (
            sum(part.nbytes for part in (*self._postings, self._idf, self._weights))
            + sum(map(len, self._vocabulary)) * 2
            + (len(self._vocabulary) + len(self.chunk_ids)) * 150
        )

    def scores(self, query: Mapping[str, int]) -> NDArray[np.float32]:
        """BM25 score of every chunk, (chunks,), for query terms with their counts; 0.0 if a chunk contains no term."""
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

    def highest_score(self, query: Mapping[str, int]) -> float:
        """The highest BM25 score possible for this query: the sum of idf · (k1 + 1) over its terms.

        For a term that is not in the vocabulary, it uses the highest possible idf.
        """
        rarest = math.log1p((len(self.chunk_ids) + 0.5) / 0.5)
        return (K1 + 1) * sum(
            count * (rarest if (number := self._numbers.get(term)) is None else float(self._idf[number]))
            for term, count in query.items()
        )

    def save(self, path: Path) -> None:
        """Write the index to a file atomically.

        Raises:
            OSError: The file cannot be written.
        """
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
        """Read a file that `save` wrote. Zip checksums reveal damaged content.

        Raises:
            KeywordIndexError: The file is missing, damaged or of another version.
        """
        try:
            # np.load may leave a file open that it opened itself.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes())
                if header != {"format": _FORMAT, "analysis": ANALYSIS_VERSION}:
                    raise KeywordIndexError(f"{path} was made by another version: {header}")
                postings = Postings(*(file[name] for name in Postings._fields))
                chunk_ids, vocabulary = (json.loads(file[name].tobytes()) for name in ("chunk_ids", "vocabulary"))
                return cls(chunk_ids, vocabulary, postings)
        except KeywordIndexError:
            raise
        except Exception as error:  # NumPy and zipfile raise many kinds of errors for damaged files
            raise KeywordIndexError(f"The keyword index {path} cannot be read: {error}") from error


class KeywordIndexBuilder:
    """Builds a keyword index from chunks in any order. Needs about 20 bytes for each distinct term of each chunk."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._chunk_ids: list[str] = []
        self._lengths = array("i")
        self._sizes = array("i")
        self._terms = array("i")
        self._counts = array("H")

    def add(self, chunk_id: str, text: str) -> None:
        """Add a chunk. Each chunk must be added only once."""
        counts = Counter(terms(text))
        self._chunk_ids.append(chunk_id)
        self._lengths.append(counts.total())
        self._sizes.append(len(counts))
        for term, count in counts.items():
            self._terms.append(self._numbers.setdefault(term, len(self._numbers)))
            self._counts.append(min(count, _MAX_COUNT))

    def add_all(self, chunks: Iterable[tuple[str, str]]) -> Self:
        """Add chunks, given as pairs of id and text."""
        for chunk_id, text in chunks:
            self.add(chunk_id, text)
        return self

    def build(self) -> KeywordIndex:
        """The index of all added chunks."""
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
