"""Access to the catalogue: engines with timeouts, one transaction per request, driver errors translated.

If the database is unreachable or locked, or the connection is lost, the error is a `DatabaseUnavailableError`. The next
transaction opens a new connection, so no process needs a restart once the database is reachable again.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field
from sqlalchemy import URL, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from models.json_values import readable_json
from models.postgres import connect_args, transaction_limits
from models.settings import Settings, home_expanded

__all__ = [
    "DatabaseNotMigratedError",
    "DatabaseUnavailableError",
    "Engine",
    "Session",
    "UnreadableDataError",
    "catalogue_url",
    "create_catalogue_engine",
    "database_errors",
    "file_stamp",
    "is_temporary",
    "postgres_url",
    "transaction",
]


class CatalogueSettings(Settings):
    """Connection to stage one's database."""

    database_url: str = Field(
        "sqlite:///./data/catalogue.db",
        description="SQLAlchemy URL of stage one's database: sqlite:///… or postgresql://…",
    )
    database_timeout_seconds: int = Field(
        5,
        gt=0,
        description="Timeout for connecting, for locks and for answers of the database, in seconds; "
        "one statement may take twelve times as long.",
    )


class DatabaseUnavailableError(Exception):
    """The database is unreachable or locked, denied access, or the connection was lost. A later attempt may succeed."""


class UnreadableDataError(DatabaseUnavailableError):
    """A row contains bytes that are not valid text in UTF-8, or in the encoding of the database.

    A later attempt succeeds only after the row has been corrected.
    """


class DatabaseNotMigratedError(DatabaseUnavailableError):
    """A table or column is missing: the migrations have not been applied."""


def is_temporary(error: BaseException) -> bool:
    """Whether the error is of the database, and the same operation may succeed later without anyone's help."""
    return isinstance(error, DatabaseUnavailableError) and not isinstance(
        error, DatabaseNotMigratedError | UnreadableDataError
    )


