"""Trigger, status and list: the course row over HTTP."""

import itertools
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from models import course_state, courses
from models.database import IDLE_SECONDS, DatabaseUnavailableError, transaction
from search_api.courses.service import Courses
from tests.search_api.backstage import Backstage


def test_status(backstage: Backstage, client: TestClient) -> None:
    backstage.add_course("c", "failed", embedding_progress=0.5, embedding_error="the disk was full")
    assert client.get("/courses/c/embedding_status").json() == {
        "course_id": "c",
        "status": "failed",
        "progress": 0.5,
        "error": "the disk was full",
    }


def test_list(backstage: Backstage, client: TestClient) -> None:
    assert client.get("/courses").json() == {"courses": []}
    backstage.add_course("b", "running", embedding_progress=0.25)
    backstage.add_course("a", "not_started")
    assert client.get("/courses").json() == {
        "courses": [
            {"course_id": "a", "embedding_status": "not_started", "embedding_progress": 0.0, "embedding_error": None},
            {"course_id": "b", "embedding_status": "running", "embedding_progress": 0.25, "embedding_error": None},
        ]
    }


def test_a_state_written_by_somebody_else_does_not_break_the_list(backstage: Backstage, client: TestClient) -> None:
    backstage.add_course("a", "archived")
    assert client.get("/courses").json()["courses"][0]["embedding_status"] == "archived"


@pytest.mark.parametrize("status", ["not_started", "pending", "failed", "done"])
def test_trigger(backstage: Backstage, client: TestClient, status: str) -> None:
    backstage.add_course("c", status, embedding_progress=0.5, embedding_error="earlier")
    response = client.post("/courses/c/embed")
    assert (response.status_code, response.json()) == (200, {"status": "embedding_started"})
    state = client.get("/courses/c/embedding_status").json()
    assert state == {"course_id": "c", "status": "pending", "progress": 0.0, "error": None}
    with transaction(backstage.engine) as session:
        course = courses.get_course(session, "c")
    assert course is not None
    assert course.embedding_requested_at is not None, "this is what the pipeline looks for"


def test_trigger_while_running(backstage: Backstage, client: TestClient) -> None:
    backstage.add_course("c", "running", embedding_progress=0.5)
    response = client.post("/courses/c/embed")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "already_running")
    assert client.get("/courses/c/embedding_status").json()["progress"] == 0.5


def test_a_body_is_ignored_by_the_trigger(backstage: Backstage, client: TestClient) -> None:
    backstage.add_course("c")
    assert client.post("/courses/c/embed", content=b"{").status_code == 200


def test_triggers_never_take_a_course_from_the_run_that_claims_it(backstage: Backstage, client: TestClient) -> None:
    """Looking first and writing then would, now and again, set a course that has just begun back to pending."""
    backstage.add_course("c")
    statuses: list[int] = []

    def trigger_until_refused() -> None:
        while not statuses or statuses[-1] == 200:
            statuses.append(client.post("/courses/c/embed").status_code)

    triggers = [threading.Thread(target=trigger_until_refused) for _ in range(4)]
    for thread in triggers:
        thread.start()
    while len(statuses) < 20:
        pass
    with transaction(backstage.engine) as session:
        assert course_state.claim_course(session, "c", "run-1")
    for thread in triggers:
        thread.join()
    assert set(statuses) == {200, 409}
    assert client.get("/courses/c/embedding_status").json()["status"] == "running"


COURSE_IDS = [
    "1",
    "abc123",
    "a/b c",
    "a//b",
    "课程 1",
    "x" * 600,
    "a+b?c#d&e=f",
    "embed",
    "1/search",
    "1/embedding_status/",
    "'; DROP TABLE course; --",
]


@pytest.mark.parametrize("course_id", COURSE_IDS)
def test_ids_are_opaque_text(backstage: Backstage, client: TestClient, course_id: str) -> None:
    path = f"/courses/{quote(course_id, safe='')}"
    assert client.get(f"{path}/embedding_status").json()["error"]["code"] == "course_not_found"
    assert client.post(f"{path}/embed").json()["error"]["code"] == "course_not_found"
    assert client.post(f"{path}/search", json={"query": "x"}).json()["error"]["code"] == "course_not_found"
    backstage.add_searchable_course(course_id, "text")
    assert client.post(f"{path}/search", json={"query": "x"}).json()["results"][0]["metadata"]["course_id"] == course_id
    assert client.post(f"{path}/embed").status_code == 200
    assert client.get(f"{path}/embedding_status").json()["course_id"] == course_id


