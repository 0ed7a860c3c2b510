"""Which revision a database is at, and which one this program wants; nothing is migrated here."""

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine

from models.database import database_errors

VERSION_TABLE = "course_search_alembic_version"


class Revision(NamedTuple):
    """Where a database stands."""

    current: str | None
    """None: nothing was ever migrated."""
    head: str
    is_known: bool
    """Whether this program has a migration to `current`; a newer program's database has one it does not know."""


def revision_of(engine: Engine) -> Revision:
    """The database's revision.

    Raises:
        DatabaseUnavailableError: the database can't be used now.
    """
    from alembic.migration import MigrationContext  # half a second: only who asks pays
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(__file__).parent))
    with database_errors(), engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current = ",".join(context.get_current_heads()) or None
    known = {script.revision for script in scripts.walk_revisions()}
    return Revision(current, scripts.get_current_head() or "", current is None or current in known)
