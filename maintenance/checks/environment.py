"""What `course-search doctor` checks around the courses: settings, catalogue, Chroma, its directory, model, disk.

A check yields what it found, good or bad. Each finding stands alone: what is wrong, what to do, and, where that is
safe, how to do it for each thing it names.
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
from embedding.vector_store.files import SERVER_LOCK, orphaned_directories
from embedding.vector_store.server import VectorStoreSettings
from maintenance.checks.findings import Finding, Level, first_few
from maintenance.restore import NEW, OLD
from migrations.revision import revision_of
from models.database import CatalogueSettings, Engine, catalogue_url
from models.settings import Settings
from models.text import counted

SIMILAR = 0.85
LOW_SPACE = 2**30
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_settings(classes: Sequence[type[Settings]]) -> Iterator[Finding]:
    """Every setting has a valid value, and no line of .env is a misspelt one."""
    given: list[str] = []
    wrong: list[str] = []
    try:
        for settings in classes:
            try:
                given += [name.upper() for name in settings().model_fields_set]
            except ValidationError as error:
                wrong += [f"{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors()]
        if not wrong:
            catalogue_url(CatalogueSettings())
    except (OSError, UnicodeDecodeError) as error:
        wrong.append(f".env cannot be read: {error}")
    except ValueError as error:
        wrong.append(str(error))
    for message in wrong:
        yield Finding("settings", Level.ERROR, message, "Correct it in the environment or .env")
    if wrong:
        return
    yield Finding("settings", Level.OK, f"set: {', '.join(sorted(given)) or 'none, so all have their defaults'}")
    known = [name.upper() for settings in classes for name in settings.model_fields]
    for key in dotenv_values(".env"):
        nearest = get_close_matches(key.upper(), known, n=1, cutoff=SIMILAR)
        if key.upper() not in known and nearest:
            yield Finding("settings", Level.WARNING, f".env: there is no setting {key}", f"Did you mean {nearest[0]}?")


def check_catalogue(engine: Engine) -> Iterator[Finding]:
    """It answers and is migrated."""
    revision = revision_of(engine)
    where = engine.url.render_as_string()
    if not revision.is_known:
        message = f"{where} is at revision {revision.current}, which this program does not know"
        yield Finding("catalogue", Level.ERROR, message, "A newer program migrated it: update this one")
    elif revision.current != revision.head:
        message = f"{where} is at revision {revision.current or 'none'}, not at {revision.head}"
        yield Finding("catalogue", Level.ERROR, message, "`alembic upgrade head`; `make up` does it by itself")
    else:
        yield Finding("catalogue", Level.OK, f"{where} answers and is at revision {revision.head}")


def check_vector_store(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """It answers reads, not only the heartbeat."""
    store.check()
    message = f"{settings.chroma_url} answers (API {store.version()}, client {version('chromadb')})"
    yield Finding("chroma", Level.OK, message)


def check_server(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """One server works over CHROMA_DB_DIR, and it is the one at CHROMA_URL."""
    directory, answers = settings.chroma_db_dir, store.answers()
    process = lock_holder(directory, SERVER_LOCK)
    is_near = urlsplit(settings.chroma_url).hostname in LOOPBACK
    if process and not answers:
        message = f"Process {process} works on {directory}, but nobody answers at {settings.chroma_url}"
        yield Finding("server", Level.WARNING, message, "If that is a Chroma server, set CHROMA_URL to its address")
    elif not process and answers and is_near and (directory / "chroma.sqlite3").exists():
        message = f"The server at {settings.chroma_url} does not hold the lock on {directory}"
        advice = "If these are its files, a second server could damage them: start it by `course-search vector-store`"
        yield Finding("server", Level.WARNING, message, advice)
    elif process:
        yield Finding("server", Level.OK, f"process {process} alone works on {directory}")
    else:
        yield Finding("server", Level.OK, f"no server works on {directory} here")


def check_model() -> Iterator[Finding]:
    """The model's files are all there, or the service that has it. Reads little of them, and does not load it."""
    configured = EmbeddingSettings()
    used = model_in_use(configured)
    signature = configured_signature(used)
    if used == configured:
        where = used.embedding_service_url or used.embedding_model_path
        message = f"{used.embedding_model_name} at {where}, signature {signature}"
        yield Finding("model", Level.OK, message)
    else:
        message = f"There are no weights at {configured.embedding_model_path}: `make up` takes a stand-in for English"
        yield Finding(
            "model", Level.WARNING, message, "For real use `make fetch-model`; courses are then embedded anew"
        )


def check_files(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """CHROMA_DB_DIR holds what Chroma knows of, nothing beside it was left by a restore, and there is room."""
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
        advice = (
            "Deleted collections left them; the next start of the Chroma server removes them. `course-search doctor "
            "--repair` does so too, while no server runs"
        )
        yield Finding("files", Level.WARNING, message, advice, orphans, remove)
    for path in sorted(directory.parent.glob(f"{directory.name}.*")):
        if path.name.removeprefix(directory.name).startswith((NEW, OLD)):
            message = f"{path} is of a restore that runs, or was interrupted"
            yield Finding("files", Level.WARNING, message, "`course-search restore` again, or remove it", [path.name])
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if free < LOW_SPACE:
        message = f"{nearest} has {free >> 20} MB of free space"
        yield Finding("files", Level.WARNING, message, "Make room: a full disk breaks collections")
    else:
        yield Finding("files", Level.OK, f"{nearest} has {free / 2**30:.1f} GB of free space")


def remove_orphaned_directory(store: VectorStore, settings: VectorStoreSettings, name: str) -> None:
    """Remove one, while certainly no server works on the files.

    Raises:
        DirectoryInUseError: a server runs.
    """
    directory = settings.chroma_db_dir.resolve()
    lock = lock_directory(directory, SERVER_LOCK)
    try:
        if store.answers():  # perhaps over these very files, without the lock
            raise DirectoryInUseError(f"a Chroma server answers at {settings.chroma_url}")
        if directory / name in orphaned_directories(directory):
            shutil.rmtree(directory / name)
    finally:
        os.close(lock)
