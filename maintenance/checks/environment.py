"""Checks of the environment: settings, catalogue, Chroma and its directory, model, disk space.

A check yields findings. A finding says what is wrong and what to do, and has a repair function if a repair is safe.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import ValidationError

from embedding.factory import configured_signature
from embedding.model_files.demo_model import model_in_use
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory, lock_holder
from embedding.vector_store.files import RESTORE_PLAN, SERVER_LOCK, orphaned_directories, removable_directories
from embedding.vector_store.server import VectorStoreSettings
from embedding.vector_store.server_process import ServerUsage
from maintenance.checks.findings import Finding, Level, first_few
from maintenance.restore import NEW_SUFFIX, OLD_SUFFIX, is_unfinished
from migrations.revision import revision_of
from models.database import CatalogueSettings, Engine, catalogue_url
from models.settings import Settings, without_password
from models.text import counted

SIMILARITY_OF_MISSPELLINGS = 0.85
"""Least similarity to a setting's name (`difflib`), 0.0 to 1.0, at which a line of .env counts as misspelt."""
LOW_SPACE = 2**30
"""Free disk space, in bytes, below which there is a warning."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_settings(classes: Sequence[type[Settings]]) -> Iterator[Finding]:
    """Check that every setting has a valid value, and that no line of .env is a misspelt setting."""
    set_names: list[str] = []
    problems: list[str] = []
    try:
        for settings in classes:
            try:
                set_names += [name.upper() for name in settings().model_fields_set]
            except ValidationError as error:
                problems += [
                    f"{'.'.join(map(str, detail['loc'])).upper()}: {detail['msg']}" for detail in error.errors()
                ]
        if not problems:
            catalogue_url(CatalogueSettings())
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f".env cannot be read: {error}")
    except ValueError as error:
        problems.append(str(error))
    for message in problems:
        yield Finding("settings", Level.ERROR, message, "Correct it in the environment or .env")
    if problems:
        return
    yield Finding("settings", Level.OK, f"set: {', '.join(sorted(set_names)) or 'none; all have their defaults'}")
    known = [name.upper() for settings in classes for name in settings.model_fields]
    for key in dotenv_values(".env"):
        nearest = get_close_matches(key.upper(), known, n=1, cutoff=SIMILARITY_OF_MISSPELLINGS)
        if key.upper() not in known and nearest:
            yield Finding("settings", Level.WARNING, f".env: there is no setting {key}", f"Did you mean {nearest[0]}?")


def check_catalogue(engine: Engine) -> Iterator[Finding]:
    """Check that the catalogue answers and is migrated."""
    revision = revision_of(engine)
    url = engine.url.set(query={}).render_as_string()  # the query may contain a password, too
    if not revision.is_known:
        message = f"{url} is at revision {revision.current}, which this version does not know"
        yield Finding("catalogue", Level.ERROR, message, "A newer version migrated it: update this installation")
    elif revision.current != revision.head:
        message = f"{url} is at revision {revision.current or 'none'}, not at {revision.head}"
        yield Finding(
            "catalogue", Level.ERROR, message, "Run `course-search migrate`; `course-search up` does so automatically"
        )
    else:
        yield Finding("catalogue", Level.OK, f"{url} answers and is at revision {revision.head}")


def check_vector_store(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """Check that Chroma answers reads, not only heartbeats."""
    store.check()
    message = f"{without_password(settings.chroma_url)} answers (API {store.version()}, client {version('chromadb')})"
    yield Finding("chroma", Level.OK, message)


def check_server(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """Check that one server uses CHROMA_DB_DIR, and that it is the server at CHROMA_URL."""
    directory, answers = settings.chroma_db_dir, store.answers()
    process = lock_holder(directory, SERVER_LOCK)
    is_local = urlsplit(settings.chroma_url).hostname in LOOPBACK
    if process and not answers:
        message = (
            f"Process {process} uses {directory}, but no server answers at {without_password(settings.chroma_url)}"
        )
        yield Finding(
            "server", Level.WARNING, message, "If the process is a Chroma server, set CHROMA_URL to its address"
        )
    elif not process and answers and is_local and (directory / "chroma.sqlite3").exists():
        message = f"The server at {without_password(settings.chroma_url)} does not hold the lock on {directory}"
        advice = "If it uses these files, a second server could damage them: start it with `course-search vector-store`"
        yield Finding("server", Level.WARNING, message, advice)
    elif process:
        yield Finding("server", Level.OK, f"only process {process} uses {directory}")
        usage = ServerUsage.of_child(int(process), settings.chroma_max_memory_mb) if process.isdigit() else None
        if usage and usage.is_above_limits:
            advice = (
                "It is restarted within a minute. If this stays, raise CHROMA_MAX_MEMORY_MB or its limit of open files "
                "(`ulimit -Hn`): a collection needs more"
            )
            yield Finding("server", Level.WARNING, f"it uses {usage}", advice)
        elif usage:
            yield Finding("server", Level.OK, f"it uses {usage}; above that it is restarted")
    else:
        yield Finding("server", Level.OK, f"no local server uses {directory}")


def check_model() -> Iterator[Finding]:
    """Check that the model's files are complete, or that the embedding service answers. The model is not loaded."""
    configured = EmbeddingSettings()
    used = model_in_use(configured)
    signature = configured_signature(used)
    if used == configured:
        location = without_password(used.embedding_service_url or str(used.embedding_model_path))
        message = f"{used.embedding_model_name} at {location}, signature {signature}"
        yield Finding("model", Level.OK, message)
    else:
        message = (
            f"There are no weights at {configured.embedding_model_path}: `course-search up` uses the demo model "
            "(English)"
        )
        advice = "For real use run `course-search fetch-model`; all courses are then embedded again"
        yield Finding("model", Level.WARNING, message, advice)


