"""The courses' keyword indexes on disk: a directory for each course, a file for each content.

A file is named by the digest of the chunks it was made from (`CourseFingerprint.content`). So one that is there is
right whoever wrote it, none is ever changed, and another embedding model needs no other index. One that is missing, or
damaged, or made by an older analyser, is made anew: by the next run, or from the course's collection.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from embedding.collection_names import PREFIX, collection_name
from embedding.vector_store import CourseCollection
from models.fingerprint import FingerprintBuilder
from retrieval.keyword_index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError
from retrieval.settings import KeywordSettings

_FILE = re.compile(r"(?P<temporary>\.)?[0-9a-f]{64}\.npz(?(temporary)\..+)")
"""An index, or what a writer that was killed left of one."""
_LONGEST_NAME = 255
"""Of a directory, on every file system in use."""


class KeywordStoreError(Exception):
    """An index cannot be written or deleted; the message says which and why."""


class KeywordStore:
    """The indexes under `KEYWORD_INDEX_DIR`. Several processes may share it."""

    def __init__(self, settings: KeywordSettings) -> None:
        self._root = settings.keyword_index_dir

    def load(self, course_id: str, content: str) -> KeywordIndex:
        """The index of this content of the course.

        Raises:
            KeywordIndexError: there is none that can be used.
        """
        return KeywordIndex.load(self._path(course_id, content))

    def save(self, course_id: str, content: str, index: KeywordIndex) -> None:
        """Keep the index of this content of the course; it is there as a whole or not at all.

        Raises:
            KeywordStoreError: it cannot be written.
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
        """Delete the course's other indexes, and what killed writers left.

        Raises:
            KeywordStoreError: one cannot be deleted.
        """
        self._delete(directory_name(course_id), keep=f"{content}.npz")

    def delete(self, course_id: str) -> None:
        """Delete the course's indexes; there need not be any.

        Raises:
            KeywordStoreError: one cannot be deleted.
        """
        self.delete_directory(directory_name(course_id))

    def directories(self) -> list[str]:
        """Names of the courses' directories, `directory_name` of each; the id of a course cannot be told from it."""
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if path.name.startswith(PREFIX) and _is_ours(path))

    def delete_directory(self, name: str) -> None:
        """Delete the indexes in one of `directories`, and it; what something else put there stays.

        Raises:
            KeywordStoreError: an index cannot be deleted.
        """
        self._delete(name)
        with suppress(OSError):  # it is not empty, or not there
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
    """Where the course's indexes lie: named like its collection, or by that name's SHA-256 where it is too long."""
    name = collection_name(course_id)
    return name if len(name) <= _LONGEST_NAME else f"{PREFIX}.h{hashlib.sha256(name.encode()).hexdigest()}"


def index_of(collection: CourseCollection, content: str) -> KeywordIndex:
    """Make the index of a course from its collection, all of which is read, vectors too.

    Raises:
        KeywordIndexError: it holds another content: the course has been embedded since, or is being embedded.
        VectorStoreError: it cannot be read.
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
    """Whether it holds indexes, or nothing."""
    return directory.is_dir() and (any(_files(directory)) or not any(directory.iterdir()))
