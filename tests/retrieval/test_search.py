"""Search over one course index: results, order, thresholds and explanations."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.course_index import CourseIndex
from retrieval.fusion import DEFAULT_WEIGHTS, Weights
from retrieval.search import Explanation, Fusion, Hit, Method, Query, SearchOptions, Thresholds, search_index
from tests.support.course_index import make_index, query

WORDS = ("copper", "plating", "drill", "hole", "solder", "mask", "the")


def ids(hits: list[Hit]) -> list[str]:
    return [hit.record.chunk_id for hit in hits]


def explanation_of(hit: Hit) -> Explanation:
    assert hit.explanation is not None
    return hit.explanation


def find(index: CourseIndex, text: str = "copper", limit: int = 20, **options: object) -> list[str]:
    return ids(search_index(index, [query(text)], SearchOptions(**options), limit))  # type: ignore[arg-type]


def test_method_selects_the_channel() -> None:
    index = make_index({"a": "copper plating", "b": "drilled holes", "c": "copper"}, [0.1, 0.9, 0.2])
    assert find(index, method=Method.VECTOR) == ["b", "c", "a"]
    assert find(index, method=Method.KEYWORD) == ["c", "a"]
    assert find(index, weights=Weights(0, 1)) == ["c", "a", "b"]
    assert find(index, weights=Weights(1, 0)) == ["b", "c", "a"]
    assert set(find(index)) == {"a", "b", "c"}


def test_score_of_a_single_channel_search_is_the_channel_score() -> None:
    index = make_index({"a": "copper plating", "b": "drilled holes"}, [0.1, 0.9])
    by_vector = search_index(index, [query("copper")], SearchOptions(Method.VECTOR), 5)
    assert [hit.score for hit in by_vector] == pytest.approx([0.9, 0.1])
    (by_keyword,) = search_index(index, [query("copper")], SearchOptions(Method.KEYWORD), 5)
    assert 0 < by_keyword.score < 1
    assert by_keyword.score == pytest.approx(explanation_of(by_keyword).keyword_share)


def test_equal_scores_are_ordered_by_chunk_id() -> None:
    texts = {f"{number:02}": f"copper number{number:02}" for number in np.random.default_rng(1).permutation(40)}
    index = make_index(texts)
    for method in Method:
        for fusion in Fusion:
            assert find(index, method=method, fusion=fusion, limit=15) == sorted(texts)[:15]


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.lists(st.sampled_from(WORDS), max_size=5), min_size=1),
    st.randoms(),
    st.sampled_from(list(Method)),
    st.sampled_from(list(Fusion)),
    st.integers(1, 8),
)
def test_results_with_a_lower_limit_are_a_prefix(
    words: Mapping[str, list[str]], random: object, method: Method, fusion: Fusion, limit: int
) -> None:
    texts = {chunk_id: " ".join(chosen) for chunk_id, chosen in words.items()}
    cosines = [getattr(random, "choice")([0.2, 0.4, 0.4000001, 0.6]) for _ in texts]  # noqa: B009
    index = make_index(texts, cosines)
    all_hits = search_index(index, [query("copper hole mask")], SearchOptions(method, fusion), len(texts))
    hits = search_index(index, [query("copper hole mask")], SearchOptions(method, fusion), limit)
    assert hits == all_hits[:limit]
    found_texts = [record.text for hit in all_hits for record in (hit.record, *hit.copies)]
    assert len({hit.record.text for hit in all_hits}) == len(all_hits)
    if method is not Method.KEYWORD:
        assert sorted(found_texts) == sorted(texts.values())


def test_chunks_with_the_same_text_are_one_hit_with_copies() -> None:
    texts = {"a": "copper", "b": "copper", "c": "copper plating", "d": "copper"}
    index = make_index(texts, [0.5, 0.7, 0.6, 0.5], {"a": {"section_id": "1"}, "d": {"section_id": "1"}})
    best, second = search_index(index, [query("plating")], SearchOptions(Method.VECTOR), 5)
    assert ids([best, second]) == ["b", "c"]
    assert [copy.chunk_id for copy in best.copies] == ["a", "d"]
    (filtered,) = search_index(index, [query("copper")], SearchOptions(filters={"section_id": ["1"]}), 5)
    assert [record.chunk_id for record in (filtered.record, *filtered.copies)] == ["a", "d"]


def test_many_copies_of_a_text_do_not_displace_other_texts() -> None:
    texts = {f"copy-{number:03}": "copper" for number in range(300)} | {"other": "copper plating", "third": "drill"}
    assert find(make_index(texts), limit=3) == ["copy-000", "other", "third"]


def test_chunk_has_the_best_score_of_several_queries() -> None:
    index = make_index({"a": "copper plating", "b": "solder mask", "c": "drilled holes"})
    queries = [query("plating"), query("mask")]
    hits = search_index(index, queries, SearchOptions(Method.KEYWORD), 5)
    assert {(hit.record.chunk_id, explanation_of(hit).query) for hit in hits} == {("a", 0), ("b", 1)}
    separate = [search_index(index, [single_query], SearchOptions(), 5) for single_query in queries]
    combined = search_index(index, queries, SearchOptions(), 5)
    assert {hit.row: hit.score for hit in combined} == {
        row: max(hit.score for hits in separate for hit in hits if hit.row == row) for row in range(3)
    }


@pytest.mark.parametrize("method", list(Method))
def test_thresholds_exclude_chunks_with_lower_scores(method: Method) -> None:
    index = make_index({"a": "copper copper", "b": "copper in some more words", "c": "drill"}, [0.0, 0.5, 0.9])
    assert find(index, method=method, thresholds=Thresholds(keyword=1e-9)) in (["a", "b"], ["b", "a"])
    assert find(index, method=method, thresholds=Thresholds(keyword=0.99)) == []
    assert find(index, "the of and", method=method, thresholds=Thresholds(keyword=0.1)) == []
    if method is not Method.KEYWORD:
        assert set(find(index, method=method, thresholds=Thresholds(vector=0.5))) == {"b", "c"}
        assert set(find(index, method=method, thresholds=Thresholds(vector=0.0))) == {"a", "b", "c"}
        assert find(index, method=method, thresholds=Thresholds(vector=0.5, keyword=0.1)) == ["b"]


def test_keyword_channel_decides_for_an_illegible_query() -> None:
    index = make_index({"a": "阻焊层 覆盖 铜", "b": "钻孔"}, [0.1, 0.99])
    (best, *_) = search_index(index, [query("什么是阻焊层", legibility=0.2)], SearchOptions(), 5)
    assert best.record.chunk_id == "a"
    assert explanation_of(best).weights == (0, 1)


@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize("weights", [None, Weights(1, 3)])
@pytest.mark.parametrize("method", list(Method))
def test_parts_of_the_explanation_sum_to_the_score(method: Method, fusion: Fusion, weights: Weights | None) -> None:
    index = make_index({"a": "copper plating", "b": "drill"}, [0.25, 0.5])
    hits = search_index(index, [query("plated Copper?")], SearchOptions(method, fusion, weights), 5)
    for hit in hits:
        assert explanation_of(hit).vector_part + explanation_of(hit).keyword_part == pytest.approx(hit.score)
        assert explanation_of(hit).terms == ("plate", "copper")
    explanations = {hit.row: explanation_of(hit) for hit in hits}
    assert explanations[0].cosine == (None if method is Method.KEYWORD else pytest.approx(0.25))
    assert explanations[0].bm25 > 0
    assert 0 < explanations[0].keyword_share < 1
    if method is Method.HYBRID:
        assert explanations[0].weights == pytest.approx(weights.shares if weights else DEFAULT_WEIGHTS)
        assert (
            explanations[1].bm25,
            explanations[1].keyword_share,
            explanations[1].keyword_part < explanations[0].keyword_part,
        ) == (0, 0, True)


def test_copies_of_a_text_hardly_change_scores() -> None:
    texts = {"a": "copper plating", "b": "copper", "c": "solder mask", "d": "drill"}
    cosines = [0.8, 0.5, 0.3, 0.2]
    copies = {f"a{number}": texts["a"] for number in range(9)}
    for options in (SearchOptions(), SearchOptions(fusion=Fusion.RRF), SearchOptions(weights=Weights(1, 1))):
        without_copies = search_index(make_index(texts, cosines), [query("copper")], options, 9)
        with_copies = search_index(make_index(texts | copies, cosines + [0.8] * 9), [query("copper")], options, 9)
        assert [hit.score for hit in with_copies] == pytest.approx([hit.score for hit in without_copies], rel=0.25)
        assert len(with_copies[0].copies) == 9


def test_keyword_search_needs_no_vector() -> None:
    index = make_index({"a": "copper", "b": "drill"})
    (hit,) = search_index(index, [Query("copper", None)], SearchOptions(Method.KEYWORD), 5)
    assert (hit.row, explanation_of(hit).cosine) == (0, None)


def test_search_without_matches_returns_no_hits() -> None:
    assert find(make_index({})) == []
    index = make_index({"a": "copper"})
    assert find(index, "unknown", method=Method.KEYWORD) == []
    assert find(index, "the of and", method=Method.KEYWORD) == []
    assert find(index, "the of and") == ["a"]  # found by vector
    assert find(index, filters={"section_id": ["unknown"]}) == []
