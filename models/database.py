"""The way to the catalogue: engines whose waits all end, one transaction a request, two errors to handle.

Whatever keeps the database from answering (away, locked, gone in mid-sentence) is one `DatabaseUnavailableError`, and
the next transaction simply tries again: nothing here has to be restarted when the database comes back.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from models.postgres import connect_args
from models.settings import CatalogueSettings

__all__ = [
    "DatabaseNotMigratedError",
    "DatabaseUnavailableError",
    "Engine",
    "Session",
    "UnreadableDataError",
    "catalogue_url",
    "create_catalogue_engine",
    "database_errors",
    "file_version",
    "postgres_url",
    "transaction",
]


class DatabaseUnavailableError(Exception):
    """The database can't be used now: it is away, locked, refuses us, or broke off. Trying again later may work."""


class UnreadableDataError(Exception):
    """A row holds what no text can be: SQLite stores any bytes as text, and they need not be UTF-8."""


class DatabaseNotMigratedError(DatabaseUnavailableError):
    """A table or column is missing: the migrations haven't been applied."""


def postgres_url(url: str) -> str:
    """Names the driver in use: a bare `postgres://` or `postgresql://` would mean another one."""
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    return parsed.render_as_string(hide_password=False)


def catalogue_url(settings: CatalogueSettings) -> URL:
    """Reads `DATABASE_URL`.

    Raises:
        ValueError: it is no URL, names another kind of database, or a SQLite database without a file.
    """
    try:
        url = make_url(postgres_url(settings.database_url))
    except ArgumentError:
        raise ValueError("DATABASE_URL is not a database URL, like sqlite:///./data/catalogue.db") from None
    if url.drivername not in ("postgresql+psycopg2", "sqlite", "sqlite+pysqlite"):
        raise ValueError(f"DATABASE_URL is for {url.drivername}: only sqlite:///… and postgresql://… are supported")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("DATABASE_URL names no file: a SQLite database in memory can't be shared")
    return url


def create_catalogue_engine(settings: CatalogueSettings, *, create_file: bool = False) -> Engine:
    """An engine for stage one's database. Nothing is opened yet.

    SQLite runs in WAL mode, so that readers and the writer don't block each other, and every transaction opens the
    file anew: a database that was moved away and back is noticed both times. A missing file is an error rather than
    a new, empty database, unless `create_file` (the migrations) asks for one. PostgreSQL connections are pooled
    and checked when taken from the pool; see `models.postgres` for their time limits.

    Raises:
        ValueError: see `catalogue_url`.
    """
    url = catalogue_url(settings)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, settings.database_timeout_seconds, create_file=create_file)
    return create_engine(
        url,
        connect_args=connect_args(url, settings.database_timeout_seconds),
        pool_pre_ping=True,
        pool_timeout=settings.database_timeout_seconds,
        executemany_mode="values_plus_batch",
    )


def _sqlite_engine(url: URL, timeout_seconds: int, *, create_file: bool) -> Engine:
    path = Path(str(url.database)).absolute()

    def connect() -> sqlite3.Connection:
        if create_file:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise sqlite3.OperationalError(f"{path} does not exist; `alembic upgrade head` creates it")
        mode = "rwc" if create_file else "rw"
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, timeout=timeout_seconds, check_same_thread=False
        )
        try:
            with suppress(sqlite3.OperationalError):  # needs a moment alone with the file; the next one may have it
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    return create_engine(url, creator=connect, poolclass=NullPool)


QUIET_SECONDS = 0.05
"""Far longer than the steps in which a file system counts time, so that a later write shows in a file's time."""

FileVersion = tuple[tuple[int, int, int] | None, ...]


def file_version(engine: Engine) -> FileVersion | None:
    """Of a SQLite database that was left alone for a moment: as long as it stays the same, so does every row.

    Costs microseconds where a transaction, which opens the file, costs hundreds. Taken *before* a row is read, it tells
    later whether that row may have changed. None where that can't be told: the file is being written or is missing, or
    it is another kind of database.
    """
    if engine.dialect.name != "sqlite":
        return None
    version = tuple(_stat(Path(f"{engine.url.database}{suffix}")) for suffix in ("", "-wal"))
    latest = max((file[1] for file in version if file), default=0)
    return version if version[0] and time.time_ns() - latest > QUIET_SECONDS * 1e9 else None


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        file = path.stat()
    except OSError:
        return None
    return file.st_ino, file.st_mtime_ns, file.st_size


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One unit of work: committed when the body ends, rolled back when it raises.

    Functions that take a session never commit. Objects stay readable after the end.

    Raises:
        DatabaseUnavailableError: the database can't be used now.
        DatabaseNotMigratedError: it lacks our tables or columns.
    """
    with database_errors(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns what the drivers raise when a database, or a row of it, can't be used into the errors above."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("The database is busy: no connection became free in time.") from error
    except DBAPIError as error:
        if _schema_is_missing(error):
            message = f"The database has not been migrated ({_reason(error)}): run `alembic upgrade head`."
            raise DatabaseNotMigratedError(message) from error
        if "Could not decode to UTF-8" in str(error.orig):
            raise UnreadableDataError(_reason(error)) from error
        if _is_unavailable(error):
            raise DatabaseUnavailableError(f"The database can't be used: {_reason(error)}.") from error
        raise


def _schema_is_missing(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return any(sign in str(error.orig) for sign in ("no such table", "no such column", "has no column named"))
    return getattr(error.orig, "pgcode", None) in _UNDEFINED


def _is_unavailable(error: DBAPIError) -> bool:
    return (
        isinstance(error, OperationalError | InterfaceError)
        # Drivers raise the bare class when a file is no database, or a connection broke in a way they have no name for.
        or type(error) is DatabaseError
        or getattr(error.orig, "pgcode", None) in _REFUSED
    )


_UNDEFINED = {"42P01", "42703", "3F000"}  # table, column, schema
_REFUSED = {"42501", "25006"}  # insufficient privilege, read-only (a standby)


def _reason(error: DBAPIError) -> str:
    """The driver's first line, which names the cause; the rest repeats our SQL."""
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0].rstrip(".")
