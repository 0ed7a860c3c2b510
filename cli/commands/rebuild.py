"""`course-search rebuild`: request that collections are deleted and every chunk is embedded."""

from contextlib import closing
from typing import Annotated

import typer

from cli.commands.embed import all_done
from cli.courses import (
    AllCourses,
    CourseIds,
    Wait,
    fail,
    open_catalogue,
    print_error,
    select_course_ids,
    wait_for_courses,
)
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.files import vector_store_settings
from maintenance.rebuild import CourseRefusedError, request_rebuild


def rebuild(
    course_ids: CourseIds = None,
    all_courses: AllCourses = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    wait: Wait = False,
) -> None:
    """Delete the collections of courses and have every chunk embedded again.

    Use it for damaged collections; for changed chunks `embed` is enough. The next run of a course deletes its
    collection. Until all chunks are embedded, searches use the last snapshot. Courses that are being embedded now are
    refused; the others are rebuilt. Nothing happens while Chroma cannot be read.
    """
    rebuilt: list[str] = []
    with open_catalogue() as engine:
        ids = select_course_ids(engine, course_ids, all_courses=all_courses)
        _check_vector_store()
        if len(ids) > 1 and not yes:
            typer.confirm(f"Delete the collections of {len(ids)} courses and embed them again?", abort=True, err=True)
        for course_id in ids:
            try:
                request_rebuild(engine, course_id)
            except CourseRefusedError as error:
                print_error(str(error))
            else:
                rebuilt.append(course_id)
                typer.echo(f"{course_id}: rebuild requested, embedding_started")
        final = wait_for_courses(engine, rebuilt) if wait else {}
    if rebuilt and not wait:
        print_error(
            "The pipeline embeds them while `course-search up` runs; `course-search status --watch` shows the progress."
        )
    if len(rebuilt) < len(ids) or not all_done(final):
        raise typer.Exit(1)


def _check_vector_store() -> None:
    with closing(VectorStore(vector_store_settings())) as store:
        try:
            store.check()
        except VectorStoreError as error:
            fail(f"{error}. No course was changed.")
