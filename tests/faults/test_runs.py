"""Runs that are killed, cancelled, deleted or superseded, each with a separate course.

A worker is stopped half way (SIGSTOP) before anything happens to its run, so the tests depend on no timing.
"""

import dagster as dg
import psutil
import pytest

from orchestration.course_status.endings import CANCELLED
from orchestration.partitions import partition_keys
from tests.faults.deployment import LIMIT_SECONDS, MANY, Deployment, on_postgres, on_sqlite
from tests.support.courses import change_course
from tests.support.product import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Status = dg.DagsterRunStatus


@on_sqlite
def test_a_killed_worker_is_replaced(deployment: Deployment) -> None:
    deployment.freeze_half_way("killed", lambda: deployment.launch("killed")).kill()
    deployment.wait_for("killed", "done")
    deployment.assert_state("killed", "done")
    deployment.wait_until_idle()
    assert [run.status for run in deployment.runs_of("killed")] == [Status.SUCCESS, Status.FAILURE]


@on_postgres
def test_a_worker_that_wakes_up_after_its_run_failed_changes_nothing(deployment: Deployment) -> None:
    worker = deployment.freeze_half_way("frozen", lambda: deployment.launch("frozen"))
    run_id = deployment.row("frozen").embedding_run_id or ""
    deployment.dagster.report_run_failed(deployment.run(run_id), "Its machine does not answer.")
    deployment.write("frozen", MANY, "second")
    deployment.wait_for("frozen", "done")
    worker.resume()
    psutil.wait_procs([worker], timeout=LIMIT_SECONDS)
    deployment.wait_until_idle()
    deployment.wait_for("frozen", "done")
    deployment.assert_state("frozen", "done")


@on_postgres
def test_terminating_a_run_cancels_only_the_course_it_had_begun(deployment: Deployment) -> None:
    """The other course is as before: due, so the sensor launches it. The suspended worker is killed."""
    worker = deployment.freeze_half_way("cancelled-1", lambda: deployment.launch("cancelled-1", "cancelled-2"))
    run_id = deployment.row("cancelled-1").embedding_run_id or ""
    deployment.ui.terminate(run_id)
    assert deployment.wait_for_end(run_id) is Status.CANCELED
    psutil.wait_procs([worker], timeout=LIMIT_SECONDS)
    deployment.wait_for("cancelled-1", "failed")
    deployment.wait_for("cancelled-2", "done")
    deployment.wait_for_ticks()
    deployment.assert_state("cancelled-1", "failed", CANCELLED)
    assert [run.run_id for run in deployment.runs_of("cancelled-1")] == [run_id]
    deployment.assert_state("cancelled-2", "done")


@on_sqlite
def test_a_worker_that_heeds_the_signal_cancels_its_course(deployment: Deployment) -> None:
    deployment.gate.close_after(2)
    run_id = deployment.launch("interrupted")
    wait_until(lambda: deployment.gate.holds, LIMIT_SECONDS, lambda: deployment.history("interrupted"))
    deployment.ui.terminate(run_id)
    deployment.wait_for("interrupted", "failed")
    deployment.gate.open()
    assert deployment.wait_for_end(run_id) is Status.CANCELED
    deployment.wait_for_ticks()
    deployment.assert_state("interrupted", "failed", CANCELLED)
    assert [run.run_id for run in deployment.runs_of("interrupted")] == [run_id]


@on_postgres
def test_cancelling_runs_in_the_queue_leaves_every_course_as_it_was(deployment: Deployment) -> None:
    """A done, a failed and a new course, each queued by an operator behind a run that occupies the pool."""
    course_ids = ("queued-done", "queued-failed", "queued-new")
    deployment.write("queued-done")
    deployment.wait_for("queued-done", "done")
    deployment.write("queued-failed", status="failed")
    deployment.write("queued-new", status="failed")
    deployment.add_partitions(*course_ids)
    deployment.wait_for_end(deployment.ui.materialize("queued-failed"))
    deployment.wait_for("queued-failed", "failed")
    before = {course_id: deployment.row(course_id) for course_id in course_ids}
    worker = deployment.freeze_half_way("occupant", lambda: deployment.launch("occupant"))
    queued = [deployment.ui.materialize(course_id) for course_id in course_ids]
    deployment.wait_for("queued-failed", "pending")
    deployment.wait_for("queued-new", "pending")
    assert deployment.row("queued-done") == before["queued-done"]
    for run_id in queued:
        deployment.ui.terminate(run_id)
        assert deployment.wait_for_end(run_id) is Status.CANCELED
    deployment.wait_for("queued-failed", "failed")
    deployment.wait_for("queued-new", "not_started")
    deployment.wait_for_ticks()
    ignored = {"embedding_run_id": None}
    for course_id in course_ids:
        assert deployment.row(course_id).model_dump() | ignored == before[course_id].model_dump() | ignored
    worker.resume()
    deployment.wait_for("occupant", "done")


@on_sqlite
def test_a_frozen_worker_is_killed_and_replaced(deployment: Deployment) -> None:
    """Also the worker of a run that selects only the snapshot."""
    course_id = "stalled"
    deployment.add_partitions(course_id)

    def launch() -> None:
        deployment.ui.materialize(course_id, asset="course_snapshot")
        deployment.write(course_id, MANY)

    worker = deployment.freeze_half_way(course_id, launch)
    with deployment.settings(WORKER_STALL_SECONDS="2"):
        psutil.wait_procs([worker], timeout=LIMIT_SECONDS)
    # The replacement has the default limit: on a busy machine, 2 s can pass before its first batch.
    deployment.wait_for(course_id, "done")
    deployment.assert_state(course_id, "done")
    deployment.wait_until_idle()
    assert [run.status for run in deployment.runs_of(course_id)] == [Status.SUCCESS, Status.FAILURE]


