"""A backup: collections in one file that is complete, or recognizably none.

The file is a zip, so that any tool can look inside:

    manifest.json                  when and by what it was made; of each course the fingerprint, model, counts
    <name of the collection>.npy   its vectors, float32, one row a record
    <name of the collection>.jsonl its records: ids, texts, metadata, hashes

Three things vouch for it. Its comment, the last 64 bytes, is the SHA-256 of every byte before: one that is cut short or
changed anywhere is refused. The records of a course must give its published fingerprint again, so no course is half of
one publication and half of another. And it gets its name only when it is written, read back and on the disk.

Everything passes through in pages: memory does not grow with the courses.
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
from models.fingerprint import CourseFingerprint, FingerprintBuilder

FORMAT = 1
MANIFEST = "manifest.json"
PARTIAL = ".partial"
"""Ends the name of an archive that is being written, or whose writing was killed; such a file is of no use."""

READ_LIMIT = 2**27
"""Bytes of the longest manifest, or record: a small file may unpack to any size. Chroma takes requests of 40 MB, and
JSON may make three bytes of one."""

Pages = Iterable[tuple[Sequence[Record], Vectors]]

_SEAL_LENGTH = 64
_VECTOR = np.dtype("<f4")
_UNSOUND = "not all of its vectors are finite and of length one"


class ArchiveError(Exception):
    """The file is no backup, or not one that can be trusted."""


class SavedCourse(BaseModel, frozen=True):
    """What an archive says of one of its courses."""

    course_id: str
    generation: int
    """When it was saved; a restore makes a new one."""
    fingerprint: str
    model_name: str
    model_signature: str
    chunks: PositiveInt
    dimensions: int = Field(gt=0, le=2**16)

    @property
    def info(self) -> CollectionInfo:
        """What its collection is made with."""
        return CollectionInfo(self.course_id, self.model_name, self.model_signature)


class Manifest(BaseModel, frozen=True):
    """The archive's own description of itself."""

    format: int
    product: str
    created_at: datetime
    courses: list[SavedCourse]

    @property
    def chunks(self) -> int:
        """Of all courses together."""
        return sum(course.chunks for course in self.courses)


@dataclass(frozen=True)
class Spool:
    """A collection's contents, read once, in two anonymous files that vanish with the process."""

    vectors: BinaryIO
    records: BinaryIO
    dimensions: int
    content: FingerprintBuilder


class ArchiveWriter:
    """An archive being written; see `create_archive`."""

    def __init__(self, archive: ZipFile, directory: Path) -> None:
        self._archive = archive
        self._directory = directory
        self.courses: list[SavedCourse] = []

    @contextmanager
    def spooled(self, pages: Pages, on_page: Callable[[int], None]) -> Iterator[Spool]:
        """Read a collection to its end, since only then is it known whether it may be added.

        Args:
            pages: All of it.
            on_page: Called after each page with its number of records.

        Raises:
            ArchiveError: a vector is not sound; the archive goes on without the collection.
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
                _take_in(page, content)
                on_page(len(page))
            yield Spool(cast(BinaryIO, vectors), cast(BinaryIO, records), dimensions, content)

    def add(self, spool: Spool, info: CollectionInfo, generation: int, fingerprint: CourseFingerprint) -> None:
        """Put a collection into the archive.

        Raises:
            ArchiveError: the collection is not what the fingerprint was published for; the archive goes on without it.
        """
        held = spool.content.build(info.model_signature)
        if held != fingerprint:
            raise ArchiveError(_difference(held, fingerprint))
        name = collection_name(info.course_id)
        with self._member(f"{name}.npy", ZIP_STORED) as member:  # vectors do not compress
            shape = (held.chunks, spool.dimensions)
            npy.write_array_header_1_0(member, {"descr": _VECTOR.str, "fortran_order": False, "shape": shape})
            _pour(spool.vectors, member)
        with self._member(f"{name}.jsonl", ZIP_DEFLATED) as member:
            _pour(spool.records, member)
        self.courses.append(
            SavedCourse(
                course_id=info.course_id,
                generation=generation,
                fingerprint=str(fingerprint),
                model_name=info.model_name,
                model_signature=info.model_signature,
                chunks=held.chunks,
                dimensions=spool.dimensions,
            )
        )

    def finish(self) -> None:
        """Write the manifest, which says that nothing is missing.

        Raises:
            ArchiveError: there is no course in it.
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
        return self._archive.open(info, "w", force_zip64=True)


@contextmanager
def create_archive(path: Path) -> Iterator[ArchiveWriter]:
    """An archive to add courses to. It appears under its name when the block ends, read back and on the disk.

    Raises:
        ArchiveError: there is a file of that name, no course was added, or what was written can't be read back.
        OSError: it can't be written.
    """
    if path.exists():
        raise ArchiveError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with ZipFile(partial, "w") as archive:
            writer = ArchiveWriter(archive, path.parent)
            yield writer
            writer.finish()
            archive.comment = b"0" * _SEAL_LENGTH
        seal(partial)
        with open_archive(partial):
            pass
        partial.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def seal(path: Path) -> None:
    """Make the comment at the end of the zip the digest of everything before, and wait until it is on the disk."""
    with path.open("r+b") as file:
        digest = _digest_before_seal(file)
        file.seek(-_SEAL_LENGTH, os.SEEK_END)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


