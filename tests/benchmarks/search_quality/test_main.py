"""The measures by hand, sets that cannot be used, and the whole way on a tiny set."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_quality import main
from benchmarks.search_quality.cached_embedder import CachedEmbedder
from benchmarks.search_quality.metrics import estimate, milliseconds, ndcg, recall, reciprocal_rank
from benchmarks.search_quality.retrieval_sets import SetError, find_sets, read_set
from tests.support.indexed_course import StubEmbedder, vector_of
from tests.support.tiny_models import make_tiny_qwen3

TEXTS = {
    "copper": "Copper thickness is measured with a micrometer.",
    "copper-again": "Copper thickness is measured with a micrometer.",
    "slope": "Gradient descent scales every step down the slope of the loss.",
    "sugar": "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "index": "数据库用索引加快查询。",
}
QUERIES = {"q1": "How is copper thickness measured?", "q2": "Light, water, sugar", "q3": "索引加快查询", "q4": "war"}
LANGUAGES = {"q1": "en", "q2": "en", "q3": "zh", "q4": "en"}
QRELS = ["q1\tcopper-again\t2", "q2\tsugar\t1", "q3\tindex\t1", "q3\tslope\t0"]


def write_set(directory: Path, **files: str) -> Path:
    """A set; files that are given replace its own."""
    rows = [
        {
            "id": chunk_id,
            "course_id": "another",
            "lecture_id": "l1",
            "section_id": "s1",
            "order_in_section": number,
            "text": text,
            "language": "en",
            "source_type": "pdf",
        }
        for number, (chunk_id, text) in enumerate(TEXTS.items())
    ]
    queries = [{"id": key, "text": text, "language": LANGUAGES[key]} for key, text in QUERIES.items()]
    own = {
        "corpus.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "queries.jsonl": "".join(json.dumps(query, ensure_ascii=False) + "\n" for query in queries),
        "qrels.tsv": "\n".join(["query_id\tchunk_id\tscore", *QRELS]),
    }
    directory.mkdir(parents=True)
    for name, content in (own | files).items():
        (directory / name).write_text(content, encoding="utf-8")
    return directory


def test_ndcg_discounts_by_place_and_compares_with_the_best_order_there_is() -> None:
    judged = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.0}
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(["a", "b", "c"], judged) == pytest.approx(1.0)
    assert ndcg(["b", "x", "a"], judged) == pytest.approx((1 / math.log2(2) + 2 / math.log2(4)) / ideal)
    assert ndcg(["x", "a"], judged, depth=1) == 0.0
    assert ndcg(["a"], judged, depth=1) == 1.0
    assert ndcg([], judged) == 0.0


def test_recall_counts_what_answers_and_nothing_else() -> None:
    judged = {"a": 2.0, "b": 1.0, "d": 0.0}
    assert recall(["d", "x", "b"], judged) == 0.5
    assert recall(["d", "x", "b", "a"], judged, depth=3) == 0.5
    assert recall(["a", "b"], judged) == 1.0


def test_reciprocal_rank_is_that_of_the_first_answer() -> None:
    judged = {"a": 2.0, "b": 1.0, "d": 0.0}
    assert reciprocal_rank(["d", "x", "b", "a"], judged) == pytest.approx(1 / 3)
    assert reciprocal_rank(["x"] * 10 + ["a"], judged) == 0.0


def test_an_estimate_holds_its_mean_and_narrows_with_the_sample() -> None:
    few, many = estimate([0.0, 1.0] * 10), estimate([0.0, 1.0] * 1000)
    assert few.mean == many.mean == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(20), rel=0.15)
    assert estimate([0.3, 0.3]) == (0.3, 0.3, 0.3)
    assert estimate([0.0, 1.0, 1.0]) == estimate([0.0, 1.0, 1.0])


def test_a_percentile_comes_in_milliseconds() -> None:
    assert milliseconds([0.001, 0.002, 0.009], 50) == 2.0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("queries.jsonl", '{"id": "q1", "text": " "}', "queries.jsonl:1: text must be"),
        ("queries.jsonl", '{"id": "q1", "text": "a"}\n{"id": "q1", "text": "b"}', "queries.jsonl:2: query 'q1' stands"),
        ("queries.jsonl", "\n[]", "queries.jsonl:2: not a JSON object"),
        ("queries.jsonl", "{", "queries.jsonl:1: not JSON"),
        ("qrels.tsv", "q1\tcopper\t1", "qrels.tsv:1: the first line must be"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tcopper", "qrels.tsv:2: not a query's id"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tcopper\tnan", "qrels.tsv:2: not a query's id"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tgold\t1", "qrels.tsv:2: there is no chunk 'gold'"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq9\tcopper\t1", "qrels.tsv:2: there is no query 'q9'"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tcopper\t0", "no query has a chunk"),
    ],
)
def test_a_malformed_set_says_where(tmp_path: Path, file: str, content: str, message: str) -> None:
    directory = write_set(tmp_path / "set", **{file: content})
    with pytest.raises(SetError, match=message):
        read_set(directory)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    directory = write_set(tmp_path / "set")
    (directory / "qrels.tsv").unlink()
    with pytest.raises(SetError, match=r"qrels\.tsv: No such file"):
        read_set(directory)


def test_a_directory_of_sets_leaves_out_those_without_queries(tmp_path: Path) -> None:
    whole, corpus = write_set(tmp_path / "a"), write_set(tmp_path / "b")
    (corpus / "queries.jsonl").unlink()
    assert find_sets(tmp_path) == ([whole], [corpus])
    assert find_sets(whole) == ([whole], [])
    with pytest.raises(SetError, match="holds no retrieval set"):
        find_sets(tmp_path / "nothing")


def test_a_sample_is_spread_evenly_over_the_queries(tmp_path: Path) -> None:
    queries = "\n".join(json.dumps({"id": f"q{number}", "text": "?"}) for number in range(11))
    qrels = "\n".join(["query_id\tchunk_id\tscore", *(f"q{number}\tcopper\t1" for number in range(11))])
    one = read_set(write_set(tmp_path / "set", **{"queries.jsonl": queries, "qrels.tsv": qrels}))
    assert [query.id for query in one.sample(3).queries] == ["q0", "q5", "q10"]
    assert one.sample(None) == one.sample(20) == one


def test_vectors_are_made_once(tmp_path: Path) -> None:
    stub = StubEmbedder()
    first = CachedEmbedder(stub, tmp_path).embed_documents(["a", "b", "a"])
    again = CachedEmbedder(stub, tmp_path).embed_documents(["b", "c"])
    assert stub.embedded == ["a", "b", "c"]
    np.testing.assert_array_equal(first.vectors, [vector_of(text) for text in "aba"])
    np.testing.assert_array_equal(again.vectors, [vector_of(text) for text in "bc"])
    other = StubEmbedder("another")
    CachedEmbedder(other, tmp_path).embed_documents(["a"])
    assert other.embedded == ["a"]


def test_what_cannot_be_used_ends_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluation", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert "holds no retrieval set" in capsys.readouterr().err


@pytest.mark.integration
def test_sets_are_evaluated_from_files_to_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "data" / "tiny")
    write_set(tmp_path / "data" / "twin")  # the same chunks in another set
    out = tmp_path / "out.json"
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(make_tiny_qwen3(tmp_path / "model")))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    monkeypatch.setattr("sys.argv", ["evaluation", str(tmp_path / "data"), "--out", str(out)])
    main.main()
    one, twin = json.loads(out.read_text())["sets"]
    assert twin["groups"]["all"]["gain"] == one["groups"]["all"]["gain"]
    assert (one["name"], one["chunks"], one["unjudged_queries"]) == ("tiny", 5, 1)
    groups = one["groups"]
    assert {name: group["queries"] for name, group in groups.items()} == {"all": 3, "en": 2, "zh": 1}
    # the copy that is judged counts, though the other one, whose id is lower, stands for both
    assert groups["all"]["methods"]["keyword"]["ndcg@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert groups["all"]["methods"]["hybrid"]["recall@20"]["mean"] == 1.0
    assert groups["all"]["gain"]["ndcg@10"]["mean"] <= 0
