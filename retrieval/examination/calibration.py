"""Calibrates the relevance of a course by its own questions and by questions of other fields."""

from collections.abc import Callable, Sequence

import numpy as np

from embedding.interface import Embedder
from embedding.vectors import Vectors
from retrieval.examination.questions import EmbeddedQuestion, embed_in_batches
from retrieval.relevance import Calibration, calibrate, foreign_questions
from retrieval.snapshots.snapshot import CourseSnapshot

_foreign: dict[str, Vectors] = {}
"""The vectors of the foreign questions by the model's signature, so that a run of many courses embeds them once."""


def calibrate_by(
    questions: Sequence[EmbeddedQuestion],
    snapshot: CourseSnapshot,
    embedder: Embedder,
    on_step: Callable[[], object] = lambda: None,
) -> Calibration | None:
    """Measure what the cosines of a course mean.

    Args:
        questions: Made from the course.
        snapshot: The course.
        embedder: The model of its vectors.
        on_step: Called every few seconds at the latest.

    Returns:
        None without questions.

    Raises:
        EmbeddingError: The model failed.
    """
    if not questions:
        return None
    if embedder.signature not in _foreign:
        _foreign.clear()
        _foreign[embedder.signature] = np.stack(embed_in_batches(foreign_questions(), embedder, on_step))
    own = {question.question.text: question.vector for question in questions}
    return calibrate(snapshot, own, _foreign[embedder.signature], on_step)
