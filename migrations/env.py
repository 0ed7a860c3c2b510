"""Runs the migrations against `DATABASE_URL`.

The database is stage one's, and may hold Dagster's tables and other people's migrations as well: ours keep their own
version table, and only our own columns are compared with the models.

A program may choose another database: `config.attributes["connection"]` takes an open connection, and the option
`sqlalchemy.url` a URL.
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
from models.tables import Course

LOCK_KEY = 0x636F75727365  # "course"
OWN_COLUMNS = {column.name for column in Course.__table__.columns if column.name.startswith("embedding_")}  # type: ignore[attr-defined]


def include_object(item: SchemaItem, name: str | None, type_: str, *_: object) -> bool:
    """What `alembic check` compares: that the three tables exist, and our own columns of `course`.

    Everything else in the database (other tables, columns, indexes, keys) belongs to others.
    """
    if type_ == "table":
        return name in SQLModel.metadata.tables
    return type_ == "column" and name in OWN_COLUMNS and item.table.name == Course.__tablename__  # type: ignore[attr-defined]


def render_item(kind: str, item: object, _: object) -> str | Literal[False]:
    """A migration must not change with our types, so it names the plain type beneath them."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


@contextmanager
def connect() -> Iterator[Connection]:
    """The caller's connection, or one of our own to the database of the settings."""
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        yield given
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
    """Lets one migration run at a time, so that two processes started together don't collide.

    On SQLite this also begins the transaction, which its driver would begin only after the first DDL statements.
    """
    if connection.dialect.name == "sqlite":
        if not connection.connection.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})


def main() -> None:
    """Migrates in one transaction: a failure leaves the database as it was."""
    if context.is_offline_mode():
        raise CommandError("These migrations look at the database before they change it: --sql can't work.")
    if context.config.cmd_opts is not None:  # from the command line; a program keeps its own logging
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
            context.run_migrations()


main()
