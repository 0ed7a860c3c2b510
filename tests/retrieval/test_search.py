"""Search over one snapshot: results, order, thresholds and explanations."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.filters import parse_filter
from retrieval.fusion import DEFAULT_WEIGHTS, Weights
from retrieval.relevance import Calibration
from retrieval.search import Fusion, Hit, Method, Query, SearchOptions, Thresholds, search_snapshot
from retrieval.snapshots.snapshot import CourseSnapshot
from tests.support.snapshots import make_snapshot, query

WORDS = ("copper", "plating", "drill", "hole", "solder", "mask", "the")


def ids(snapshot: CourseSnapshot, hits: list[Hit]) -> list[str]:
    return [snapshot.chunk_ids[hit.row] for hit in hits]


def find(snapshot: CourseSnapshot, text: str = "copper", limit: int = 20, **options: object) -> list[str]:
    return ids(snapshot, search_snapshot(snapshot, [query(text)], SearchOptions(**options), limit).hits)  # type: ignore[arg-type]


def test_method_selects_the_channel() -> None:
    snapshot = make_snapshot({"a": "copper plating", "b": "drilled holes", "c": "copper"}, [0.1, 0.9, 0.2])
    assert find(snapshot, method=Method.VECTOR) == ["b", "c", "a"]
    assert find(snapshot, method=Method.KEYWORD) == ["c", "a"]
    assert find(snapshot, weights=Weights(0, 1)) == ["c", "a"], "a channel without weight chooses nothing"
    assert find(snapshot, weights=Weights(1, 0)) == ["b", "c", "a"]
    assert set(find(snapshot)) == {"a", "b", "c"}


def test_score_of_a_single_channel_search_is_the_channel_score() -> None:
    snapshot = make_snapshot({"a": "copper plating", "b": "drilled holes"}, [0.1, 0.9])
    by_vector = search_snapshot(snapshot, [query("copper")], SearchOptions(Method.VECTOR), 5).hits
    assert [hit.score for hit in by_vector] == pytest.approx([0.9, 0.1])
    (by_keyword,) = search_snapshot(snapshot, [query("copper")], SearchOptions(Method.KEYWORD), 5).hits
    assert 0 < by_keyword.score < 1
    assert by_keyword.score == pytest.approx(by_keyword.explanation.keyword_share)


def test_equal_scores_are_ordered_by_chunk_id() -> None:
    texts = {f"{number:02}": f"copper number{number:02}" for number in np.random.default_rng(1).permutation(40)}
    snapshot = make_snapshot(texts)
    for method in Method:
        for fusion in Fusion:
            assert find(snapshot, method=method, fusion=fusion, limit=15) == sorted(texts)[:15]


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
    snapshot = make_snapshot(texts, cosines)
    all_hits = search_snapshot(snapshot, [query("copper hole mask")], SearchOptions(method, fusion), len(texts)).hits
    hits = search_snapshot(snapshot, [query("copper hole mask")], SearchOptions(method, fusion), limit).hits
    assert [(hit.row, hit.score, hit.copies.tolist(), hit.explanation) for hit in hits] == [
        (hit.row, hit.score, hit.copies.tolist(), hit.explanation) for hit in all_hits[:limit]
    ]
    found_texts = [snapshot.texts[row] for hit in all_hits for row in (hit.row, *hit.copies.tolist())]
    assert len({snapshot.texts[hit.row] for hit in all_hits}) == len(all_hits)
    if method is not Method.KEYWORD:
        assert sorted(found_texts) == sorted(texts.values())


def test_chunks_with_the_same_text_are_one_hit_with_copies() -> None:
    texts = {"a": "copper", "b": "copper", "c": "copper plating", "d": "copper"}
    snapshot = make_snapshot(texts, [0.5, 0.5, 0.4, 0.5], {name: {"section_id": "1"} for name in "bd"})
    best, second = search_snapshot(snapshot, [query("plating")], SearchOptions(Method.VECTOR), 5).hits
    assert ids(snapshot, [best, second]) == ["a", "c"]
    assert (best.copies.tolist(), second.copies.tolist()) == ([1, 3], [])
    (filtered,) = search_snapshot(
        snapshot, [query("copper")], SearchOptions(filters=parse_filter({"section_id": ["1"]})), 5
    ).hits
    assert (filtered.row, filtered.copies.tolist()) == (1, [3])


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("is_filtered", [False, True])
def test_thousands_of_copies_are_one_hit(method: Method, is_filtered: bool) -> None:
    """They are neither decoded nor compared one by one."""
    texts = {f"{number:04}": "copper" for number in range(5000)} | {"other": "copper plating", "third": "copper drill"}
    metadata = {chunk_id: {"section_id": str(number % 2)} for number, chunk_id in enumerate(texts)}
    snapshot = make_snapshot(texts, metadata=metadata)
    options = SearchOptions(method, filters=parse_filter({"section_id": ["1"]}) if is_filtered else None)
    hits = search_snapshot(snapshot, [query("copper")], options, 3).hits
    assert [(hit.row, len(hit.copies)) for hit in hits] == (
        [(1, 2499), (5001, 0)] if is_filtered else [(0, 4999), (5000, 0), (5001, 0)]
    )
    assert hits[0].copies.tolist() == (list(range(3, 5000, 2)) if is_filtered else list(range(1, 5000)))


LONG = " ".join(f"the copper is plated in step {name}" for name in "abcdefghijklmnopqrstuvwxyz")


def test_near_duplicates_are_one_hit_which_is_the_best_of_them() -> None:
    texts = {"a": f"{LONG} first", "b": f"{LONG} second", "c": "copper plating", "d": f"{LONG} second"}
    snapshot = make_snapshot(texts, [0.3, 0.5, 0.4, 0.5], {name: {"section_id": "1"} for name in "ad"})
    best, second = search_snapshot(snapshot, [query("plating")], SearchOptions(Method.VECTOR), 5).hits
    assert ids(snapshot, [best, second]) == ["b", "c"]
    assert (best.copies.tolist(), best.near_copies.tolist()) == ([3], [0])
    assert best.score == pytest.approx(0.5)
    (filtered,) = search_snapshot(
        snapshot, [query("copper")], SearchOptions(filters=parse_filter({"section_id": ["1"]})), 5
    ).hits
    assert (filtered.row, filtered.copies.tolist(), filtered.near_copies.tolist()) == (3, [], [0])


def test_search_is_complete_only_if_it_has_every_hit() -> None:
    """The members of a group of near-duplicates may fill the places of other hits that are as good."""
    near = {f"near-{number:03}": f"{LONG} {chr(97 + number)}" for number in range(20)}
    others = {f"other-{number:03}": f"copper number{number}" for number in range(30)}
    snapshot = make_snapshot({**near, **others}, [0.9] * 20 + np.linspace(0.8, 0.2, 30).tolist())
    whole = search_snapshot(snapshot, [query("x")], SearchOptions(Method.VECTOR), 50).ranked
    assert (len(whole), whole.is_complete) == (31, True)
    for limit in range(1, 50):
        ranked = search_snapshot(snapshot, [query("x")], SearchOptions(Method.VECTOR), limit).ranked
        assert ranked.rows.tolist() == whole.rows.tolist()[:limit]
        assert ranked.is_complete == (limit >= 31), limit


@pytest.mark.parametrize("method", list(Method))
def test_near_duplicates_do_not_displace_other_texts(method: Method) -> None:
    texts = {f"near-{number:03}": f"{LONG} {chr(97 + number % 26) * (9 + number // 26)}" for number in range(300)}
    others = {"other": "copper plating", "third": "copper drill"}
    hits = search_snapshot(make_snapshot(texts | others), [query("copper")], SearchOptions(method), 3).hits
    assert sorted((hit.row >= 300, len(hit.near_copies)) for hit in hits) == [(False, 299), (True, 0), (True, 0)]


def test_many_copies_of_a_text_do_not_displace_other_texts() -> None:
    texts = {f"copy-{number:03}": "copper" for number in range(300)} | {"other": "copper plating", "third": "drill"}
    assert find(make_snapshot(texts), limit=3) == ["copy-000", "other", "third"]


def test_chunk_has_the_mean_score_of_several_queries() -> None:
    snapshot = make_snapshot({"a": "copper plating", "b": "solder mask", "c": "drilled holes"})
    queries = [query("plating"), query("mask")]
    hits = search_snapshot(snapshot, queries, SearchOptions(Method.KEYWORD), 5).hits
    assert {(snapshot.chunk_ids[hit.row], hit.explanation.query) for hit in hits} == {("a", 0), ("b", 1)}
    separate = [search_snapshot(snapshot, [single_query], SearchOptions(), 5).hits for single_query in queries]
    combined = search_snapshot(snapshot, queries, SearchOptions(), 5).hits
    assert {hit.row: hit.score for hit in combined} == pytest.approx(
        {row: sum(hit.score for hits in separate for hit in hits if hit.row == row) / 2 for row in range(3)}
    )


@pytest.mark.parametrize("method", list(Method))
def test_thresholds_exclude_chunks_with_lower_scores(method: Method) -> None:
    snapshot = make_snapshot({"a": "copper copper", "b": "copper in some more words", "c": "drill"}, [0.0, 0.5, 0.9])
    assert find(snapshot, method=method, thresholds=Thresholds(keyword=1e-9)) in (["a", "b"], ["b", "a"])
    assert find(snapshot, method=method, thresholds=Thresholds(keyword=0.99)) == []
    assert find(snapshot, "the of and", method=method, thresholds=Thresholds(keyword=0.1)) == []
    if method is not Method.KEYWORD:
        assert set(find(snapshot, method=method, thresholds=Thresholds(vector=0.5))) == {"b", "c"}
        assert set(find(snapshot, method=method, thresholds=Thresholds(vector=0.0))) == {"a", "b", "c"}
        assert find(snapshot, method=method, thresholds=Thresholds(vector=0.5, keyword=0.1)) == ["b"]


@pytest.mark.parametrize("method", list(Method))
def test_hit_reaches_thresholds_equal_to_its_own_scores(method: Method) -> None:
    snapshot = make_snapshot({"a": "copper in other words", "b": "drill", "c": "a mask"}, [1 / 3, 0.9, 0.1])
    (hit,) = (
        hit for hit in search_snapshot(snapshot, [query("copper")], SearchOptions(method), 3).hits if hit.row == 0
    )
    thresholds = Thresholds(hit.explanation.cosine, hit.explanation.keyword_share)
    assert find(snapshot, method=method, thresholds=thresholds) == ["a"]


def test_keyword_channel_decides_for_an_illegible_query() -> None:
    snapshot = make_snapshot({"a": "阻焊层 覆盖 铜", "b": "钻孔"}, [0.1, 0.99])
    (best, *_) = search_snapshot(snapshot, [query("什么是阻焊层", legibility=0.2)], SearchOptions(), 5).hits
    assert snapshot.chunk_ids[best.row] == "a"
    assert best.explanation.weights == (0, 1)


@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize("weights", [None, Weights(1, 3)])
@pytest.mark.parametrize("method", list(Method))
def test_parts_of_the_explanation_sum_to_the_score(method: Method, fusion: Fusion, weights: Weights | None) -> None:
    snapshot = make_snapshot({"a": "copper plating", "b": "drill"}, [0.25, 0.5])
    hits = search_snapshot(snapshot, [query("plated Copper?")], SearchOptions(method, fusion, weights), 5).hits
    for hit in hits:
        assert hit.explanation.vector_part + hit.explanation.keyword_part == pytest.approx(hit.score)
        assert list(hit.explanation.words.terms) == ["plate", "copper"]
    explanations = {hit.row: hit.explanation for hit in hits}
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
        without_copies = search_snapshot(make_snapshot(texts, cosines), [query("copper")], options, 9).hits
        with_copies = search_snapshot(
            make_snapshot(texts | copies, cosines + [0.8] * 9), [query("copper")], options, 9
        ).hits
        assert [hit.score for hit in with_copies] == pytest.approx([hit.score for hit in without_copies], rel=0.25)
        assert len(with_copies[0].copies) == 9


def test_keyword_search_needs_no_vector() -> None:
    snapshot = make_snapshot({"a": "copper", "b": "drill"})
    (hit,) = search_snapshot(snapshot, [Query("copper", None)], SearchOptions(Method.KEYWORD), 5).hits
    assert (hit.row, hit.explanation.cosine) == (0, None)


def test_search_without_matches_returns_no_hits() -> None:
    assert find(make_snapshot({})) == []
    snapshot = make_snapshot({"a": "copper"})
    assert find(snapshot, "unknown", method=Method.KEYWORD) == []
    assert find(snapshot, "the of and", method=Method.KEYWORD) == []
    assert find(snapshot, "the of and") == ["a"]  # found by vector
    assert find(snapshot, filters=parse_filter({"section_id": ["unknown"]})) == []


def test_a_meaningless_phrasing_does_not_hide_what_the_other_one_finds() -> None:
    angles = {"copper foil": 0.0, **{f"passage {angle}": float(angle) for angle in range(30, 46)}, "far away": 60.0}
    texts = {f"{row:02}": text for row, text in enumerate(angles)}
    snapshot = make_snapshot(texts, [float(np.cos(np.radians(angle))) for angle in angles.values()])
    towards_far_away = np.array([np.cos(np.radians(120)), np.sin(np.radians(120))], dtype=np.float32)
    phrasings = [query("copper foil"), Query("zzz qqq", towards_far_away)]
    for fusion in Fusion:
        options, calibration = SearchOptions(fusion=fusion, weights=DEFAULT_WEIGHTS), Calibration(0.4, 0.4, 0.9)
        (best, *_) = search_snapshot(snapshot, phrasings, options, 5, calibration).hits
        assert best.row == 0


@pytest.mark.parametrize(
    ("typed", "first"), [("café", 0), ("Zürich", 0), ("Straße", 1), ("cafe", 2), ("Zurich", 3), ("strasse", 3)]
)
def test_the_exact_spelling_comes_first(typed: str, first: int) -> None:
    rows = ["Café culture in Zürich.", "Die Straße ist lang.", "cafe", "A strasse in Zurich"]
    snapshot = make_snapshot({str(row): text for row, text in enumerate(rows)})
    hits = search_snapshot(snapshot, [query(typed)], SearchOptions(Method.KEYWORD), 5).hits
    assert (hits[0].row, len(hits)) == (first, 2)
