import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import psycopg2
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
from tests.support.product import wait_until
from tests.support.servers.pooler import pooler
from tests.support.servers.postgres import LocalPostgresServer, PostgresServer


def courses_of(engine: Engine) -> list[str]:
    with transaction(engine) as session:
        return [course.id for course in list_courses(session)]


def is_available(engine: Engine) -> bool:
    try:
        courses_of(engine)
    except DatabaseUnavailableError:
        return False
    return True


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p%40@h/d", "postgresql+psycopg2://u:p%40@h/d"),
        ("postgresql://u@h:5433/d?sslmode=require", "postgresql+psycopg2://u@h:5433/d?sslmode=require"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg2://h/d"),
    ],
)
def test_postgres_url_gets_the_driver_psycopg2(url: str, expected: str) -> None:
    assert postgres_url(url) == expected
    assert catalogue_url(settings(url)).render_as_string(hide_password=False) == expected


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg://h/d"]
)
def test_invalid_url_is_rejected_with_the_name_of_the_setting(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL"):
        create_catalogue_engine(settings(url))


class TestTransaction:
    def test_transaction_commits_and_objects_remain_readable(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            session.add(Course(id="a"))
        with text_catalogue.session() as session:
            course = get_course(session, "a")
        assert course is not None
        assert (course.id, course.embedding_status) == ("a", "not_started")

    def test_transaction_rolls_back_and_raises_other_errors_unchanged(self, text_catalogue: Catalogue) -> None:
        class OtherError(Exception):
            pass

        with pytest.raises(OtherError), text_catalogue.session() as session:  # noqa: PT012
            session.add(Course(id="a"))
            session.flush()
            raise OtherError
        assert courses_of(text_catalogue.engine) == []

    @pytest.mark.postgres
    def test_sql_syntax_error_is_not_reported_as_unavailable(self, postgres_url: str) -> None:
        with pytest.raises(ProgrammingError), transaction(create_catalogue_engine(settings(postgres_url))) as session:
            session.execute(text("SELEKT 1"))


class TestNotMigrated:
    def test_empty_sqlite_file_is_not_migrated(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").touch()
        self.assert_not_migrated(f"sqlite:///{tmp_path}/x.db")

    def test_stage_ones_tables_on_sqlite_are_not_migrated(self, tmp_path: Path) -> None:
        create_stage_one(f"sqlite:///{tmp_path}/x.db", "integer")
        self.assert_not_migrated(f"sqlite:///{tmp_path}/x.db")

    @pytest.mark.postgres
    def test_empty_postgres_database_is_not_migrated(self, postgres_url: str) -> None:
        self.assert_not_migrated(postgres_url)

    @pytest.mark.postgres
    def test_stage_ones_tables_on_postgres_are_not_migrated(self, postgres_url: str) -> None:
        create_stage_one(postgres_url, "integer")
        self.assert_not_migrated(postgres_url)

    def test_partly_migrated_database_is_not_migrated(self, tmp_path: Path) -> None:
        migrate(f"sqlite:///{tmp_path}/x.db", "0002")
        self.assert_not_migrated(f"sqlite:///{tmp_path}/x.db")

    def assert_not_migrated(self, url: str) -> None:
        engine = create_catalogue_engine(settings(url))
        with pytest.raises(DatabaseNotMigratedError, match="run `course-search migrate`"):
            courses_of(engine)
        engine.dispose()


class TestSqlite:
    def test_sqlite_uses_wal_mode(self, tmp_path: Path) -> None:
        migrate(f"sqlite:///{tmp_path}/x.db")
        with transaction(create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db"))) as session:
            assert session.scalar(text("PRAGMA journal_mode")) == "wal"

    def test_missing_file_is_an_error_and_is_not_created(self, tmp_path: Path) -> None:
        engine = create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db"))
        with pytest.raises(DatabaseUnavailableError, match=r"x\.db does not exist; `course-search migrate` creates it"):
            courses_of(engine)
        assert not (tmp_path / "x.db").exists()

    def test_relative_path_with_special_characters_works(self, tmp_path: Path) -> None:
        migrate("sqlite:///./100% über#/x y.db")
        assert (tmp_path / "100% über#" / "x y.db").is_file()
        assert courses_of(create_catalogue_engine(settings("sqlite:///./100% über#/x y.db"))) == []

    def test_moved_file_is_an_error_until_it_is_moved_back(self, tmp_path: Path) -> None:
        file, moved = tmp_path / "x.db", tmp_path / "moved.db"
        migrate(f"sqlite:///{file}")
        engine = create_catalogue_engine(settings(f"sqlite:///{file}"))
        assert courses_of(engine) == []
        file.rename(moved)
        with pytest.raises(DatabaseUnavailableError):
            courses_of(engine)
        assert not file.exists()
        moved.rename(file)
        assert courses_of(engine) == []

    def test_file_that_is_not_a_database_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_text("not a database" * 1000)
        with pytest.raises(DatabaseUnavailableError, match="not a database"):
            courses_of(create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db")))

    def test_locked_database_is_unavailable_for_writing_and_remains_readable(self, tmp_path: Path) -> None:
        migrate(f"sqlite:///{tmp_path}/x.db")
        engine = create_catalogue_engine(settings(f"sqlite:///{tmp_path}/x.db", timeout_seconds=1))
        with transaction(engine) as session:
            session.add(Course(id="a"))
        writer = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM course")
        with pytest.raises(DatabaseUnavailableError, match="locked"), transaction(engine) as session:
            session.add(Course(id="b"))
        assert courses_of(engine) == ["a"]
        writer.close()
        with transaction(engine) as session:
            session.add(Course(id="b"))
        assert courses_of(engine) == ["a", "b"]


@pytest.mark.postgres
class TestPostgres:
    @pytest.fixture
    def engine(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
        """Locks and the pool have a limit of 1 s. Connecting and answers have a minute, for a slow machine."""
        migrate(postgres_url)
        monkeypatch.setattr(postgres.TimedConnection, "wait_seconds", 60)
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

    def test_connection_lost_between_transactions_is_replaced(self, engine: Engine) -> None:
        courses_of(engine)
        self.terminate_all(engine)
        assert courses_of(engine) == []

    def test_connection_lost_within_a_transaction_is_unavailable_and_the_next_one_works(self, engine: Engine) -> None:
        with pytest.raises(DatabaseUnavailableError), transaction(engine) as session:  # noqa: PT012
            list_courses(session)
            self.terminate_all(engine)
            list_courses(session)
        assert courses_of(engine) == []

    def test_lock_wait_times_out(self, engine: Engine) -> None:
        with transaction(engine) as session:
            session.add(Course(id="a"))
        with transaction(engine) as holder:
            holder.execute(text("SELECT * FROM course FOR UPDATE"))
            with pytest.raises(DatabaseUnavailableError, match="lock timeout"), transaction(engine) as session:
                session.execute(text("UPDATE course SET embedding_progress = 1"))

    def test_slow_statement_times_out(self, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres, "STATEMENT_FACTOR", 0.01)  # 0.6 s, but a minute for connecting
        engine = create_catalogue_engine(settings(postgres_url, timeout_seconds=60))
        with pytest.raises(DatabaseUnavailableError, match="statement timeout"), transaction(engine) as session:
            session.execute(text("SELECT pg_sleep(60)"))
        engine.dispose()

    def test_options_of_the_url_are_kept_and_a_read_only_server_is_unavailable(self, engine: Engine) -> None:
        url = engine.url.update_query_dict({"options": "-c default_transaction_read_only=on"})
        standby = create_catalogue_engine(settings(url.render_as_string(hide_password=False)))
        with pytest.raises(DatabaseUnavailableError, match="read-only"), transaction(standby) as session:
            session.add(Course(id="a"))
        standby.dispose()

    def test_exhausted_pool_is_unavailable(self, engine: Engine) -> None:
        connections = [engine.connect() for _ in range(15)]
        with pytest.raises(DatabaseUnavailableError, match="busy"):
            courses_of(engine)
        for connection in connections:
            connection.close()
        assert courses_of(engine) == []

    def test_refused_connection_is_unavailable(self) -> None:
        engine = create_catalogue_engine(settings("postgresql://nobody@127.0.0.1:1/nothing"))
        with pytest.raises(DatabaseUnavailableError, match="refused"):
            courses_of(engine)

    def test_text_is_utf_8_in_a_database_without_encoding(self, postgres_server: PostgresServer) -> None:
        url = postgres_server.create_sql_ascii_database()
        migrate(url)
        engine = create_catalogue_engine(settings(url))
        with transaction(engine) as session:
            session.add(Course(id="电路"))
        assert courses_of(engine) == ["电路"]
        engine.dispose()
        postgres_server.drop_database(url)


@pytest.fixture(scope="module")
def separate_server() -> Iterator[LocalPostgresServer]:
    """A server that the tests may stop and freeze."""
    server = LocalPostgresServer()
    yield server
    server.remove()


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Suspend processes, as in a paused container. They resume after a minute, so that a broken test does not hang."""

    def resume() -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    timer = Timer(60, resume)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        resume()


@pytest.mark.postgres
class TestPostgresServerFailures:
    def test_engine_recovers_after_a_restart_of_the_server(self, separate_server: LocalPostgresServer) -> None:
        url = separate_server.create_database()
        migrate(url)
        engine = create_catalogue_engine(settings(url))
        assert courses_of(engine) == []
        separate_server.stop()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError):
                courses_of(engine)
        separate_server.start()
        assert courses_of(engine) == []
        engine.dispose()

    def test_frozen_server_times_out_and_the_engine_recovers(self, separate_server: LocalPostgresServer) -> None:
        url = separate_server.create_database()
        migrate(url)
        engine = create_catalogue_engine(settings(url, timeout_seconds=1))
        wait_until(lambda: is_available(engine), seconds=60, state=lambda: "unavailable")
        postmaster = psutil.Process(separate_server.pid)
        pids = [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]
        with frozen(*pids), pytest.raises(DatabaseUnavailableError):
            courses_of(engine)
        wait_until(lambda: is_available(engine), seconds=60, state=lambda: "unavailable")
        engine.dispose()

    def test_server_frozen_within_a_transaction_times_out(
        self, separate_server: LocalPostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "STATEMENT_FACTOR", 1)
        engine = create_catalogue_engine(settings(separate_server.create_database(), timeout_seconds=1))
        with ExitStack() as stack, pytest.raises(DatabaseUnavailableError), transaction(engine) as session:  # noqa: PT012
            stack.enter_context(frozen(session.scalars(text("SELECT pg_backend_pid()")).one()))
            session.execute(text("SELECT 1"))
        engine.dispose()


@pytest.mark.postgres
class TestPooler:
    """A pooler refuses the startup parameter `options`, and gives each transaction another server connection."""

    @pytest.fixture
    def pooled_url(self, separate_server: LocalPostgresServer) -> Iterator[str]:
        url = separate_server.create_database()
        with pooler(url) as pooled_url:
            yield pooled_url
        separate_server.drop_database(url)

    def test_migrations_and_transactions_work(self, pooled_url: str) -> None:
        migrate(pooled_url)
        engine = create_catalogue_engine(settings(pooled_url))
        with transaction(engine) as session:
            session.add(Course(id="电路"))
        assert courses_of(engine) == ["电路"]
        engine.dispose()

    def test_every_transaction_has_the_limits_and_other_clients_do_not_get_them(self, pooled_url: str) -> None:
        engine = create_catalogue_engine(settings(pooled_url, timeout_seconds=7))
        limits = text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout'), pg_backend_pid()")
        ours: set[tuple[Any, ...]] = set()
        others: set[tuple[Any, ...]] = set()
        for round_ in range(50):  # which server connection a client gets depends on the time
            if round_ >= 4 and {row[2] for row in ours} & {row[2] for row in others}:
                break
            with transaction(engine) as session:
                ours.add(tuple(session.execute(limits).one()))
            with closing(psycopg2.connect(pooled_url)) as other, other.cursor() as cursor:
                cursor.execute(str(limits))
                others.update(cursor.fetchall())
        assert {row[:2] for row in ours} == {("7s", "84s")}
        assert {row[:2] for row in others} == {("0", "0")}
        assert {row[2] for row in ours} & {row[2] for row in others}, "others use the same server connections"
        engine.dispose()

    def test_lock_wait_times_out(self, pooled_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        migrate(pooled_url)
        monkeypatch.setattr(postgres.TimedConnection, "wait_seconds", 60)
        engine = create_catalogue_engine(settings(pooled_url, timeout_seconds=1))
        with transaction(engine) as holder:
            holder.execute(text("LOCK TABLE course"))
            with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
                courses_of(engine)
        engine.dispose()
