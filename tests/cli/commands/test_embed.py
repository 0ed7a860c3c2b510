"""`course-search embed`: requests, refusals, waiting."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from models.course_state import claim_course, fail_course, request_embedding
from models.database import Session
from tests.support.catalogue import Catalogue
from tests.support.commands import Pipeline
from tests.support.courses import read_course
from tests.support.published import publish_row


def embed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["embed", *arguments])


@pytest.fixture
def courses(catalogue: Catalogue) -> Catalogue:
    for course_id in ("done", "new", "running"):
        catalogue.add_course(course_id)
    publish_row(catalogue.engine, "done")
    with catalogue.session() as session:
        claim_course(session, "running", "run")
    return catalogue


def test_refused_courses_are_reported_and_the_others_are_requested(courses: Catalogue) -> None:
    result = embed("running", "nobody", "done", "new", "new")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["done: embedding_started", "new: embedding_started"]
    assert result.stderr.splitlines()[:2] == [
        "Course 'running' is being embedded now",
        "There is no course 'nobody'",
    ]
    for course_id in ("done", "new"):
        assert read_course(courses.engine, course_id).embedding_status == "pending"
        assert read_course(courses.engine, course_id).embedding_requested_at is not None
    assert read_course(courses.engine, "done").embedding_generation == 1
    assert read_course(courses.engine, "running").embedding_status == "running"


def test_rows_are_locked_in_the_order_of_ids(courses: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands that lock the same rows in different orders could deadlock."""
    locked: list[str] = []

    def lock(session: Session, course_id: str, now: datetime) -> bool:
        locked.append(course_id)
        return request_embedding(session, course_id, now)

    monkeypatch.setattr("cli.commands.embed.request_embedding", lock)
    result = embed("new", "done")
    assert locked == ["done", "new"]
    assert result.stdout.splitlines() == ["new: embedding_started", "done: embedding_started"]


def test_all_requests_every_course(courses: Catalogue) -> None:
    with courses.session() as session:
        fail_course(session, "running", "run", "no luck")
    result = embed("--all")
    assert result.exit_code == 0
    assert result.stdout.count("embedding_started") == 3
    assert "course-search up" in result.stderr


def test_json_contains_the_answers_of_the_api(courses: Catalogue) -> None:
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


def test_wait_ends_when_the_courses_are_done(courses: Catalogue, pipeline: Pipeline) -> None:
    with pipeline():
        result = embed("done", "new", "--wait")
    assert result.exit_code == 0
    assert {"done: done", "new: done"} < set(result.stdout.splitlines())
    assert read_course(courses.engine, "done").embedding_generation == 2


def test_wait_reports_a_failed_course(courses: Catalogue, pipeline: Pipeline) -> None:
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


def test_wait_reports_that_a_failed_course_will_be_retried(courses: Catalogue, pipeline: Pipeline) -> None:
    with pipeline(retry=True, new="interrupted"):
        assert "new: failed: interrupted (it will be retried)" in embed("new", "--wait").stdout


def test_wait_reports_a_stall_once(courses: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The course is published right after the message."""
    monkeypatch.setattr("cli.courses.STALL_SECONDS", 0.05)
    monkeypatch.setattr("cli.courses.STALL_MESSAGE", "Is `course-search up` running?")
    printed: list[str] = []

    def echo(message: str, **options: object) -> None:
        printed.append(message)
        if "course-search up" in message:
            publish_row(courses.engine, "new")

    monkeypatch.setattr("cli.courses.typer.echo", echo)
    assert embed("new", "--wait").exit_code == 0
    assert printed == ["new: embedding_started", "Is `course-search up` running?", "new: done"]


@pytest.mark.parametrize("command", ["embed", "rebuild"])
@pytest.mark.parametrize("arguments", [[], ["a", "--all"]])
def test_course_ids_or_all_must_be_given(courses: Catalogue, command: str, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 2
    assert "--all" in result.stderr
    assert read_course(courses.engine, "new").embedding_status == "not_started"


def test_all_fails_without_courses(catalogue: Catalogue) -> None:
    result = embed("--all")
    assert result.exit_code == 1
    assert "course-search load" in result.stderr


@pytest.mark.integration
def test_ctrl_c_stops_waiting_but_keeps_the_request(courses: Catalogue) -> None:
    command = [sys.executable, "-m", "cli", "embed", "new", "--wait"]
    with subprocess.Popen(
        command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "new: embedding_started\n"
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=120)
    assert waiting.returncode == 130
    assert "Traceback" not in errors
    assert read_course(courses.engine, "new").embedding_requested_at is not None
