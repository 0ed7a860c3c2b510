"""Metadata and check results of a course in the Dagster UI."""

from dataclasses import replace

import dagster as dg
import pytest

from embedding.interface import Embedder
from embedding.vector_store.indexing import IndexReport, VectorCheck
from models.fingerprint import CourseFingerprint
from orchestration import ui_metadata
from orchestration.course_run.examination import ExaminationReport
from orchestration.course_run.snapshot import SnapshotReport
from orchestration.partitions import COLLECTION, SNAPSHOT
from retrieval.analysis import ANALYSIS_VERSION
from retrieval.examination.examine import CHANNELS, Answer, Change, ChannelResult, Examination
from retrieval.examination.questions import Kind, Question

REPORT = IndexReport(
    fingerprint=CourseFingerprint(10, 5000, "c" * 64, "signature"),
    stored=10,
    embedded=4,
    reused=2,
    reused_from_other_courses=1,
    updated=1,
    removed=2,
    truncated=1,
    tokens=200,
    seconds=2.0,
    rebuilt=False,
    token_counts=(12, 50, 74, 64),
    vectors=VectorCheck(dimensions=8, expected_dimensions=8, checked=4, unsound=0),
)
SNAPSHOT_REPORT = SnapshotReport(chunks=10, stored=10, complete=True, terms=70, bytes=4000, seconds=0.25, kept=False)
QUESTION = Question(Kind.SENTENCE, "text", 0, "chunk", frozenset({0}), ("text",))
EXAMINED = ExaminationReport(
    Examination([QUESTION], {method: ChannelResult({QUESTION: Answer(False, False, 0.1)}) for method in CHANNELS}),
    None,
    {method: Change(1, 1, 0) for method in CHANNELS},
    seconds=0.25,
)
NOTHING_EMBEDDED = replace(REPORT, embedded=0, truncated=0, tokens=0, token_counts=())


class StubEmbedder(Embedder):
    def __init__(self) -> None:
        self.name, self.device, self.max_tokens = "model", "cpu", 64


def metadata(course_id: str, report: IndexReport) -> dict[str, object]:
    event = ui_metadata.collection_materialization(
        course_id, report, StubEmbedder(), search_url="http://search/", model_load_seconds=1.5
    )
    return {name: value.value for name, value in event.metadata.items()}


def evaluation(report: IndexReport, name: str) -> dg.AssetCheckEvaluation:
    [check] = [check for check in ui_metadata.collection_checks("c", report) if check.check_name == name]
    return check


def test_metrics_are_numbers_so_that_the_ui_plots_them() -> None:
    shown = metadata("c", REPORT)
    assert {name: value for name, value in shown.items() if type(value) in (int, float)} == {
        "dagster/partition_row_count": 10,
        "chunks": 10,
        "embedded": 4,
        "reused": 2,
        "reused_from_other_courses": 1,
        "updated": 1,
        "kept": 3,
        "removed": 2,
        "truncated": 1,
        "truncated_share": 0.25,
        "tokens": 200,
        "seconds": 2.0,
        "model_load_seconds": 1.5,
        "tokens_per_second": 100.0,
        "chunks_per_second": 2.0,
        "tokens_p50": 57,
        "tokens_p95": 72,
        "tokens_longest": 74,
        "dimensions": 8,
    }
    assert (shown["model"], shown["model_signature"], shown["device"]) == ("model", "signature", "cpu")


def test_rates_are_omitted_if_nothing_was_embedded() -> None:
    shown = metadata("c", NOTHING_EMBEDDED)
    assert not shown.keys() & {"tokens_per_second", "chunks_per_second", "tokens_p50", "tokens_p95", "tokens_longest"}
    assert shown["truncated_share"] == 0.0


def test_the_materialization_has_partition_and_data_version() -> None:
    event = ui_metadata.collection_materialization(
        "c", REPORT, StubEmbedder(), search_url="http://search", model_load_seconds=0.0
    )
    assert (event.asset_key, event.partition) == (COLLECTION, "c")
    assert event.tags == {"dagster/data_version": REPORT.fingerprint.content}


def test_course_ids_are_escaped_in_links() -> None:
    shown = metadata("a/b & ü?", REPORT)
    assert shown["search"] == "http://search/?course=a%2Fb%20%26%20%C3%BC%3F"
    assert shown["status"] == "http://search/courses/a%2Fb%20%26%20%C3%BC%3F/embedding_status"


