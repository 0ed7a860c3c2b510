"""Relevance: what a calibration measures, and what searches make of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.fusion import Weights
from retrieval.relevance import (
    MIN_RELEVANCE,
    Calibration,
    KeywordEvidence,
    calibrate,
    foreign_questions,
    relevance,
)
from retrieval.search import Fusion, Method, Query, SearchOptions, search_snapshot
from tests.support.snapshots import make_snapshot, query

TEXTS = {"a": "copper plating", "b": "drilled holes", "c": "solder mask over bare copper"}
CALIBRATION = Calibration(noise=0.2, cjk_noise=0.4, signal=0.7)
shares = st.floats(0, 1)


def at_angle(cosine: float) -> list[float]:
    """A unit vector whose cosine to (1, 0) is this."""
    return [cosine, float(np.sqrt(1 - cosine**2))]


def test_foreign_questions_are_in_both_languages() -> None:
    chinese = [question for question in foreign_questions() if any(letter >= "\u4e00" for letter in question)]
    assert len(foreign_questions()) == 2 * len(chinese) == len(set(foreign_questions())) == 80


def test_calibration_measures_noise_by_language_and_signal() -> None:
    """The foreign questions with the best cosines may be of the course's field, and do not count."""
    snapshot = make_snapshot({"a": "copper", "b": "drill"}, [1.0, 1.0])
    cosines = [0.3 if question.isascii() else 0.6 for question in foreign_questions()]
    cosines[0] = cosines[1] = 0.95
    own = {f"question {c}": np.array(at_angle(c), dtype=np.float32) for c in (0.7, 0.8, 0.9)}
    calls = []
    measured = calibrate(
        snapshot, own, np.array([at_angle(c) for c in cosines], dtype=np.float32), lambda: calls.append(1)
    )
    assert measured == pytest.approx((0.3, 0.6, 0.8, 0), abs=1e-3)
    assert len(calls) == 83, "a large course takes long, so the caller gets to show a sign of life"


def test_course_without_questions_of_its_own_is_not_calibrated() -> None:
    assert calibrate(make_snapshot({"a": "copper"}), {}, np.zeros((80, 2), dtype=np.float32)) is None


def test_calibration_survives_the_column() -> None:
    assert Calibration.parse(CALIBRATION.as_text("model"), "model") == CALIBRATION
    assert Calibration.parse(CALIBRATION.as_text("model"), "another model") is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "null",
        "[]",
        "{}",
        "not JSON",
        '{"version": 0, "noise": 0.1, "cjk_noise": 0.1, "signal": 0.1}',
        "1" * 9,
    ],
)
def test_column_of_another_version_is_no_calibration(text: str | None) -> None:
    assert Calibration.parse(text, "model") is None


def test_cosines_are_compared_with_the_noise_of_the_language() -> None:
    cosines = np.array([0.2, 0.7], dtype=np.float32)
    np.testing.assert_allclose(CALIBRATION.between("a question", cosines), [0, 1], atol=1e-6)
    assert CALIBRATION.between("一个问题", cosines)[0] < 0


@given(st.floats(-1, 2), shares, st.floats(0, 5), shares, shares)
def test_relevance_is_a_probability_that_grows_with_the_evidence(
    cosine: float, share: float, best: float, unknown: float, readable: float
) -> None:
    def of(cosine: float, share: float, unknown: float) -> float:
        words = KeywordEvidence(np.array([share]), share, best, unknown)
        return float(relevance(np.array([cosine]), words, readable)[0])

    value = of(cosine, share, unknown)
    assert 0 < value < 1
    assert of(cosine + 0.1, share, unknown) >= value - 1e-9
    assert of(cosine, share + 0.1, unknown) >= value
    assert of(cosine, share, unknown + 0.1) <= value


