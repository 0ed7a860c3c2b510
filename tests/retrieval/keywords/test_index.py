"""BM25 as the textbook has it, and a file that is right or refused."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retrieval.keywords.analysis import terms
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError

WORDS = ("copper", "solder", "排序", "node.js", "the", "trees", "C++")
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
corpora = st.dictionaries(st.text("abc019-", min_size=1, max_size=4), texts, max_size=8)
queries = st.dictionaries(
    st.sampled_from([term for word in WORDS for term in terms(word)] + ["absent"]), st.integers(1, 3)
)


def index_from_collection(corpus: Mapping[str, str]) -> KeywordIndex:
    return KeywordIndexBuilder().add_all(corpus.items()).build()


def naive(corpus: Mapping[str, str], query: Mapping[str, int]) -> list[float]:
    """BM25 with k1 = 1.2, b = .75 and Lucene's idf, chunk by chunk in the order of their ids."""
    documents = [Counter(terms(text)) for _, text in sorted(corpus.items())]
    mean = max(1.0, sum(document.total() for document in documents) / max(1, len(documents)))
    scores = []
    for document in documents:
        score = 0.0
        for term, asked in query.items():
            holding = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            count = document[term]
            score += asked * idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * document.total() / mean))
        scores.append(score)
    return scores


@example({}, {"copper": 1})
@example({"a": ""}, {"copper": 1})
@example({"a": "the", "b": "copper"}, {"copper": 3})
@given(corpora, queries)
def test_scores_are_those_of_the_textbook(corpus: dict[str, str], query: dict[str, int]) -> None:
    index = index_from_collection(corpus)
    scores = index.scores(query)
    assert scores.shape == (len(corpus),)
    np.testing.assert_allclose(scores, naive(corpus, query), rtol=1e-5)
    assert index.chunk_ids == tuple(sorted(corpus))
    assert index.terms == len({term for text in corpus.values() for term in terms(text)})


@given(corpora, queries)
def test_no_chunk_scores_above_the_ideal(corpus: dict[str, str], query: dict[str, int]) -> None:
    index = index_from_collection(corpus)
    assert index.highest_score(query) >= index.scores(query).max(initial=0.0) * (1 - 1e-6)
    assert (index.highest_score(query) > 0) == bool(query)


def test_a_chunk_that_says_only_the_query_comes_near_the_ideal() -> None:
    index = index_from_collection({"a": "copper " * 200, "b": "solder " * 200})
    assert index.scores({"copper": 1})[0] == pytest.approx(index.highest_score({"copper": 1}), rel=0.01)


@given(st.permutations(list({"b": "copper", "a10": "solder copper", "a9": "", "课": "排序"}.items())))
def test_the_order_of_reading_does_not_matter(chunks: list[tuple[str, str]]) -> None:
    index = index_from_collection(dict(chunks))
    assert index.chunk_ids == ("a10", "a9", "b", "课")
    np.testing.assert_array_equal(index.scores({"copper": 1}) > 0, [True, False, True, False])


def test_a_term_may_occur_more_often_than_a_count_holds() -> None:
    corpus, query = {"a": "copper " * 70_000, "b": "solder"}, {"copper": 1}
    assert index_from_collection(corpus).scores(query)[0] == pytest.approx(naive(corpus, query)[0], rel=1e-4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example({}, {"copper": 1})
@given(corpora, queries)
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, corpus: dict[str, str], query: dict[str, int]) -> None:
    made = index_from_collection(corpus)
    made.save(tmp_path / "new" / "index.npz")
    loaded = KeywordIndex.load(tmp_path / "new" / "index.npz")
    np.testing.assert_array_equal(loaded.scores(query), made.scores(query))
    assert loaded.chunk_ids == made.chunk_ids
    assert (loaded.terms, loaded.bytes, loaded.highest_score(query)) == (
        made.terms,
        made.bytes,
        made.highest_score(query),
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index.npz"], "nothing else is left"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("index") / "index.npz"
    index_from_collection({str(number): f"copper trees {number}" for number in range(20)}).save(path)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.data())
def test_a_damaged_file_is_refused_or_does_not_matter(tmp_path: Path, saved: bytes, damage: st.DataObject) -> None:
    """Every part carries a check sum; what is not covered by one says nothing."""
    place = damage.draw(st.integers(0, len(saved) - 1))
    rest = damage.draw(st.binary(min_size=1, max_size=4))
    path, whole = tmp_path / "index.npz", tmp_path / "whole.npz"
    path.write_bytes(saved[:place] + rest + saved[place + len(rest) :])
    whole.write_bytes(saved)
    try:
        loaded = KeywordIndex.load(path)
    except KeywordIndexError:
        return
    expected = KeywordIndex.load(whole)
    assert loaded.chunk_ids == expected.chunk_ids
    np.testing.assert_array_equal(loaded.scores({"copper": 1, "7": 1}), expected.scores({"copper": 1, "7": 1}))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, saved: bytes, share: float) -> None:
    path = tmp_path / "index.npz"
    path.write_bytes(saved[: int(len(saved) * share)])
    with pytest.raises(KeywordIndexError, match="cannot be read"):
        KeywordIndex.load(path)


def test_a_file_that_is_not_there_or_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    with pytest.raises(KeywordIndexError, match="No such file"):
        KeywordIndex.load(path)
    for content in (b"", b"garbage", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(KeywordIndexError, match="cannot be read"):
            KeywordIndex.load(path)
    with path.open("wb") as file:
        np.savez(file, something=np.zeros(3))
    with pytest.raises(KeywordIndexError, match="cannot be read"):
        KeywordIndex.load(path)


@pytest.mark.parametrize("change", [{"analysis": 0}, {"format": 99}])
def test_a_file_of_another_version_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    path = tmp_path / "index.npz"
    index_from_collection({"a": "copper"}).save(path)
    with np.load(path) as file:
        parts: dict[str, Any] = dict(file)
    header = json.loads(parts["header"].tobytes()) | change
    with path.open("wb") as changed:
        np.savez(changed, **parts | {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)})
    with pytest.raises(KeywordIndexError, match="another version"):
        KeywordIndex.load(path)


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.npz"
    index_from_collection({"a": "copper"}).save(path)

    def no_room(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        index_from_collection({"b": "solder"}).save(path)
    assert KeywordIndex.load(path).chunk_ids == ("a",)
    assert [file.name for file in tmp_path.iterdir()] == ["index.npz"]
