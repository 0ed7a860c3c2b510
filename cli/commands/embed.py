"""`course-search embed`: request an embedding, as `POST /courses/{course_id}/embed` does."""

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
    already_running_error,
    not_found_error,
    open_catalogue,
    print_error,
    select_course_ids,
    wait_for_courses,
)
from models.course_state import request_embedding
from models.courses import get_course
from models.database import Engine, transaction
from models.tables import Course, EmbeddingStatus
from search_api.http.errors import ApiError

STARTED = "embedding_started"
FAILED = "embedding_failed"
BATCH = 100
"""Courses per transaction: few transactions, and none holds its locks for long."""


def embed(
    course_ids: CourseIds = None, all_courses: AllCourses = False, wait: Wait = False, as_json: Json = False
) -> None:
    """Request the embedding of courses, even if nothing has changed; the pipeline then launches runs.

    A run embeds only new and changed chunks. Courses that are being embedded now are refused; the others are requested.
    """
    with open_catalogue() as engine:
        refusals = request_embeddings(engine, select_course_ids(engine, course_ids, all_courses=all_courses))
        started = [course_id for course_id, refusal in refusals.items() if refusal is None]
        if not as_json:
            for course_id, refusal in refusals.items():
                typer.echo(f"{course_id}: {STARTED}") if refusal is None else print_error(refusal.message)
        final = wait_for_courses(engine, started, silent=as_json) if wait else {}
    if as_json:
        courses = [_as_json(course_id, refusal, final) for course_id, refusal in refusals.items()]
        typer.echo(json.dumps({"courses": courses}, indent=2, ensure_ascii=False))
    elif started and not wait:
        print_error(
            "The pipeline embeds them while `course-search up` runs; `course-search status --watch` shows the progress."
        )
    if len(started) < len(refusals) or not all_done(final):
        raise typer.Exit(1)


def request_embeddings(engine: Engine, course_ids: Sequence[str]) -> dict[str, ApiError | None]:
    """Request the embedding of each course.

    Returns:
        Course id → the API's error if the request was refused, else None.
    """
    refusals: dict[str, ApiError | None] = dict.fromkeys(course_ids)
    for start in range(0, len(course_ids), BATCH):
        with transaction(engine) as session:
            # A fixed lock order prevents deadlocks between two commands.
            for course_id in sorted(course_ids[start : start + BATCH]):
                if not request_embedding(session, course_id, datetime.now(UTC)):
                    course = get_course(session, course_id)
                    refusals[course_id] = already_running_error(course) if course else not_found_error(course_id)
    return refusals


def all_done(courses: dict[str, Course | None]) -> bool:
    """Whether every course exists and is `done`."""
    return all(course is not None and course.embedding_status == EmbeddingStatus.DONE for course in courses.values())


def _as_json(course_id: str, refusal: ApiError | None, final: dict[str, Course | None]) -> dict[str, Any]:
    """One course in the format of the API: with a status or an error."""
    if refusal is None and course_id in final:
        course = final[course_id]
        if course is None:
            refusal = not_found_error(course_id)
        elif course.embedding_status == EmbeddingStatus.FAILED:
            return _error(course_id, FAILED, course.embedding_error or "")
        else:
            return {"course_id": course_id, "status": course.embedding_status}
    if refusal is None:
        return {"course_id": course_id, "status": STARTED}
    return _error(course_id, refusal.code, refusal.message)


def _error(course_id: str, code: str, message: str) -> dict[str, Any]:
    return {"course_id": course_id, "error": {"code": code, "message": message}}