class Archive:
    """An archive that was found sound; see `open_archive`."""

    def __init__(self, archive: ZipFile, manifest: Manifest) -> None:
        self._archive = archive
        self.manifest = manifest

    @property
    def size(self) -> int:
        """Of everything in it, unpacked, in bytes."""
        return sum(member.file_size for member in self._archive.infolist())

    def pages(self, course: SavedCourse) -> Iterator[tuple[list[Record], Vectors]]:
        """What a course's collection held, `WRITE_BATCH` records at a time, or fewer where they are long."""
        name = collection_name(course.course_id)
        with self._archive.open(f"{name}.npy") as vectors, self._archive.open(f"{name}.jsonl") as records:
            npy.read_magic(vectors)
            header = npy.read_array_header_1_0(vectors)
            if header != ((course.chunks, course.dimensions), False, _VECTOR):
                raise ArchiveError(f"The vectors of course {course.course_id} are not of the size the manifest says")
            while lines := _lines(records):
                rows = vectors.read(len(lines) * course.dimensions * _VECTOR.itemsize)
                yield (
                    [Record(**json.loads(line)) for line in lines],
                    np.frombuffer(rows, _VECTOR).reshape(len(lines), course.dimensions).astype(np.float32),
                )
            if vectors.read(1):
                raise ArchiveError(f"Course {course.course_id} has more vectors than records")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Read an archive from end to end, and open it if all of it is as it was written.

    Raises:
        ArchiveError: it is not; the message says what is wrong.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        if not is_zipfile(file):
            raise ArchiveError(f"{path} is no backup, or was cut short")
        if _digest_before_seal(file) != file.read():
            raise ArchiveError(f"{path} is damaged: it was cut short or changed after it was written (SHA-256 differs)")
        try:
            archive = _checked(ZipFile(file))
        except ArchiveError as error:
            raise ArchiveError(f"{path} can't be restored: {error}") from error
        except OSError:
            raise
        except Exception as error:  # whatever zipfile, json, numpy and pydantic say to what somebody else wrote
            raise ArchiveError(f"{path} can't be restored: it was not written by `backup` ({error})") from error
        yield archive


def _checked(archive: ZipFile) -> Archive:
    """The archive, when its manifest and its members agree."""
    with archive.open(MANIFEST) as member:
        description = json.loads(_within_limit(member.read(READ_LIMIT + 1)))
    if description["format"] != FORMAT:
        raise ArchiveError(f"it has format {description['format']}, this version of the product reads {FORMAT}")
    manifest = Manifest.model_validate(description)
    names = [collection_name(course.course_id) for course in manifest.courses]
    if len(names) > len(set(names)):
        raise ArchiveError("a course is in it twice")
    members = {f"{name}.{kind}" for name in names for kind in ("npy", "jsonl")}
    if missing := sorted(members.difference(archive.namelist())):
        raise ArchiveError(f"it lacks {', '.join(missing)}")
    sound = Archive(archive, manifest)
    for course in manifest.courses:
        content = FingerprintBuilder()
        for records, vectors in sound.pages(course):
            if not are_sound(vectors, course.dimensions).all():
                raise ArchiveError(f"course {course.course_id}: {_UNSOUND}")
            _take_in(records, content)
        held, published = content.build(course.model_signature), CourseFingerprint.parse(course.fingerprint)
        if held != published or held.chunks != course.chunks:
            raise ArchiveError(f"course {course.course_id}: {_difference(held, published)}")
    return sound


def _lines(records: IO[bytes]) -> list[bytes]:
    """The next page of them."""
    lines: list[bytes] = []
    size = 0
    while len(lines) < WRITE_BATCH and size < READ_LIMIT and (line := records.readline(READ_LIMIT + 1)):
        lines.append(_within_limit(line))
        size += len(line)
    return lines


def _within_limit(content: bytes) -> bytes:
    if len(content) > READ_LIMIT:
        raise ArchiveError(f"its manifest or a record is longer than {READ_LIMIT} bytes")
    return content


def _take_in(records: Iterable[Record], content: FingerprintBuilder) -> None:
    for record in records:
        content.add_hashed(record.chunk_id, record.content_hash, len(record.text))


def _difference(held: CourseFingerprint, published: CourseFingerprint | None) -> str:
    if published is not None and held.chunks != published.chunks:
        return f"there are {held.chunks} chunks where {published.chunks} were published"
    return "its chunks or its model are not those that were published"


def _digest_before_seal(file: BinaryIO) -> bytes:
    """SHA-256, in hex, of a file but for its seal, which is what a read goes on with."""
    digest = hashlib.sha256()
    left = file.seek(0, os.SEEK_END) - _SEAL_LENGTH
    file.seek(0)
    while left > 0 and (block := file.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _pour(source: BinaryIO, target: IO[bytes]) -> None:
    source.seek(0)
    shutil.copyfileobj(source, target, 2**20)


def _sync_directory(directory: Path) -> None:
    """Make a rename in the directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