@pytest.mark.parametrize("escaped", ["", "%00", "a%00b", "%ED%A0%80", "%FF", "%C0%80", "%01", "%0A", "%", "x" * 60_000])
def test_ids_nobody_can_have(client: TestClient, escaped: str) -> None:
    for response in (
        client.get(f"/courses/{escaped}/embedding_status"),
        client.post(f"/courses/{escaped}/embed"),
        client.post(f"/courses/{escaped}/search", json={"query": "x"}),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] in ("course_not_found", "not_found")
        assert len(response.content) < 500


@pytest.mark.parametrize("path", ["/courses/", "/courses/c", "/courses/c/search/", "/index.html", "/redoc", "/embed/"])
def test_other_paths_are_not_found(client: TestClient, path: str) -> None:
    response = client.get(path, follow_redirects=False)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_database_moved_away_and_back(backstage: Backstage, client: TestClient) -> None:
    """Without a restart: the app is not the first to be started after an outage."""
    backstage.add_searchable_course("c", "text")
    moved = backstage.database.with_name("moved")
    with sqlite3.connect(backstage.database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    backstage.database.rename(moved)
    for response in (
        client.get("/courses"),
        client.get("/courses/c/embedding_status"),
        client.post("/courses/c/embed"),
        client.post("/courses/c/search", json={"query": "x"}),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    assert not backstage.database.exists(), "nobody may leave an empty database where the real one belongs"
    moved.rename(backstage.database)
    assert client.post("/courses/c/search", json={"query": "x"}).status_code == 200


class TestWhatASearchSees:
    """A search never sees a row older than the last commit, though it does not open the database for each."""

    @pytest.fixture
    def courses(self, backstage: Backstage) -> Iterator[Courses]:
        backstage.add_course("c")
        with closing(Courses(backstage.catalogue_settings)) as courses:
            yield courses

    @pytest.mark.parametrize("stays_open", [True, False])
    def test_every_commit_is_seen_at_once(self, backstage: Backstage, courses: Courses, stays_open: bool) -> None:
        pauses = itertools.cycle([0, 0, 2 * IDLE_SECONDS, IDLE_SECONDS / 2, 0, 1.5 * IDLE_SECONDS])
        writer = sqlite3.connect(backstage.database, isolation_level=None)
        for generation, pause in zip(range(1, 40), pauses, strict=False):
            writer.execute("UPDATE course SET embedding_generation = ?", [generation])
            if not stays_open:
                writer.close()
            assert courses.published("c").embedding_generation == generation
            time.sleep(pause)
            assert courses.published("c").embedding_generation == generation
            if not stays_open:
                writer = sqlite3.connect(backstage.database, isolation_level=None)
        writer.close()

    def test_a_database_left_alone_is_not_opened(
        self, backstage: Backstage, courses: Courses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        time.sleep(2 * IDLE_SECONDS)
        courses.published("c")
        monkeypatch.setattr("sqlite3.connect", lambda *_, **__: pytest.fail("the file was opened"))
        assert courses.published("c").id == "c"

    def test_another_file_in_its_place_is_seen(self, backstage: Backstage, courses: Courses, tmp_path: Path) -> None:
        time.sleep(2 * IDLE_SECONDS)
        assert courses.published("c").id == "c"
        backstage.database.rename(tmp_path / "away.db")
        with pytest.raises(DatabaseUnavailableError):
            courses.published("c")
        shutil.copy2(tmp_path / "away.db", tmp_path / "other.db")
        with sqlite3.connect(tmp_path / "other.db") as other:
            other.execute("UPDATE course SET embedding_generation = 9")
        other.close()
        (tmp_path / "other.db").rename(backstage.database)
        assert courses.published("c").embedding_generation == 9
