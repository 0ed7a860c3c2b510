"""Creating courses, and uploading, listing and deleting their files."""

import hashlib
import os
import socket
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import httpx2
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from documents.uploads import INCOMING
from models.database import transaction
from models.resources import fail
from models.tables import UploadedResource
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.product import wait_until
from tests.support.servers.asgi import serving

UPLOADS = Path("data/uploads")
MAX_BYTES = 1000


@pytest.fixture(autouse=True)
def _max_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLOAD_MAX_BYTES", str(MAX_BYTES))


@pytest.fixture
def client(harness: AppHarness) -> Iterator[TestClient]:
    harness.add_course("c")
    with harness.client() as client:
        yield client


def upload(client: TestClient, name: str = "a.md", content: bytes = b"# Title", course: str = "c") -> httpx2.Response:
    return client.post("/resources", data={"course_id": course}, files={"file": (name, content)})


def error(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def kept() -> list[bytes]:
    """The contents of all files that were kept. Nothing is left of any other."""
    assert not any((UPLOADS / INCOMING).glob("*"))
    return sorted(path.read_bytes() for path in UPLOADS.glob("*") if path.is_file())


def form(*parts: tuple[str, bytes], boundary: str = "xyz") -> tuple[bytes, dict[str, str]]:
    """A body with these parts, each a `Content-Disposition` after `form-data; ` and a content; and its header."""
    lines = [f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body for head, body in parts]
    return b"\r\n".join([*lines, f"--{boundary}--\r\n".encode()]), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


COURSE = ('name="course_id"', b"c")
FILE = ('name="file"; filename="a.md"', b"text")


class TestCourses:
    def test_a_course_is_created_once(self, client: TestClient) -> None:
        response = client.post("/courses", json={"course_id": "物理/1"})
        assert response.status_code == 201
        assert response.json() == {
            "course_id": "物理/1",
            "embedding_status": "not_started",
            "embedding_progress": 0.0,
            "embedding_error": None,
            "dagster_url": None,
        }
        assert error(client.post("/courses", json={"course_id": "物理/1"})) == (409, "course_exists")
        assert client.get(f"/courses/{quote('物理/1', safe='')}/resources").json() == {"resources": []}

    @pytest.mark.parametrize("course_id", ["", " ", " c", "a\nb", "a...b", "a\0", "\ud800", 3, None, "x" * 100_000])
    def test_an_illegal_id_is_refused(self, client: TestClient, course_id: Any) -> None:
        body = b'{"course_id": "\\ud800"}' if course_id == "\ud800" else None
        answer = (
            client.post("/courses", content=body, headers={"content-type": "application/json"})
            if body
            else client.post("/courses", json={"course_id": course_id})
        )
        assert error(answer) == (422, "invalid_request")
        assert answer.json()["error"]["message"].startswith("course_id: ")
        assert len(answer.content) < 500

    def test_tables_of_stage_one_are_left_alone(self, tmp_path: Path) -> None:
        """They stood before the first migration, so their primary keys have other names."""
        harness = AppHarness(tmp_path)
        with transaction(harness.engine) as session:
            for table in ("chunk", "resource", "course"):
                session.execute(text(f"ALTER TABLE {table} RENAME TO old_{table}"))
                session.execute(text(f"CREATE TABLE {table} AS SELECT * FROM old_{table}"))  # without a key
        harness.add_course("c")
        with harness.client() as client:
            assert error(client.post("/courses", json={"course_id": "new"})) == (409, "stage_one_owns_tables")
            assert error(upload(client)) == (409, "stage_one_owns_tables")
        assert kept() == []


class TestUpload:
    def test_a_file_is_added_listed_and_deleted(self, harness: AppHarness, client: TestClient) -> None:
        response = upload(client, "week1.pdf", b"%PDF")
        assert response.status_code == 202
        resource = response.json()
        assert resource | {"resource_id": "", "created_at": "", "updated_at": ""} == {
            "resource_id": "",
            "course_id": "c",
            "name": "week1.pdf",
            "source_type": None,
            "size": 4,
            "status": "pending",
            "progress": 0.0,
            "error": None,
            "chunks": 0,
            "created_at": "",
            "updated_at": "",
        }
        path = f"/resources/{resource['resource_id']}"
        assert client.get(path).json() == resource
        assert client.get("/courses/c/resources").json() == {"resources": [resource]}
        assert [file.name for file in UPLOADS.iterdir() if file.is_file()] == [
            f"{resource['resource_id']}-{hashlib.sha256(b'%PDF').hexdigest()}"
        ], "the user's name is no part of it"
        with transaction(harness.engine) as session:
            fail(session, session.get_one(UploadedResource, resource["resource_id"]), "no text", datetime.now(UTC))
        assert client.delete(path).json()["error"] == "no text"
        assert kept() == []
        for gone in (client.get(path), client.delete(path)):
            assert error(gone) == (404, "resource_not_found")

    def test_a_file_of_the_same_name_is_replaced(self, client: TestClient) -> None:
        first = upload(client, content=b"old").json()
        upload(client, "b.md", b"other")
        assert upload(client, content=b"old").json() == first, "nothing is done for the same content"
        second = upload(client, content=b"new").json()
        assert (second["resource_id"], second["size"]) == (first["resource_id"], 3)
        assert kept() == [b"new", b"other"]

    def test_parts_may_have_any_order_and_arrive_in_pieces(self, client: TestClient) -> None:
        content = b"\r\n--xy\r\r\n--x" * 50
        body, headers = form((FILE[0], content), COURSE)
        pieces = (body[start : start + 7] for start in range(0, len(body), 7))
        assert client.post("/resources", content=pieces, headers=headers).status_code == 202
        assert kept() == [content]

    @pytest.mark.parametrize(
        ("sent", "name"),
        [
            ("../../etc/passwd", "passwd"),
            ("C:\\dir\\a b.md", "a b.md"),
            (unicodedata.normalize("NFD", "é.md"), "é.md"),
            ("第一周.pdf", "第一周.pdf"),
            ("a\tb\x00\x1b[31m.md", "a b [31m.md"),
            ("x" * 5000 + ".pdf", "x" * 251 + ".pdf"),
            ("字" * 300, "字" * 255),
        ],
    )
    def test_only_the_base_of_the_name_is_kept(self, client: TestClient, sent: str, name: str) -> None:
        body, headers = form(COURSE, (f'name="file"; filename="{sent}"', b"x"))
        assert client.post("/resources", content=body, headers=headers).json()["name"] == name

    def test_name_in_the_extended_form(self, client: TestClient) -> None:
        """As some HTTP libraries send it."""
        body, headers = form(COURSE, ('name="file"; filename="_.pdf"; filename*=UTF-8\'\'%E8%AF%BE.pdf', b"x"))
        assert client.post("/resources", content=body, headers=headers).json()["name"] == "课.pdf"

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ([COURSE], "file: is missing"),
            ([FILE], "course_id: is missing"),
            ([], "is missing"),
            ([COURSE, FILE, ('name="file"; filename="b.md"', b"x")], "file: only one"),
            ([COURSE, COURSE, FILE], "course_id: only one"),
            ([COURSE, ('name="file"', b"text")], "file: has no file name"),
            ([COURSE, ('name="file"; filename=""', b"text")], "file: has no file name"),
            ([COURSE, ('name="file"; filename=".."', b"text")], "file: its name is not"),
            ([COURSE, ('name="file"; filename="dir/"', b"text")], "file: its name is not"),
            ([COURSE, (FILE[0], b"")], "file: is empty"),
            ([COURSE, FILE, ('name="other"', b"x")], "a field besides"),
            ([COURSE, FILE, ("x=y", b"x")], "a field besides"),
            ([('name="course_id"', b"\xff"), FILE], "course_id: must be UTF-8"),
            ([('name="course_id"', b"c" * 20_000), FILE], "course_id: is too long"),
            ([COURSE, ('name="file"; filename="' + "x" * 20_000 + '"', b"text")], "not a valid form"),
        ],
    )
    def test_another_form_is_refused(self, client: TestClient, parts: Any, message: str) -> None:
        body, headers = form(*parts)
        response = client.post("/resources", content=body, headers=headers)
        assert error(response) == (422, "invalid_request")
        assert message in response.json()["error"]["message"]
        assert kept() == []

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=", b"x"),
            ("multipart/form-data; boundary=" + "x" * 300, b"x"),
            ("multipart/form-data; boundary=xyz", b""),
            ("multipart/form-data; boundary=xyz", b"no form"),
            ("multipart/form-data; boundary=xyz", form(COURSE, FILE)[0].replace(b"--xyz--", b"")),
            ("multipart/form-data; boundary=xyz", form(COURSE, FILE)[0][:40]),
            ("Multipart/Form-Data; charset=utf-7; boundary=other", form(COURSE, FILE)[0]),
        ],
    )
    def test_what_is_no_form_is_refused(self, client: TestClient, content_type: str, body: bytes) -> None:
        response = client.post("/resources", content=body, headers={"content-type": content_type})
        assert error(response) == (422, "invalid_request")
        assert kept() == []

    def test_other_bodies_are_refused(self, client: TestClient) -> None:
        for content_type in ("multipart/mixed; boundary=xyz", "application/pdf", "application/x-www-form-urlencoded"):
            response = client.post("/resources", content=form(COURSE, FILE)[0], headers={"content-type": content_type})
            assert error(response) == (415, "unsupported_media_type")

    @pytest.mark.parametrize("course_id", ["none", "a\0b", "", " c"])
    def test_unknown_course(self, client: TestClient, course_id: str) -> None:
        assert error(upload(client, course=course_id)) == (404, "course_not_found")
        assert kept() == []

    def test_full_disk(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_space(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", no_space)
        response = upload(client)
        assert error(response) == (503, "uploads_unavailable")
        assert "No space left" in response.json()["error"]["message"]
        assert kept() == []
        assert client.get("/courses/c/resources").json() == {"resources": []}

    def test_directory_that_cannot_be_used(self, client: TestClient) -> None:
        UPLOADS.parent.mkdir()
        UPLOADS.write_text("a file")
        response = upload(client)
        assert error(response) == (503, "uploads_unavailable")
        assert str(Path.cwd()) not in response.text


class TestSize:
    @pytest.mark.parametrize(("size", "status"), [(MAX_BYTES, 202), (MAX_BYTES + 1, 413), (500_000, 413)])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_limit_of_the_file(self, harness: AppHarness, size: int, status: int, chunked: bool) -> None:
        """It does not depend on the limit of other requests."""
        harness.add_course("c")
        body, headers = form(COURSE, (FILE[0], b"x" * size))
        content = (body[start : start + 5000] for start in range(0, len(body), 5000)) if chunked else body
        with harness.client(max_request_bytes=100) as client:
            response = client.post("/resources", content=content, headers=headers)
            assert response.status_code == status
            if status == 413:
                assert response.json()["error"]["code"] == "request_too_large"
                assert "UPLOAD_MAX_BYTES" in response.json()["error"]["message"]
        assert kept() == ([b"x" * size] if status == 202 else [])

    def test_forms_for_other_paths_have_their_limit(self, harness: AppHarness) -> None:
        body, headers = form(COURSE, FILE)
        with harness.client(max_request_bytes=100) as client:
            for path in ("/courses", "/embed", "/resources/", "/courses/c/search"):
                assert client.post(path, content=body, headers=headers).status_code == 413


class TestImport:
    @pytest.fixture
    def client(self, harness: AppHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
        harness.add_course("c")
        directory = tmp_path / "import"
        (directory / "dir").mkdir(parents=True)
        (directory / "dir" / "a.md").write_bytes(b"inside")
        (directory / "empty.md").touch()
        (directory / "large.md").write_bytes(b"x" * (MAX_BYTES + 1))
        (directory / "link.md").symlink_to("dir/a.md")
        (directory / "outside.md").symlink_to(tmp_path / "secret")
        (directory / "up").symlink_to(tmp_path)
        (directory / "loop").symlink_to("loop")
        os.mkfifo(directory / "pipe")
        (tmp_path / "secret").write_bytes(b"outside")
        (tmp_path / "import-of-others").mkdir()
        (tmp_path / "import-of-others" / "b.md").write_bytes(b"outside")
        monkeypatch.setenv("IMPORT_DIR", str(directory))
        with harness.client() as client:
            yield client

    @pytest.mark.parametrize(("path", "name"), [("dir/a.md", "a.md"), ("link.md", "link.md"), ("./dir//a.md", "a.md")])
    def test_file_below_the_directory(self, client: TestClient, path: str, name: str) -> None:
        response = client.post("/resources", json={"course_id": "c", "path": path})
        assert (response.status_code, response.json()["name"]) == (202, name)
        assert kept() == [b"inside"]

    def test_all_other_paths_get_the_same_answer(self, client: TestClient, tmp_path: Path) -> None:
        """So it does not tell what else is on the disk."""
        answers = {
            client.post("/resources", json={"course_id": "c", "path": path}).text
            for path in [
                "none.md",
                "dir",
                "dir/",
                ".",
                "pipe",
                "loop",
                "outside.md",
                "up/secret",
                "up/import-of-others/b.md",
                "../secret",
                "../none",
                "dir/../dir/a.md",
                "dir/a.md/b",
                str(tmp_path / "secret"),
                str(tmp_path / "import" / "dir" / "a.md"),
                "/dev/zero",
                "/etc/shadow",
                "a\0b",
                "x" * 10_000,
            ]
        }
        [answer] = answers
        assert "IMPORT_DIR" in answer
        assert str(tmp_path) not in answer
        assert kept() == []

    def test_size(self, client: TestClient) -> None:
        assert error(client.post("/resources", json={"course_id": "c", "path": "large.md"}))[0] == 413
        assert error(client.post("/resources", json={"course_id": "c", "path": "empty.md"}))[0] == 422
        assert error(client.post("/resources", json={"course_id": "x", "path": "link.md"}))[0] == 404
        assert kept() == []

    def test_without_a_directory_no_path_is_allowed(self, harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("IMPORT_DIR", raising=False)
        harness.add_course("c")
        with harness.client() as client:
            response = client.post("/resources", json={"course_id": "c", "path": "a.md"})
        assert error(response) == (422, "invalid_request")
        assert "IMPORT_DIR is not set" in response.text


@pytest.mark.parametrize("course_id", ["a/b", "a/resources", "resources", "x/chunks/y", "课程 1"])
def test_files_of_a_course_with_any_id(harness: AppHarness, client: TestClient, course_id: str) -> None:
    harness.add_course(course_id)
    assert upload(client, course=course_id).status_code == 202
    [resource] = client.get(f"/courses/{quote(course_id, safe='')}/resources").json()["resources"]
    assert resource["course_id"] == course_id
    assert error(client.get("/courses/none/resources")) == (404, "course_not_found")


@pytest.mark.parametrize("resource_id", ["none", "a/b", "%00", "%FF", "..%2F..%2Fetc", "x" * 5000])
def test_unknown_file(client: TestClient, resource_id: str) -> None:
    for response in (client.get(f"/resources/{resource_id}"), client.delete(f"/resources/{resource_id}")):
        assert error(response) == (404, "resource_not_found")
        assert len(response.content) < 500


def test_files_need_the_token(harness: AppHarness) -> None:
    with harness.client(internal_token="secret") as client:
        for response in (upload(client), client.get("/courses/c/resources"), client.delete("/resources/x")):
            assert error(response) == (401, "unauthorized")


@pytest.mark.integration
class TestOverHttp:
    @pytest.fixture
    def url(self, harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setenv("UPLOAD_MAX_BYTES", str(100 * 2**20))
        harness.add_course("c")
        with serving(create_app(SearchSettings(), harness.services)) as url:
            yield url

    def test_client_that_leaves_in_the_middle(self, url: str, caplog: pytest.LogCaptureFixture) -> None:
        body, headers = form(COURSE, (FILE[0], b"x" * 3_000_000))
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port)) as connection:
            head = f"POST /resources HTTP/1.1\r\nHost: localhost\r\nContent-Type: {headers['content-type']}\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:2_500_000])
            incoming = UPLOADS / INCOMING
            wait_until(
                lambda: any(file.stat().st_size for file in incoming.glob("*")),
                LIMIT_SECONDS,
                lambda: "nothing written",
            )
        wait_until(lambda: not any(incoming.glob("*")), LIMIT_SECONDS, lambda: "the file is left")
        assert kept() == []
        assert httpx.get(f"{url}/courses/c/resources").json() == {"resources": []}
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    def test_large_file(self, url: str) -> None:
        content = os.urandom(5_000_001)
        response = httpx.post(
            f"{url}/resources", data={"course_id": "c"}, files={"file": ("a.bin", content)}, timeout=LIMIT_SECONDS
        )
        assert response.json()["size"] == len(content)
        assert kept() == [content]