def postgres_url(url: str) -> str:
    """The URL with psycopg2 as the driver for `postgres://` and `postgresql://`; other URLs are unchanged.

    Raises:
        ValueError: This is not a URL.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # without the cause, which may quote a part of the password
        raise ValueError("not a database URL, like postgresql://user@host/database") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    return parsed.render_as_string(hide_password=False)


def catalogue_url(settings: CatalogueSettings) -> URL:
    """Parse DATABASE_URL.

    Raises:
        ValueError: The value is not a URL, or names an unsupported kind of database or a SQLite database in memory.
    """
    try:
        url = make_url(postgres_url(settings.database_url))
    except ValueError as error:
        raise ValueError(f"DATABASE_URL is {error}") from None
    if url.drivername not in ("postgresql+psycopg2", "sqlite", "sqlite+pysqlite"):
        raise ValueError(f"DATABASE_URL is for {url.drivername}: only sqlite:///… and postgresql://… are supported")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("DATABASE_URL contains no file name: processes cannot share a SQLite database in memory")
    if url.get_backend_name() == "sqlite" and str(url.database).startswith("~"):
        url = url.set(database=str(home_expanded(Path(str(url.database)))))
    return url


def create_catalogue_engine(settings: CatalogueSettings, *, create_file: bool = False) -> Engine:
    """Create an engine for stage one's database, without connecting.

    SQLite runs in WAL mode, so that readers and the writer do not block each other. Every transaction opens the file
    again, so that a moved or replaced file is noticed. A missing file is an error, unless `create_file` is set (as in
    the migrations). PostgreSQL connections are pooled, and pinged at checkout; `models.postgres` sets their timeouts.

    Raises:
        ValueError: DATABASE_URL is invalid (see `catalogue_url`).
    """
    url = catalogue_url(settings)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, settings.database_timeout_seconds, create_file=create_file)
    engine = create_engine(
        url,
        connect_args=connect_args(settings.database_timeout_seconds),
        pool_pre_ping=True,
        pool_timeout=settings.database_timeout_seconds,
        executemany_mode="values_plus_batch",
        json_deserializer=readable_json,
        hide_parameters=True,
    )
    event.listen(engine, "begin", transaction_limits(settings.database_timeout_seconds))
    return engine


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _sqlite_engine(url: URL, timeout_seconds: int, *, create_file: bool) -> Engine:
    path = Path(str(url.database)).absolute()

    def connect() -> sqlite3.Connection:
        if create_file:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise sqlite3.OperationalError(f"{path} does not exist; `course-search migrate` creates it")
        mode = "rwc" if create_file else "rw"
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, timeout=timeout_seconds, check_same_thread=False
        )
        try:
            with suppress(sqlite3.OperationalError):  # needs exclusive access; a later connection may get it
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error:
            connection.close()
            raise
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows ASCII only
        return connection

    return create_engine(url, creator=connect, poolclass=NullPool, hide_parameters=True)


IDLE_SECONDS = 0.05
"""Minimum age of the last write. Far above the resolution of time stamps, so that a later write changes the mtime."""

FileStamp = tuple[tuple[int, int, int] | None, ...]


def file_stamp(engine: Engine) -> FileStamp | None:
    """Change stamp of an idle SQLite file: same stamp, same rows.

    Takes microseconds, compared with hundreds for a transaction, which opens the file. To detect later changes of a
    row, take the stamp *before* reading the row.

    Returns:
        None if there is no reliable stamp: the file is missing or was just written, or the database is not SQLite.
    """
    if engine.dialect.name != "sqlite":
        return None
    stamp = tuple(_stat(f"{engine.url.database}{suffix}") for suffix in ("", "-wal"))
    latest = max((file[1] for file in stamp if file), default=0)
    return stamp if stamp[0] and time.time_ns() - latest > IDLE_SECONDS * 1e9 else None


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        file = os.stat(path)  # noqa: PTH116 - every search calls it, and a `Path` takes longer than the call
    except OSError:
        return None
    return file.st_ino, file.st_mtime_ns, file.st_size


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One transaction: commits when the body ends, rolls back when the body raises.

    Functions that take a session never commit. Loaded objects remain readable after the transaction.

    Raises:
        DatabaseUnavailableError: The database cannot be used now.
        DatabaseNotMigratedError: A table or column is missing.
        UnreadableDataError: A row contains bytes that are not valid text.
    """
    with database_errors(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def database_errors() -> Iterator[None]:
    """Translate driver errors into the errors of this module."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("The database is busy: no connection became free in time.") from error
    except DBAPIError as error:
        if _schema_is_missing(error):
            message = f"The database has not been migrated ({_reason(error)}): run `course-search migrate`."
            raise DatabaseNotMigratedError(message) from error
        if "Could not decode to UTF-8" in str(error.orig) or getattr(error.orig, "pgcode", None) in _INVALID_TEXT:
            reason = f"The database contains text that cannot be decoded ({_reason(error)})"
            raise UnreadableDataError(f"{reason}: correct or delete the row.") from error
        if _is_unavailable(error):
            raise DatabaseUnavailableError(f"The database cannot be used: {_reason(error)}.") from error
        raise


def _schema_is_missing(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return any(message in str(error.orig) for message in ("no such table", "no such column", "has no column named"))
    return getattr(error.orig, "pgcode", None) in _UNDEFINED


def _is_unavailable(error: DBAPIError) -> bool:
    return (
        isinstance(error, OperationalError | InterfaceError)
        # Drivers raise the base class if a file is not a database, or if a connection broke for an unknown reason.
        or type(error) is DatabaseError
        or getattr(error.orig, "pgcode", None) in _DENIED
    )


# PostgreSQL error codes
_INVALID_TEXT = {"22021", "22P05"}  # character_not_in_repertoire, untranslatable_character
_UNDEFINED = {"42P01", "42703", "3F000"}  # undefined_table, undefined_column, invalid_schema_name
_DENIED = {"42501", "25006"}  # insufficient_privilege, read_only_sql_transaction (on a standby server)


def _reason(error: DBAPIError) -> str:
    """The first line of the driver's message. It names the cause; the other lines repeat the SQL.

    SQLite's message about a text that cannot be decoded contains the text, which is left out.
    """
    first_line = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
    return first_line.partition(" with text '")[0].rstrip(".")
