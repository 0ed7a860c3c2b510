"""The keyword indexes on disk: one directory per course, one file per content.

A file is named by the digest of the chunks it was built from (`CourseFingerprint.content`). So an existing file is
right whoever wrote it, no file is ever changed, and another embedding model needs no other index. An index that is
missing, damaged, or of an older analyser is rebuilt: by the next run, or from the course's collection.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from embedding.vector_store.collection_names import PREFIX, collection_name
from embedding.vector_store.collections import CourseCollection
from models.fingerprint import FingerprintBuilder
from models.settings import Settings
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError

_FILE = re.compile(r"(?P<temporary>\.)?[0-9a-f]{64}\.npz(?(temporary)\..+)")
"""An index, or a temporary file that a killed process left."""
LONGEST_NAME = 255
"""Longest file name, in bytes, on every file system in use."""


class KeywordSettings(Settings):
    """Where the keyword indexes are stored."""

    keyword_index_dir: Path = Field(
        Path("./data/keywords"),
        description="Directory of the keyword indexes; one that is missing is made from its collection.",
    )


class KeywordStoreError(Exception):
    """An index cannot be written or deleted; the message says which one and why."""


class KeywordStore:
    """The indexes under `KEYWORD_INDEX_DIR`. Several processes may share it."""

    def __init__(self, settings: KeywordSettings) -> None:
        self._root = settings.keyword_index_dir

    def load(self, course_id: str, content: str) -> KeywordIndex:
        """The index of the course's chunks with this digest.

        Raises:
            KeywordIndexError: There is no usable index.
        """
        return KeywordIndex.load(self._path(course_id, content))

    def save(self, course_id: str, content: str, index: KeywordIndex) -> None:
        """Write the index of the course's chunks with this digest, atomically.

        Raises:
            KeywordStoreError: It cannot be written.
        """
        path = self._path(course_id, content)
        try:
            index.save(path)
        except OSError as error:
            raise KeywordStoreError(
                f"The keyword index {path} cannot be written: {error}. Is there room on the disk, and may this process "
                "write to KEYWORD_INDEX_DIR?"
            ) from error

    def keep_only(self, course_id: str, content: str) -> None:
        """Delete the course's other indexes, and temporary files of killed processes.

        Raises:
            KeywordStoreError: A file cannot be deleted.
        """
        self._delete(directory_name(course_id), keep=f"{content}.npz")

    def delete(self, course_id: str) -> None:
        """Delete the course's indexes, if there are any.

        Raises:
            KeywordStoreError: A file cannot be deleted.
        """
        self.delete_directory(directory_name(course_id))

    def directories(self) -> list[str]:
        """The names of all courses' directories.

        A course's name follows from its id (`directory_name`), not vice versa.
        """
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if path.name.startswith(PREFIX) and _is_ours(path))

    def delete_directory(self, name: str) -> None:
        """Delete one of `directories` with the indexes in it; foreign files stay.

        Raises:
            KeywordStoreError: An index cannot be deleted.
        """
        self._delete(name)
        with suppress(OSError):  # not empty, or missing
            (self._root / name).rmdir()

    def _path(self, course_id: str, content: str) -> Path:
        return self._root / directory_name(course_id) / f"{content}.npz"

    def _delete(self, name: str, keep: str = "") -> None:
        try:
            for path in _files(self._root / name):
                if path.name != keep:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise KeywordStoreError(f"A keyword index cannot be deleted: {error}") from error


def directory_name(course_id: str) -> str:
    """The name of the course's directory: that of its collection, or the SHA-256 of that name if it is too long."""
    name = collection_name(course_id)
    return name if len(name) <= LONGEST_NAME else f"{PREFIX}.h{hashlib.sha256(name.encode()).hexdigest()}"


def index_from_collection(collection: CourseCollection, content: str) -> KeywordIndex:
    """Build the index of a course from its collection, which is read completely.

    Raises:
        KeywordIndexError: The collection holds other chunks: the course was embedded since, or is being embedded.
        VectorStoreError: It cannot be read.
    """
    builder, held = KeywordIndexBuilder(), FingerprintBuilder()
    for records, _ in collection.contents():
        for record in records:
            held.add_hashed(record.chunk_id, record.content_hash, len(record.text))
            builder.add(record.chunk_id, record.text)
    if held.build("").content != content:
        raise KeywordIndexError(f"No keyword index can be made of {collection.name}: it holds other chunks by now")
    return builder.build()


def _files(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from (path for path in directory.iterdir() if _FILE.fullmatch(path.name))


def _is_ours(directory: Path) -> bool:
    """Whether the directory holds indexes, or nothing."""
    return directory.is_dir() and (any(_files(directory)) or not any(directory.iterdir()))
