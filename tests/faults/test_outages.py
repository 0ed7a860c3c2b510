"""A part is away in the middle of a run: the run goes on when it is back, or says what was wrong and is done again.

A worker is stopped half way (SIGSTOP) before its part is taken away, so that nothing here depends on who is quicker.
"""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import sleep

import dagster as dg
import psutil
import pytest

from tests.faults.world import MANY, World, postgres_only, sqlite_only

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

AWAY_SECONDS = 7
"""Longer than every time-out of a single attempt but Chroma's, which is killed and refuses connections at once."""


def test_runs_outlast_their_parts(world: World) -> None:
    for outage in (chroma_killed, daemon_killed, catalogue_away):
        course_id = f"unlucky-{outage.__name__}"
        world.write(course_id, MANY)
        worker = world.freeze(course_id)
        with outage(world):
            worker.resume()
            sleep(AWAY_SECONDS)
        world.wait_for(course_id, "done")
        world.assert_true(course_id, "done")
        (run,) = world.runs_of(course_id)
        assert world.wait_for_end(run.run_id) is dg.DagsterRunStatus.SUCCESS


@contextmanager
def chroma_killed(world: World) -> Iterator[None]:
    with world.parts.killed("chroma"):
        yield


@contextmanager
def daemon_killed(world: World) -> Iterator[None]:
    with world.parts.killed("daemon"):
        yield


@contextmanager
def catalogue_away(world: World) -> Iterator[None]:
    """Locked and then missing where it is a file, refusing connections where it is a server."""
    if world.postgres is None:
        directory = world.parts.directory / "data" / "catalogue"
        with closing(sqlite3.connect(directory / "catalogue.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
        away = directory.rename(directory.with_name("elsewhere"))
        sleep(AWAY_SECONDS)
        away.rename(directory)
    else:
        name = world.engine.url.database
        world.postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        world.postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        yield
        world.postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        world.engine.dispose()


@postgres_only
def test_a_course_is_done_after_its_database_and_dagsters_were_away(world: World) -> None:
    world.write("stopped", MANY)
    worker = world.freeze("stopped")
    assert world.postgres is not None
    world.postgres.stop()
    worker.resume()
    sleep(AWAY_SECONDS)
    world.postgres.start()
    world.wait_for("stopped", "done")
    world.assert_true("stopped", "done")


@sqlite_only
def test_a_full_disk_publishes_nothing(world: World) -> None:
    world.write("crammed", MANY)
    worker = world.freeze("crammed")
    chroma = psutil.Process(world.parts.running["chroma"].pid)
    database = world.parts.directory / "data" / "chroma" / "chroma.sqlite3"
    chroma.rlimit(psutil.RLIMIT_FSIZE, (database.stat().st_size, resource.RLIM_INFINITY))  # no file may grow
    worker.resume()
    row = world.wait_for("crammed", "failed")
    assert "Chroma at" in (row.embedding_error or "")
    assert (row.embedding_generation, row.embedding_fingerprint) == (0, None)
    with world.parts.killed("chroma"):  # a full disk leaves it stuck, even when there is space again
        pass
    world.parts.search.post("/courses/crammed/embed")  # refused if it has asked for itself and is at work already
    world.wait_for("crammed", "done")
    world.assert_true("crammed", "done")


def test_courses_are_done_after_everything_was_killed(world: World) -> None:
    world.write("half-way", MANY)
    world.freeze("half-way")
    world.write("waiting")
    world.cut_power()
    world.restore_power()
    for course_id in ("half-way", "waiting"):
        world.wait_for(course_id, "done")
        world.assert_true(course_id, "done")
    statuses = [run.status for run in world.runs_of("half-way")]
    assert statuses == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    world.assert_at_rest()
