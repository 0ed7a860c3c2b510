"""`course-search embed`: what `POST /courses/{course_id}/embed` does, for many courses."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from models.course_state import claim_course, fail_course, request_embedding
from models.database import Session
from tests.cli.conftest import Pipeline, course, published
from tests.support.catalogue import Catalogue


def embed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["embed", *arguments])


@pytest.fixture
def courses(catalogue: Catalogue) -> Catalogue:
    for course_id in ("done", "new", "running"):
        catalogue.add_course(course_id)
    published(catalogue, "done")
    with catalogue.session() as session:
        claim_course(session, "running", "run")
    return catalogue


def test_what_cannot_be_asked_for_is_named_and_the_others_go_on(courses: Catalogue) -> None:
    result = embed("running", "nobody", "done", "new", "new")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["done: embedding_started", "new: embedding_started"]
    assert result.stderr.splitlines()[:2] == [
        "Course 'running' is being embedded now",
        "There is no course 'nobody'",
    ]
    for course_id in ("done", "new"):
        assert course(courses, course_id).embedding_status == "pending"
        assert course(courses, course_id).embedding_requested_at is not None
    assert course(courses, "done").embedding_generation == 1
    assert course(courses, "running").embedding_status == "running"


def test_rows_are_locked_in_one_order_whatever_order_is_asked_for(
    courses: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands that lock the same rows in different orders would wait for each other."""
    locked: list[str] = []

    def lock(session: Session, course_id: str, now: datetime) -> bool:
        locked.append(course_id)
        return request_embedding(session, course_id, now)

    monkeypatch.setattr("cli.commands.embed.request_embedding", lock)
    result = embed("new", "done")
    assert locked == ["done", "new"]
    assert result.stdout.splitlines() == ["new: embedding_started", "done: embedding_started"]


def test_all_courses(courses: Catalogue) -> None:
    with courses.session() as session:
        fail_course(session, "running", "run", "no luck")
    result = embed("--all")
    assert result.exit_code == 0
    assert result.stdout.count("embedding_started") == 3
    assert "make up" in result.stderr


def test_a_program_gets_the_answers_of_the_api(courses: Catalogue) -> None:
    result = embed("new", "running", "nobody", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["courses"] == [
        {"course_id": "new", "status": "embedding_started"},
        {
            "course_id": "running",
            "error": {"code": "already_running", "message": "Course 'running' is being embedded now"},
        },
        {"course_id": "nobody", "error": {"code": "course_not_found", "message": "There is no course 'nobody'"}},
    ]


def test_waiting_until_they_are_done(courses: Catalogue, pipeline: Pipeline) -> None:
    with pipeline():
        result = embed("done", "new", "--wait")
    assert result.exit_code == 0
    assert {"done: done", "new: done"} < set(result.stdout.splitlines())
    assert course(courses, "done").embedding_generation == 2


def test_waiting_for_one_that_fails(courses: Catalogue, pipeline: Pipeline) -> None:
    with pipeline(new="no chunks\nat all"):
        result = embed("new", "done", "--wait")
        assert result.exit_code == 1
        assert {"new: failed: no chunks at all", "done: done"} < set(result.stdout.splitlines())
        as_json = embed("new", "done", "--wait", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["courses"] == [
        {"course_id": "new", "error": {"code": "embedding_failed", "message": "no chunks\nat all"}},
        {"course_id": "done", "status": "done"},
    ]


def test_a_failure_that_will_be_tried_again_says_so(courses: Catalogue) -> None:
    def interrupt() -> None:
        with courses.session() as session:
            claim_course(session, "new", "run")
            fail_course(session, "new", "run", "interrupted", retry_at=datetime.now(UTC))

    interrupted = threading.Timer(0.3, interrupt)
    interrupted.start()
    assert "new: failed: interrupted (it will be tried again)" in embed("new", "--wait").stdout
    interrupted.join()


def test_when_nothing_moves_it_says_what_to_look_at(
    courses: Catalogue, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stall is said once; then the pipeline is started, and the command ends well."""
    monkeypatch.setattr("cli.courses.STALL_SECONDS", 0.05)
    monkeypatch.setattr("cli.courses.STALLED", "Is `make up` running?")
    said: list[str] = []

    def complain(message: str, **options: object) -> None:
        said.append(message)
        if "make up" in message:
            published(courses, "new")

    monkeypatch.setattr("cli.courses.typer.echo", complain)
    assert embed("new", "--wait").exit_code == 0
    assert said == ["new: embedding_started", "Is `make up` running?", "new: done"]


@pytest.mark.parametrize("command", ["embed", "rebuild"])
@pytest.mark.parametrize("arguments", [[], ["a", "--all"]])
def test_courses_or_all_of_them_must_be_named(courses: Catalogue, command: str, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 2
    assert "--all" in result.stderr
    assert course(courses, "new").embedding_status == "not_started"


def test_all_of_no_courses_is_nothing_done(catalogue: Catalogue) -> None:
    result = embed("--all")
    assert result.exit_code == 1
    assert "course-search load" in result.stderr


@pytest.mark.integration
def test_control_c_ends_the_waiting_not_the_work(courses: Catalogue) -> None:
    command = [sys.executable, "-m", "cli", "embed", "new", "--wait"]
    with subprocess.Popen(
        command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "new: embedding_started\n"
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert "Traceback" not in errors
    assert course(courses, "new").embedding_requested_at is not None
