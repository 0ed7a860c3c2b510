"""Alembic environment: runs the migrations on the database of `DATABASE_URL`.

Stage one owns the database, which may also contain Dagster's tables and other migrations. So these migrations have a
separate version table, and `alembic check` compares only the columns of this product with the models.

A caller may choose another database with an open connection in `config.attributes["connection"]`, or with a URL in the
option `sqlalchemy.url`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, TypeDecorator, text
from sqlalchemy.sql.schema import SchemaItem
from sqlmodel import SQLModel

from migrations.revision import VERSION_TABLE
from models.database import CatalogueSettings, DatabaseUnavailableError, create_catalogue_engine, database_errors
from models.tables import Counter, Course, EmbeddedText, Feedback, Question, RunWorker, UploadedResource

LOCK_KEY = 0x636F75727365  # "course"
EMBEDDING_COLUMNS = {column.name for column in Course.__table__.columns if column.name.startswith("embedding_")}  # type: ignore[attr-defined]
OWN_TABLES = {table.__tablename__ for table in (Counter, EmbeddedText, Feedback, Question, RunWorker, UploadedResource)}


def include_object(item: SchemaItem, name: str | None, type_: str, *_: object) -> bool:
    """Whether `alembic check` compares the item: true for all tables, the embedding columns of `course`, and ours.

    Everything else (other tables, columns, indexes, keys) belongs to stage one or Dagster.
    """
    if type_ == "table":
        return name in SQLModel.metadata.tables
    if item.table.name in OWN_TABLES:  # type: ignore[attr-defined]
        return True
    return type_ == "column" and name in EMBEDDING_COLUMNS and item.table.name == Course.__tablename__  # type: ignore[attr-defined]


def render_item(kind: str, item: object, _: object) -> str | Literal[False]:
    """Render the underlying type of a type decorator, so that migrations do not depend on `models.tables`."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


@contextmanager
def connect() -> Iterator[Connection]:
    """The caller's connection, or a new connection to the configured database."""
    callers_connection: Connection | None = context.config.attributes.get("connection")
    if callers_connection is not None:
        yield callers_connection
        return
    url = context.config.get_main_option("sqlalchemy.url")
    settings = CatalogueSettings(database_url=url) if url else CatalogueSettings()
    try:
        engine = create_catalogue_engine(settings, create_file=True)
    except ValueError as error:
        raise CommandError(str(error)) from error
    try:
        with database_errors(), engine.connect() as connection:
            yield connection
    except DatabaseUnavailableError as error:
        raise CommandError(str(error)) from error
    finally:
        engine.dispose()


def lock(connection: Connection) -> None:
    """Let only one process migrate at a time.

    On SQLite, this also begins the transaction, because `sqlite3` does not begin one before DDL statements.
    """
    if connection.dialect.name == "sqlite":
        if not connection.connection.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})


def require_known_revision() -> None:
    """Check that no newer version of this program has migrated the database."""
    known = {script.revision for script in context.script.walk_revisions()}
    for revision in context.get_context().get_current_heads():
        if revision not in known:
            raise CommandError(
                f"The database is at revision {revision}, which this version does not know: a newer version of "
                "course-search has migrated it. Nothing was changed. Install that version again, or restore the backup "
                "that was made before the upgrade."
            )


def main() -> None:
    """Run the migrations in one transaction, so that a failure changes nothing."""
    if context.is_offline_mode():
        raise CommandError("These migrations inspect the database, so they cannot run offline (--sql).")
    if context.config.cmd_opts is not None:  # only on the command line: a calling program configures logging itself
        logging.basicConfig(format="%(levelname)s %(message)s")
        logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    with connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            version_table=VERSION_TABLE,
            include_object=include_object,
            render_item=render_item,
            compare_type=True,
            compare_server_default=True,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            lock(connection)
            require_known_revision()
            context.run_migrations()


main()
