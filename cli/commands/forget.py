"""`course-search forget`: remove the texts of courses that are no longer in their chunks from the disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Annotated

import typer

from cli.courses import fail, open_catalogue, print_error
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.files import DATABASE, SERVER_LOCK, vector_store_settings
from embedding.vector_store.offline import OfflineVectorStore
from embedding.vector_store.purge import CannotPurgeError, clear_unused, is_directory_of, purge
from embedding.vector_store.server import VectorStoreSettings
from maintenance.forget import ChangedMeanwhileError, Forgetting, complete, discard, prepare
from maintenance.rebuild import CourseRefusedError
from maintenance.restore import is_unfinished
from models.database import DatabaseUnavailableError, Engine
from models.messages import not_found_message
from models.settings import without_password
from models.text import counted, is_unicode
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, SnapshotStoreError, directory_name

PATIENCE_SECONDS = 60.0
"""How long a call to Chroma is retried, in seconds: deleting a large collection takes longer than one timeout."""
_ATTEMPTS = 3
"""Attempts for a course that is embedded while its collection is copied."""


class Outcome(Enum):
    """The result for one course."""

    FORGOTTEN = auto()
    UNKNOWN = auto()
    """Neither the course nor anything of it was found. A killed command may have deleted it, so files are purged."""
    REFUSED = auto()


def forget(
    course_ids: Annotated[list[str], typer.Argument(metavar="COURSE...", help="Ids of courses.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove every text from the disk that is no longer in the chunks of the courses.

    First delete or change the chunks in the catalogue, or delete the course. An ordinary embedding removes a deleted
    text from every search, but Chroma keeps it on disk. This command replaces the collection by a copy of what is still
    in the catalogue, without embedding it, publishes the course, deletes older snapshots, and purges Chroma's files.
    The courses stay searchable. Search apps on other machines delete their snapshots within seconds. Courses that are
    being embedded now are refused.

    Run it on the machine of the Chroma server, whether the server runs or not; it may be repeated at any time. Backups,
    the catalogue's own files, and Dagster's history of versions that showed texts there, are not changed.
    """
    settings = vector_store_settings()
    directory = settings.chroma_db_dir.resolve()
    snapshots = SnapshotStore(SnapshotSettings())
    with open_catalogue() as engine, _open_store(settings, directory) as store:
        try:
            store.check()
        except VectorStoreError as error:
            fail(f"{_sentence(error)} No course was changed.")
        try:
            ids = dict.fromkeys(course_ids)
            outcomes = {_forget(engine, store, snapshots, course_id, yes=yes) for course_id in ids}
            if outcomes == {Outcome.REFUSED}:
                raise typer.Exit(1)
            is_local = isinstance(store, OfflineVectorStore) or is_directory_of(store, directory)
        except (VectorStoreError, SnapshotStoreError, DatabaseUnavailableError) as error:
            fail(f"{_sentence(error)} Not everything is forgotten: remove the cause and run this command again.")
        store.close()
        if not is_local:
            fail(
                f"The files of the Chroma server at {without_password(settings.chroma_url)} are not in {directory} "
                "(CHROMA_DB_DIR), so they still contain the texts. Run this command again on the machine that has them."
            )
        size = (directory / DATABASE).stat().st_size >> 20
        print_error(f"Purging {directory / DATABASE} ({size} MB). Chroma does not answer meanwhile …")
        try:
            purge(directory)
            if isinstance(store, OfflineVectorStore):
                clear_unused(directory)
        except CannotPurgeError as error:
            fail(f"{_sentence(error)} The texts are still there: run this command again, or stop everything before.")
    typer.echo(f"{directory}: purged, nothing that was deleted is left in Chroma's log and files")
    print_error("Backups that were made before may still contain the texts: delete them.")
    if outcomes != {Outcome.FORGOTTEN}:
        raise typer.Exit(1)


def _sentence(error: Exception) -> str:
    return str(error).rstrip(".") + "."


