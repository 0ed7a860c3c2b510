"""What `course-search doctor` checks around the courses: settings, catalogue, Chroma, its directory, model, disk.

A check yields what it found, good or bad. Each finding stands alone: what is wrong, what to do, and, where that is
safe, how to do it for each thing it names.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib.metadata import version
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import ValidationError

from cli.courses import counted
from cli.locks import DirectoryInUseError, lock_directory, lock_holder
from cli.restore import NEW, OLD
from cli.settings import LauncherSettings
from cli.vector_store import LOCK, orphaned_directories
from embedding.demo_model import model_in_use
from embedding.opening import signature_in_use
from embedding.settings import EmbeddingSettings, VectorStoreSettings
from embedding.vector_store import VectorStore
from migrations.revision import revision_of
from models.catalogue import list_courses
from models.database import Engine, catalogue_url, transaction
from models.settings import CatalogueSettings, Settings
from models.tables import Course
from orchestration.settings import PipelineSettings
from retrieval.settings import KeywordSettings
from search_api.settings import SearchSettings

SETTINGS: tuple[type[Settings], ...] = (
    CatalogueSettings,
    EmbeddingSettings,
    VectorStoreSettings,
    KeywordSettings,
    SearchSettings,
    LauncherSettings,
    PipelineSettings,
)
SIMILAR = 0.85
LOW_SPACE = 2**30
NAMED = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """Something a check found."""

    check: str
    level: Level
    message: str
    advice: str = ""
    """What to do about it."""
    subjects: Sequence[str] = ()
    """The courses, collections or directories it is about."""
    repair: Callable[[str], str] | None = None
    """Mends one subject, where that is safe, and says what it did."""


def named(subjects: Sequence[str]) -> str:
    """The first few of them."""
    more = len(subjects) - NAMED
    return ", ".join(subjects[:NAMED]) + (f" and {more} more" if more > 0 else "")


def check_settings() -> Iterator[Finding]:
    """Every setting has a valid value, and no line of .env is a misspelt one."""
    given: list[str] = []
    wrong: list[str] = []
    try:
        for settings in SETTINGS:
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
    known = [name.upper() for settings in SETTINGS for name in settings.model_fields]
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


def read_courses(engine: Engine) -> list[Course]:
    """All courses."""
    with transaction(engine) as session:
        return list_courses(session)


def check_vector_store(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """It answers reads, not only the heartbeat."""
    store.check()
    message = f"{settings.chroma_url} answers (API {store.version()}, client {version('chromadb')})"
    yield Finding("chroma", Level.OK, message)


def check_server(store: VectorStore, settings: VectorStoreSettings) -> Iterator[Finding]:
    """One server works over CHROMA_DB_DIR, and it is the one at CHROMA_URL."""
    directory, answers = settings.chroma_db_dir, store.answers()
    process = lock_holder(directory, LOCK)
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
    signature = signature_in_use(used)
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
            f"({size >> 20} MB): {named(orphans)}"
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
    lock = lock_directory(directory, LOCK)
    try:
        if store.answers():  # perhaps over these very files, without the lock
            raise DirectoryInUseError(f"a Chroma server answers at {settings.chroma_url}")
        if directory / name in orphaned_directories(directory):
            shutil.rmtree(directory / name)
    finally:
        os.close(lock)
