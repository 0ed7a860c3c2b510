"""A part is away in the middle of a run: the run goes on when it is back, or says what was wrong and is done again."""

import resource
import sqlite3
from contextlib import closing
from time import sleep

import dagster as dg
import psutil
import pytest

from tests.faults.world import MANY, World
from tests.support.product import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

AWAY_SECONDS = 8
"""Longer than every time-out of a single attempt."""

only_sqlite = pytest.mark.parametrize("world", ["sqlite"], indirect=True)  # the database has no part in it
only_postgres = pytest.mark.parametrize("world", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)


def assert_done_by_one_run(world: World, course_id: str) -> None:
    world.wait_for(course_id, "done")
    world.assert_true(course_id, "done")
    assert [run.status for run in world.runs_of(course_id)] == [dg.DagsterRunStatus.SUCCESS]


@only_sqlite
def test_a_run_outlasts_a_killed_vector_store(world: World) -> None:
    world.write("unplugged", MANY)
    worker = world.freeze("unplugged")
    with world.parts.killed("chroma"):
        worker.resume()
        sleep(AWAY_SECONDS)
    assert_done_by_one_run(world, "unplugged")


@only_sqlite
def test_a_full_disk_publishes_nothing(world: World) -> None:
    world.write("crammed", MANY)
    worker = world.freeze("crammed")
    database = world.parts.directory / "data" / "chroma" / "chroma.sqlite3"
    limits = (database.stat().st_size, resource.RLIM_INFINITY)
    world.parts.running["chroma"].rlimit(psutil.RLIMIT_FSIZE, limits)  # no file may grow any more
    try:
        worker.resume()
        row = world.wait_for("crammed", "failed")
        assert "Chroma at" in (row.embedding_error or "")
        assert (row.embedding_generation, row.embedding_fingerprint) == (0, None)
    finally:
        with world.parts.killed("chroma"):  # it does not recover by itself
            pass
    world.parts.search.post("/courses/crammed/embed")  # it may have asked for itself, and be at work already
    world.wait_for("crammed", "done")
    world.assert_true("crammed", "done")


@only_sqlite
def test_a_run_outlasts_a_locked_or_missing_database_file(world: World) -> None:
    world.write("locked-out", MANY)
    worker = world.freeze("locked-out")
    directory = world.parts.directory / "data" / "catalogue"
    with closing(sqlite3.connect(directory / "catalogue.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        worker.resume()
        sleep(AWAY_SECONDS)
    away = directory.rename(directory.with_name("elsewhere"))
    try:
        sleep(AWAY_SECONDS)
    finally:
        away.rename(directory)
    assert_done_by_one_run(world, "locked-out")


@only_postgres
def test_a_run_outlasts_a_catalogue_that_refuses_connections(world: World) -> None:
    world.write("refused", MANY)
    worker = world.freeze("refused")
    assert world.postgres is not None
    name = world.engine.url.database
    world.engine.dispose()
    world.postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    world.postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        worker.resume()
        sleep(AWAY_SECONDS)
    finally:
        world.postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert_done_by_one_run(world, "refused")


@only_postgres
def test_a_course_is_done_after_its_database_and_dagsters_were_away(world: World) -> None:
    world.write("stopped", MANY)
    worker = world.freeze("stopped")
    assert world.postgres is not None
    world.postgres.stop()
    try:
        worker.resume()
        sleep(AWAY_SECONDS)
    finally:
        world.postgres.start()
    world.wait_for("stopped", "done")
    world.assert_true("stopped", "done")


def test_a_run_outlasts_the_daemon(world: World) -> None:
    world.write("orphaned", MANY)
    worker = world.freeze("orphaned")
    with world.parts.killed("daemon"):
        worker.resume()
        assert_done_by_one_run(world, "orphaned")


def test_nothing_claims_to_be_at_work(world: World) -> None:
    wait_until(lambda: world.unfinished_runs() == {}, 240, lambda: f"{world.unfinished_runs()}")
    world.assert_at_rest()
