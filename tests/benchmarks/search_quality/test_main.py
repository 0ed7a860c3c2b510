"""The metrics, unusable retrieval sets, and an evaluation of a tiny set."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search_quality import main, perturbations
from benchmarks.search_quality.cached_embedder import CachedEmbedder
from benchmarks.search_quality.measuring import METHODS, Asking, SearchFailedError
from benchmarks.search_quality.metrics import estimate, milliseconds, ndcg, recall, reciprocal_rank
from benchmarks.search_quality.perturbations import PerturbationError, perturbed
from benchmarks.search_quality.refusals import Verdict, are_related, refusal_figures, verdict
from benchmarks.search_quality.retrieval_sets import SetError, find_sets, read_set
from cli.processes import free_port
from tests.support.indexed_course import StubEmbedder, vector_of
from tests.support.servers.foreign_server import foreign_server
from tests.support.tiny_models import make_tiny_qwen3, make_tiny_reranker

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
METAL_QRELS = "query_id\tchunk_id\tscore\nq1\tcopper\t1"
OTHER_COURSE = {
    "corpus.jsonl": json.dumps(
        {
            "id": "treaty",
            "course_id": "x",
            "lecture_id": "history",
            "section_id": "s1",
            "order_in_section": 0,
            "text": "The treaty ended the war.",
            "language": "en",
            "source_type": "pdf",
        }
    ),
    "queries.jsonl": json.dumps({"id": "q1", "text": "treaty", "language": "en"}),
    "qrels.tsv": "query_id\tchunk_id\tscore\nq1\ttreaty\t1",
}


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


def test_reduced_set_keeps_the_judged_chunks(tmp_path: Path) -> None:
    retrieval_set = read_set(write_set(tmp_path / "set"))
    assert retrieval_set.reduced(None) == retrieval_set.reduced(9) == retrieval_set
    reduced = retrieval_set.reduced(4)
    assert reduced.chunk_ids == {"copper-again", "sugar", "index", "slope"}
    ids = [json.loads(line)["id"] for line in reduced.corpus() if line.strip()]
    assert ids == ["copper-again", "slope", "sugar", "index"]
    assert retrieval_set.sample(1).reduced(1).chunk_ids == {"copper-again"}


def run_evaluation(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, Any]:
    """The exit status and the figures of an evaluation with a tiny model."""
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(make_tiny_qwen3(data.parent / "model")))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    monkeypatch.setattr("sys.argv", ["search_quality", str(data), "--out", str(out), *arguments])
    status = 0
    try:
        main.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, json.loads(out.read_text())


@pytest.mark.integration
def test_sets_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "data" / "tiny")
    status, figures = run_evaluation(tmp_path / "data", tmp_path / "out.json", monkeypatch)
    [tiny] = figures["sets"]
    assert (status, figures["failures"]) == (0, [])
    assert (tiny["name"], tiny["chunks"], tiny["queries_without_relevant_chunk"]) == ("tiny", 5, 1)
    groups = tiny["groups"]
    assert {name: group["queries"] for name, group in groups.items()} == {"all": 3, "en": 2, "zh": 1}
    # the relevant copy counts, although the result is the other copy, which has the lower id
    assert groups["all"]["methods"]["keyword"]["ndcg@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert groups["all"]["methods"]["hybrid"]["recall@20"]["mean"] == 1.0
    assert groups["all"]["gain"]["ndcg@10"]["mean"] <= 0


@pytest.mark.integration
def test_all_examinations_end_with_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set that cannot be read is reported at the end; a query that is too long is cut."""
    long_query = {"id": "q1", "text": "copper " * 400, "language": "en"}
    write_set(tmp_path / "data" / "metal", **{"queries.jsonl": json.dumps(long_query), "qrels.tsv": METAL_QRELS})
    write_set(tmp_path / "data" / "other", **OTHER_COURSE)
    write_set(tmp_path / "data" / "broken", **{"qrels.tsv": "nothing"})
    monkeypatch.setenv("RERANKER_MODEL_PATH", str(make_tiny_reranker(tmp_path / "reranker")))
    monkeypatch.setenv("RERANKER_DEVICE", "cpu")
    arguments = ("--perturb", "typos,fullwidth,case", "--refusals", "--rerank", "--keep-going")
    status, figures = run_evaluation(tmp_path / "data", tmp_path / "out.json", monkeypatch, *arguments)
    assert status == 1
    (failure,) = figures["failures"]
    assert "broken" in failure
    metal, other = figures["sets"]
    assert (metal["cut_queries"], other["cut_queries"]) == (1, 0)
    assert "hybrid, reranked" in metal["groups"]["all"]["methods"]
    assert other["perturbations"]["typos"]["queries"] == 1
    assert set(other["perturbations"]["typos"]["methods"]) == {"vector", "keyword", "hybrid"}
    assert other["refusals"]["keyword"]["auroc"] == 1.0
    assert other["refusals_by_set"]["metal"]["keyword"]["foreign"] == 1
    assert figures["summary"]["losses"]["fullwidth"]["sets"] == 2
    assert figures["summary"]["refusals"]["hybrid"]["own"] == 2
    output = capsys.readouterr().out
    assert output.index("Summary") < output.index("FAILED")