def test_cosines_do_not_count_if_the_model_cannot_read_the_query() -> None:
    words = KeywordEvidence(np.array([0.5]), 0.5, 4.0, 0.0)
    assert relevance(np.array([1.0]), words, 0.0) == relevance(None, words)


def test_passage_that_says_what_was_asked_is_relevant_and_an_unrelated_one_is_not() -> None:
    snapshot = make_snapshot(
        TEXTS | {f"x{n}": f"etching step {n} of the panel" for n in range(20)}, [0.75, 0.1, 0.3] + [0.1] * 20
    )
    (best, *_) = (found := search_snapshot(snapshot, [query("copper plating")], SearchOptions(), 5, CALIBRATION)).hits
    assert (best.row, found.unknown_terms) == (0, ())
    assert best.relevance is not None
    assert best.relevance > 0.8
    assert found.best_relevance == best.relevance
    foreign = search_snapshot(
        make_snapshot(TEXTS, [0.1, 0.15, 0.12]), [query("violin concertos")], SearchOptions(), 5, CALIBRATION
    )
    assert foreign.hits == []
    assert foreign.best_relevance is not None
    assert foreign.best_relevance < MIN_RELEVANCE
    assert foreign.unknown_terms == ("violin", "concertos")


@pytest.mark.parametrize("method", list(Method))
def test_without_a_calibration_only_keyword_searches_estimate_relevance(method: Method) -> None:
    snapshot = make_snapshot(TEXTS)
    for calibration in (None, CALIBRATION):
        found = search_snapshot(snapshot, [query("copper plating")], SearchOptions(method), 5, calibration)
        is_known = method is Method.KEYWORD or calibration is not None
        assert (found.best_relevance is not None) is is_known
        assert all((hit.relevance is not None) is is_known for hit in found.hits)


def test_results_that_nothing_supports_are_left_out() -> None:
    """No word of the query, and a cosine that questions of other fields reach as well."""
    snapshot = make_snapshot(TEXTS, [0.5, 0.1, 0.15])
    found = search_snapshot(snapshot, [query("plating")], SearchOptions(), 5, CALIBRATION)
    assert [hit.row for hit in found.hits] == [0]
    by_meaning = make_snapshot(TEXTS, [0.1, 0.4, 0.15])
    found = search_snapshot(by_meaning, [query("plating")], SearchOptions(), 5, CALIBRATION)
    assert sorted(hit.row for hit in found.hits) == [0, 1]


def test_a_word_of_grammar_supports_nothing_beside_words_that_say_something() -> None:
    texts = {"a": "the copper", "b": "the drill", "c": "the mask"}
    found = search_snapshot(make_snapshot(texts), [Query("the copper", None)], SearchOptions(Method.KEYWORD), 5)
    assert [hit.row for hit in found.hits] == [0]
    alone = search_snapshot(make_snapshot(texts), [Query("the", None)], SearchOptions(Method.KEYWORD), 5)
    assert len(alone.hits) == 3


@pytest.mark.parametrize("fusion", list(Fusion))
def test_a_channel_without_weight_chooses_nothing(fusion: Fusion) -> None:
    snapshot = make_snapshot(TEXTS)
    by_words = SearchOptions(fusion=fusion, weights=Weights(0, 1))
    assert search_snapshot(snapshot, [query("zzzabsent")], by_words, 5).hits == []
    assert [hit.row for hit in search_snapshot(snapshot, [query("plating")], by_words, 5).hits] == [0]
    by_vector = SearchOptions(fusion=fusion, weights=Weights(1, 0))
    assert len(search_snapshot(snapshot, [query("zzzabsent")], by_vector, 5).hits) == 3


def test_vectors_of_a_query_that_the_model_cannot_read_choose_nothing() -> None:
    found = search_snapshot(make_snapshot(TEXTS), [query("没有的词", legibility=0.1)], SearchOptions(), 5)
    assert found.hits == []