@on_sqlite
def test_a_course_that_is_running_without_a_run_is_embedded(deployment: Deployment) -> None:
    deployment.write("ownerless")
    deployment.wait_for("ownerless", "done")
    change_course(deployment.engine, "ownerless", embedding_status="running", embedding_run_id=None)
    deployment.wait_for("ownerless", "done", after=1)
    deployment.assert_state("ownerless", "done")


@on_sqlite
def test_a_killed_rebuild_remains_a_rebuild(deployment: Deployment) -> None:
    deployment.write("rebuilt", MANY)
    deployment.wait_for("rebuilt", "done")

    def rebuild() -> None:
        assert deployment.parts.run("rebuild", "rebuilt").returncode == 0

    deployment.freeze_half_way("rebuilt", rebuild).kill()
    deployment.wait_for("rebuilt", "done", after=1)
    deployment.assert_state("rebuilt", "done")
    deployment.wait_until_idle()
    killed, last = deployment.runs_of("rebuilt")[1::-1]
    assert (killed.status, last.status) == (Status.FAILURE, Status.SUCCESS)
    materialized = deployment.dagster.all_logs(last.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)[0]
    assert materialized.asset_materialization is not None
    assert materialized.asset_materialization.metadata["embedded"].value == MANY


@on_postgres
def test_a_second_run_of_a_course_waits_for_the_first(deployment: Deployment) -> None:
    worker = deployment.freeze_half_way("doubled", lambda: deployment.launch("doubled"))
    first = deployment.row("doubled").embedding_run_id or ""
    second = deployment.ui.materialize("doubled")
    request = deployment.parts.search.post("/courses/doubled/embed")
    assert (request.status_code, request.json()["error"]["code"]) == (409, "already_running")
    search = deployment.parts.search.post("/courses/doubled/search", json={"query": "x"})
    assert (search.status_code, search.json()["error"]["code"]) == (400, "embedding_not_ready")
    deployment.wait_for_ticks()
    assert deployment.run(second).status is Status.QUEUED
    worker.resume()
    assert [deployment.wait_for_end(run_id) for run_id in (first, second)] == [Status.SUCCESS, Status.SUCCESS]
    deployment.assert_state("doubled", "done")


@on_sqlite
def test_the_course_of_a_deleted_run_is_embedded_by_another_run(deployment: Deployment) -> None:
    worker = deployment.freeze_half_way("deleted", lambda: deployment.launch("deleted"))
    deployment.ui.delete(deployment.row("deleted").embedding_run_id or "")
    wait_until(lambda: "was deleted" in (deployment.row("deleted").embedding_error or ""), LIMIT_SECONDS, lambda: "")
    worker.resume()
    psutil.wait_procs([worker], timeout=LIMIT_SECONDS)
    deployment.wait_for("deleted", "done")
    deployment.assert_state("deleted", "done")


@on_sqlite
def test_a_course_that_fails_does_not_fail_the_others_of_its_run(deployment: Deployment) -> None:
    run_id = deployment.launch("poisoned-1", "poisoned-2", "poisoned-3", chunks={"poisoned-2": 0})
    assert deployment.wait_for_end(run_id) is Status.FAILURE
    deployment.assert_state("poisoned-1", "done")
    deployment.assert_state("poisoned-3", "done")
    row = deployment.row("poisoned-2")
    assert row.embedding_status == "failed"
    assert "has no chunks" in (row.embedding_error or "")


@on_sqlite
def test_every_cause_leads_to_one_run_and_a_deletion_to_none(deployment: Deployment) -> None:
    """A new course, an edit, a request over HTTP or from the command line, the UI's materialize and backfill.

    A deleted course loses its collection and its partition.
    """
    course_ids = ("requested", "commanded", "edited", "backfilled", "materialized")
    for course_id in (*course_ids, "removed"):
        deployment.write(course_id)
    for course_id in (*course_ids, "removed"):
        deployment.wait_for(course_id, "done")
    deployment.delete_course("removed")
    deployment.write("edited", edition="second")
    deployment.request("requested")
    assert deployment.parts.run("embed", "commanded").returncode == 0
    deployment.ui.materialize("materialized")
    deployment.ui.backfill("backfilled")
    for course_id in course_ids:
        deployment.wait_for(course_id, "done", after=1)
    deployment.wait_for_ticks()
    for course_id in course_ids:
        deployment.assert_state(course_id, "done")
        assert len(deployment.runs_of(course_id)) == 2, deployment.history(course_id)
    wait_until(lambda: deployment.documents("removed") is None, LIMIT_SECONDS, lambda: "its collection still exists")
    wait_until(
        lambda: "removed" not in partition_keys(deployment.dagster), LIMIT_SECONDS, lambda: "its partition still exists"
    )
    assert len(deployment.runs_of("removed")) == 1


def test_nothing_runs_unattended_afterwards(deployment: Deployment) -> None:
    deployment.assert_nothing_runs_unattended()
