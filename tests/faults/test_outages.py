"""A part becomes unreachable, or all are killed, while a run embeds a course.

The worker is stopped half way (SIGSTOP) before the outage and continues during it, so the tests depend on no timing.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import dagster as dg
import pytest

from models.database import transaction
from models.resources import get_resource
from models.tables import UploadedResource
from tests.faults.deployment import LIMIT_SECONDS, MANY, Deployment, on_postgres
from tests.support.product import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_run_survives_outages_of_daemon_catalogue_and_vector_store(deployment: Deployment) -> None:
    course_id = "outages"
    worker = deployment.freeze_half_way(course_id, lambda: deployment.write(course_id, MANY))
    run_id = deployment.row(course_id).embedding_run_id or ""
    with deployment.parts.killed("daemon"), ExitStack() as lock:
        with deployment.parts.killed("chroma"):
            worker.resume()
            deployment.wait_for_log(run_id, "Chroma at .* cannot be reached")
            with catalogue_unreachable(deployment) as message:
                deployment.wait_for_log(run_id, message)
            if deployment.postgres is None:
                lock.enter_context(catalogue_locked(deployment))
        if deployment.postgres is None:
            deployment.wait_for_log(run_id, "database is locked")
    deployment.wait_for(course_id, "done")
    deployment.assert_state(course_id, "done")
    assert deployment.wait_for_end(run_id) is dg.DagsterRunStatus.SUCCESS
    assert [run.run_id for run in deployment.runs_of(course_id)] == [run_id]


@contextmanager
def catalogue_unreachable(deployment: Deployment) -> Iterator[str]:
    """A SQLite file in a directory that was moved, or a PostgreSQL database that refuses connections.

    Yields what the worker logs.
    """
    if deployment.postgres is None:
        directory = deployment.parts.directory / "data" / "catalogue"
        moved = directory.rename(directory.with_name("moved"))
        yield "catalogue.db does not exist"
        moved.rename(directory)
    else:
        name = deployment.engine.url.database
        deployment.postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        deployment.postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        yield "not currently accepting connections"
        deployment.postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        deployment.engine.dispose()


@contextmanager
def catalogue_locked(deployment: Deployment) -> Iterator[None]:
    """A SQLite file that can be read but not written."""
    path = deployment.parts.directory / "data" / "catalogue" / "catalogue.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@on_postgres
def test_a_course_is_done_after_the_database_server_was_stopped(deployment: Deployment) -> None:
    """The server holds both the catalogue and Dagster's storage."""
    course_id = "stopped-server"
    worker = deployment.freeze_half_way(course_id, lambda: deployment.write(course_id, MANY))
    run_id = deployment.row(course_id).embedding_run_id or ""
    assert deployment.postgres is not None
    deployment.postgres.stop()
    worker.resume()
    deployment.wait_for_log(run_id, "DatabaseUnavailableError")
    deployment.postgres.start()
    deployment.wait_for(course_id, "done")
    deployment.assert_state(course_id, "done")


@on_postgres
def test_everything_is_done_after_everything_was_killed(deployment: Deployment) -> None:
    """A course half way, whose run selected only the snapshot, a course that waits, and a file half read."""
    search = deployment.parts.search
    assert search.post("/courses", json={"course_id": "uploaded"}).status_code == 201
    links = "".join(f"[link{number}]: http://example.org/{number}\n\n" for number in range(200_000))  # takes seconds
    content = f"# Copper\n\nA via joins two layers of the board.\n\n{links}".encode()
    upload = search.post("/resources", data={"course_id": "uploaded"}, files={"file": ("notes.md", content)})
    resource_id = upload.json()["resource_id"]

    def resource() -> UploadedResource:
        with transaction(deployment.engine) as session:
            row = get_resource(session, resource_id)
        assert row is not None
        return row

    wait_until(lambda: resource().status == "running", LIMIT_SECONDS, lambda: f"{resource()!r}")
    reader = deployment.worker(resource().run_id or "")
    assert reader is not None
    reader.suspend()
    assert resource().status == "running"

    deployment.add_partitions("killed-running")

    def launch() -> None:
        deployment.ui.materialize("killed-running", asset="course_snapshot")
        deployment.write("killed-running", MANY)

    deployment.freeze_half_way("killed-running", launch)
    deployment.write("killed-waiting")
    deployment.kill_everything()
    deployment.start_everything()
    wait_until(lambda: resource().status == "succeeded", LIMIT_SECONDS, lambda: f"{resource()!r}")
    deployment.wait_for("uploaded", "done")
    for course_id in ("killed-running", "killed-waiting"):
        deployment.wait_for(course_id, "done")
        deployment.assert_state(course_id, "done")
    deployment.wait_until_idle()
    statuses = [run.status for run in deployment.runs_of("killed-running")]
    assert statuses == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    assert search.delete(f"/resources/{resource_id}").is_success
    assert deployment.row("uploaded").embedding_status == "not_started"
    wait_until(lambda: deployment.documents("uploaded") is None, LIMIT_SECONDS, lambda: "its texts are not removed")
    deployment.assert_nothing_runs_unattended()
