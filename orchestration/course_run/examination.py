"""The examination of a course in a run: its own questions are asked of the new generation before it is published.

The same questions, and questions from other fields, calibrate its relevance (`retrieval.relevance`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from embedding.interface import Embedder
from retrieval.examination.calibration import calibrate_by
from retrieval.examination.examine import Change, Examination, examine
from retrieval.examination.questions import embed_questions, make_questions
from retrieval.relevance import Calibration
from retrieval.search import Method
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotStore

NOTE: Final = "examination"
"""Name of the note in the snapshot store with the outcome of the published generation."""
VERSION: Final = 1
"""To be incremented whenever questions or outcomes change so that they cannot be compared with earlier ones."""


@dataclass(frozen=True)
class ExaminationReport:
    """The examination of a new generation, compared with the published one."""

    examination: Examination
    calibration: Calibration | None
    """None if no question can be made from the course."""
    changes: Mapping[Method, Change]
    """Empty if there is no outcome to compare with."""
    seconds: float
    """Time to ask the questions; they are embedded before."""

    @property
    def worse(self) -> list[Method]:
        """The channels that find fewer of the questions than in the last generation."""
        return [method for method, change in self.changes.items() if change.is_worse]


def examine_snapshot(
    store: SnapshotStore,
    course_id: str,
    snapshot: CourseSnapshot,
    embedder: Embedder,
    on_step: Callable[[], object],
) -> ExaminationReport:
    """Ask a new generation its questions.

    Args:
        store: Where the last outcome is.
        course_id: The course.
        snapshot: Its new generation.
        embedder: The model of its vectors.
        on_step: Called every few seconds at the latest.

    Raises:
        EmbeddingError: The model failed.
    """
    questions = embed_questions(make_questions(snapshot), embedder, on_step)
    calibration = calibrate_by(questions, snapshot, embedder, on_step)
    started = time.perf_counter()
    examination = examine(snapshot, questions, on_step)
    last = _outcome(store.read_note(course_id, NOTE))
    changes = {} if last is None else examination.compare(last)
    return ExaminationReport(examination, calibration, changes, time.perf_counter() - started)


def keep_outcome(store: SnapshotStore, course_id: str, examination: Examination) -> None:
    """Keep the outcome of the generation that was published, to compare the next one with.

    Raises:
        SnapshotStoreError: The file cannot be written.
    """
    store.write_note(course_id, NOTE, {"version": VERSION, "found": examination.outcome})


def _outcome(note: Any) -> Mapping[str, Mapping[str, bool]] | None:
    """The outcome in a note of this version; None if it is of another version or not an outcome."""
    if not isinstance(note, dict) or note.get("version") != VERSION:
        return None
    found = note.get("found")
    is_outcome = isinstance(found, dict) and all(isinstance(channel, dict) for channel in found.values())
    return found if is_outcome else None
