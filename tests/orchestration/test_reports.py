"""What the Dagster UI shows of a course: numbers that can be plotted, a picture, a table, links and checks."""

from dataclasses import replace
from urllib.parse import unquote
from xml.etree import ElementTree

import dagster as dg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedding.embedder import Embedder
from embedding.indexing import IndexReport, VectorCheck
from embedding.vector_store import Record
from models.fingerprint import CourseFingerprint
from orchestration import reports
from orchestration.course_keywords import KeywordReport
from orchestration.partitions import COLLECTION, KEYWORDS
from retrieval.analysis import ANALYSIS_VERSION

INLINE_CHARACTERS = 1000
"""Dagster's UI shows shorter Markdown at once, and longer only at a click."""

CHUNK = Record(
    "c1",
    "Copper " * 100,
    {"lecture_id": "l1", "lecture_title": "Boards", "section_id": "s1", "section_title": None},
    "hash",
)
REPORT = IndexReport(
    fingerprint=CourseFingerprint(10, 5000, "c" * 64, "signature"),
    stored=10,
    embedded=4,
    updated=1,
    removed=2,
    truncated=1,
    tokens=200,
    seconds=2.0,
    rebuilt=False,
    token_counts=(12, 50, 74, 64),
    sample=(CHUNK,),
    vectors=VectorCheck(dimensions=8, expected_dimensions=8, checked=4, unsound=0),
)
KEYWORD_REPORT = KeywordReport(chunks=10, indexed=10, terms=70, bytes=4000, seconds=0.25, kept=False)
NOTHING_NEW = replace(REPORT, embedded=0, truncated=0, tokens=0, token_counts=())


class StubEmbedder(Embedder):
    def __init__(self) -> None:
        self.name, self.device, self.max_tokens = "model", "cpu", 64


def metadata(course_id: str, report: IndexReport) -> dict[str, object]:
    event = reports.materialization(
        course_id, report, StubEmbedder(), search_url="http://search/", model_load_seconds=1.5
    )
    return {name: value.value for name, value in event.metadata.items()}


def evaluation(report: IndexReport, name: str) -> dg.AssetCheckEvaluation:
    [found] = [check for check in reports.checks("c", report) if check.check_name == name]
    return found


def test_figures_are_numbers_so_that_they_are_plotted() -> None:
    shown = metadata("c", REPORT)
    assert {name: value for name, value in shown.items() if type(value) in (int, float)} == {
        "dagster/partition_row_count": 10,
        "chunks": 10,
        "embedded": 4,
        "updated": 1,
        "kept": 5,
        "removed": 2,
        "truncated": 1,
        "truncated_share": 0.25,
        "tokens": 200,
        "seconds": 2.0,
        "model_load_seconds": 1.5,
        "tokens_per_second": 100.0,
        "chunks_per_second": 2.0,
        "dimensions": 8,
    }
    assert (shown["model"], shown["model_signature"], shown["device"]) == ("model", "signature", "cpu")


def test_a_run_that_embedded_nothing_is_not_shown_as_slow() -> None:
    shown = metadata("c", NOTHING_NEW)
    assert not shown.keys() & {"tokens_per_second", "chunks_per_second", "token_lengths"}
    assert shown["truncated_share"] == 0.0


def test_the_partition_and_its_version_are_told() -> None:
    event = reports.materialization("c", REPORT, StubEmbedder(), search_url="http://search", model_load_seconds=0.0)
    assert (event.asset_key, event.partition) == (COLLECTION, "c")
    assert event.tags == {"dagster/data_version": REPORT.fingerprint.content}


def test_links_lead_to_the_course_whatever_its_id() -> None:
    shown = metadata("a/b & ü?", REPORT)
    assert shown["search"] == "http://search/?course=a%2Fb%20%26%20%C3%BC%3F"
    assert shown["status"] == "http://search/courses/a%2Fb%20%26%20%C3%BC%3F/embedding_status"


def test_the_sample_says_where_a_text_stands() -> None:
    event = reports.materialization("c", REPORT, StubEmbedder(), search_url="http://search", model_load_seconds=0.0)
    table = event.metadata["sample"]
    assert isinstance(table, dg.TableMetadataValue)
    [row] = table.records
    assert row.data == {"chunk": "c1", "place": "Boards › s1", "text": CHUNK.text[: reports.SAMPLE_CHARACTERS] + "…"}
    assert [column.name for column in table.schema.columns] == list(row.data)


