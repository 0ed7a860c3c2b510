"""`kill -9` of everything at once, in the middle of a run, and a start afterwards."""

import dagster as dg
import pytest

from tests.faults.world import MANY, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Status = dg.DagsterRunStatus


def test_courses_are_done_after_everything_was_killed(world: World) -> None:
    world.write("unlucky", MANY)
    world.freeze("unlucky")
    world.write("waiting")
    world.cut_power()
    world.restore_power()
    for course_id in ("unlucky", "waiting"):
        world.wait_for(course_id, "done")
        world.assert_true(course_id, "done")
    assert [run.status for run in world.runs_of("unlucky")] == [Status.SUCCESS, Status.FAILURE]
    world.assert_at_rest()
