"""Runs that are killed, cancelled, deleted or superseded, each with a separate course.

A worker is stopped half way (SIGSTOP) before anything happens to its run, so the tests depend on no timing.
"""

from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import psutil
import pytest

from orchestration.partitions import partition_keys
from tests.faults.deployment import LIMIT_SECONDS, MANY, Deployment, on_postgres, on_sqlite
from tests.support.product import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Status = dg.DagsterRunStatus


def test_a_killed_worker_is_replaced(deployment: Deployment) -> None:
    deployment.freeze_half_way("killed", lambda: deployment.launch("killed")).kill()
    deployment.wait_for("killed", "done")
    deployment.assert_state("killed", "done")
    assert [run.status for run in deployment.runs_of("killed")] == [Status.SUCCESS, Status.FAILURE]


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


def test_the_courses_of_a_terminated_run_are_cancelled(deployment: Deployment) -> None:
    """The course it was embedding and the one it had not reached; neither is launched again."""
    course_ids = ("cancelled-1", "cancelled-2")
    worker = deployment.freeze_half_way("cancelled-1", lambda: deployment.launch(*course_ids))
    run_id = deployment.row("cancelled-1").embedding_run_id or ""
    with ThreadPoolExecutor(1) as pool:
        terminated = pool.submit(deployment.ui.terminate, run_id)  # returns after the worker has received the signal
        wait_until(
            lambda: deployment.run(run_id).status is Status.CANCELING,
            LIMIT_SECONDS,
            lambda: f"{deployment.run(run_id)}",
        )
        worker.resume()
        terminated.result()
    assert deployment.wait_for_end(run_id) is Status.CANCELED
    for course_id in course_ids:
        deployment.wait_for(course_id, "failed")
    deployment.wait_for_ticks()
    for course_id in course_ids:
        deployment.assert_state(course_id, "failed", "cancelled")
        assert [run.run_id for run in deployment.runs_of(course_id)] == [run_id]


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
def test_the_course_of_a_deleted_run_is_failed(deployment: Deployment) -> None:
    worker = deployment.freeze_half_way("deleted", lambda: deployment.launch("deleted"))
    deployment.ui.delete(deployment.row("deleted").embedding_run_id or "")
    deployment.wait_for("deleted", "failed")
    worker.resume()
    psutil.wait_procs([worker], timeout=LIMIT_SECONDS)
    deployment.assert_state("deleted", "failed", "the run was deleted")
    deployment.request("deleted")
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
