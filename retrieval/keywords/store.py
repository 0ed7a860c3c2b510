"""The keyword indexes on disk: one directory per course, one file per content digest.

The name of a file is the digest of the chunks it was built from (`CourseFingerprint.content`). So an existing file is
correct regardless of the process that wrote it, files never change, and a new embedding model needs no new index. A
missing or damaged index, or one of another analyser version, is rebuilt by the next run, or from the course's
collection.
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
"""File name of an index, or of a temporary file that a killed process left behind."""
LONGEST_NAME = 255
"""Maximum length of a file name in bytes on common file systems."""


class KeywordSettings(Settings):
    """Where the keyword indexes are stored."""

    keyword_index_dir: Path = Field(
        Path("./data/keywords"),
        description="Directory of the keyword indexes; a missing index is rebuilt from its collection.",
    )


class KeywordStoreError(Exception):
    """An index cannot be written or deleted. The message names the file and the cause."""


class KeywordStore:
    """The keyword indexes in `KEYWORD_INDEX_DIR`. Several processes may share the directory."""

    def __init__(self, settings: KeywordSettings) -> None:
        self._root = settings.keyword_index_dir

    def load(self, course_id: str, content: str) -> KeywordIndex:
        """Load the index that was built from the chunks with this digest.

        Raises:
            KeywordIndexError: There is no usable index.
        """
        return KeywordIndex.load(self._path(course_id, content))

    def exists(self, course_id: str, content: str) -> bool:
        """Whether the index that was built from the chunks with this digest exists. It is not read."""
        return self._path(course_id, content).is_file()

    def save(self, course_id: str, content: str, index: KeywordIndex) -> None:
        """Write the index that was built from the chunks with this digest, atomically.

        Raises:
            KeywordStoreError: The file cannot be written.
        """
        path = self._path(course_id, content)
        try:
            index.save(path)
        except OSError as error:
            raise KeywordStoreError(
                f"The keyword index {path} cannot be written: {error}. Check the free disk space and the "
                "write permission of KEYWORD_INDEX_DIR."
            ) from error

    def keep_only(self, course_id: str, content: str) -> None:
        """Delete all other indexes of the course, and temporary files of killed processes.

        Raises:
            KeywordStoreError: A file cannot be deleted.
        """
        self._delete(directory_name(course_id), keep=f"{content}.npz")

    def delete(self, course_id: str) -> None:
        """Delete all indexes of the course.

        Raises:
            KeywordStoreError: A file cannot be deleted.
        """
        self.delete_directory(directory_name(course_id))

    def directories(self) -> list[str]:
        """The names of the directories of all courses.

        `directory_name` maps a course id to a name. The reverse is not possible.
        """
        if not self._root.is_dir():
            return []
        return sorted(
            path.name for path in self._root.iterdir() if path.name.startswith(PREFIX) and _is_index_directory(path)
        )

    def delete_directory(self, name: str) -> None:
        """Delete the indexes in one of `directories`, and the directory itself if it is then empty.

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
    """The directory name of a course: the name of its collection, or the SHA-256 of that name if it is too long."""
    name = collection_name(course_id)
    return name if len(name) <= LONGEST_NAME else f"{PREFIX}.h{hashlib.sha256(name.encode()).hexdigest()}"


def index_from_collection(collection: CourseCollection, content: str) -> KeywordIndex:
    """Read the whole collection of a course and build its keyword index.

    Raises:
        KeywordIndexError: The collection contains other chunks: the course is being embedded, or was embedded again.
        VectorStoreError: The collection cannot be read.
    """
    builder, fingerprint = KeywordIndexBuilder(), FingerprintBuilder()
    for records, _ in collection.contents():
        for record in records:
            fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
            builder.add(record.chunk_id, record.text)
    if fingerprint.build("").content != content:
        raise KeywordIndexError(f"No keyword index can be built from {collection.name}: it now contains other chunks")
    return builder.build()


def _files(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from (path for path in directory.iterdir() if _FILE.fullmatch(path.name))


def _is_index_directory(directory: Path) -> bool:
    """Whether the directory contains an index, or is empty."""
    return directory.is_dir() and (any(_files(directory)) or not any(directory.iterdir()))
