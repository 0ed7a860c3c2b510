"""BM25 scores compared with a naive implementation."""

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retrieval.analysis import terms
from retrieval.bm25 import Bm25, postings_as_arrays

WORDS = ("copper", "solder", "排序", "node.js", "the", "trees", "C++")
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
corpora = st.dictionaries(st.text("abc019-", min_size=1, max_size=4), texts, max_size=8)
queries = st.dictionaries(
    st.sampled_from([term for word in WORDS for term in terms(word)] + ["absent"]), st.integers(1, 3)
)


def build(corpus: Mapping[str, str]) -> Bm25:
    """The texts in the order of their ids."""
    return Bm25(postings_as_arrays(text for _, text in sorted(corpus.items())), len(corpus))


def naive_bm25(corpus: Mapping[str, str], query: Mapping[str, int]) -> list[float]:
    """BM25 with k1 = 1.2, b = 0.75 and Lucene's idf, of each chunk in the order of the ids."""
    documents = [Counter(terms(text)) for _, text in sorted(corpus.items())]
    mean = max(1.0, sum(document.total() for document in documents) / max(1, len(documents)))
    scores = []
    for document in documents:
        score = 0.0
        for term, query_count in query.items():
            document_frequency = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - document_frequency + 0.5) / (document_frequency + 0.5))
            count = document[term]
            score += query_count * idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * document.total() / mean))
        scores.append(score)
    return scores


@example({}, {"copper": 1})
@example({"a": ""}, {"copper": 1})
@example({"a": "the", "b": "copper"}, {"copper": 3})
@given(corpora, queries)
def test_scores_equal_naive_bm25(corpus: dict[str, str], query: dict[str, int]) -> None:
    bm25 = build(corpus)
    scores, _ = bm25.scores(query)
    assert scores.shape == (len(corpus),)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, naive_bm25(corpus, query), rtol=1e-5)
    assert set(bm25.vocabulary) == {term for text in corpus.values() for term in terms(text)}


@given(corpora, queries)
def test_no_score_exceeds_the_highest_score(corpus: dict[str, str], query: dict[str, int]) -> None:
    scores, highest = build(corpus).scores(query)
    assert highest >= scores.max(initial=0.0) * (1 - 1e-6)
    assert (highest > 0) == bool(query)


def test_chunk_that_repeats_the_query_scores_near_the_highest_score() -> None:
    scores, highest = build({"a": "copper " * 200, "b": "solder " * 200}).scores({"copper": 1})
    assert scores[0] == pytest.approx(highest, rel=0.01)


def test_term_counts_saturate_at_the_maximum() -> None:
    corpus, query = {"a": "copper " * 70_000, "b": "solder"}, {"copper": 1}
    assert build(corpus).scores(query)[0][0] == pytest.approx(naive_bm25(corpus, query)[0], rel=1e-4)
