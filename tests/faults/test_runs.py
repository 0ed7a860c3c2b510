"""What can happen to a run, all of it at once, each to courses of its own: most of the time is waiting for Dagster.

A worker is stopped half way (SIGSTOP) before anything happens to its run, so that nothing here depends on who is
quicker.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import sleep

import dagster as dg
import psutil
import pytest

from orchestration.partitions import partition_keys
from tests.faults.world import MANY, PATIENCE, TICKS, World, sqlite_only
from tests.support.product import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Status = dg.DagsterRunStatus


def killed_worker_is_replaced(world: World) -> None:
    run_id = world.begin("killed")
    world.freeze("killed").kill()
    assert world.wait_for_end(run_id) is Status.FAILURE
    world.wait_for("killed", "done")
    world.assert_true("killed", "done")
    assert [run.status for run in world.runs_of("killed")] == [Status.SUCCESS, Status.FAILURE]


def zombie_changes_nothing(world: World) -> None:
    run_id = world.begin("frozen")
    zombie = world.freeze("frozen")
    world.dagster.report_run_failed(world.run(run_id), "Its machine does not answer.")
    world.write("frozen", MANY, "second")
    world.wait_for("frozen", "done")
    zombie.resume()
    psutil.wait_procs([zombie], timeout=PATIENCE)
    world.assert_true("frozen", "done")


def deleted_run_leaves_its_course_failed(world: World) -> None:
    run_id = world.begin("deleted")
    worker = world.freeze("deleted")
    world.ui.delete(run_id)
    world.wait_for("deleted", "failed")
    worker.resume()
    psutil.wait_procs([worker], timeout=PATIENCE)
    world.assert_true("deleted", "failed", "the run was deleted")
    world.ask_for("deleted")
    world.wait_for("deleted", "done")
    world.assert_true("deleted", "done")


def terminated_run_leaves_its_courses_cancelled(world: World) -> None:
    run_id = world.begin("cancelled-1", "cancelled-2")
    worker = world.freeze("cancelled-1")
    with ThreadPoolExecutor(1) as pool:
        terminating = pool.submit(world.ui.terminate, run_id)  # waits for the worker to hear of it
        wait_until(lambda: world.run(run_id).status is Status.CANCELING, PATIENCE, lambda: f"{world.run(run_id)}")
        worker.resume()
        terminating.result()
    assert world.wait_for_end(run_id) is Status.CANCELED
    for course_id in ("cancelled-1", "cancelled-2"):
        world.wait_for(course_id, "failed")
        world.assert_true(course_id, "failed", "cancelled")
    sleep(TICKS)
    for course_id in ("cancelled-1", "cancelled-2"):  # nothing takes up what an operator has ended
        world.assert_true(course_id, "failed", "cancelled")


def second_run_of_a_course_is_refused(world: World) -> None:
    runs = {world.begin("doubled"), world.ui.materialize("doubled")}
    worker = world.freeze("doubled")
    owner = world.row("doubled").embedding_run_id or ""
    (refused,) = runs - {owner}
    assert world.wait_for_end(refused) is Status.FAILURE
    assert f"being embedded by run {owner}" in str(world.dagster.all_logs(refused))
    worker.resume()
    assert world.wait_for_end(owner) is Status.SUCCESS
    world.assert_true("doubled", "done")
    row = world.row("doubled")
    assert (row.embedding_run_id, row.embedding_generation) == (owner, 1)


def poisoned_course_fails_alone(world: World) -> None:
    run_id = world.begin("poisoned-1", "poisoned-2", "poisoned-3", chunks={"poisoned-2": 0})
    assert world.wait_for_end(run_id) is Status.FAILURE
    world.assert_true("poisoned-1", "done")
    world.assert_true("poisoned-3", "done")
    row = world.row("poisoned-2")
    assert row.embedding_status == "failed"
    assert "has no chunks" in (row.embedding_error or "")


def triggers_lead_to_one_run_each(world: World) -> None:
    """And a course that is deleted afterwards leaves neither its collection nor its partition."""
    triggered = ("trigger-asked", "trigger-commanded", "trigger-edited", "ui-backfilled", "ui-materialized")
    for course_id in triggered:
        world.write(course_id)
    for course_id in triggered:
        world.wait_for(course_id, "done")
    world.write("trigger-edited", edition="second")
    world.ask_for("trigger-asked")
    assert world.parts.run("embed", "trigger-commanded").returncode == 0
    world.ui.materialize("ui-materialized")
    world.ui.backfill("ui-backfilled")
    for course_id in triggered:
        world.wait_for(course_id, "done", after=1)
    sleep(TICKS)
    for course_id in triggered:
        world.assert_true(course_id, "done")
        assert len(world.runs_of(course_id)) == 2, world.story(course_id)
    world.remove("trigger-asked")
    wait_until(lambda: world.documents("trigger-asked") is None, PATIENCE, lambda: "its collection is still there")
    wait_until(lambda: "trigger-asked" not in partition_keys(world.dagster), PATIENCE, lambda: "its partition is there")


Fault = Callable[[World], None]
ABOUT_ROWS: list[Fault] = [
    killed_worker_is_replaced,
    zombie_changes_nothing,
    terminated_run_leaves_its_courses_cancelled,
    second_run_of_a_course_is_refused,
]
"""The database decides these: they are tried on both."""
ABOUT_RUNS: list[Fault] = [
    deleted_run_leaves_its_course_failed,
    poisoned_course_fails_alone,
    triggers_lead_to_one_run_each,
]


@pytest.fixture(scope="module")
def outcomes(world: World) -> Iterator[dict[Fault, Future[None]]]:
    """All faults at work."""
    faults = ABOUT_ROWS if world.postgres else [*ABOUT_ROWS, *ABOUT_RUNS]
    world.add_partitions("cancelled-1", "cancelled-2", "poisoned-1", "poisoned-2", "poisoned-3")  # side by side
    with ThreadPoolExecutor(len(faults)) as pool:
        yield {fault: pool.submit(fault, world) for fault in faults}


@pytest.mark.parametrize("fault", ABOUT_ROWS, ids=lambda fault: fault.__name__)
def test_rows_say_what_is_so(fault: Fault, outcomes: dict[Fault, Future[None]]) -> None:
    outcomes[fault].result()


@sqlite_only
@pytest.mark.parametrize("fault", ABOUT_RUNS, ids=lambda fault: fault.__name__)
def test_runs_do_no_more_and_no_less(fault: Fault, outcomes: dict[Fault, Future[None]]) -> None:
    outcomes[fault].result()


def test_nothing_claims_to_be_at_work(world: World, outcomes: dict[Fault, Future[None]]) -> None:
    wait(outcomes.values())
    world.assert_at_rest()
