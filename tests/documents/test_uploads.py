"""Files in UPLOAD_DIR: complete under their name, or not there."""

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from documents.uploads import INCOMING, LEFTOVER_SECONDS, FileTooLargeError, Uploads, UploadsUnavailableError

SHA256 = hashlib.sha256(b"text").hexdigest()


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "new" / "uploads")


def files(uploads: Uploads) -> dict[str, bytes]:
    return {
        str(path.relative_to(uploads.directory)): path.read_bytes()
        for path in uploads.directory.rglob("*")
        if path.is_file()
    }


def test_a_kept_file_has_a_name_of_id_and_digest(uploads: Uploads) -> None:
    with uploads.save(io.BytesIO(b"text"), 4) as upload:
        assert (upload.size, upload.sha256) == (4, SHA256)
        upload.finish()
        path = uploads.keep(upload, "../a/1")
    assert path == uploads.path("../a/1", SHA256)
    assert files(uploads) == {f"..%2Fa%2F1-{SHA256}": b"text"}
    assert list(uploads.files()) == [path]
    uploads.remove("../a/1", SHA256)
    uploads.remove("../a/1", SHA256)
    assert files(uploads) == {}


def test_an_error_leaves_nothing(uploads: Uploads) -> None:
    class Broken(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            raise OSError("the disk is gone")

    with pytest.raises(FileTooLargeError, match="UPLOAD_MAX_BYTES"):
        uploads.save(io.BytesIO(b"text"), 3)
    with pytest.raises(OSError, match="disk is gone"):
        uploads.save(Broken(), 3)
    with pytest.raises(ZeroDivisionError), uploads.receive(3):
        _ = 1 / 0
    assert files(uploads) == {}


def test_earlier_content_is_removed(uploads: Uploads) -> None:
    for resource_id in ("1", "1-1"):
        for content in (b"old", b"text"):
            with uploads.save(io.BytesIO(content), 10) as upload:
                uploads.keep(upload, resource_id)
    uploads.remove_others("1", SHA256)
    assert sorted(files(uploads).values()) == [b"old", b"text", b"text"], "that of the other resource stays"


def test_leftovers_of_interrupted_uploads_are_removed_after_a_day(uploads: Uploads) -> None:
    incoming = uploads.directory / INCOMING
    incoming.mkdir(parents=True)
    for name, age in (("old", LEFTOVER_SECONDS + 60), ("new", LEFTOVER_SECONDS - 60)):
        (incoming / name).touch()
        changed_at = time.time() - age
        os.utime(incoming / name, (changed_at, changed_at))
    with uploads.receive(1):
        pass
    assert files(uploads) == {f"{INCOMING}/new": b""}


def test_a_directory_that_cannot_be_used_is_named_without_its_path(uploads: Uploads) -> None:
    uploads.directory.parent.mkdir()
    uploads.directory.touch()
    with pytest.raises(UploadsUnavailableError, match="UPLOAD_DIR cannot be used") as raised:
        uploads.receive(1)
    assert str(uploads.directory) not in str(raised.value)
