"""`course-search rebuild`: delete collections and keyword indexes, and have every chunk embedded again."""

from contextlib import closing
from typing import Annotated

import typer

from cli.commands.embed import all_done
from cli.courses import AllCourses, CourseIds, Wait, catalogue, chosen, complain, follow
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.files import vector_store_settings
from maintenance.rebuild import CourseRefusedError, RebuildLostError, rebuild_course
from retrieval.keywords.store import KeywordSettings, KeywordStore, KeywordStoreError


def rebuild(
    course_ids: CourseIds = None,
    everything: AllCourses = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, even for many courses.")] = False,
    wait: Wait = False,
) -> None:
    """Delete the collections of courses and have every chunk embedded anew.

    For collections that are broken or doubtful; changed chunks need only `embed`. A course cannot be searched until it
    is done again. One that is being embedded now is refused; the others go on.
    """
    rebuilt: list[str] = []
    refused = False
    keywords = KeywordStore(KeywordSettings())
    with catalogue() as engine, closing(VectorStore(vector_store_settings())) as store:
        ids = chosen(engine, course_ids, everything=everything)
        if len(ids) > 1 and not yes:
            typer.confirm(f"Delete the collections of {len(ids)} courses and embed them anew?", abort=True, err=True)
        for course_id in ids:
            try:
                rebuild_course(engine, store, keywords, course_id)
            except (CourseRefusedError, RebuildLostError, KeywordStoreError, VectorStoreError) as error:
                refused = True
                complain(str(error))
                if isinstance(error, VectorStoreUnreachableError):
                    complain(
                        f"{len(rebuilt)} of {len(ids)} courses were rebuilt; those after {course_id} were left alone."
                    )
                    break
            else:
                rebuilt.append(course_id)
                typer.echo(f"{course_id}: collection deleted, embedding_started")
        ended = follow(engine, rebuilt) if wait else {}
    if rebuilt and not wait:
        complain("The pipeline takes them up while `make up` runs; `course-search status --watch` follows.")
    if refused or not all_done(ended):
        raise typer.Exit(1)
