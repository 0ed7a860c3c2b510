"""The schema revision of a database: read, compared with the migrations of this program, and brought up to date."""

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine

from models.database import database_errors

VERSION_TABLE = "course_search_alembic_version"


class Revision(NamedTuple):
    """The schema revision of a database, and the latest one."""

    current: str | None
    """None if no migration was ever applied."""
    head: str
    is_known: bool
    """Whether this program contains the revision `current`. False if a newer version has migrated the database."""


def revision_of(engine: Engine) -> Revision:
    """Read the revision of the database.

    Raises:
        DatabaseUnavailableError: The database cannot be used now.
    """
    from alembic.migration import MigrationContext  # a lazy import, because it takes half a second
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(__file__).parent))
    with database_errors(), engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current = ",".join(context.get_current_heads()) or None
    known_revisions = {script.revision for script in scripts.walk_revisions()}
    return Revision(current, scripts.get_current_head() or "", current is None or current in known_revisions)


def upgrade() -> None:
    """Migrate the database of `DATABASE_URL` to the latest revision, in one transaction.

    Raises:
        alembic.util.CommandError: The database cannot be used, or a newer version of this program has migrated it.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    command.upgrade(config, "head")
