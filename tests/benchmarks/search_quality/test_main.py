"""The metrics, unusable retrieval sets, and an evaluation of a tiny set."""

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
    """Write a set; `files` replaces the content of some of its files."""
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
    defaults = {
        "corpus.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "queries.jsonl": "".join(json.dumps(query, ensure_ascii=False) + "\n" for query in queries),
        "qrels.tsv": "\n".join(["query_id\tchunk_id\tscore", *QRELS]),
    }
    directory.mkdir(parents=True)
    for name, content in (defaults | files).items():
        (directory / name).write_text(content, encoding="utf-8")
    return directory


def test_ndcg_discounts_by_rank_and_is_relative_to_the_ideal_order() -> None:
    judgements = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.0}
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(["a", "b", "c"], judgements) == pytest.approx(1.0)
    assert ndcg(["b", "x", "a"], judgements) == pytest.approx((1 / math.log2(2) + 2 / math.log2(4)) / ideal)
    assert ndcg(["x", "a"], judgements, depth=1) == 0.0
    assert ndcg(["a"], judgements, depth=1) == 1.0
    assert ndcg([], judgements) == 0.0


def test_recall_counts_only_relevant_chunks() -> None:
    judgements = {"a": 2.0, "b": 1.0, "d": 0.0}
    assert recall(["d", "x", "b"], judgements) == 0.5
    assert recall(["d", "x", "b", "a"], judgements, depth=3) == 0.5
    assert recall(["a", "b"], judgements) == 1.0


def test_reciprocal_rank_uses_the_first_relevant_chunk() -> None:
    judgements = {"a": 2.0, "b": 1.0, "d": 0.0}
    assert reciprocal_rank(["d", "x", "b", "a"], judgements) == pytest.approx(1 / 3)
    assert reciprocal_rank(["x"] * 10 + ["a"], judgements) == 0.0


def test_interval_contains_the_mean_and_narrows_with_the_sample_size() -> None:
    few, many = estimate([0.0, 1.0] * 10), estimate([0.0, 1.0] * 1000)
    assert few.mean == many.mean == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(20), rel=0.15)
    assert estimate([0.3, 0.3]) == (0.3, 0.3, 0.3)
    assert estimate([0.0, 1.0, 1.0]) == estimate([0.0, 1.0, 1.0])


def test_percentile_is_in_milliseconds() -> None:
    assert milliseconds([0.001, 0.002, 0.009], 50) == 2.0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("queries.jsonl", '{"id": "q1", "text": " "}', "queries.jsonl:1: text must be"),
        (
            "queries.jsonl",
            '{"id": "q1", "text": "a"}\n{"id": "q1", "text": "b"}',
            "queries.jsonl:2: query 'q1' appears twice",
        ),
        ("queries.jsonl", "\n[]", "queries.jsonl:2: not a JSON object"),
        ("queries.jsonl", "{", "queries.jsonl:1: not JSON"),
        ("qrels.tsv", "q1\tcopper\t1", "qrels.tsv:1: the first line must be"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tcopper", "qrels.tsv:2: not a query's id"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tcopper\tnan", "qrels.tsv:2: not a query's id"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tgold\t1", "qrels.tsv:2: there is no chunk 'gold'"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq9\tcopper\t1", "qrels.tsv:2: there is no query 'q9'"),
        ("qrels.tsv", "query_id\tchunk_id\tscore\nq1\tcopper\t0", "no query has a relevant chunk"),
    ],
)
def test_malformed_set_is_reported_with_file_and_line(tmp_path: Path, file: str, content: str, message: str) -> None:
    directory = write_set(tmp_path / "set", **{file: content})
    with pytest.raises(SetError, match=message):
        read_set(directory)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    directory = write_set(tmp_path / "set")
    (directory / "qrels.tsv").unlink()
    with pytest.raises(SetError, match=r"qrels\.tsv: No such file"):
        read_set(directory)


def test_sets_without_queries_are_listed_separately(tmp_path: Path) -> None:
    complete, corpus = write_set(tmp_path / "a"), write_set(tmp_path / "b")
    (corpus / "queries.jsonl").unlink()
    assert find_sets(tmp_path) == ([complete], [corpus])
    assert find_sets(complete) == ([complete], [])
    with pytest.raises(SetError, match="holds no retrieval set"):
        find_sets(tmp_path / "nothing")


def test_sample_takes_evenly_spaced_queries(tmp_path: Path) -> None:
    queries = "\n".join(json.dumps({"id": f"q{number}", "text": "?"}) for number in range(11))
    qrels = "\n".join(["query_id\tchunk_id\tscore", *(f"q{number}\tcopper\t1" for number in range(11))])
    retrieval_set = read_set(write_set(tmp_path / "set", **{"queries.jsonl": queries, "qrels.tsv": qrels}))
    assert [query.id for query in retrieval_set.sample(3).queries] == ["q0", "q5", "q10"]
    assert retrieval_set.sample(None) == retrieval_set.sample(20) == retrieval_set


def test_cached_embedder_embeds_each_text_once_per_model(tmp_path: Path) -> None:
    stub = StubEmbedder()
    first = CachedEmbedder(stub, tmp_path).embed_documents(["a", "b", "a"])
    again = CachedEmbedder(stub, tmp_path).embed_documents(["b", "c"])
    assert stub.embedded == ["a", "b", "c"]
    np.testing.assert_array_equal(first.vectors, [vector_of(text) for text in "aba"])
    np.testing.assert_array_equal(again.vectors, [vector_of(text) for text in "bc"])
    other = StubEmbedder("another")
    CachedEmbedder(other, tmp_path).embed_documents(["a"])
    assert other.embedded == ["a"]


def test_directory_without_a_set_ends_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["search_quality", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert "holds no retrieval set" in capsys.readouterr().err


@pytest.mark.integration
def test_sets_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "data" / "tiny")
    out = tmp_path / "out.json"
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(make_tiny_qwen3(tmp_path / "model")))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    monkeypatch.setattr("sys.argv", ["search_quality", str(tmp_path / "data"), "--out", str(out)])
    main.main()
    [tiny] = json.loads(out.read_text())["sets"]
    assert (tiny["name"], tiny["chunks"], tiny["queries_without_relevant_chunk"]) == ("tiny", 5, 1)
    groups = tiny["groups"]
    assert {name: group["queries"] for name, group in groups.items()} == {"all": 3, "en": 2, "zh": 1}
    # the relevant copy counts, although the result is the other copy, which has the lower id
    assert groups["all"]["methods"]["keyword"]["ndcg@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert groups["all"]["methods"]["hybrid"]["recall@20"]["mean"] == 1.0
    assert groups["all"]["gain"]["ndcg@10"]["mean"] <= 0
