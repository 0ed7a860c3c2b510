"""`course-search embed`: ask for an embedding, as `POST /courses/{course_id}/embed` does."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from cli.courses import (
    AllCourses,
    CourseIds,
    Json,
    Wait,
    already_running,
    catalogue,
    chosen,
    complain,
    follow,
    not_found,
)
from models.course_state import request_embedding
from models.courses import get_course
from models.database import Engine, transaction
from models.tables import Course, EmbeddingStatus
from search_api.http.errors import ApiError

STARTED = "embedding_started"
FAILED = "embedding_failed"
BATCH = 100
"""Courses asked for in one transaction: quick, and nobody else waits long for the database."""


def embed(
    course_ids: CourseIds = None, everything: AllCourses = False, wait: Wait = False, as_json: Json = False
) -> None:
    """Ask for an embedding of courses, whatever was embedded before; the pipeline takes it up.

    Only chunks that are new or changed are embedded. A course that is being embedded now is refused; the others go on.
    """
    with catalogue() as engine:
        answers = request(engine, chosen(engine, course_ids, everything=everything))
        started = [course_id for course_id, refusal in answers.items() if refusal is None]
        if not as_json:
            for course_id, refusal in answers.items():
                typer.echo(f"{course_id}: {STARTED}") if refusal is None else complain(refusal.message)
        ended = follow(engine, started, quiet=as_json) if wait else {}
    if as_json:
        courses = [_as_json(course_id, refusal, ended) for course_id, refusal in answers.items()]
        typer.echo(json.dumps({"courses": courses}, indent=2, ensure_ascii=False))
    elif started and not wait:
        complain("The pipeline takes them up while `make up` runs; `course-search status --watch` follows.")
    if len(started) < len(answers) or not all_done(ended):
        raise typer.Exit(1)


def request(engine: Engine, course_ids: Sequence[str]) -> dict[str, ApiError | None]:
    """Ask for an embedding of each course; what the API would answer to those that are refused."""
    answers: dict[str, ApiError | None] = dict.fromkeys(course_ids)
    for start in range(0, len(course_ids), BATCH):
        with transaction(engine) as session:
            for course_id in sorted(course_ids[start : start + BATCH]):  # or two commands could wait for each other
                if not request_embedding(session, course_id, datetime.now(UTC)):
                    course = get_course(session, course_id)
                    answers[course_id] = already_running(course) if course else not_found(course_id)
    return answers


def all_done(ended: dict[str, Course | None]) -> bool:
    """Whether every course that was followed has been published."""
    return all(course is not None and course.embedding_status == EmbeddingStatus.DONE for course in ended.values())


def _as_json(course_id: str, refusal: ApiError | None, ended: dict[str, Course | None]) -> dict[str, Any]:
    """What the API answers, for each course: a status, or an error."""
    if refusal is None and course_id in ended:
        course = ended[course_id]
        if course is None:
            refusal = not_found(course_id)
        elif course.embedding_status == EmbeddingStatus.FAILED:
            return _error(course_id, FAILED, course.embedding_error or "")
        else:
            return {"course_id": course_id, "status": course.embedding_status}
    if refusal is None:
        return {"course_id": course_id, "status": STARTED}
    return _error(course_id, refusal.code, refusal.message)


def _error(course_id: str, code: str, message: str) -> dict[str, Any]:
    return {"course_id": course_id, "error": {"code": code, "message": message}}
