import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Timer

import psutil
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from models import postgres
from models.courses import get_course, list_courses
from models.database import (
    DatabaseNotMigratedError,
    DatabaseUnavailableError,
    catalogue_url,
    create_catalogue_engine,
    postgres_url,
    transaction,
)
from models.tables import Course
from tests.support.catalogue import Catalogue, create_stage_one, migrate, settings
from tests.support.postgres import LocalPostgresServer, PostgresServer


def courses_of(engine: Engine) -> list[str]:
    with transaction(engine) as session:
        return [course.id for course in list_courses(session)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgres://u:p%40@h/d", "postgresql+psycopg2://u:p%40@h/d"),
        ("postgresql://u@h:5433/d?sslmode=require", "postgresql+psycopg2://u@h:5433/d?sslmode=require"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg2://h/d"),
    ],
)
def test_a_plain_postgres_url_names_the_driver_in_use(given: str, expected: str) -> None:
    assert postgres_url(given) == expected
    assert catalogue_url(settings(given)).render_as_string(hide_password=False) == expected


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg://h/d"]
)
def test_a_url_that_cannot_work_is_refused_with_the_settings_name(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL"):
        create_catalogue_engine(settings(url))


class TestTransaction:
    def test_commits_on_success_and_objects_stay_readable(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            session.add(Course(id="a"))
        with text_catalogue.session() as session:
            course = get_course(session, "a")
        assert course is not None
        assert (course.id, course.embedding_status) == ("a", "not_started")

    def test_rolls_back_and_passes_our_own_errors_on(self, text_catalogue: Catalogue) -> None:
        class OwnError(Exception):
            pass

        with pytest.raises(OwnError), text_catalogue.session() as session:  # noqa: PT012
            session.add(Course(id="a"))
            session.flush()
            raise OwnError
        assert courses_of(text_catalogue.engine) == []

    @pytest.mark.postgres
    def test_a_bug_in_our_sql_is_not_an_outage(self, postgres_url: str) -> None:
        with pytest.raises(ProgrammingError), transaction(create_catalogue_engine(settings(postgres_url))) as session:
            session.execute(text("SELEKT 1"))


class TestNotMigrated:
    def test_an_empty_sqlite_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").touch()
        self.check(f"sqlite:///{tmp_path}/x.db")

    def test_stage_ones_tables_alone_on_sqlite(self, tmp_path: Path) -> None:
        create_stage_one(f"sqlite:///{tmp_path}/x.db", "integer")
        self.check(f"sqlite:///{tmp_path}/x.db")

    @pytest.mark.postgres
    def test_an_empty_postgres_database(self, postgres_url: str) -> None:
        self.check(postgres_url)

    @pytest.mark.postgres
    def test_stage_ones_tables_alone_on_postgres(self, postgres_url: str) -> None:
        create_stage_one(postgres_url, "integer")
        self.check(postgres_url)

    def test_only_the_first_migrations(self, tmp_path: Path) -> None:
        migrate(f"sqlite:///{tmp_path}/x.db", "0002")
        self.check(f"sqlite:///{tmp_path}/x.db")

    def check(self, url: str) -> None:
        engine = create_catalogue_engine(settings(url))
        with pytest.raises(DatabaseNotMigratedError, match="run `alembic upgrade head`"):
            courses_of(engine)
        engine.dispose()


class TestSqlite:
    def test_runs_in_wal_mode(self, tmp_path: Path) -> None:
        migrate(f"sqlite:///{tmp_path}/x.db")
        with transaction(create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db"))) as session:
            assert session.scalar(text("PRAGMA journal_mode")) == "wal"

    def test_a_missing_file_is_an_error_and_is_not_created(self, tmp_path: Path) -> None:
        engine = create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db"))
        with pytest.raises(DatabaseUnavailableError, match=r"x\.db does not exist; `alembic upgrade head` creates it"):
            courses_of(engine)
        assert not (tmp_path / "x.db").exists()

    def test_a_relative_path_and_one_with_special_characters(self, tmp_path: Path) -> None:
        migrate("sqlite:///./100% über#/x y.db")
        assert (tmp_path / "100% über#" / "x y.db").is_file()
        assert courses_of(create_catalogue_engine(settings("sqlite:///./100% über#/x y.db"))) == []

    def test_a_file_moved_away_is_missed_and_found_again(self, tmp_path: Path) -> None:
        file, away = tmp_path / "x.db", tmp_path / "away.db"
        migrate(f"sqlite:///{file}")
        engine = create_catalogue_engine(settings(f"sqlite:///{file}"))
        assert courses_of(engine) == []
        file.rename(away)
        with pytest.raises(DatabaseUnavailableError):
            courses_of(engine)
        assert not file.exists()
        away.rename(file)
        assert courses_of(engine) == []

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_text("no database" * 1000)
        with pytest.raises(DatabaseUnavailableError, match="not a database"):
            courses_of(create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db")))

    def test_a_locked_database_is_unavailable_after_the_timeout_and_readable_meanwhile(self, tmp_path: Path) -> None:
        migrate(f"sqlite:///{tmp_path}/x.db")
        engine = create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db", timeout_seconds=1))
        with transaction(engine) as session:
            session.add(Course(id="a"))
        writer = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM course")
        start = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match="locked"), transaction(engine) as session:
            session.add(Course(id="b"))
        assert 0.9 < time.monotonic() - start < 3
        assert courses_of(engine) == ["a"]
        writer.close()
        with transaction(engine) as session:
            session.add(Course(id="b"))
        assert courses_of(engine) == ["a", "b"]


@pytest.mark.postgres
class TestPostgres:
    @pytest.fixture
    def engine(self, postgres_url: str) -> Iterator[Engine]:
        migrate(postgres_url)
        engine = create_catalogue_engine(settings(postgres_url, timeout_seconds=1))
        yield engine
        engine.dispose()

    def terminate_all(self, engine: Engine) -> None:
        other = create_catalogue_engine(settings(engine.url.render_as_string(hide_password=False)))
        with transaction(other) as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        other.dispose()

    def test_a_connection_broken_between_transactions_is_replaced_unnoticed(self, engine: Engine) -> None:
        courses_of(engine)
        self.terminate_all(engine)
        assert courses_of(engine) == []

    def test_a_connection_broken_within_a_transaction_is_unavailable_and_the_next_one_works(
        self, engine: Engine
    ) -> None:
        with pytest.raises(DatabaseUnavailableError), transaction(engine) as session:  # noqa: PT012
            list_courses(session)
            self.terminate_all(engine)
            list_courses(session)
        assert courses_of(engine) == []

    def test_a_lock_is_waited_for_only_so_long(self, engine: Engine) -> None:
        with transaction(engine) as session:
            session.add(Course(id="a"))
        with transaction(engine) as holder:
            holder.execute(text("SELECT * FROM course FOR UPDATE"))
            start = time.monotonic()
            with pytest.raises(DatabaseUnavailableError, match="lock timeout"), transaction(engine) as session:
                session.execute(text("UPDATE course SET embedding_progress = 1"))
            assert 0.9 < time.monotonic() - start < 3

    def test_a_statement_ends_in_time(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres, "STATEMENT_FACTOR", 1)
        engine = create_catalogue_engine(settings(postgres_url, timeout_seconds=1))
        with pytest.raises(DatabaseUnavailableError, match="statement timeout"), transaction(engine) as session:
            session.execute(text("SELECT pg_sleep(10)"))
        engine.dispose()

    def test_options_of_the_url_are_kept_and_a_read_only_server_is_unavailable(self, engine: Engine) -> None:
        url = engine.url.update_query_dict({"options": "-c default_transaction_read_only=on"})
        standby = create_catalogue_engine(settings(url.render_as_string(hide_password=False)))
        with pytest.raises(DatabaseUnavailableError, match="read-only"), transaction(standby) as session:
            session.add(Course(id="a"))
        standby.dispose()

    def test_an_exhausted_pool_is_unavailable(self, engine: Engine) -> None:
        held = [engine.connect() for _ in range(15)]
        with pytest.raises(DatabaseUnavailableError, match="busy"):
            courses_of(engine)
        for connection in held:
            connection.close()
        assert courses_of(engine) == []

    def test_nobody_listening(self) -> None:
        engine = create_catalogue_engine(settings("postgresql://nobody@127.0.0.1:1/nothing"))
        with pytest.raises(DatabaseUnavailableError, match="refused"):
            courses_of(engine)

    def test_text_is_utf_8_in_a_database_that_declares_no_encoding(self, postgres_server: PostgresServer) -> None:
        url = postgres_server.create_database(
            options="TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        migrate(url)
        engine = create_catalogue_engine(settings(url))
        with transaction(engine) as session:
            session.add(Course(id="电路"))
        assert courses_of(engine) == ["电路"]
        engine.dispose()
        postgres_server.drop_database(url)


@pytest.fixture(scope="module")
def own_server() -> Iterator[LocalPostgresServer]:
    """One that may be stopped and frozen."""
    server = LocalPostgresServer()
    yield server
    server.remove()


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes that do nothing, as in a paused container; at most for ten seconds, so that a test fails, not hangs."""

    def thaw() -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    timer = Timer(10, thaw)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        thaw()


@pytest.mark.postgres
class TestPostgresServerTrouble:
    def test_recovers_by_itself_when_the_server_stops_and_starts(self, own_server: LocalPostgresServer) -> None:
        url = own_server.create_database()
        migrate(url)
        engine = create_catalogue_engine(settings(url))
        assert courses_of(engine) == []
        own_server.stop()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError):
                courses_of(engine)
        own_server.start()
        assert courses_of(engine) == []
        engine.dispose()

    def test_a_frozen_server_is_unavailable_in_time_and_recovers(self, own_server: LocalPostgresServer) -> None:
        url = own_server.create_database()
        migrate(url)
        engine = create_catalogue_engine(settings(url, timeout_seconds=1))
        assert courses_of(engine) == []
        postmaster = psutil.Process(own_server.pid)
        with frozen(postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))):
            start = time.monotonic()
            with pytest.raises(DatabaseUnavailableError):
                courses_of(engine)
            assert time.monotonic() - start < 6
        assert courses_of(engine) == []
        engine.dispose()

    def test_a_server_that_freezes_in_the_middle_of_a_transaction(
        self, own_server: LocalPostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "STATEMENT_FACTOR", 1)
        engine = create_catalogue_engine(settings(own_server.create_database(), timeout_seconds=1))
        with ExitStack() as stack:
            with pytest.raises(DatabaseUnavailableError), transaction(engine) as session:  # noqa: PT012
                stack.enter_context(frozen(session.scalars(text("SELECT pg_backend_pid()")).one()))
                start = time.monotonic()
                session.execute(text("SELECT 1"))
            assert time.monotonic() - start < 5
        engine.dispose()
