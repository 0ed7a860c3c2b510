"""`course-search rebuild`: delete collections and keyword indexes, and request a complete embedding."""

from contextlib import closing
from typing import Annotated

import typer

from cli.commands.embed import all_done
from cli.courses import AllCourses, CourseIds, Wait, open_catalogue, print_error, select_course_ids, wait_for_courses
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.files import vector_store_settings
from maintenance.rebuild import CourseRefusedError, RebuildLostError, rebuild_course
from retrieval.keywords.store import KeywordSettings, KeywordStore, KeywordStoreError


def rebuild(
    course_ids: CourseIds = None,
    all_courses: AllCourses = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    wait: Wait = False,
) -> None:
    """Delete the collections of courses and have every chunk embedded again.

    Use it for damaged collections; for changed chunks `embed` is enough. A course cannot be searched until it is done
    again. Courses that are being embedded now are refused; the others are rebuilt.
    """
    rebuilt: list[str] = []
    refused = False
    keywords = KeywordStore(KeywordSettings())
    with open_catalogue() as engine, closing(VectorStore(vector_store_settings())) as store:
        ids = select_course_ids(engine, course_ids, all_courses=all_courses)
        if len(ids) > 1 and not yes:
            typer.confirm(f"Delete the collections of {len(ids)} courses and embed them again?", abort=True, err=True)
        for course_id in ids:
            try:
                rebuild_course(engine, store, keywords, course_id)
            except (CourseRefusedError, RebuildLostError, KeywordStoreError, VectorStoreError) as error:
                refused = True
                print_error(str(error))
                if isinstance(error, VectorStoreUnreachableError):
                    print_error(
                        f"{len(rebuilt)} of {len(ids)} courses were rebuilt; those after {course_id} were not changed."
                    )
                    break
            else:
                rebuilt.append(course_id)
                typer.echo(f"{course_id}: collection deleted, embedding_started")
        final = wait_for_courses(engine, rebuilt) if wait else {}
    if rebuilt and not wait:
        print_error("The pipeline embeds them while `make up` runs; `course-search status --watch` shows the progress.")
    if refused or not all_done(final):
        raise typer.Exit(1)
