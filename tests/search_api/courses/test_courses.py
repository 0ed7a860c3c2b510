"""The course routes: trigger an embedding, its status, the list of courses."""

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
from models.database import IDLE_SECONDS, DatabaseUnavailableError, file_stamp, transaction
from orchestration.partitions import COLLECTION
from search_api.courses.service import Courses
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.product import wait_until


def test_status_returns_the_course_row(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("c", "failed", embedding_progress=0.5, embedding_error="the disk was full")
    assert client.get("/courses/c/embedding_status").json() == {
        "course_id": "c",
        "status": "failed",
        "progress": 0.5,
        "error": "the disk was full",
        "due": False,
    }


def test_list_returns_all_courses_by_id(harness: AppHarness, client: TestClient) -> None:
    assert client.get("/courses").json() == {"courses": [], "next_cursor": None, "total": 0}
    harness.add_course("b", "running", embedding_progress=0.25)
    harness.add_course("a", "not_started")
    rest = {"embedding_error": None, "dagster_url": None}
    assert client.get("/courses").json() == {
        "courses": [
            {"course_id": "a", "embedding_status": "not_started", "embedding_progress": 0.0} | rest,
            {"course_id": "b", "embedding_status": "running", "embedding_progress": 0.25} | rest,
        ],
        "next_cursor": None,
        "total": 2,
    }


def test_list_can_be_read_in_pages_and_searched(harness: AppHarness, client: TestClient) -> None:
    for number in range(5):
        harness.add_course(f"Course-{number}/课", "done" if number % 2 else "failed")
    harness.add_course("100%_a", "done")
    found, cursor = [], None
    while True:
        page = client.get("/courses", params={"limit": 2, "search": "course", **({"cursor": cursor} if cursor else {})})
        found += [course["course_id"] for course in page.json()["courses"]]
        assert page.json()["total"] == 5
        assert len(page.json()["courses"]) <= 2
        if (cursor := page.json()["next_cursor"]) is None:
            break
    assert found == [f"Course-{number}/课" for number in range(5)]
    for params, expected in [
        ({"status": "done"}, ["100%_a", "Course-1/课", "Course-3/课"]),
        ({"status": "failed", "search": "4"}, ["Course-4/课"]),
        ({"search": "%"}, ["100%_a"]),
        ({"search": "0_"}, []),
        ({"search": "课", "limit": "1"}, ["Course-0/课"]),
        ({"search": "\0"}, []),
    ]:
        answer = client.get("/courses", params=params).json()
        assert [course["course_id"] for course in answer["courses"]] == expected


@pytest.mark.parametrize(
    "params", [{"cursor": "§"}, {"cursor": "abc"}, {"cursor": "/w=="}, {"limit": "0"}, {"status": "archived"}]
)
def test_illegal_parameter_of_the_list_is_refused(client: TestClient, params: dict[str, str]) -> None:
    response = client.get("/courses", params=params)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    assert next(iter(params)) in response.json()["error"]["message"]


def test_list_links_to_the_partition_in_dagster(harness: AppHarness) -> None:
    harness.add_course("a/b c")
    with harness.client(dagster_url="http://dagster.example/") as client:
        [course] = client.get("/courses").json()["courses"]
    asset = COLLECTION.to_user_string()
    expected = f"http://dagster.example/assets/{asset}?view=partitions&partition=a%2Fb%20c"
    assert course["dagster_url"] == expected


def test_list_shows_unknown_status_unchanged(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("a", "archived")
    assert client.get("/courses").json()["courses"][0]["embedding_status"] == "archived"


@pytest.mark.parametrize("status", ["not_started", "pending", "failed", "done"])
def test_trigger_sets_course_to_pending(harness: AppHarness, client: TestClient, status: str) -> None:
    harness.add_course("c", status, embedding_progress=0.5, embedding_error="earlier")
    response = client.post("/courses/c/embed")
    assert (response.status_code, response.json()) == (200, {"status": "embedding_started"})
    state = client.get("/courses/c/embedding_status").json()
    assert state == {"course_id": "c", "status": "pending", "progress": 0.0, "error": None, "due": True}
    with transaction(harness.engine) as session:
        course = courses.get_course(session, "c")
    assert course is not None
    assert course.embedding_requested_at is not None, "the pipeline reads this column"


def test_trigger_is_refused_while_course_is_running(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("c", "running", embedding_progress=0.5, embedding_run_id="run")
    response = client.post("/courses/c/embed")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "already_running")
    assert client.get("/courses/c/embedding_status").json()["progress"] == 0.5


def test_trigger_ignores_the_body(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("c")
    assert client.post("/courses/c/embed", content=b"{").status_code == 200


def test_concurrent_triggers_never_reset_a_claimed_course(harness: AppHarness, client: TestClient) -> None:
    """A trigger that read the status and then wrote would sometimes reset a course that was claimed in between."""
    harness.add_course("c")
    statuses: list[int] = []

    def trigger_until_refused() -> None:
        while not statuses or statuses[-1] == 200:
            statuses.append(client.post("/courses/c/embed").status_code)

    triggers = [threading.Thread(target=trigger_until_refused) for _ in range(4)]
    for thread in triggers:
        thread.start()
    wait_until(lambda: len(statuses) >= 20, LIMIT_SECONDS, lambda: f"{len(statuses)} triggers", every=0.001)
    with transaction(harness.engine) as session:
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
def test_course_id_may_be_any_text(harness: AppHarness, client: TestClient, course_id: str) -> None:
    path = f"/courses/{quote(course_id, safe='')}"
    assert client.get(f"{path}/embedding_status").json()["error"]["code"] == "course_not_found"
    assert client.post(f"{path}/embed").json()["error"]["code"] == "course_not_found"
    assert client.post(f"{path}/search", json={"query": "x"}).json()["error"]["code"] == "course_not_found"
    harness.add_searchable_course(course_id, "text")
    assert client.post(f"{path}/search", json={"query": "x"}).json()["results"][0]["metadata"]["course_id"] == course_id
    assert client.post(f"{path}/embed").status_code == 200
    assert client.get(f"{path}/embedding_status").json()["course_id"] == course_id


@pytest.mark.parametrize("escaped", ["", "%00", "a%00b", "%ED%A0%80", "%FF", "%C0%80", "%01", "%0A", "%", "x" * 60_000])
def test_invalid_course_id_is_not_found(client: TestClient, escaped: str) -> None:
    for response in (
        client.get(f"/courses/{escaped}/embedding_status"),
        client.post(f"/courses/{escaped}/embed"),
        client.post(f"/courses/{escaped}/search", json={"query": "x"}),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] in ("course_not_found", "not_found")
        assert len(response.content) < 500


@pytest.mark.parametrize("path", ["/courses/", "/courses/c", "/courses/c/search/", "/index.html", "/redoc", "/embed/"])
def test_unknown_path_is_not_found(client: TestClient, path: str) -> None:
    response = client.get(path, follow_redirects=False)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_app_works_again_after_the_database_file_was_missing(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "text")
    moved = harness.database.with_name("moved")
    with sqlite3.connect(harness.database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    harness.database.rename(moved)
    for response in (
        client.get("/courses"),
        client.get("/courses/c/embedding_status"),
        client.post("/courses/c/embed"),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    assert not harness.database.exists(), "no call may create an empty database"
    moved.rename(harness.database)
    assert client.post("/courses/c/search", json={"query": "x"}).status_code == 200


def wait_until_idle(harness: AppHarness) -> None:
    """Wait until the database counts as idle, so that rows that are read from it are cached."""
    wait_until(
        lambda: file_stamp(harness.engine) is not None, LIMIT_SECONDS, lambda: "it was written recently", every=0.01
    )


class TestPublishedCourse:
    """`Courses.published` never returns a row older than the last commit, although it caches rows."""

    @pytest.fixture
    def courses(self, harness: AppHarness) -> Iterator[Courses]:
        harness.add_course("c")
        with closing(Courses(harness.catalogue_settings)) as courses:
            yield courses

    @pytest.mark.parametrize("keeps_connection", [True, False])
    def test_every_commit_is_visible_immediately(
        self, harness: AppHarness, courses: Courses, keeps_connection: bool
    ) -> None:
        pauses = itertools.cycle([0, 0, 2 * IDLE_SECONDS, IDLE_SECONDS / 2, 0, 1.5 * IDLE_SECONDS])
        writer = sqlite3.connect(harness.database, isolation_level=None)
        for generation, pause in zip(range(1, 40), pauses, strict=False):
            writer.execute("UPDATE course SET embedding_generation = ?", [generation])
            if not keeps_connection:
                writer.close()
            assert courses.published("c").embedding_generation == generation
            time.sleep(pause)
            assert courses.published("c").embedding_generation == generation
            if not keeps_connection:
                writer = sqlite3.connect(harness.database, isolation_level=None)
        writer.close()

    def test_unchanged_database_is_not_opened(
        self, harness: AppHarness, courses: Courses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wait_until_idle(harness)
        courses.published("c")
        monkeypatch.setattr("sqlite3.connect", lambda *_, **__: pytest.fail("the file was opened"))
        assert courses.published("c").id == "c"

    def test_replaced_database_file_is_read(self, harness: AppHarness, courses: Courses, tmp_path: Path) -> None:
        wait_until_idle(harness)
        assert courses.published("c").id == "c"
        harness.database.rename(tmp_path / "moved.db")
        with pytest.raises(DatabaseUnavailableError):
            courses.published("c")
        shutil.copy2(tmp_path / "moved.db", tmp_path / "other.db")
        with sqlite3.connect(tmp_path / "other.db") as other:
            other.execute("UPDATE course SET embedding_generation = 9")
        other.close()
        (tmp_path / "other.db").rename(harness.database)
        assert courses.published("c").embedding_generation == 9
