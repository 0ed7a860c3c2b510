"""Removes from Chroma's files what was deleted from its collections.

Measured with Chroma 1.5.9: texts of a deleted collection remain in the free space of `chroma.sqlite3`, its trigrams in
the full-text index, and its vectors in a directory. SQLite's `VACUUM` writes the file anew, and `rebuild` the index.
Both work while the server runs: it uses a rollback journal and waits for the lock of the file. The log
(`embeddings_queue`) is not touched: Chroma deletes the part of a collection with the collection.

A vector index that was never written since its creation has files for 100 records, which Chroma fills with
uninitialised memory: they may contain any text that the server has received. `clear_unused` clears them while no server
runs. A server that `course-search vector-store` has started writes no text there.
"""

import os
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.damage import SCRATCH_PREFIX
from embedding.vector_store.files import DATABASE, orphaned_directories

_HEADER = struct.Struct("<i6Q")
"""Start of `header.bin`. Fields 3 and 4: number of records, and bytes of a record in `data_level0.bin`."""
_LENGTH_BYTES = 4
"""Bytes of a record in `length.bin`."""
LOCK_SECONDS = 60.0
"""How long a purge waits for a write of the server to end, in seconds."""


class CannotPurgeError(Exception):
    """Chroma's files could not be purged; the message says why. A repetition may succeed."""


def is_directory_of(store: VectorStore, directory: Path) -> bool:
    """Whether the server has its files in this directory: a new collection appears there.

    Raises:
        VectorStoreError: The vector store failed.
    """
    if not (directory / DATABASE).exists():
        return False
    name = f"{SCRATCH_PREFIX}{uuid4()}"
    with store.scratch(name):
        try:
            with closing(_connect(directory, "ro")) as database:
                return database.execute("SELECT 1 FROM collections WHERE name = ?", [name]).fetchone() is not None
        except sqlite3.Error:
            return False


def purge(directory: Path) -> None:
    """Remove everything that was deleted from Chroma's files. A running server answers no request meanwhile.

    Takes about 3 s per 100 MB, and up to twice the size of the database as free disk space.

    Args:
        directory: Chroma's directory, as an absolute path.

    Raises:
        CannotPurgeError: The files cannot be read or written, or the server kept the database locked.
    """
    try:
        with closing(_connect(directory, "rw")) as database:
            database.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES('rebuild')")
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # does nothing with a rollback journal
        for orphan in orphaned_directories(directory):
            shutil.rmtree(orphan)
    except (OSError, sqlite3.Error) as error:
        raise CannotPurgeError(f"{directory / DATABASE} could not be purged: {error}") from error


def clear_unused(directory: Path) -> None:
    """Clear the parts of the vector indices' files that belong to no record. No server may have the files open.

    Each file is cleared once: what was cleared takes no space on the disk.

    Args:
        directory: Chroma's directory, as an absolute path.

    Raises:
        CannotPurgeError: A file cannot be read or written.
    """
    try:
        for header in directory.glob("*/header.bin"):
            content = header.read_bytes()
            if len(content) >= _HEADER.size:
                _, _, _, records, record_bytes, *_ = _HEADER.unpack_from(content)
                _clear_from(header.with_name("data_level0.bin"), records * record_bytes)
                _clear_from(header.with_name("length.bin"), records * _LENGTH_BYTES)
    except OSError as error:
        raise CannotPurgeError(f"Unused parts of files in {directory} could not be cleared: {error}") from error


def _clear_from(path: Path, start: int) -> None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return
    if start < state.st_size and (start or state.st_blocks):
        os.truncate(path, start)
        os.truncate(path, state.st_size)


def _connect(directory: Path, mode: str) -> sqlite3.Connection:
    uri = f"{(directory / DATABASE).as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
