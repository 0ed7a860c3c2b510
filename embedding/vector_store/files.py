"""Files in Chroma's directory besides its database.

They are the lock, the server's address, the plan of a restore, and the collections' directories.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID

from embedding.vector_store.directory_lock import lock_holder
from embedding.vector_store.server import VectorStoreSettings

DATABASE = "chroma.sqlite3"
"""Name of Chroma's database in its directory."""
SERVER_LOCK = ".server.lock"
"""Name of the lock file in Chroma's directory. A running server holds the lock."""
SERVER_ADDRESS = ".server.url"
"""Name of the file in Chroma's directory that contains the URL of the server that was started last."""
RESTORE_PLAN = ".restore.json"
"""Name of the file in a restored directory that lists its courses, until the restore is complete."""


def vector_store_settings() -> VectorStoreSettings:
    """The settings, with the URL of the running server that uses CHROMA_DB_DIR unless CHROMA_URL is set."""
    settings = VectorStoreSettings()
    directory, address = settings.chroma_db_dir, settings.chroma_db_dir / SERVER_ADDRESS
    if "chroma_url" in settings.model_fields_set or not address.exists() or not lock_holder(directory, SERVER_LOCK):
        return settings
    return settings.model_copy(update={"chroma_url": address.read_text()})


def orphaned_directories(directory: Path) -> list[Path]:
    """Directories of deleted collections, which Chroma never removes from disk.

    Args:
        directory: Chroma's directory, as an absolute path.
    """
    database = directory / DATABASE
    if not database.exists():
        return []
    # Listed before the table is read: Chroma writes the row of a new collection before it creates the directory.
    candidates = sorted(path for path in directory.iterdir() if path.is_dir() and _is_uuid(path.name))
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        known = {segment for (segment,) in connection.execute("SELECT id FROM segments")}
    return [path for path in candidates if path.name not in known]


def removable_directories(directory: Path) -> list[Path]:
    """The orphaned directories, if the database also has a collection with a directory here; otherwise none.

    The database may be a new or another one, for example after a damaged file was replaced.

    Args:
        directory: Chroma's directory, as an absolute path.
    """
    orphans = orphaned_directories(directory)
    number = sum(path.is_dir() and _is_uuid(path.name) for path in directory.iterdir()) if orphans else 0
    return orphans if number > len(orphans) else []


def foreign_files(directory: Path) -> list[Path]:
    """What the directory contains besides the files of Chroma and of this product."""
    if not directory.exists():
        return []
    return sorted(
        path for path in directory.iterdir() if not path.name.startswith((".", DATABASE)) and not _is_uuid(path.name)
    )


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