def _forget(engine: Engine, store: VectorStore, snapshots: SnapshotStore, course_id: str, *, yes: bool) -> Outcome:
    """Forget the deleted texts of a course."""
    if not course_id or not is_unicode(course_id):  # no course can have this id
        print_error(not_found_message(course_id))
        return Outcome.REFUSED
    for _ in range(_ATTEMPTS):
        try:
            forgetting = prepare(
                engine, store, course_id, EmbeddingSettings().context, is_stopped=isinstance(store, OfflineVectorStore)
            )
            if forgetting.objection and yes:
                print_error(
                    f"{course_id} is not in the catalogue, and its collection was not deleted, because "
                    f"{forgetting.objection}. Is DATABASE_URL correct? If it is, run this "
                    "command without --yes"
                )
                return Outcome.REFUSED
            is_known = (
                forgetting.row is not None
                or forgetting.records > 0
                or directory_name(course_id) in snapshots.directories()
            )
            if forgetting.records and not yes:
                _confirm(store, forgetting)
            is_done = complete(engine, store, snapshots, forgetting)
        except CourseRefusedError as error:
            print_error(f"{error}: run this command again when it is done")
            return Outcome.REFUSED
        except ChangedMeanwhileError as error:
            print_error(f"{error}, once more …")
        else:
            if not is_known:
                print_error(f"{not_found_message(course_id)}, and nothing of it is stored")
                return Outcome.UNKNOWN
            typer.echo(f"{course_id}: {_result(forgetting, is_done=is_done)}")
            return Outcome.FORGOTTEN
    print_error(f"{course_id}: not changed, because it was changed during every attempt")
    return Outcome.REFUSED


def _confirm(store: VectorStore, forgetting: Forgetting) -> None:
    try:
        typer.confirm(_question(forgetting), abort=True, err=True)
    except BaseException:
        if forgetting.copy is not None:
            discard(store, forgetting.course_id, forgetting.copy)
        raise


def _question(forgetting: Forgetting) -> str:
    course_id, records = forgetting.course_id, counted(forgetting.records, "record")
    if forgetting.row is not None:
        kept = forgetting.copy.fingerprint.chunks if forgetting.copy else 0
        return f"{course_id}: forget {records} whose text is no longer in the catalogue, and keep {kept}?"
    doubt = f", although {forgetting.objection}. Is DATABASE_URL correct?" if forgetting.objection else "?"
    return f"{course_id} is not in the catalogue: delete its collection of {records}{doubt}"


def _result(forgetting: Forgetting, *, is_done: bool) -> str:
    if forgetting.row is None:
        return f"not in the catalogue, {counted(forgetting.records, 'record')} deleted"
    if forgetting.copy is None:
        return "it has no collection, so there is nothing to forget"
    kept, missing = forgetting.copy.fingerprint.chunks, forgetting.copy.missing
    forgotten = (
        f"{counted(forgetting.records, 'record')} forgotten"
        if forgetting.records
        else "nothing to forget in the collection"
    )
    result = f"{forgotten}, {kept} kept"
    if not kept and not missing:
        return f"{result}; it has no chunks, so it cannot be searched"
    return result if is_done and not missing else f"{result}; the pipeline embeds what is missing"


@contextmanager
def _open_store(settings: VectorStoreSettings, directory: Path) -> Iterator[VectorStore]:
    """The running server; or its files, if CHROMA_URL is not set and no server runs."""
    is_running = VectorStore(settings).answers()
    if is_running or "chroma_url" in settings.model_fields_set or not (directory / DATABASE).exists():
        store = VectorStore(settings, PATIENCE_SECONDS if is_running else 0.0)
        try:
            yield store
        finally:
            store.close()
        return
    try:
        lock = lock_directory(directory, SERVER_LOCK)
    except DirectoryInUseError as error:
        fail(f"{error}, and the server does not answer. No course was changed.")
    try:
        if is_unfinished(directory):
            fail(f"A restore of {directory} was interrupted: start Chroma once, which completes it.")
        offline = OfflineVectorStore(directory)
        try:
            yield offline
        finally:
            offline.close()
    finally:
        os.close(lock)
