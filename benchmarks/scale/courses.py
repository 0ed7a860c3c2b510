"""Generated courses, written to the tables of stage one. The same seed gives the same courses on every machine."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from sqlalchemy import Engine, insert, update

from models.tables import Chunk, Course, Resource

CHUNKS = (50, 300)
"""Fewest and most chunks of a course."""
WORDS = (60, 120)
"""Fewest and most words of a chunk."""
DUPLICATES = 0.02
"""Share of the chunks that repeat an earlier one, as slides do."""
_SYLLABLES = (
    "ba co di fu ga he ki lo mu ne po ra si tu ve wo xy za",
    "ban cor dal fen gir hol kam lus mer nop",
    "ent ing or al is um et ar on ex id as op ul it",
)
_VOCABULARY = ["".join(word) for word in product(*(syllables.split() for syllables in _SYLLABLES))]
WRITE_ROWS = 5_000


class MadeUpCourses:
    """Writes courses, and knows questions about them.

    Args:
        engine: A migrated catalogue.
        seed: Of the texts.
    """

    def __init__(self, engine: Engine, seed: int = 0) -> None:
        self._engine = engine
        self._random = np.random.default_rng(seed)
        ranks = np.arange(1, len(_VOCABULARY) + 1)
        self._frequencies = (1 / ranks) / (1 / ranks).sum()
        self.chunks: dict[str, int] = {}
        """Number of chunks by course id."""
        self.questions: dict[str, str] = {}
        """A question by course id: words of one of its chunks."""

    def write(self, course_id: str, chunks: int | None = None) -> None:
        """Write a course. The pipeline ignores it until `finish_ingestion`."""
        number = chunks or int(self._random.integers(*CHUNKS, endpoint=True))
        texts = self.texts(number)
        rows = [
            {
                "id": f"{course_id}-{index}",
                "course_id": course_id,
                "lecture_id": f"lecture {index // 50}",
                "section_id": f"section {index // 10}",
                "text": text,
                "language": "en",
                "source_type": ("pdf", "video")[index % 2],
                "extra": {"order_in_section": index % 10, "page": index // 3},
            }
            for index, text in enumerate(texts)
        ]
        with self._engine.begin() as connection:
            connection.execute(insert(Course), [{"id": course_id}])
            connection.execute(insert(Resource), [{"id": course_id, "course_id": course_id, "status": "processing"}])
            for start in range(0, number, WRITE_ROWS):
                connection.execute(insert(Chunk), rows[start : start + WRITE_ROWS])
        self.chunks[course_id] = number
        self.questions[course_id] = " ".join(texts[number // 2].split()[:6])

    def finish_ingestion(self, course_ids: Sequence[str]) -> None:
        """Mark the courses as ingested."""
        with self._engine.begin() as connection:
            connection.execute(update(Resource).where(Resource.course_id.in_(course_ids)).values(status="succeeded"))  # type: ignore[attr-defined]

    def texts(self, number: int) -> list[str]:
        """Generate texts, whose words are as frequent as in real text."""
        lengths = self._random.integers(*WORDS, size=number, endpoint=True)
        words = self._random.choice(_VOCABULARY, size=int(lengths.sum()), p=self._frequencies)
        texts = [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]
        for index in np.flatnonzero(self._random.random(number) < DUPLICATES):
            texts[index] = texts[self._random.integers(0, index + 1)]
        return texts