def test_the_shares_of_the_channels_are_plotted_with_the_snapshot() -> None:
    """The UI plots the metadata of a materialization over time."""
    event = ui_metadata.snapshot_materialization("c", REPORT.fingerprint, SNAPSHOT_REPORT, EXAMINED)
    shown = {name: value.value for name, value in event.metadata.items()}
    assert [shown[f"{method}_found"] for method in CHANNELS] == [0.0, 0.0, 0.0]


def test_the_examination_shows_shares_as_numbers_and_missed_chunks_by_id() -> None:
    """One question that is missed proves nothing, so it neither fails nor warns."""
    check = ui_metadata.examination_check("c", EXAMINED, blocks=True)
    assert check.passed
    shown = {name: value.value for name, value in check.metadata.items()}
    assert (shown["vector_found"], shown["hybrid_found_sentence"], shown["keyword_lost"]) == (0.0, 0.0, 1)
    assert "hybrid_found_title" not in shown, "there was no such question"
    missed = check.metadata["missed (at most 20)"]
    assert isinstance(missed, dg.TableMetadataValue)
    assert list(missed.records) == [dg.TableRecord({"chunk_id": "chunk", "question": "sentence"})]


def test_every_declared_check_is_evaluated() -> None:
    examined = ui_metadata.examination_check("c", EXAMINED, blocks=True)
    snapshot = ui_metadata.snapshot_check("c", SNAPSHOT_REPORT)
    evaluations = [*ui_metadata.collection_checks("c", REPORT), snapshot, examined]
    assert [check.asset_check_key for check in evaluations] == [spec.key for spec in ui_metadata.CHECK_SPECS]
    assert {check.partition for check in evaluations} == {"c"}
    assert {spec.name: spec.blocking for spec in ui_metadata.CHECK_SPECS} == {
        "every_chunk_is_searchable": True,
        "vectors_are_sound": True,
        "few_texts_are_cut": False,
        "snapshot_is_complete": True,
        "search_finds_its_own_passages": False,
    }


@pytest.mark.parametrize(
    ("report", "failing"),
    [
        (NOTHING_EMBEDDED, set()),
        (replace(REPORT, truncated=0), set()),
        (replace(REPORT, truncated=1, embedded=20), set()),
        (replace(REPORT, truncated=1, embedded=19), {"few_texts_are_cut"}),
        (replace(NOTHING_EMBEDDED, stored=11), {"every_chunk_is_searchable"}),
        (replace(NOTHING_EMBEDDED, vectors=VectorCheck(8, 8, 4, 1)), {"vectors_are_sound"}),
        (replace(NOTHING_EMBEDDED, vectors=VectorCheck(7, 8, 4, 0)), {"vectors_are_sound"}),
    ],
)
def test_a_wrong_report_fails_the_check_of_the_wrong_value(report: IndexReport, failing: set[str]) -> None:
    assert {check.check_name for check in ui_metadata.collection_checks("c", report) if not check.passed} == failing


def test_an_incomplete_snapshot_fails_its_check() -> None:
    assert ui_metadata.snapshot_check("c", SNAPSHOT_REPORT).passed
    check = ui_metadata.snapshot_check("c", replace(SNAPSHOT_REPORT, stored=9, complete=False))
    assert (check.passed, check.description) == (False, "9 chunks in the snapshot, 10 in the course")


def test_the_materialization_of_the_snapshot_has_metrics() -> None:
    event = ui_metadata.snapshot_materialization("c", REPORT.fingerprint, SNAPSHOT_REPORT, EXAMINED)
    assert (event.asset_key, event.partition) == (SNAPSHOT, "c")
    assert event.tags == {"dagster/data_version": REPORT.fingerprint.content}
    assert {name: value.value for name, value in event.metadata.items()} == {
        "dagster/partition_row_count": 10,
        "chunks": 10,
        "terms": 70,
        "bytes": 4000,
        "seconds": 0.25,
        "kept": False,
        "analysis_version": ANALYSIS_VERSION,
        "vector_found": 0.0,
        "keyword_found": 0.0,
        "hybrid_found": 0.0,
    }


def test_truncated_texts_are_reported_as_a_warning() -> None:
    check = evaluation(REPORT, "few_texts_are_cut")
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert {name: value.value for name, value in check.metadata.items()} == {
        "embedded": 4,
        "truncated": 1,
        "truncated_share": 0.25,
    }
