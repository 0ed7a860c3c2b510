"""What can happen to a run, all of it at once, each to courses of its own: most of the time is waiting for Dagster.

A worker is stopped half way (SIGSTOP) before anything happens to its run, so that nothing here depends on who is
quicker.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import sleep

import dagster as dg
import psutil
import pytest

from orchestration.partitions import all_courses
from tests.faults.world import MANY, PATIENCE, TICKS, World
from tests.support.product import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Status = dg.DagsterRunStatus


def killed_worker_is_replaced(world: World) -> None:
    run_id, generation = world.begin("killed")
    world.freeze("killed").kill()
    assert world.wait_for_end(run_id) is Status.FAILURE
    world.wait_for("killed", "done", after=generation)
    world.assert_true("killed", "done")
    assert [run.status for run in world.runs_of("killed")[:2]] == [Status.SUCCESS, Status.FAILURE]


def zombie_changes_nothing(world: World) -> None:
    run_id, generation = world.begin("zombie")
    zombie = world.freeze("zombie")
    world.dagster.report_run_failed(world.run(run_id), "Its machine does not answer.")
    world.write("zombie", MANY, "third")
    world.wait_for("zombie", "done", after=generation)
    zombie.resume()
    psutil.wait_procs([zombie], timeout=PATIENCE)
    world.assert_true("zombie", "done")


def deleted_run_leaves_its_course_failed(world: World) -> None:
    run_id, generation = world.begin("deleted")
    worker = world.freeze("deleted")
    world.ui.delete(run_id)
    world.wait_for("deleted", "failed", PATIENCE)
    worker.resume()
    psutil.wait_procs([worker], timeout=PATIENCE)
    world.assert_true("deleted", "failed", "the run was deleted")
    world.ask_for("deleted")
    world.wait_for("deleted", "done", after=generation)
    world.assert_true("deleted", "done")


def terminated_run_leaves_its_courses_done_or_cancelled(world: World) -> None:
    run_id = world.backfill("cancelled-1", "cancelled-2")
    for course_id in ("cancelled-1", "cancelled-2"):
        world.write(course_id, MANY, "second")
    worker = world.freeze("cancelled-1")
    world.ui.terminate(run_id)
    worker.resume()
    assert world.wait_for_end(run_id) is Status.CANCELED
    world.wait_for("cancelled-1", "failed", PATIENCE)
    world.assert_true("cancelled-1", "failed", "cancelled")
    wait_until(lambda: world.row("cancelled-2").embedding_status in ("failed", "done"), PATIENCE, lambda: "")
    if world.row("cancelled-2").embedding_status == "failed":  # the sensor had seen that it waited for this run
        world.assert_true("cancelled-2", "failed", "cancelled")
    else:
        world.wait_for("cancelled-2", "done", after=1)
        world.assert_true("cancelled-2", "done")


def second_run_of_a_course_is_refused(world: World) -> None:
    first, generation = world.begin("doubled")
    second = world.ui.materialize("doubled")
    owner = world.freeze("doubled")
    owner_id = world.row("doubled").embedding_run_id
    refused = next(run_id for run_id in (first, second) if run_id != owner_id)
    assert world.wait_for_end(refused) is Status.FAILURE
    owner.resume()
    assert world.wait_for_end(owner_id or "") is Status.SUCCESS
    world.assert_true("doubled", "done")
    row = world.row("doubled")
    assert (row.embedding_run_id, row.embedding_generation) == (owner_id, generation + 1)
    assert f"being embedded by run {owner_id}" in world.story("doubled")


def poisoned_course_fails_alone(world: World) -> None:
    run_id = world.backfill("poisoned-1", "poisoned-2", "poisoned-3")
    world.write("poisoned-1", edition="second")
    world.write("poisoned-2", 0)
    assert world.wait_for_end(run_id) is Status.FAILURE
    for healthy in ("poisoned-1", "poisoned-3"):
        world.assert_true(healthy, "done")
        assert world.row(healthy).embedding_generation == 2
    row = world.row("poisoned-2")
    assert row.embedding_status == "failed"
    assert "has no chunks" in (row.embedding_error or "")
    assert len(world.runs_of("poisoned-2")) == 2


def deleted_course_leaves_nothing(world: World) -> None:
    world.remove("removed")
    wait_until(lambda: world.documents("removed") is None, PATIENCE, lambda: "its collection is still there")
    wait_until(lambda: "removed" not in all_courses(world.dagster), PATIENCE, lambda: "its partition is still there")


def every_trigger_leads_to_one_run(world: World) -> None:
    world.write("ingested")
    world.write("edited", edition="second")
    world.ask_for("asked")
    world.ui.materialize("materialized")
    world.ui.backfill("backfilled")
    assert world.parts.run("embed", "commanded").returncode == 0
    triggered = ("ingested", "edited", "asked", "materialized", "backfilled", "commanded")
    for course_id in triggered:
        world.wait_for(course_id, "done", after=0 if course_id == "ingested" else 1)
    sleep(TICKS)
    for course_id in triggered:
        world.assert_true(course_id, "done")
        assert len(world.runs_of(course_id)) == (1 if course_id == "ingested" else 2), world.story(course_id)


FAULTS = {
    killed_worker_is_replaced: ["killed"],
    zombie_changes_nothing: ["zombie"],
    deleted_run_leaves_its_course_failed: ["deleted"],
    terminated_run_leaves_its_courses_done_or_cancelled: ["cancelled-1", "cancelled-2"],
    second_run_of_a_course_is_refused: ["doubled"],
    poisoned_course_fails_alone: ["poisoned-1", "poisoned-2", "poisoned-3"],
    deleted_course_leaves_nothing: ["removed"],
    every_trigger_leads_to_one_run: ["edited", "asked", "materialized", "backfilled", "commanded"],
}


@pytest.fixture(scope="module")
def outcomes(world: World) -> Iterator[dict[Callable[[World], None], Future[None]]]:
    """All faults at work, each on courses that are `done` when it begins."""
    courses = [course_id for course_ids in FAULTS.values() for course_id in course_ids]
    for course_id in courses:
        world.write(course_id)
    for course_id in courses:
        world.wait_for(course_id, "done")
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        yield {fault: pool.submit(fault, world) for fault in FAULTS}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_(fault: Callable[[World], None], outcomes: dict[Callable[[World], None], Future[None]]) -> None:
    outcomes[fault].result()


def test_nothing_claims_to_be_at_work(world: World, outcomes: dict[Callable[[World], None], Future[None]]) -> None:
    for outcome in outcomes.values():
        outcome.exception()
    sleep(TICKS)
    world.assert_at_rest()
