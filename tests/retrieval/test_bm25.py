"""BM25 scores compared with a naive implementation."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retrieval.analysis import Token, analyse, terms
from retrieval.analysis.query import Pair
from retrieval.bm25 import NEAR, PAIRS, WHOLE, Bm25, postings_as_arrays

WORDS = ("copper", "solder", "排序", "复杂度", "node.js", "the", "trees", "C++", "café")
TERMS = [*dict.fromkeys(term for word in WORDS for term in terms(word)), "absent"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
corpora = st.dictionaries(st.text("abc019-", min_size=1, max_size=4), texts, max_size=8)
queries = st.dictionaries(st.sampled_from(TERMS), st.integers(1, 3) | st.floats(0.1, 3))
all_pairs = st.dictionaries(
    st.tuples(st.sampled_from(TERMS), st.sampled_from(TERMS), st.integers(1, 3))
    .filter(lambda pair: pair[0] != pair[1])
    .map(lambda pair: Pair(*pair)),
    st.floats(0.1, 1),
    max_size=3,
)


def build(corpus: Mapping[str, str]) -> Bm25:
    """The texts in the order of their ids."""
    return Bm25(postings_as_arrays(text for _, text in sorted(corpus.items())), len(corpus))


def naive_bm25(
    corpus: Mapping[str, str], query: Mapping[str, float], pairs: Mapping[Pair, float] | None = None
) -> list[float]:
    """BM25 with k1 = 1.2, b = 0.75 and Lucene's idf, of each chunk in the order of the ids."""
    documents = [analyse(text) for _, text in sorted(corpus.items())]
    lengths = [sum(token.weight >= WHOLE and token.term != "the" for token in document) for document in documents]
    mean = max(1.0, sum(lengths) / max(1, len(documents)))
    features: list[tuple[float, list[float]]] = [
        (weight, [sum(token.weight for token in document if token.term == term) for document in documents])
        for term, weight in query.items()
    ]
    for pair, weight in (pairs or {}).items():
        if pair.first in query and pair.second in query:
            features.append((PAIRS * weight, _nearness([analyse(text) for _, text in sorted(corpus.items())], pair)))
    scores = [0.0] * len(documents)
    for weight, counts in features:
        frequency = sum(count > 0 for count in counts)
        idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
        for row, count in enumerate(counts):
            scores[row] += weight * idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * lengths[row] / mean))
    return scores


def _nearness(documents: Sequence[Sequence[Token]], pair: Pair) -> list[float]:
    """How often the rarer term has the other one near its place, in each document."""
    places = [
        [[token.position for token in document if token.term == term and token.position >= 0] for document in documents]
        for term in pair[:2]
    ]
    here, there, distance = places[0], places[1], pair.distance
    if sum(map(len, here)) > sum(map(len, there)):
        here, there, distance = there, here, -distance
    counts: list[float] = []
    for row in range(len(documents)):
        away = [min((abs(at + distance - other) for other in there[row]), default=NEAR + 1) for at in here[row]]
        counts.append(sum(1 / (1 + each) ** 2 for each in away if each <= NEAR))
    return counts


@example({}, {"copper": 1}, {})
@example({"a": ""}, {"copper": 1}, {})
@example({"a": "the", "b": "copper"}, {"copper": 3}, {})
@example({"a": "copper the solder", "b": "solder"}, {"copper": 1, "solder": 1}, {Pair("copper", "solder", 1): 1.0})
@given(corpora, queries, all_pairs)
def test_scores_equal_naive_bm25(corpus: dict[str, str], query: dict[str, float], pairs: dict[Pair, float]) -> None:
    bm25 = build(corpus)
    scores, _ = bm25.scores(query, pairs)
    assert scores.shape == (len(corpus),)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, naive_bm25(corpus, query, pairs), rtol=1e-5)
    assert set(bm25.vocabulary) == {term for text in corpus.values() for term in terms(text)}


@given(corpora, queries, all_pairs)
def test_no_score_exceeds_the_highest_score(
    corpus: dict[str, str], query: dict[str, float], pairs: dict[Pair, float]
) -> None:
    scores, highest = build(corpus).scores(query, pairs)
    assert highest >= scores.max(initial=0.0) * (1 - 1e-6)

    assert (highest > 0) == bool(query)


def test_chunk_that_repeats_the_query_scores_near_the_highest_score() -> None:
    scores, highest = build({"a": "copper " * 200, "b": "solder " * 200}).scores({"copper": 1})
    assert scores[0] == pytest.approx(highest, rel=0.01)


TEXTS = ["a heap is a tree", "each node has two children", "a queue has two ends"]
CONTEXTS = ["Trees > Heaps", "Trees > Heaps", "Lists > Queues"]


def test_terms_of_the_context_find_a_text_and_never_drown_it() -> None:
    bm25 = Bm25(postings_as_arrays(TEXTS, CONTEXTS), len(TEXTS))
    scores, highest = bm25.scores(dict.fromkeys(terms("heap"), 1))
    assert scores[0] > scores[1] > scores[2] == 0
    assert highest >= scores[0]
    specific, general = bm25.scores(dict.fromkeys(terms("queue"), 1))[0][2], bm25.scores({"list": 1})[0][2]
    assert specific > general > 0


@given(corpora, queries)
def test_texts_without_contexts_score_as_before(corpus: dict[str, str], query: dict[str, int]) -> None:
    with_none = Bm25(postings_as_arrays((text for _, text in sorted(corpus.items())), [""] * len(corpus)), len(corpus))
    np.testing.assert_array_equal(with_none.scores(query)[0], build(corpus).scores(query)[0])


@given(corpora, queries)
def test_no_score_with_contexts_exceeds_the_highest_score(corpus: dict[str, str], query: dict[str, int]) -> None:
    scores, highest = Bm25(postings_as_arrays(corpus.values(), corpus.values()), len(corpus)).scores(query)
    assert highest >= scores.max(initial=0.0) * (1 - 1e-6)


def test_pairs_are_not_found_across_chunks() -> None:
    """The first chunk ends with the word with which the pair starts."""
    bm25, query = build({"a": "solder copper", "b": "plating", "c": "gold"}), {"copper": 1.0, "plate": 1.0}
    np.testing.assert_array_equal(bm25.scores(query, {Pair("copper", "plate", 1): 1.0})[0], bm25.scores(query)[0])


def test_parts_and_pairs_of_characters_do_not_lengthen_a_chunk() -> None:
    """A chunk is as long as its words, however many spellings are indexed."""
    plain, names = build({"a": "copper gold", "b": "copper"}), build({"a": "copper hashMap", "b": "copper"})
    np.testing.assert_allclose(plain.scores({"copper": 1})[0], names.scores({"copper": 1})[0])


def test_occurrences_of_a_pair_are_exact() -> None:
    bm25 = build({"a": "pull up and pull the up", "b": "pull up"})
    assert bm25.occurrences(Pair("pull", "up", 1)) == 2
    assert bm25.occurrences(Pair("up", "absent", 1)) == 0
