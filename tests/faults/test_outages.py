"""A part becomes unreachable, or all are killed, while a run embeds a course.

The worker is stopped half way (SIGSTOP) before the outage and continues during it, so the tests depend on no timing.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import NamedTuple

import dagster as dg
import httpx
import pytest

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
def test_a_published_course_is_searched_whatever_happens(deployment: Deployment) -> None:
    """The last generation answers until the next one does: during a run and a rebuild, while parts are killed."""
    course_id = "searched"
    deployment.write(course_id, MANY)
    deployment.wait_for(course_id, "done")
    with answers(deployment, course_id) as seen:
        worker = deployment.freeze_half_way(course_id, lambda: deployment.write(course_id, MANY, "second"))
        with deployment.parts.killed("chroma"), deployment.parts.killed("daemon"):
            wait_for_answers(seen, Answer(1, True, "copper"))
            with deployment.parts.killed("search"):
                pass
            wait_for_answers(seen, Answer(1, True, "copper"))
        worker.kill()
        deployment.wait_for(course_id, "done", after=1)
        wait_for_answers(seen, Answer(2, False, "gradient"))

        def rebuild() -> None:
            assert deployment.parts.run("rebuild", course_id).returncode == 0

        worker = deployment.freeze_half_way(course_id, rebuild)
        wait_for_answers(seen, Answer(2, True, "gradient"))
        worker.resume()
        deployment.wait_for(course_id, "done", after=2)
        wait_for_answers(seen, Answer(3, False, "gradient"))
    deployment.assert_state(course_id, "done")
    changes = [answer for answer, before in zip(seen[1:], seen, strict=False) if answer != before]
    assert [seen[0], *changes] == [
        Answer(1, False, "copper"),
        Answer(1, True, "copper"),
        Answer(2, False, "gradient"),
        Answer(2, True, "gradient"),
        Answer(3, False, "gradient"),
    ]


class Answer(NamedTuple):
    """Of which generation an answer is, whether it is stale, and the first word of its best text."""

    generation: int
    stale: bool
    word: str


@contextmanager
def answers(deployment: Deployment, course_id: str) -> Iterator[list[Answer | str]]:
    """Search the course all the time. Yields the answers, and errors as text; no answer of a killed app counts."""
    seen: list[Answer | str] = []
    stopping = threading.Event()

    def poll() -> None:
        while not stopping.wait(0.05):
            with suppress(httpx.TransportError):
                body = {"query": "copper thickness, gradient descent", "top_k": 1}
                response = deployment.parts.search.post(f"/courses/{course_id}/search", json=body)
                answer = response.json()
                seen.append(
                    Answer(answer["generation"], answer["stale"], answer["results"][0]["text"].split()[0])
                    if response.is_success
                    else response.text
                )

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        thread.join()


def wait_for_answers(seen: list[Answer | str], expected: Answer) -> None:
    """Wait until the last of several new answers is the expected one."""
    number = len(seen) + 5
    wait_until(lambda: len(seen) > number and seen[-1] == expected, LIMIT_SECONDS, lambda: f"{seen[-5:]}")


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


def test_courses_are_done_after_everything_was_killed(deployment: Deployment) -> None:
    """The run selected the snapshot alone, and is still ours."""
    deployment.add_partitions("killed-running")

    def launch() -> None:
        deployment.ui.materialize("killed-running", asset="course_snapshot")
        deployment.write("killed-running", MANY)

    deployment.freeze_half_way("killed-running", launch)
    deployment.write("killed-waiting")
    deployment.kill_everything()
    deployment.start_everything()
    for course_id in ("killed-running", "killed-waiting"):
        deployment.wait_for(course_id, "done")
        deployment.assert_state(course_id, "done")
    deployment.wait_until_idle()
    statuses = [run.status for run in deployment.runs_of("killed-running")]
    assert statuses == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    deployment.assert_nothing_runs_unattended()
