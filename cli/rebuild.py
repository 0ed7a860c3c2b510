"""`course-search rebuild`: delete a course's collection and keyword index, and have it embedded from nothing.

The command owns the course meanwhile, as a run would, so that none can write into a collection that is being deleted.
Killed half way it leaves a course that is `running` for an owner that is no run; the pipeline fails such a course and
asks for it again.
"""

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer

from cli.courses import AllCourses, CourseIds, Wait, already_running, catalogue, chosen, complain, follow, not_found
from cli.embed import all_done
from cli.vector_store import vector_store_settings
from embedding.vector_store import VectorStore, VectorStoreAwayError, VectorStoreError
from models.catalogue import (
    REBUILD_OWNER_PREFIX,
    claim_course,
    fail_course,
    get_course,
    owns_course,
    request_embedding,
    restart_course,
)
from models.database import Engine, transaction
from retrieval.keyword_store import KeywordStore, KeywordStoreError
from retrieval.settings import KeywordSettings
from search_api.errors import ApiError


class RebuildLostError(Exception):
    """The pipeline took the course for abandoned, before its collection was deleted or while it was."""


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
    with catalogue() as engine, closing(VectorStore(vector_store_settings())) as store:
        ids = chosen(engine, course_ids, everything=everything)
        if len(ids) > 1 and not yes:
            typer.confirm(f"Delete the collections of {len(ids)} courses and embed them anew?", abort=True, err=True)
        for course_id in ids:
            try:
                rebuild_course(engine, store, course_id)
            except (ApiError, RebuildLostError, KeywordStoreError, VectorStoreError) as error:
                refused = True
                complain(str(error))
                if isinstance(error, VectorStoreAwayError):
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


def rebuild_course(engine: Engine, store: VectorStore, course_id: str) -> None:
    """Delete the course's collection and keyword index, and ask for an embedding of all of its chunks.

    Raises:
        ApiError: there is no such course, or it is running.
        VectorStoreError, KeywordStoreError: one could not be deleted; the course has failed, and is asked for again.
        RebuildLostError: somebody else took the course over meanwhile. If its collection was deleted all the same, it
            is asked for, unless it is running: that run finds its collection gone, and fails.
    """
    owner = f"{REBUILD_OWNER_PREFIX}{uuid4()}"
    with transaction(engine) as session:
        course = get_course(session, course_id)
        if course is None:
            raise not_found(course_id)
        if not claim_course(session, course_id, owner):
            raise already_running(course)

    def make_sure_it_is_ours() -> None:
        with transaction(engine) as session:
            is_ours = owns_course(session, course_id, owner)
        if not is_ours:
            raise RebuildLostError(f"Course {course_id} was taken over, and nothing was deleted: rebuild it again")

    try:
        store.delete(course_id, make_sure_it_is_ours)
        KeywordStore(KeywordSettings()).delete(course_id)
    except BaseException as error:
        reason = str(error) if isinstance(error, VectorStoreError | KeywordStoreError) else "interrupted"
        with transaction(engine) as session:
            fail_course(session, course_id, owner, f"The rebuild failed: {reason}", retry_at=datetime.now(UTC))
        raise
    with transaction(engine) as session:
        restarted = restart_course(session, course_id, owner, datetime.now(UTC))
        if not restarted:
            request_embedding(session, course_id, datetime.now(UTC))
    if not restarted:
        raise RebuildLostError(f"Course {course_id} was taken over while its collection was deleted: rebuild it again")
