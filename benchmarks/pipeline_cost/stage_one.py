"""Writes generated courses into the tables of stage one, always with the same texts."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SENTENCES = (4, 8)
"""Minimum and maximum per chunk, which gives 60 to 120 tokens."""
NOUNS = (
    "board layer trace signal current copper solder oven pad via capacitor resistor connector plane edge load sensor "
    "clock circuit supply component prototype measurement tolerance thickness"
)
VERBS = "carries limits reflects heats cools covers needs follows couples filters weighs moves reaches shields"
ADJECTIVES = "thin wide inner outer short hot stable noisy differential flexible controlled narrow digital"
CONJUNCTIONS = "when because while unless before after although whenever"


@dataclass(frozen=True)
class CourseState:
    """The embedding state in a course row."""

    id: str
    status: str
    generation: int
    error: str | None


class StageOne:
    """Writes courses like stage one, and reads their embedding state.

    Args:
        database: A migrated SQLite file.
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    def write_course(self, course_id: str, chunks: int) -> None:
        """Write a new course. The pipeline ignores it until its ingestion is finished."""
        rows = [
            (f"{course_id}-{number}", course_id, text, json.dumps({"order_in_section": number}))
            for number, text in enumerate(texts(course_id, chunks))
        ]
        with self._transaction() as connection:
            connection.execute("INSERT INTO course (id) VALUES (?)", (course_id,))
            connection.execute(
                "INSERT INTO resource (id, course_id, status) VALUES (?, ?, 'processing')", (course_id, course_id)
            )
            connection.executemany(
                "INSERT INTO chunk (id, course_id, lecture_id, section_id, text, language, source_type, metadata) "
                "VALUES (?, ?, '1', '1', ?, 'en', 'pdf', ?)",
                rows,
            )

    def copy_course(self, course_id: str, copy_id: str) -> None:
        """Write a new course with the texts of another, as for the next term."""
        new_ids = {"id": copy_id, "copied": course_id}
        with self._transaction() as connection:
            connection.execute("INSERT INTO course (id) VALUES (:id)", new_ids)
            connection.execute("INSERT INTO resource (id, course_id, status) VALUES (:id, :id, 'processing')", new_ids)
            connection.execute(
                "INSERT INTO chunk (id, course_id, lecture_id, section_id, text, language, source_type, metadata) "
                "SELECT :id || '/' || id, :id, lecture_id, section_id, text, language, source_type, metadata "
                "FROM chunk WHERE course_id = :copied",
                new_ids,
            )

    def finish_ingestion(self, course_id: str) -> None:
        """Mark the course as ingested, so that it is due."""
        with self._transaction() as connection:
            connection.execute("UPDATE resource SET status = 'succeeded' WHERE course_id = ?", (course_id,))

    def edit_a_chunk(self, course_id: str) -> None:
        """Append a sentence to the first chunk of the course."""
        with self._transaction() as connection:
            connection.execute("UPDATE chunk SET text = text || ' It was measured.' WHERE id = ?", (f"{course_id}-0",))

    def courses(self) -> list[CourseState]:
        """The states of all courses."""
        query = "SELECT id, embedding_status, embedding_generation, embedding_error FROM course"
        with self._transaction() as connection:
            return [CourseState(*row) for row in connection.execute(query)]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=30)) as connection, connection:
            yield connection


def texts(course_id: str, chunks: int) -> list[str]:
    """The texts of a course. The same id gives the same texts on every machine."""
    random = np.random.default_rng(list(course_id.encode()))
    counts = random.integers(*SENTENCES, size=chunks, endpoint=True)
    return [" ".join(_sentence(random) for _ in range(count)) for count in counts]


def _sentence(random: np.random.Generator) -> str:
    adjectives, nouns, verbs = (random.choice(words.split(), 4) for words in (ADJECTIVES, NOUNS, VERBS))
    return (
        f"The {adjectives[0]} {nouns[0]} {verbs[0]} the {nouns[1]} {random.choice(CONJUNCTIONS.split())} "
        f"the {adjectives[1]} {nouns[2]} {verbs[1]} a {nouns[3]}."
    )
