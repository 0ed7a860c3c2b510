"""Generates a course for `benchmarks.search_speed.main`: Zipf-distributed words, vectors clustered by topic.

The same size gives the same course on every machine. A question consists of words of one chunk, and of a vector near
that of the chunk.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 1024
SECTIONS = 20
PAGES = 100
QUESTIONS = 200
CHUNK_WORDS, CHUNK_WORDS_SPREAD = 150, 30
QUESTION_WORDS = 8
TOPICS = 200
TOPIC_SPREAD, QUESTION_SPREAD = 1.0, 0.5
"""Length of the random offset from topic to chunk and from chunk to question; the vectors have length 1."""
SYLLABLES = tuple(map("".join, product("bdfgklmnprst", "aeiou")))
VOCABULARY = 40_000
ZIPF_EXPONENT, ZIPF_SHIFT = 1.07, 2.7
"""Word frequencies follow the Zipf-Mandelbrot law: (rank + shift) ** -exponent."""
SEED = 7


@dataclass(frozen=True)
class MadeUpCourse:
    """The chunks of a course and questions about them."""

    id: str
    texts: tuple[str, ...]
    vectors: NDArray[np.float32]
    """Unit vectors (chunks, dimensions)."""
    questions: tuple[str, ...]
    question_vectors: NDArray[np.float32]
    """Unit vectors (questions, dimensions)."""
    question_sections: tuple[str, ...]
    """Section of the chunk that the question is about; filtered searches use it."""
    first: int = 0
    """Number of the first chunk."""

    def corpus(self) -> io.BytesIO:
        """The Ready-to-Embed rows, as JSON Lines."""
        return io.BytesIO(b"".join(self._rows()))

    def nearest(self, count: int, *, filtered: bool) -> list[list[str]]:
        """The ids that an exact vector search finds for each question, best first."""
        scores = self.question_vectors @ self.vectors.T
        if filtered:
            sections = np.array([section_id(number) for number in self._numbers])
            scores[np.array(self.question_sections)[:, None] != sections] = -np.inf
        best = np.argsort(-scores, axis=1)[:, :count]
        return [
            [chunk_id(self._numbers[place]) for place in row if scores[question, place] > -np.inf]
            for question, row in enumerate(best)
        ]

    def split(self, courses: int) -> "list[MadeUpCourse]":
        """Courses of the same size with these chunks, in their order, and all questions."""
        size = len(self.texts) // courses
        return [
            replace(
                self,
                id=f"{self.id}-{number}",
                texts=self.texts[first : first + size],
                vectors=self.vectors[first : first + size],
                first=first,
            )
            for number, first in enumerate(range(0, courses * size, size))
        ]

    def save_questions(self, file: Path) -> None:
        """Write the questions for `worker.read_questions`."""
        np.savez(file, texts=self.questions, vectors=self.question_vectors, sections=self.question_sections)

    @property
    def _numbers(self) -> range:
        return range(self.first, self.first + len(self.texts))

    def _rows(self) -> Iterator[bytes]:
        for number, text in zip(self._numbers, self.texts, strict=True):
            row = {
                "id": chunk_id(number),
                "course_id": self.id,
                "lecture_id": f"l{number % SECTIONS // 4}",
                "section_id": section_id(number),
                "order_in_section": number // SECTIONS,
                "text": text,
                "language": "en",
                "source_type": "pdf",
                "metadata": {"page": page(number)},
            }
            yield json.dumps(row).encode() + b"\n"


def make_course(chunks: int, asked: int | None = None) -> MadeUpCourse:
    """Generate a course. 50,000 chunks take a few seconds.

    Args:
        chunks: Number of chunks.
        asked: The questions are about so many of the first chunks; None for all.
    """
    asked = asked or chunks
    random = np.random.default_rng([SEED, chunks])
    words = np.array([_word(number) for number in range(VOCABULARY)])
    frequency = (np.arange(VOCABULARY) + ZIPF_SHIFT) ** -ZIPF_EXPONENT
    lengths = random.normal(CHUNK_WORDS, CHUNK_WORDS_SPREAD, chunks).clip(QUESTION_WORDS, None).astype(int)
    word_numbers = random.choice(VOCABULARY, size=int(lengths.sum()), p=frequency / frequency.sum())
    words_of_chunks = np.split(word_numbers, np.cumsum(lengths)[:-1])
    topics = _unit(random.standard_normal((TOPICS, DIMENSIONS), dtype=np.float32))
    vectors = _near(topics[random.integers(TOPICS, size=chunks)], TOPIC_SPREAD, random)
    asked_chunks = random.choice(asked, size=QUESTIONS, replace=asked < QUESTIONS)
    questions = [
        " ".join(words[random.choice(words_of_chunks[chunk], QUESTION_WORDS, replace=False)]) for chunk in asked_chunks
    ]
    return MadeUpCourse(
        id=f"made-up-{chunks}",
        texts=tuple(" ".join(words[chunk]) for chunk in words_of_chunks),
        vectors=vectors,
        questions=tuple(questions),
        question_vectors=_near(vectors[asked_chunks], QUESTION_SPREAD, random),
        question_sections=tuple(section_id(int(chunk)) for chunk in asked_chunks),
    )


def chunk_id(number: int) -> str:
    """Id of the chunk with this number."""
    return f"c{number:06}"


def section_id(number: int) -> str:
    """Section of the chunk with this number."""
    return f"s{number % SECTIONS}"


def page(number: int) -> int:
    """Page of the chunk with this number, from 1."""
    return number % PAGES + 1


def _word(number: int) -> str:
    """A different word for each number; small numbers give short words."""
    word = ""
    while number >= 0:
        number, syllable = divmod(number, len(SYLLABLES))
        word = SYLLABLES[syllable] + word
        number -= 1
    return word


def _near(centres: NDArray[np.float32], spread: float, random: np.random.Generator) -> NDArray[np.float32]:
    return _unit(centres + spread * _unit(random.standard_normal(centres.shape, dtype=np.float32)))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
