"""The stack: what it tells of many courses at once is what each of them tells."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.analysis.query import analyse_query
from retrieval.query_terms import resolve_together
from retrieval.relevance import Calibration
from retrieval.search import Query, SearchOptions, highest_relevance
from retrieval.stack import CourseStack, _StackedWords
from tests.support.brute_force import snapshot_of, unit

WORDS = ("copper", "plating", "mask", "solder", "for", "loop", "wi-fi", "电路板", "阻抗", "the", "via", "vias")


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), courses=st.integers(1, 6))
def test_words_and_relevance_are_those_of_each_course(seed: int, courses: int) -> None:
    rng = np.random.default_rng(seed)
    dimensions = 16
    snapshots = [
        snapshot_of(
            unit(rng.standard_normal((rows, dimensions))),
            [" ".join(rng.choice(WORDS, rng.integers(1, 12))) + f" {course}x{row}" for row in range(rows)],
            [{}] * rows,
        )
        for course, rows in enumerate(rng.integers(1, 9, courses).tolist())
    ]
    calibrations = [Calibration(noise, noise, 0.9, 0.5) for noise in rng.uniform(0.0, 0.5, courses)]
    text = " ".join(rng.choice([*WORDS, "absent", "copper plating"], rng.integers(1, 6))) + " via"
    vector = unit(rng.standard_normal((1, dimensions)))[0]
    words = resolve_together(analyse_query(text), [snapshot.bm25 for snapshot in snapshots])

    scores, highest, _ = _StackedWords(snapshots, np.array([len(snapshot) for snapshot in snapshots])).scores(words)
    own = [each.bm25.scores(terms.terms, terms.pairs) for each, terms in zip(snapshots, words, strict=True)]
    np.testing.assert_allclose(scores, np.concatenate([each for each, _ in own]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(highest, [each for _, each in own], rtol=1e-5)

    together = CourseStack(snapshots, calibrations).highest_relevances(text, vector, words, 1.0)
    alone = [
        highest_relevance(each, [Query(text, vector, 1.0, terms)], SearchOptions(), calibration)
        for each, terms, calibration in zip(snapshots, words, calibrations, strict=True)
    ]
    assert (together >= np.array(alone) - 1e-4).all(), "cosines are upper bounds"
    np.testing.assert_allclose(together, alone, atol=0.05)