@pytest.mark.integration
def test_server_that_is_told_what_a_text_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark and the search app that it starts both send `input_type`."""
    write_set(tmp_path / "data" / "tiny")
    with foreign_server(models=["typed-model"]) as server:
        arguments = ("--openai-url", server.url, "--passages", "4")
        status, figures = run_evaluation(tmp_path / "data", tmp_path / "out.json", monkeypatch, *arguments)
    assert (status, figures["model"], figures["sets"][0]["chunks"]) == (0, "typed-model", 4)
    texts: dict[str | None, set[str]] = {}
    for request in server.requests:
        texts.setdefault(request.get("input_type"), set()).update(request["input"])
    assert texts["document"] >= {TEXTS["sugar"], TEXTS["index"]}
    assert texts["query"] >= {QUERIES["q1"], QUERIES["q2"], QUERIES["q3"]}, "and the questions of the calibration"
    assert texts["query"].isdisjoint(TEXTS.values())


def test_failed_search_counts_as_nothing_found_or_ends_the_evaluation(tmp_path: Path) -> None:
    """Otherwise a product that fails for hard questions would have better figures."""
    retrieval_set = read_set(write_set(tmp_path / "set")).sample(1)
    url = f"http://127.0.0.1:{free_port()}"  # nothing listens there
    failures: list[str] = []
    with Asking(url, "set", failures) as asking:
        measured = asking.measure(retrieval_set, METHODS)
        assert not asking.ask_foreign(retrieval_set)["hybrid"]
    assert measured.quality["hybrid"].tolist() == [[0.0, 0.0, 0.0]]
    assert np.isnan(measured.seconds["hybrid"]).all()
    assert "query q1" in failures[0]
    assert "refused" in failures[0]
    with Asking(url, "set", None) as asking, pytest.raises(SearchFailedError, match="query q1"):
        asking.measure(retrieval_set, METHODS)


class TestPerturbations:
    """Deterministic changes of a question."""

    @pytest.mark.parametrize(
        ("name", "text", "changed"),
        [
            ("fullwidth", "FR4 板?", "ＦＲ４ 板？"),
            ("case", "ABC 电路", "abc 电路"),
            ("order", "copper", "copper"),
            ("order", "a b", {"a b", "b a"}),
            ("order", "电路", {"电路", "路电"}),
            ("dropped", "copper", "copper"),
            ("dropped", "red copper", {"red", "copper"}),
            ("dropped", "铜箔 copper", {"铜箔", "copper", "铜 copper", "箔 copper"}),
            ("typos", "the 电路板电路板 a1b2", "the 电路板电路板 a1b2"),
        ],
    )
    def test_text_becomes(self, name: str, text: str, changed: str | set[str]) -> None:
        results = {perturbed(name, text, f"q{number}") for number in range(20)}
        assert results <= ({changed} if isinstance(changed, str) else changed)
        assert all(perturbed(name, text, "q1") == perturbed(name, text, "q1") for _ in range(3))

    def test_typo_changes_one_word_after_its_first_letter(self) -> None:
        results = {perturbed("typos", "what is copper", f"q{number}") for number in range(50)}
        assert len(results) > 20
        assert "what is copper" not in results
        for result in results:
            first, _, last = result.split()
            assert (first == "what") != (last == "copper")
            assert (first[0], last[0]) == ("w", "c")
            assert 13 <= len(result) <= 15

    def test_traditional_characters_need_a_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        perturbations._to_traditional.cache_clear()
        monkeypatch.setitem(sys.modules, "opencc", None)
        with pytest.raises(PerturbationError, match="pip install opencc"):
            perturbed("traditional", "电路", "q")


class TestRefusals:
    """Questions of other courses should have lower values than the course's own."""

    def verdicts(self, *values: float) -> list[Verdict]:
        return [Verdict(value, None, "relevance") for value in values]

    def test_value_is_the_highest_relevance_or_the_first_score(self) -> None:
        result = {"score": 0.4, "text": "x"}
        assert verdict({"results": []}) == (-math.inf, None, "relevance")
        assert verdict({"results": [result]}) == (0.4, None, "score")
        answer = {"results": [result | {"relevance": 0.3}, result | {"relevance": 0.9}], "answerable": True}
        assert verdict(answer) == (0.9, True, "relevance")

    def test_figures(self) -> None:
        foreign = self.verdicts(-math.inf, 0.1, 0.2, 0.3, 0.8)
        figures = refusal_figures(self.verdicts(0.3, 0.5, 0.9, 0.9), foreign)
        assert figures["auroc"] == pytest.approx((3.5 + 4 + 5 + 5) / 20)
        assert figures["false_refusals"] == 0.25, "0.3 and below are refused, which are 80 % of the foreign ones"
        assert (figures["own_answerable"], figures["judged_by"]) == (None, "relevance")
        told = [verdict._replace(answerable=verdict.value > 0.5) for verdict in foreign]
        assert refusal_figures(told, told)["foreign_answerable"] == 0.2

    def test_sets_with_the_same_chunks_or_lectures_are_related(self, tmp_path: Path) -> None:
        first, second = read_set(write_set(tmp_path / "a")), read_set(write_set(tmp_path / "b", **OTHER_COURSE))
        assert are_related(first, read_set(write_set(tmp_path / "c")))
        assert not are_related(first, second)
        assert are_related(first, replace(second, lecture_ids=frozenset({"l1"})))
