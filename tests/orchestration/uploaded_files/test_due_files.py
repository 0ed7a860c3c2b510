"""Which files are read next, and which runs have left one behind."""

from datetime import UTC, datetime, timedelta
from typing import Any

from models import course_state
from models.tables import UploadedResource
from orchestration.uploaded_files.due_files import FILES_PER_RUN, MAX_RUNS, Decision, FilesRun, decide

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
UPLOADED = NOW - timedelta(minutes=1)


def file(resource_id: str = "1", **values: Any) -> UploadedResource:
    known: dict[str, Any] = {
        "resource_id": resource_id,
        "course_id": "c",
        "name": resource_id,
        "size": 1,
        "sha256": "",
        "status": "pending",
        "position": 1,
        "created_at": NOW,
        "updated_at": UPLOADED,
    }
    return UploadedResource(**(known | values))


def run(run_id: str = "run", *resource_ids: str, after: float = 1, **values: bool) -> FilesRun:
    """A run that was created some seconds after the upload."""
    return FilesRun(run_id, resource_ids or ("1",), UPLOADED + timedelta(seconds=after), **values)


def decided(files: list[UploadedResource], *runs: FilesRun) -> Decision:
    return decide(files, {known.run_id: known for known in runs}, NOW)


def launched(decision: Decision) -> list[list[str]]:
    return [[each.resource_id for each in group] for group in decision.launch]


def left(decision: Decision) -> list[tuple[str, str | None]]:
    return [(each.resource_id, known.run_id if known else None) for each, known in decision.left]


def test_a_waiting_file_is_launched_once() -> None:
    assert launched(decided([file()])) == [["1"]]
    waiting = decided([file()], run())
    assert (waiting.launch, waiting.left, waiting.waiting) == ([], [], 1)


def test_a_file_that_was_uploaded_again_is_launched_again() -> None:
    """The unfinished run that was launched for the earlier content may already have passed it."""
    assert launched(decided([file()], run(after=-1))) == [["1"]]


def test_a_file_that_a_run_reads_is_left_to_it() -> None:
    reading = file(status="running", run_id="run")
    assert decided([reading], run(after=-1)) == Decision([], [], 1)


def test_a_file_whose_run_has_ended_or_was_deleted_was_left() -> None:
    reading = file(status="running", run_id="run")
    assert left(decided([reading], run(is_finished=True))) == [("1", "run")]
    assert left(decided([reading])) == [("1", None)]
    assert launched(decided([reading])) == [], "its row must be written first"


def test_a_run_that_ended_before_it_began_counts_for_all_its_files() -> None:
    """Otherwise it would be launched again and again."""
    files = [file("1"), file("2")]
    dead = run("run", "1", "2", is_finished=True, has_reached_a_file=False)
    assert left(decided(files, dead)) == [("1", "run"), ("2", "run")]


def test_files_that_a_dead_run_did_not_come_to_are_launched_again() -> None:
    """They did not cause its death."""
    files = [file("1", status="running", run_id="run"), file("2")]
    decision = decided(files, run("run", "1", "2", is_finished=True))
    assert (left(decision), launched(decision)) == ([("1", "run")], [["2"]])


def test_a_cancelled_run_is_cancelled_for_all_its_files() -> None:
    files = [file("1"), file("2")]
    cancelled = run("run", "1", "2", is_finished=True, is_cancelled=True)
    assert left(decided(files, cancelled)) == [("1", "run"), ("2", "run")]
    later = run("later", "2", after=2)
    assert left(decided(files, cancelled, later)) == [("1", "run")], "it waits for a later run"


def test_the_next_attempt_follows_after_a_pause() -> None:
    failed = file(attempts=1, updated_at=NOW - timedelta(seconds=course_state.RETRY_SECONDS[0] - 1))
    assert decided([failed]) == Decision([], [], 1)
    failed.updated_at -= timedelta(seconds=1)
    assert launched(decided([failed])) == [["1"]]


def test_files_are_read_in_few_runs_the_oldest_first() -> None:
    """The other slots of the queue are for embedding."""
    files = [file(f"{number:03}", position=number) for number in range(MAX_RUNS * FILES_PER_RUN + 1)]
    oldest = file("oldest", updated_at=UPLOADED - timedelta(seconds=1))
    groups = launched(decided([*files, oldest]))
    assert [len(group) for group in groups] == [FILES_PER_RUN] * MAX_RUNS
    assert groups[0][:2] == ["oldest", "000"]
    busy = [run(f"run-{number}", "other") for number in range(MAX_RUNS)]
    assert launched(decided(files, *busy)) == []
    assert len(launched(decided(files, *busy[1:]))) == 1


def test_a_run_for_all_that_wait_may_be_in_progress() -> None:
    """It names no file, so the files are launched too; the claim on the row decides."""
    assert launched(decided([file()], FilesRun("run", (), NOW))) == [["1"]]
