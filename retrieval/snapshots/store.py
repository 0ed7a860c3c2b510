"""The course snapshots on disk: one directory per course, one file per content and model.

    SNAPSHOT_DIR/course_{course_id}/{key}.{SHA-256 of the file}.safetensors
    SNAPSHOT_DIR/course_{course_id}/{name}.json    notes about the published generation, without texts

The key is the digest of all that the content of the file depends on: the fingerprint of the course, and the versions of
the format and of the analyser. So a file never changes, any process may write it, and a missing, damaged or outdated
one is built again from the collection.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary

from numpy.typing import NDArray
from pydantic import Field

from embedding.vector_store.collection_names import PREFIX, collection_name
from embedding.vector_store.collections import CollectionInfo
from models.fingerprint import CourseFingerprint
from models.settings import Settings
from retrieval.analysis import ANALYSIS_VERSION
from retrieval.snapshots.build import BuiltSnapshot
from retrieval.snapshots.file import (
    FileFormatError,
    Strings,
    file_digest,
    map_arrays,
    strings_as_arrays,
    write_arrays,
)
from retrieval.snapshots.snapshot import CourseSnapshot

logger = logging.getLogger(__name__)

_FORMAT = 4
"""To be incremented whenever the arrays of a snapshot change. A file of another format is not opened; one of another
analyser answers until the new one is built."""
_FILE = re.compile(r"(?P<key>[0-9a-f]{32})\.(?P<digest>[0-9a-f]{64})\.safetensors")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp|\.tmp\w+")
"""A file that a killed process left behind: of this module, or of safetensors, which writes to one of its own."""
_ADDED = re.compile(rf"{_TEMPORARY.pattern}|[a-z]+\.json")
"""The same, and notes."""
LONGEST_NAME = 255
"""Maximum length of a file name in bytes on common file systems."""


class SnapshotSettings(Settings):
    """Where the course snapshots are stored."""

    snapshot_dir: Path = Field(
        Path("./data/snapshots"),
        description="Directory of the course snapshots, which searches read; a missing one is built from its "
        "collection. Processes on one machine share it.",
    )


class SnapshotError(Exception):
    """A snapshot is missing, truncated, damaged or of another version, and must be built again."""


class SnapshotStoreError(Exception):
    """A snapshot cannot be written or deleted. The message names the file and the cause."""


class SnapshotStore:
    """The snapshots in `SNAPSHOT_DIR`. Several processes may share the directory."""

    def __init__(self, settings: SnapshotSettings) -> None:
        self._root = settings.snapshot_dir
        self._unverified: set[Path] = set()
        self._verified: dict[Path, tuple[int, int]] = {}
        self._mapped: WeakKeyDictionary[CourseSnapshot, int] = WeakKeyDictionary()
        self._mapping = Lock()

    def open(self, course_id: str, content: CourseFingerprint, generation: int) -> CourseSnapshot:
        """Map the snapshot of this content and model (`find`). Its digest is not computed (see `is_damaged`).

        Raises:
            SnapshotError: There is no usable snapshot.
        """
        return self._open_newest(course_id, generation, content)

    def mapped(self) -> tuple[int, int]:
        """How many files are mapped into memory by this object, and their size in bytes."""
        with self._mapping:
            sizes = list(self._mapped.values())
        return len(sizes), sum(sizes)

    def open_latest(self, course_id: str, generation: int) -> CourseSnapshot | None:
        """Map the newest usable snapshot of the course that was made for this or an earlier generation."""
        with suppress(SnapshotError):
            return self._open_newest(course_id, generation)
        return None

    def find(self, course_id: str, content: CourseFingerprint, generation: int) -> Path | None:
        """The usable file of this content and model, of which only the header is read.

        A run writes a file before it publishes the course, or withholds it. So one of a later generation does not
        count, even if its content is the same: its vectors may be others.

        Args:
            course_id: The course.
            content: The content and model.
            generation: The generation that is published, or, in its run, the one that is going to be.

        Returns:
            The newest file of this or an earlier generation; None if there is none, or the directory cannot be read.
        """
        for path in self._paths(course_id, content):
            with suppress(SnapshotError):
                if self._read(path, course_id).generation <= generation:
                    return path
        return None

    def save(self, course_id: str, built: BuiltSnapshot) -> None:
        """Write a snapshot atomically.

        Raises:
            SnapshotStoreError: The file cannot be written.
        """
        key, info = _key(built.fingerprint), built.info
        origin = (course_id, key, str(built.generation), info.model_name, info.model_signature, str(_FORMAT))

        def write(temporary: Path) -> str:
            digest = write_arrays(temporary, {**built.arrays, **strings_as_arrays("origin", origin)})
            return f"{key}.{digest}.safetensors"

        self._write(course_id, write)

    def discard(self, course_id: str, generation: int) -> None:
        """Delete the snapshots that were made for this generation, which is not going to be published, or a later one.

        Raises:
            SnapshotStoreError: One cannot be deleted.
        """
        try:
            for path in self._paths(course_id):
                with suppress(SnapshotError):
                    if self._read(path, course_id).generation >= generation:
                        path.unlink(missing_ok=True)
        except OSError as error:
            raise SnapshotStoreError(f"A snapshot cannot be deleted: {error}") from error

    def read_note(self, course_id: str, name: str) -> Any:
        """The note with this name about the published generation; None if there is none, or it cannot be read."""
        with suppress(OSError, ValueError):
            return json.loads((self._root / directory_name(course_id) / f"{name}.json").read_text(encoding="utf-8"))
        return None

    def write_note(self, course_id: str, name: str, content: Any) -> None:
        """Write a note about the published generation, as JSON; it is deleted with the course, and contains no text.

        Raises:
            SnapshotStoreError: The file cannot be written.
        """

        def write(temporary: Path) -> str:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            return f"{name}.json"

        self._write(course_id, write)

    def is_damaged(self, path: Path) -> bool:
        """Whether the content of a file differs from its digest. Reads the whole file; False if it is missing."""
        with suppress(FileNotFoundError):
            return file_digest(path) != path.name.split(".")[1]
        return False

    def delete_damaged(self) -> bool:
        """Verify the files that were opened for the first time since the last call, and delete the damaged ones.

        Returns:
            Whether a file was deleted.

        Raises:
            SnapshotStoreError: A damaged file cannot be read or deleted.
        """
        found = False
        while self._unverified:
            path = self._unverified.pop()
            try:
                stamp = _stamp(path)
                if self.is_damaged(path):
                    path.unlink(missing_ok=True)
                    logger.error("The snapshot %s was damaged: it is deleted, and built again", path)
                    found = True
                else:
                    self._verified[path] = stamp
            except FileNotFoundError:  # it was superseded
                self._verified.pop(path, None)
            except OSError as error:
                raise SnapshotStoreError(f"The snapshot {path} cannot be verified: {error}") from error
        return found

    def verify_again(self, course_id: str, published: CourseFingerprint, generation: int) -> bool:
        """Verify a snapshot that cannot be searched, and delete it if it is damaged; returns and raises the same."""
        path = self.find(course_id, published, generation)
        self._unverified |= {path} if path else set()
        return self.delete_damaged()

    def keep_only(
        self, course_id: str, published: CourseFingerprint, generation: int, *, keep_newer: bool = False
    ) -> None:
        """Delete all other snapshots of the course, and temporary files of killed processes.

        A process that has mapped a deleted file can still read it.

        Args:
            course_id: The course.
            published: What is kept, in the newest file (`find`).
            generation: The published generation.
            keep_newer: Also keep newer files, which a run may have written that has not published yet.

        Raises:
            SnapshotStoreError: A file cannot be deleted.
        """
        kept = self.find(course_id, published, generation)
        with suppress(FileNotFoundError):  # another process deletes it
            if kept is not None:
                newest = kept.stat().st_mtime_ns if keep_newer else None
                self._delete(directory_name(course_id), kept, newest)

    def delete(self, course_id: str) -> None:
        """Delete all snapshots of the course.

        Raises:
            SnapshotStoreError: A file cannot be deleted.
        """
        self.delete_directory(directory_name(course_id))

    def directories(self) -> list[str]:
        """The names of the directories of all courses.

        `directory_name` maps a course id to a name. The reverse is not possible.
        """
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if path.name.startswith(PREFIX) and _is_ours(path))

    def delete_directory(self, name: str) -> None:
        """Delete the snapshots in one of `directories`, and the directory itself if it is then empty.

        Raises:
            SnapshotStoreError: A snapshot cannot be deleted.
        """
        self._delete(name)
        with suppress(OSError):  # not empty, or missing
            (self._root / name).rmdir()

    def _paths(self, course_id: str, content: CourseFingerprint | None = None) -> list[Path]:
        """The files of a course, or of one content of it, newest first; none if the directory cannot be read."""
        key = _key(content) if content else None
        with suppress(OSError):
            return [path for path in _files(self._root / directory_name(course_id)) if key in (None, _key_of(path))]
        return []

    def _open_newest(self, course_id: str, generation: int, content: CourseFingerprint | None = None) -> CourseSnapshot:
        """Map the newest usable file of this or an earlier generation, of all contents or of one."""
        problem = SnapshotError(f"There is no snapshot in {self._root / directory_name(course_id)}")
        for path in self._paths(course_id, content):
            try:
                snapshot = self._open(path, course_id)
            except SnapshotError as error:
                problem = error
            else:
                if snapshot.generation <= generation:
                    return snapshot
        raise problem

    def _open(self, path: Path, course_id: str) -> CourseSnapshot:
        mapped = self._read(path, course_id)
        try:
            snapshot = CourseSnapshot(mapped.arrays, mapped.info, mapped.generation)
            if self._verified.get(path) != _stamp(path):
                self._unverified.add(path)
            with self._mapping:
                self._mapped[snapshot] = sum(array.nbytes for array in mapped.arrays.values())
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise _unusable(path, error) from error
        return snapshot

    def _read(self, path: Path, course_id: str) -> "_Mapped":
        """Map a file, of which only what it is from is read."""
        try:
            arrays = map_arrays(path)
            owner, key, generation, model_name, model_signature, file_format = Strings(arrays, "origin")
            if (owner, key, file_format) != (course_id, _key_of(path), str(_FORMAT)):
                raise SnapshotError(f"{path} is of course {owner} or of another content or version")
            return _Mapped(arrays, CollectionInfo(course_id, model_name, model_signature), int(generation))
        except (FileFormatError, OSError, KeyError, TypeError, ValueError) as error:
            raise _unusable(path, error) from error

    def _write(self, course_id: str, write: Callable[[Path], str]) -> None:
        """Write a file atomically. `write` writes a temporary file and returns the name that it gets."""
        directory = self._root / directory_name(course_id)
        temporary = directory / f".{uuid4().hex}.tmp"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                temporary.replace(directory / write(temporary))
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise SnapshotStoreError(
                f"The snapshot of course {course_id} cannot be written to {directory}: {error}. Check the free disk "
                "space and the write permission of SNAPSHOT_DIR."
            ) from error

    def _delete(self, name: str, keep: Path | None = None, only_before: int | None = None) -> None:
        directory = self._root / name
        try:
            for path in [*_files(directory), *_other_files(directory, _TEMPORARY if keep else _ADDED)]:
                if path != keep and (only_before is None or path.stat().st_mtime_ns < only_before):
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # another process deletes them too
        except OSError as error:
            raise SnapshotStoreError(f"A snapshot cannot be deleted: {error}") from error


class _Mapped(NamedTuple):
    """A file, and what it is from."""

    arrays: Mapping[str, NDArray[Any]]
    info: CollectionInfo
    generation: int


def _unusable(path: Path, error: Exception) -> SnapshotError:
    return SnapshotError(f"{path} is not a snapshot of this version: {error}")


def directory_name(course_id: str) -> str:
    """The directory name of a course: the name of its collection, or the SHA-256 of that name if it is too long."""
    name = collection_name(course_id)
    return name if len(name) <= LONGEST_NAME else f"{PREFIX}.h{hashlib.sha256(name.encode()).hexdigest()}"


def _key(fingerprint: CourseFingerprint) -> str:
    parts = [_FORMAT, ANALYSIS_VERSION, fingerprint.content, fingerprint.model]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _key_of(path: Path) -> str:
    return path.name.partition(".")[0]


def _stamp(path: Path) -> tuple[int, int]:
    """Changes if the file is replaced or written to."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _files(directory: Path) -> list[Path]:
    """The snapshots in a directory, newest first."""
    found: list[tuple[int, Path]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in directory.iterdir():
            if _FILE.fullmatch(path.name):
                with suppress(FileNotFoundError):  # it is being superseded
                    found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _other_files(directory: Path, name: re.Pattern[str]) -> Iterator[Path]:
    if directory.is_dir():
        yield from (path for path in directory.iterdir() if name.fullmatch(path.name))


def _is_ours(directory: Path) -> bool:
    """Whether the directory contains a snapshot, or nothing but notes and what killed processes left behind."""
    if not directory.is_dir():
        return False
    with suppress(FileNotFoundError):  # another process deletes it
        return bool(_files(directory)) or all(_ADDED.fullmatch(path.name) for path in directory.iterdir())
    return False
