"""The archive of a backup: the collections of courses in one zip file whose completeness can be verified.

    manifest.json                    format, version, time; fingerprint, model and counts of every course
    <name of the collection>.npy     vectors, float32, one row per record
    <name of the collection>.jsonl   records: ids, texts, metadata, hashes

Its integrity is protected at three points:

* The zip comment, which is the last 64 bytes, is the SHA-256 of all bytes before it. A truncated or changed file is
  rejected.
* The records of a course must have the published fingerprint, so that they are of one generation.
* The file has a temporary name until it is written, verified and synced to disk.

Reading and writing take constant memory, because they process pages.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo, is_zipfile

import numpy as np
from numpy.lib import format as npy
from pydantic import BaseModel, Field, PositiveInt

from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.collections import WRITE_BATCH, CollectionInfo
from embedding.vector_store.records import Record
from embedding.vectors import Vectors, are_sound
from models.files import sync_directory
from models.fingerprint import CourseFingerprint, FingerprintBuilder

FORMAT = 2
"""The format that is written: 2, since records have a context."""
_READABLE_FORMATS = (1, FORMAT)
MANIFEST = "manifest.json"
PARTIAL_SUFFIX = ".partial"
"""Suffix of an incomplete archive: it is being written, or the process that wrote it was killed."""

READ_LIMIT = 2**27
"""Maximum size of the manifest and of a record, in bytes, because a small zip file may unpack to any size.

