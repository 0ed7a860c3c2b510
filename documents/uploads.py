"""The uploaded files, in UPLOAD_DIR.

A file is received under a temporary name, and renamed when it is complete. Its final name consists of the id of the
resource and the SHA-256 of the content, so a name that a user chose never becomes a path.
"""

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import quote

from models.files import sync_directory

INCOMING = "incoming"
"""Directory of the temporary files, below UPLOAD_DIR: a rename within one file system is atomic."""
LEFTOVER_SECONDS = 24 * 3600.0
"""Age of a temporary file, since it was last written to, after which nobody writes to it any more."""
PIECE_BYTES = 1024 * 1024


class UploadError(Exception):
    """The file was not kept, and nothing is left of it. The message is for the person who sent it."""


class FileTooLargeError(UploadError):
    """The file has more bytes than it may have."""


class UploadsUnavailableError(UploadError):
    """UPLOAD_DIR cannot be used: the disk is full or broken, or permissions are missing."""


class ImportRefusedError(UploadError):
    """The path is not that of a file that may be taken."""

    def __init__(self) -> None:
        super().__init__("There is no such file in IMPORT_DIR; a path is relative to it, and leads to a regular file")


class Uploads:
    """The files of a directory. Threads and processes may share it.

    Every method may raise `UploadsUnavailableError`.

    Args:
        directory: It is created when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, resource_id: str, sha256: str) -> Path:
        """Where the content of a resource is; whether the file exists is not checked."""
        return self.directory / f"{quote(resource_id, safe='')}-{sha256}"

    def receive(self, max_bytes: int) -> "Upload":
        """A new temporary file, for at most `max_bytes` bytes. What interrupted uploads left is removed first."""
        incoming = self.directory / INCOMING
        with _availability():
            incoming.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(incoming)
            return Upload(incoming / secrets.token_hex(16), max_bytes)

    def save(self, stream: BinaryIO, max_bytes: int) -> "Upload":
        """Receive what is in the stream, to its end.

        Raises:
            FileTooLargeError: There are more than `max_bytes` bytes.
            OSError: The stream cannot be read.
        """
        upload = self.receive(max_bytes)
        try:
            while piece := stream.read(PIECE_BYTES):
                upload.write(piece)
        except BaseException:
            upload.discard()
            raise
        return upload

    def keep(self, upload: "Upload", resource_id: str) -> Path:
        """Give a finished upload its final name. This is atomic, and survives a power cut."""
        path = self.path(resource_id, upload.sha256)
        with _availability():
            upload.file.replace(path)
            sync_directory(self.directory)
        return path

    def remove(self, resource_id: str, sha256: str) -> None:
        """Delete the content of a resource, if it is there."""
        with _availability():
            self.path(resource_id, sha256).unlink(missing_ok=True)

    def remove_others(self, resource_id: str, sha256: str) -> None:
        """Delete earlier content of a resource; that with this digest stays."""
        kept = self.path(resource_id, sha256)
        with _availability():
            for file in self.directory.glob(kept.name.removesuffix(sha256) + "?" * len(sha256)):
                if file != kept:
                    file.unlink(missing_ok=True)

    def files(self) -> Iterator[Path]:
        """All files that were kept, in no order."""
        with _availability():
            yield from (path for path in self.directory.glob("*") if path.is_file())


def open_import(directory: Path, name: str) -> BinaryIO:
    """Open a file below the directory that operators may take files from (IMPORT_DIR).

    Symbolic links may be used if they end below the directory too. No link is followed after that was checked.

    Args:
        directory: The directory.
        name: The path of the file, relative to the directory.

    Raises:
        ImportRefusedError: It is not a regular file below the directory, or may not be read. The error does not say
            which, because that would tell what else is on the disk.
    """
    try:
        asked = PurePosixPath(name)
        if asked.is_absolute() or ".." in asked.parts:
            raise ImportRefusedError
        root = directory.resolve(strict=True)
        parts = root.joinpath(asked).resolve(strict=True).relative_to(root).parts
        return _open_below(root, parts)
    except (OSError, ValueError, RuntimeError):  # ValueError: outside, or a NUL; RuntimeError: a loop of links
        raise ImportRefusedError from None


def _open_below(root: Path, parts: Sequence[str]) -> BinaryIO:
    """Open a regular file without following a link."""
    if not parts:
        raise ImportRefusedError
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for number, part in enumerate(parts, start=1):
        kind = os.O_NONBLOCK if number == len(parts) else os.O_DIRECTORY  # a pipe would wait for its writer
        try:
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImportRefusedError
    return open(descriptor, "rb")  # noqa: PTH123 - a descriptor has no path


class Upload:
    """A file that is being received. Leaving the `with` block deletes it, unless it was kept.

    All methods block, so an event loop calls them on threads, one at a time.

    Attributes:
        file: The temporary file.
        size: Number of bytes that were written.
    """

    def __init__(self, file: Path, max_bytes: int) -> None:
        self.file = file
        self.size = 0
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._stream = file.open("xb", buffering=0)

    @property
    def sha256(self) -> str:
        """The digest of what was written, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, piece: bytes) -> None:
        """Append some bytes.

        Raises:
            FileTooLargeError: The file would be larger than it may be.
            UploadsUnavailableError: They cannot be written.
        """
        if self.size + len(piece) > self._max_bytes:
            raise FileTooLargeError(f"The file is larger than {self._max_bytes} bytes (UPLOAD_MAX_BYTES)")
        with _availability():
            remaining = memoryview(piece)
            while remaining:
                remaining = remaining[self._stream.write(remaining) :]
        self._digest.update(piece)
        self.size += len(piece)

    def finish(self) -> None:
        """Write everything to the disk, and close the file. May be called twice."""
        with _availability():
            if not self._stream.closed:
                os.fsync(self._stream.fileno())
                self._stream.close()

    def discard(self) -> None:
        """Delete the file, unless it was kept under its final name. May be called twice."""
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):  # a later upload removes it
            self.file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()


@contextmanager
def _availability() -> Iterator[None]:
    """Translate errors of the file system. The message names no path, because callers of the API may read it."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        hint = (
            "free some space on its disk"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "the app and the pipeline must be allowed to write there"
        )
        raise UploadsUnavailableError(f"UPLOAD_DIR cannot be used: {reason}; {hint}") from error


def _remove_leftovers(incoming: Path) -> None:
    oldest = time.time() - LEFTOVER_SECONDS
    for file in incoming.iterdir():
        with suppress(FileNotFoundError):  # another process removes it too, or has just finished it
            if file.stat().st_mtime < oldest:
                file.unlink()