def test_every_check_that_is_declared_is_evaluated() -> None:
    evaluations = [*reports.checks("c", REPORT), reports.keyword_check("c", KEYWORD_REPORT)]
    assert [check.asset_check_key for check in evaluations] == [spec.key for spec in reports.CHECK_SPECS]
    assert {check.partition for check in evaluations} == {"c"}
    assert {spec.name: spec.blocking for spec in reports.CHECK_SPECS} == {
        "every_chunk_is_searchable": True,
        "vectors_are_sound": True,
        "few_texts_are_cut": False,
        "keyword_index_complete": True,
    }


@pytest.mark.parametrize(
    ("report", "failing"),
    [
        (NOTHING_NEW, set()),
        (replace(REPORT, truncated=0), set()),
        (replace(REPORT, truncated=1, embedded=20), set()),
        (replace(REPORT, truncated=1, embedded=19), {"few_texts_are_cut"}),
        (replace(NOTHING_NEW, stored=11), {"every_chunk_is_searchable"}),
        (replace(NOTHING_NEW, vectors=VectorCheck(8, 8, 4, 1)), {"vectors_are_sound"}),
        (replace(NOTHING_NEW, vectors=VectorCheck(7, 8, 4, 0)), {"vectors_are_sound"}),
    ],
)
def test_what_each_check_is_about(report: IndexReport, failing: set[str]) -> None:
    assert {check.check_name for check in reports.checks("c", report) if not check.passed} == failing


def test_a_keyword_index_without_every_chunk_fails_its_check() -> None:
    assert reports.keyword_check("c", KEYWORD_REPORT).passed
    check = reports.keyword_check("c", replace(KEYWORD_REPORT, indexed=9))
    assert (check.passed, check.description) == (False, "9 chunks in the index, 10 in the course")


def test_the_keyword_index_has_figures_of_its_own() -> None:
    event = reports.keyword_materialization("c", REPORT.fingerprint, KEYWORD_REPORT)
    assert (event.asset_key, event.partition) == (KEYWORDS, "c")
    assert event.tags == {"dagster/data_version": REPORT.fingerprint.content}
    assert {name: value.value for name, value in event.metadata.items()} == {
        "dagster/partition_row_count": 10,
        "chunks": 10,
        "terms": 70,
        "bytes": 4000,
        "seconds": 0.25,
        "kept": False,
        "analysis_version": ANALYSIS_VERSION,
    }


def test_cut_texts_are_a_warning_with_figures() -> None:
    check = evaluation(REPORT, "few_texts_are_cut")
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert {name: value.value for name, value in check.metadata.items()} == {
        "embedded": 4,
        "truncated": 1,
        "truncated_share": 0.25,
    }


@example([*range(1, 131_073, 1000)], 0, 5_000)
@given(st.lists(st.integers(1, 131_072), min_size=1, max_size=60), st.integers(0, 131_072), st.sampled_from([1, 5_000]))
def test_the_picture_is_small_enough_to_be_shown_at_once(counts: list[int], room: int, times: int) -> None:
    markdown = reports.histogram(counts * times, max(counts) + room)
    assert len(markdown) < INLINE_CHARACTERS
    assert picture(markdown).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    ("limit", "end", "mark"), [(64, 64, "limit 64"), (127, 127, "limit 127"), (512, 64, "limit 512 →")]
)
def test_the_axis_ends_where_the_texts_do(limit: int, end: int, mark: str) -> None:
    shown = [text.text for text in picture(reports.histogram([1, 30, 64], limit)).iter() if text.text]
    assert shown == ["Tokens of 3 texts, median 30, longest 64", "0", "1", "texts", f"{end} tokens", mark]


def test_every_text_is_in_a_bar() -> None:
    [bars] = [path for path in picture(reports.histogram([1, 1, 32, 64], 64)).iter() if path.get("stroke-width")]
    heights = [int(bar.partition("v-")[2]) for bar in bars.attrib["d"].split("M")[1:]]
    assert heights == [110, 55, 55]


def picture(markdown: str) -> ElementTree.Element:
    """The SVG in the Markdown."""
    start, end = "![Token lengths](<data:image/svg+xml,", ">)"
    assert markdown.startswith(start)
    assert markdown.endswith(end)
    return ElementTree.fromstring(unquote(markdown[len(start) : -len(end)]))