Chroma accepts requests of 40 MB, and escaping in JSON may triple the size.
"""

Pages = Iterable[tuple[Sequence[Record], Vectors]]

_SEAL_LENGTH = 64
"""Bytes of the seal: the SHA-256 in hex that is the zip comment."""
_VECTOR = np.dtype("<f4")
_UNSOUND = "not all of its vectors are finite and of unit length"


class ArchiveError(Exception):
    """The archive cannot be written, or the file is not an intact archive; the message says why."""


class SavedCourse(BaseModel, frozen=True):
    """The entry of a course in the manifest."""

    course_id: str
    generation: int
    """Generation at the time of the backup; a restore creates a new one."""
    fingerprint: str
    model_name: str
    model_signature: str
    chunks: PositiveInt
    dimensions: int = Field(gt=0, le=2**16)

    @property
    def info(self) -> CollectionInfo:
        """The course and the embedding model of the collection."""
        return CollectionInfo(self.course_id, self.model_name, self.model_signature)


class Manifest(BaseModel, frozen=True):
    """The contents of `manifest.json`."""

    format: int
    product: str
    created_at: datetime
    courses: list[SavedCourse]

    @property
    def chunks(self) -> int:
        """Number of chunks of all courses together."""
        return sum(course.chunks for course in self.courses)


@dataclass(frozen=True)
class Spool:
    """The contents of a collection in two temporary files, which are deleted when they are closed."""

    vectors: BinaryIO
    records: BinaryIO
    dimensions: int
    content: FingerprintBuilder


class ArchiveWriter:
    """An archive being written; see `create_archive`."""

    def __init__(self, zip_file: ZipFile, directory: Path) -> None:
        self._zip_file = zip_file
        self._directory = directory
        self.courses: list[SavedCourse] = []

    @contextmanager
    def spool(self, pages: Pages, on_page: Callable[[int], None]) -> Iterator[Spool]:
        """Read a collection into temporary files, because its fingerprint is known only after the last record.

        Args:
            pages: All records and vectors of the collection.
            on_page: Called after each page with its number of records.

        Raises:
            ArchiveError: A vector is unsound (`are_sound`). The archive is intact and does not contain the collection.
        """
        content, dimensions = FingerprintBuilder(), 0
        with TemporaryFile(dir=self._directory) as vectors, TemporaryFile(dir=self._directory) as records:
            for page, rows in pages:
                dimensions = dimensions or rows.shape[1]
                if not are_sound(rows, dimensions).all():
                    raise ArchiveError(_UNSOUND)
                vectors.write(rows.astype(_VECTOR).tobytes())
                for record in page:
                    records.write(json.dumps(vars(record)).encode() + b"\n")
                _add_records(content, page)
                on_page(len(page))
            yield Spool(cast(BinaryIO, vectors), cast(BinaryIO, records), dimensions, content)

    def add(self, spool: Spool, info: CollectionInfo, generation: int, fingerprint: CourseFingerprint) -> None:
        """Add a collection to the archive.

        Raises:
            ArchiveError: The collection does not have the published fingerprint. The archive is intact and does not
                contain the collection.
        """
        actual = spool.content.build(info.model_signature)
        if actual != fingerprint:
            raise ArchiveError(_difference(actual, fingerprint))
        name = collection_name(info.course_id)
        with self._member(f"{name}.npy", ZIP_STORED) as member:  # vectors do not compress
            shape = (actual.chunks, spool.dimensions)
            npy.write_array_header_1_0(member, {"descr": _VECTOR.str, "fortran_order": False, "shape": shape})
            _copy(spool.vectors, member)
        with self._member(f"{name}.jsonl", ZIP_DEFLATED) as member:
            _copy(spool.records, member)
        self.courses.append(
            SavedCourse(
                course_id=info.course_id,
                generation=generation,
                fingerprint=str(fingerprint),
                model_name=info.model_name,
                model_signature=info.model_signature,
                chunks=actual.chunks,
                dimensions=spool.dimensions,
            )
        )

    def finish(self) -> None:
        """Write the manifest. The archive is complete then.

        Raises:
            ArchiveError: The archive contains no course.
        """
        if not self.courses:
            raise ArchiveError("There is no course to back up")
        manifest = Manifest(
            format=FORMAT, product=version("course-search"), created_at=datetime.now(UTC), courses=self.courses
        )
        with self._member(MANIFEST, ZIP_DEFLATED) as member:
            member.write(manifest.model_dump_json(indent=2).encode())

    def _member(self, name: str, compression: int) -> IO[bytes]:
        info = ZipInfo(name, datetime.now(UTC).timetuple()[:6])
        info.compress_type = compression
        return self._zip_file.open(info, "w", force_zip64=True)


@contextmanager
def create_archive(path: Path) -> Iterator[ArchiveWriter]:
    """Create an archive. At the end of the block it is verified, synced to disk and renamed to `path`.

    Raises:
        ArchiveError: The file exists, no course was added, or the verification failed.
        OSError: The file cannot be written.
    """
    if path.exists():
        raise ArchiveError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with ZipFile(partial, "w") as zip_file:
            writer = ArchiveWriter(zip_file, path.parent)
            yield writer
            writer.finish()
            zip_file.comment = b"0" * _SEAL_LENGTH
        seal(partial)
        with open_archive(partial):
            pass
        partial.rename(path)
        sync_directory(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def seal(path: Path) -> None:
    """Write the digest of all preceding bytes to the zip comment, and sync the file to disk."""
    with path.open("r+b") as file:
        digest = _digest_before_seal(file)
        file.seek(-_SEAL_LENGTH, os.SEEK_END)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


class Archive:
    """An open, verified archive; see `open_archive`."""

    def __init__(self, zip_file: ZipFile, manifest: Manifest) -> None:
        self._zip_file = zip_file
        self.manifest = manifest

    @property
    def size(self) -> int:
        """Uncompressed size of all members, in bytes."""
        return sum(member.file_size for member in self._zip_file.infolist())

    def pages(self, course: SavedCourse) -> Iterator[tuple[list[Record], Vectors]]:
        """The records and vectors of a course, in pages of `WRITE_BATCH` records, or fewer if they are long.

        Raises:
            ArchiveError: The numbers of records and vectors differ from the manifest, or a record is too long.
        """
        name = collection_name(course.course_id)
        with self._zip_file.open(f"{name}.npy") as vectors, self._zip_file.open(f"{name}.jsonl") as records:
            npy.read_magic(vectors)
            header = npy.read_array_header_1_0(vectors)
            if header != ((course.chunks, course.dimensions), False, _VECTOR):
                raise ArchiveError(f"the vectors of course {course.course_id} do not have the size in the manifest")
            while lines := _read_lines(records):
                rows = vectors.read(len(lines) * course.dimensions * _VECTOR.itemsize)
                yield (
                    [Record(**json.loads(line)) for line in lines],
                    np.frombuffer(rows, _VECTOR).reshape(len(lines), course.dimensions).astype(np.float32),
                )
            if vectors.read(1):
                raise ArchiveError(f"course {course.course_id} has more vectors than records")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Verify an archive, which reads it completely, and open it.

    Raises:
        ArchiveError: The file is not an archive, or is damaged, incomplete or inconsistent.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if not is_zipfile(file):
            raise ArchiveError(f"{path} is not a backup, or is truncated")
        if _digest_before_seal(file) != file.read():
            raise ArchiveError(f"{path} is damaged: it was truncated or changed after the backup (SHA-256 differs)")
        try:
            archive = _verify(ZipFile(file))
        except ArchiveError as error:
            raise ArchiveError(f"{path} cannot be restored: {error}") from error
        except OSError:
            raise
        except Exception as error:  # zipfile, json, numpy and pydantic raise many types for foreign files
            raise ArchiveError(
                f"{path} cannot be restored: it was not written by `course-search backup` ({error})"
            ) from error
        yield archive


def _verify(zip_file: ZipFile) -> Archive:
    """The archive, if its manifest and its members are consistent."""
    with zip_file.open(MANIFEST) as member:
        fields = json.loads(_within_limit(member.read(READ_LIMIT + 1)))
    if fields["format"] not in _READABLE_FORMATS:
        raise ArchiveError(
            f"it has format {fields['format']}, but this version of the product reads formats up to {FORMAT}"
        )
    manifest = Manifest.model_validate(fields)
    names = [collection_name(course.course_id) for course in manifest.courses]
    if len(names) > len(set(names)):
        raise ArchiveError("it contains a course twice")
    members = {f"{name}.{kind}" for name in names for kind in ("npy", "jsonl")}
    if missing := sorted(members.difference(zip_file.namelist())):
        raise ArchiveError(f"it does not contain {', '.join(missing)}")
    archive = Archive(zip_file, manifest)
    for course in manifest.courses:
        content = FingerprintBuilder()
        for records, vectors in archive.pages(course):
            if not are_sound(vectors, course.dimensions).all():
                raise ArchiveError(f"course {course.course_id}: {_UNSOUND}")
            _add_records(content, records)
        actual, published = content.build(course.model_signature), CourseFingerprint.parse(course.fingerprint)
        if actual != published or actual.chunks != course.chunks:
            raise ArchiveError(f"course {course.course_id}: {_difference(actual, published)}")
    return archive


def _read_lines(records: IO[bytes]) -> list[bytes]:
    """The lines of the next page; an empty list at the end."""
    lines: list[bytes] = []
    size = 0
    while len(lines) < WRITE_BATCH and size < READ_LIMIT and (line := records.readline(READ_LIMIT + 1)):
        lines.append(_within_limit(line))
        size += len(line)
    return lines


def _within_limit(content: bytes) -> bytes:
    if len(content) > READ_LIMIT:
        raise ArchiveError(f"the manifest or a record is longer than {READ_LIMIT} bytes")
    return content


def _add_records(content: FingerprintBuilder, records: Iterable[Record]) -> None:
    for record in records:
        content.add_hashed(record.chunk_id, record.content_hash, len(record.text))


def _difference(actual: CourseFingerprint, published: CourseFingerprint | None) -> str:
    if published is not None and actual.chunks != published.chunks:
        return f"it has {actual.chunks} chunks, but {published.chunks} were published"
    return "its chunks or its model are not those that were published"


def _digest_before_seal(file: BinaryIO) -> bytes:
    """SHA-256, in hex, of all bytes before the seal. Leaves the file position at the seal."""
    digest = hashlib.sha256()
    remaining = file.seek(0, os.SEEK_END) - _SEAL_LENGTH
    file.seek(0)
    while remaining > 0 and (block := file.read(min(remaining, 2**20))):
        digest.update(block)
        remaining -= len(block)
    return digest.hexdigest().encode()


def _copy(source: BinaryIO, target: IO[bytes]) -> None:
    source.seek(0)
    shutil.copyfileobj(source, target, 2**20)