def test_an_accidental_word_does_not_decide() -> None:
    """The course never says `backprop`, and one chunk happens to say `works`."""
    texts = {f"x{n:02}": f"layer {n} of the network" for n in range(30)}
    texts |= {"gradient": "errors flow backwards through the network", "homework": "homework works on paper"}
    cosines = dict.fromkeys(texts, 0.2) | {"gradient": 0.7, "homework": 0.25}
    snapshot = make_snapshot(texts, list(cosines.values()))
    (best, *_) = search_snapshot(snapshot, [query("how does backprop works")], SearchOptions(), 5).hits
    assert snapshot.chunk_ids[best.row] == "gradient"


def test_one_phrasing_of_several_cannot_outvote_the_others() -> None:
    """Scores of different phrasings are not comparable, so the mean decides rather than the highest one."""
    texts = {f"x{n:02}": f"step {n}" for n in range(30)} | {"right": "copper plating bath", "wrong": "xylophone"}
    cosines = dict.fromkeys(texts, 0.1) | {"right": 0.6, "wrong": 0.2}
    snapshot = make_snapshot(texts, list(cosines.values()))
    phrasings = [query("copper plating"), query("plating bath"), query("xylophone")]
    (best, *_) = search_snapshot(snapshot, phrasings, SearchOptions(), 5).hits
    assert snapshot.chunk_ids[best.row] == "right"
    assert best.explanation.query in (0, 1)


def test_words_do_not_count_if_the_course_is_in_another_script() -> None:
    """English questions to a Chinese course: each of their words is unknown, which says nothing."""
    snapshot = make_snapshot({"a": "铜箔的厚度", "b": "钻孔"}, [0.7, 0.1])
    for cjk_share, is_answered in ((1.0, True), (0.5, False)):
        calibration = CALIBRATION._replace(cjk_share=cjk_share)
        found = search_snapshot(snapshot, [query("thickness of copper foil")], SearchOptions(), 5, calibration)
        assert found.best_relevance is not None
        assert (found.best_relevance >= MIN_RELEVANCE) is is_answered


LONG_COURSE = make_snapshot({f"{row:03}": " ".join(f"word{row}of{part}" for part in range(8)) for row in range(40)})


def by_words(text: str) -> float:
    (best, *_) = search_snapshot(LONG_COURSE, [query(text)], SearchOptions(Method.KEYWORD), 1).hits
    assert best.relevance is not None
    return best.relevance


def test_a_repeated_word_says_no_more_than_one() -> None:
    assert by_words("word3of1 " * 100) == pytest.approx(by_words("word3of1"), abs=1e-6)


def test_a_few_words_answer_a_question_but_no_long_text() -> None:
    asked = [f"word3of{part}" for part in range(4)]
    others = [f"word{row}of{part}" for row in range(4, 40) for part in range(3)]
    assert by_words(" ".join(asked)) > 0.9
    assert by_words(" ".join([*asked, *others])) < 0.1


def test_words_of_grammar_alone_do_not_make_a_course_answerable() -> None:
    texts = {f"{row:02}": f"the copper of step {row} and the drill" for row in range(20)}
    snapshot = make_snapshot(texts)
    for text in ("the", "and the", "what is the"):
        found = search_snapshot(snapshot, [Query(text, None)], SearchOptions(Method.KEYWORD), 5)
        assert found.best_relevance is not None
        assert found.best_relevance < MIN_RELEVANCE


@pytest.mark.parametrize("limit", [1, 3, 5, 20])
def test_whether_a_course_answers_does_not_depend_on_the_number_of_results(limit: int) -> None:
    texts = {f"{row:02}": f"copper step {row}" for row in range(30)} | {"plating": "copper plating"}
    cosines = [0.3 + row / 100 for row in range(31)]
    best = [
        search_snapshot(make_snapshot(texts, cosines), [query("copper plating")], SearchOptions(), each, CALIBRATION)
        for each in (limit, 5)
    ]
    assert best[0].best_relevance == best[1].best_relevance
