"""`course-search add`: files to a course, without the search app."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.courses import wait_for_courses
from cli.main import app
from models.chunks import chunk_pages
from models.course_state import claim_course, fail_course, publish, record_attempt
from models.courses import get_course, list_courses
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.resources import NewChunk, active_resources, claim, fail, resources_of, succeed
from models.tables import Course, UploadedResource
from tests.support.catalogue import Catalogue

UPLOADS = Path("data/uploads")
Reader = Callable[..., AbstractContextManager[None]]


def add(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["add", *arguments])


@pytest.fixture
def files(catalogue: Catalogue) -> Path:
    directory = Path("files")
    directory.mkdir()
    for name in ("week10.md", "week2.md", "Week1.md"):
        (directory / name).write_text(f"# {name}")
    return directory


def rows(catalogue: Catalogue) -> list[UploadedResource]:
    with catalogue.session() as session:
        return resources_of(session, "c")


@pytest.fixture
def reader(catalogue: Catalogue) -> Reader:
    """Context manager: a thread reads every file, then embeds its course; arguments are failures by file or course."""

    @contextmanager
    def running(**reasons: str) -> Iterator[None]:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                now = datetime.now(UTC)
                with catalogue.session() as session:
                    for file in active_resources(session):
                        claimed = claim(session, file.resource_id, "run", now)
                        assert claimed is not None
                        if reason := reasons.get(Path(file.name).stem):
                            fail(session, claimed, reason, now)
                        else:
                            chunk = NewChunk(file.name, 1, 1, "en", {"order_in_section": 0})
                            succeed(session, claimed, [chunk], source_type="markdown", now=now)
                    for course in list_courses(session):
                        content = FingerprintBuilder().add_all(chunk_pages(session, course.id)).build("m")
                        tried = (course.embedding_attempted, course.embedding_fingerprint)
                        is_new = content.chunks and str(content) not in tried
                        if is_new and not active_resources(session) and claim_course(session, course.id, "run"):
                            record_attempt(session, course.id, "run", str(content))
                            if course.id in reasons:
                                fail_course(session, course.id, "run", reasons[course.id])
                            else:
                                publish(session, course.id, "run", str(content))
                time.sleep(0.01)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    return running


def test_files_are_added_in_natural_order_to_a_new_course(catalogue: Catalogue, files: Path) -> None:
    result = add("c", *map(str, files.iterdir()))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["Week1.md: pending", "week2.md: pending", "week10.md: pending"]
    assert "course-search up" in result.stderr
    assert [file.name for file in rows(catalogue)] == ["Week1.md", "week2.md", "week10.md"]
    assert sorted(path.read_text() for path in UPLOADS.glob("*-*")) == ["# Week1.md", "# week10.md", "# week2.md"]


def test_a_changed_file_is_replaced(catalogue: Catalogue, files: Path) -> None:
    path = files / "week2.md"
    add("c", str(path))
    [first] = rows(catalogue)
    path.write_text("changed")
    result = add("c", str(path), "--json")
    assert json.loads(result.stdout)["resources"][0]["size"] == len("changed")
    [second] = rows(catalogue)
    assert (second.resource_id, second.sha256) != (first.resource_id, first.sha256)
    assert second.resource_id == first.resource_id
    assert [file.read_text() for file in UPLOADS.glob("*-*")] == ["changed"]


def test_nothing_is_added_if_one_file_cannot_be(
    catalogue: Catalogue, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLOAD_MAX_BYTES", "10")
    (files / "empty.md").touch()
    (files / "large.md").write_bytes(b"x" * 11)
    (files / "dir" / "week2.md").mkdir(parents=True)
    (files / "other").mkdir()
    (files / "other" / "week2.md").write_text("x")
    names = ("week2.md", "none.md", "empty.md", "large.md", "dir", "other/week2.md")
    result = add("c", *(str(files / name) for name in names))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "files/none.md: No such file or directory",
        "files/empty.md: is empty",
        "files/large.md: is larger than 10 bytes (UPLOAD_MAX_BYTES)",
        "files/dir: is not a file; name the files themselves",
        "files/other/week2.md: another of these files has the same name, and would be replaced",
        "Nothing was added.",
    ]
    assert not UPLOADS.exists()
    with catalogue.session() as session:
        assert get_course(session, "c") is None


def test_illegal_course_id(catalogue: Catalogue, files: Path) -> None:
    result = add("a...b", str(files / "week2.md"))
    assert result.exit_code == 1
    assert "must not contain '...'" in result.stderr
    assert not UPLOADS.exists()


def test_wait_ends_when_the_course_is_embedded(catalogue: Catalogue, files: Path, reader: Reader) -> None:
    with reader():
        result = add("c", str(files / "week2.md"), "--wait")
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines() == ["week2.md: pending", "week2.md: succeeded (1 chunk)", "c: done"]
        result = add("c", str(files / "Week1.md"), "--wait", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["resources"][0]["status"] == "succeeded"
    with catalogue.session() as session:
        course = get_course(session, "c")
    assert course is not None
    assert course.embedding_generation == 2, "it waited for the new content"


def test_wait_ends_although_others_add_files_meanwhile(
    catalogue: Catalogue, files: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*arguments: Any, **options: Any) -> dict[str, Course | None]:
        assert add("c", str(files / "Week1.md")).exit_code == 0
        while True:
            with catalogue.session() as session:
                course = get_course(session, "c")
            if course and (published := CourseFingerprint.parse(course.embedding_fingerprint)) and published.chunks > 1:
                return wait_for_courses(*arguments, **options)
            time.sleep(0.01)

    monkeypatch.setattr("cli.commands.add.wait_for_courses", wait)
    with reader():
        result = add("c", str(files / "week2.md"), "--wait")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "c: done"


def test_wait_reports_a_file_that_failed(catalogue: Catalogue, files: Path, reader: Reader) -> None:
    with reader(week2="no text\nlayer"):
        result = add("c", *map(str, files.iterdir()), "--wait")
    assert result.exit_code == 1
    assert "week2.md: failed: no text layer" in result.stdout.splitlines()
    assert result.stdout.splitlines()[-1] == "c: done"


def test_wait_reports_a_course_that_failed(catalogue: Catalogue, files: Path, reader: Reader) -> None:
    with reader(c="no model"):
        result = add("c", str(files / "week2.md"), "--wait")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "c: failed: no model"


def test_status_shows_the_files_that_are_not_read(catalogue: Catalogue, files: Path) -> None:
    add("c", str(files / "Week1.md"), str(files / "week2.md"))
    with catalogue.session() as session:
        fail(session, active_resources(session)[1], "no text", datetime.now(UTC))
    output = CliRunner().invoke(app, ["status"]).stdout
    assert "Files of c that are not read:\n  Week1.md: pending\n  week2.md: failed: no text\n" in output
    [course] = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)["courses"]
    assert [(file["name"], file["error"]) for file in course["unfinished_files"]] == [
        ("Week1.md", None),
        ("week2.md", "no text"),
    ]
