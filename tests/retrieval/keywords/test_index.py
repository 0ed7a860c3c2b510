"""BM25 scores compared with a naive implementation, and the index file."""

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


def build_index(corpus: Mapping[str, str]) -> KeywordIndex:
    return KeywordIndexBuilder().add_all(corpus.items()).build()


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
    index = build_index(corpus)
    scores = index.scores(query)
    assert scores.shape == (len(corpus),)
    np.testing.assert_allclose(scores, naive_bm25(corpus, query), rtol=1e-5)
    assert index.chunk_ids == tuple(sorted(corpus))
    assert index.terms == len({term for text in corpus.values() for term in terms(text)})


@given(corpora, queries)
def test_no_score_exceeds_the_highest_score(corpus: dict[str, str], query: dict[str, int]) -> None:
    index = build_index(corpus)
    assert index.highest_score(query) >= index.scores(query).max(initial=0.0) * (1 - 1e-6)
    assert (index.highest_score(query) > 0) == bool(query)


def test_chunk_that_repeats_the_query_scores_near_the_highest_score() -> None:
    index = build_index({"a": "copper " * 200, "b": "solder " * 200})
    assert index.scores({"copper": 1})[0] == pytest.approx(index.highest_score({"copper": 1}), rel=0.01)


@given(st.permutations(list({"b": "copper", "a10": "solder copper", "a9": "", "课": "排序"}.items())))
def test_index_is_independent_of_the_order_of_added_chunks(chunks: list[tuple[str, str]]) -> None:
    index = build_index(dict(chunks))
    assert index.chunk_ids == ("a10", "a9", "b", "课")
    np.testing.assert_array_equal(index.scores({"copper": 1}) > 0, [True, False, True, False])


def test_term_counts_saturate_at_the_maximum() -> None:
    corpus, query = {"a": "copper " * 70_000, "b": "solder"}, {"copper": 1}
    assert build_index(corpus).scores(query)[0] == pytest.approx(naive_bm25(corpus, query)[0], rel=1e-4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example({}, {"copper": 1})
@given(corpora, queries)
def test_saved_index_is_loaded_unchanged(tmp_path: Path, corpus: dict[str, str], query: dict[str, int]) -> None:
    built = build_index(corpus)
    built.save(tmp_path / "new" / "index.npz")
    loaded = KeywordIndex.load(tmp_path / "new" / "index.npz")
    np.testing.assert_array_equal(loaded.scores(query), built.scores(query))
    assert loaded.chunk_ids == built.chunk_ids
    assert (loaded.terms, loaded.bytes, loaded.highest_score(query)) == (
        built.terms,
        built.bytes,
        built.highest_score(query),
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index.npz"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("index") / "index.npz"
    build_index({str(number): f"copper trees {number}" for number in range(20)}).save(path)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.data())
def test_damaged_file_is_rejected_or_gives_the_same_index(tmp_path: Path, saved: bytes, damage: st.DataObject) -> None:
    """Bytes that no checksum covers do not affect the content."""
    offset = damage.draw(st.integers(0, len(saved) - 1))
    replacement = damage.draw(st.binary(min_size=1, max_size=4))
    path, undamaged = tmp_path / "index.npz", tmp_path / "undamaged.npz"
    path.write_bytes(saved[:offset] + replacement + saved[offset + len(replacement) :])
    undamaged.write_bytes(saved)
    try:
        loaded = KeywordIndex.load(path)
    except KeywordIndexError:
        return
    expected = KeywordIndex.load(undamaged)
    assert loaded.chunk_ids == expected.chunk_ids
    np.testing.assert_array_equal(loaded.scores({"copper": 1, "7": 1}), expected.scores({"copper": 1, "7": 1}))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file_is_rejected(tmp_path: Path, saved: bytes, share: float) -> None:
    path = tmp_path / "index.npz"
    path.write_bytes(saved[: int(len(saved) * share)])
    with pytest.raises(KeywordIndexError, match="cannot be read"):
        KeywordIndex.load(path)


def test_missing_or_foreign_file_is_rejected(tmp_path: Path) -> None:
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
def test_file_of_another_version_is_rejected(tmp_path: Path, change: dict[str, int]) -> None:
    path = tmp_path / "index.npz"
    build_index({"a": "copper"}).save(path)
    with np.load(path) as file:
        parts: dict[str, Any] = dict(file)
    header = json.loads(parts["header"].tobytes()) | change
    with path.open("wb") as changed:
        np.savez(changed, **parts | {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)})
    with pytest.raises(KeywordIndexError, match="another version"):
        KeywordIndex.load(path)


def test_failed_save_leaves_the_existing_file_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.npz"
    build_index({"a": "copper"}).save(path)

    def fail(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        build_index({"b": "solder"}).save(path)
    assert KeywordIndex.load(path).chunk_ids == ("a",)
    assert [file.name for file in tmp_path.iterdir()] == ["index.npz"]