def check_files(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """Check for directories of deleted collections, directories of an interrupted restore, and free disk space."""
    directory = settings.chroma_db_dir.resolve()
    orphans = [path.name for path in orphaned_directories(directory)]

    def remove(name: str) -> str:
        remove_orphaned_directory(store, settings, name)
        return f"{directory / name} removed"

    if orphans:
        size = sum(file.stat().st_size for name in orphans for file in (directory / name).rglob("*") if file.is_file())
        message = (
            f"{counted(len(orphans), 'directory', 'directories')} of no collection in {directory} "
            f"({size >> 20} MB): {first_few(orphans)}"
        )
        is_removable = bool(removable_directories(directory))
        advice = (
            "Their collections were deleted. The next start of the Chroma server removes them; so does `course-search "
            "doctor --repair` if no server is running"
        )
        if not is_removable:
            advice = (
                "Not repaired, because its database has no collection with a directory here: was chroma.sqlite3 "
                "replaced? Remove them by hand if they are not needed"
            )
        yield Finding("files", Level.WARNING, message, advice, orphans, remove if is_removable else None, deletes=True)
    advice = "Run `course-search restore` again, or remove it"
    if is_unfinished(directory):
        advice = "The next start of the Chroma server completes the restore; `course-search restore` does so as well"
    siblings = sorted(directory.parent.glob(f"{directory.name}.*"))
    leftovers = [
        path for path in siblings if path.name.removeprefix(directory.name).startswith((NEW_SUFFIX, OLD_SUFFIX))
    ]
    if (directory / RESTORE_PLAN).exists():
        leftovers.append(directory / RESTORE_PLAN)
    for path in leftovers:
        message = f"{path} belongs to a restore that is running or was interrupted"
        yield Finding("files", Level.WARNING, message, advice, [path.name])
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < LOW_SPACE:
        message = f"{existing} has {free >> 20} MB of free space"
        yield Finding("files", Level.WARNING, message, "Free disk space: a full disk damages collections")
    else:
        yield Finding("files", Level.OK, f"{existing} has {free / 2**30:.1f} GB of free space")


def remove_orphaned_directory(store: VectorStore, settings: VectorStoreSettings, name: str) -> None:
    """Remove the directory of a deleted collection, if no server is running.

    Raises:
        DirectoryInUseError: A server is running.
    """
    directory = settings.chroma_db_dir.resolve()
    lock = lock_directory(directory, SERVER_LOCK)
    try:
        if store.answers():  # perhaps it uses these files without holding the lock
            raise DirectoryInUseError(f"a Chroma server answers at {without_password(settings.chroma_url)}")
        if directory / name in removable_directories(directory):
            shutil.rmtree(directory / name)
    finally:
        os.close(lock)
