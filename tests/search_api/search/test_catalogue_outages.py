"""A published course is searched while the catalogue does not answer, by what was read last."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from sqlmodel import col
from starlette.testclient import TestClient

from models.database import DatabaseNotMigratedError, DatabaseUnavailableError, transaction
from models.tables import Course
from search_api.courses import service
from search_api.courses.service import Courses
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.search_api.search.test_serving import publish


@contextmanager
def catalogue_away(harness: AppHarness) -> Iterator[None]:
    moved = harness.database.rename(harness.database.with_name("moved"))
    yield
    moved.rename(harness.database)


def ask(client: TestClient, path: str = "/courses/c/search", **body: Any) -> tuple[int, Any]:
    response = client.post(path, json={"query": "copper", **body})
    return response.status_code, response.json()


def test_published_courses_are_searched_by_what_was_read_last(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.0)
    harness.add_searchable_course("c", "copper")
    publish(harness, "copper")
    with harness.client() as client:
        current = ask(client)[1]
        together = ask(client, "/search", courses=["c"])[1]
        harness.app_services.courses.all_published()  # the thread of the snapshots reads it every few seconds
        reason = "the catalogue is unavailable, so this may not be the newest generation: "
        with catalogue_away(harness):
            status, answer = ask(client)
            assert (status, answer["stale"], answer["degraded"][: len(reason)]) == (200, True, reason)
            assert answer["results"] == current["results"]
            for body in ({"courses": ["c"]}, {}):
                status, answer = ask(client, "/search", **body)
                assert (status, answer["stale"], answer["degraded"][: len(reason)]) == (200, True, reason)
                assert answer["results"] == together["results"]
            chunk = client.get("/courses/c/chunks/chunk-0")
            assert (chunk.status_code, chunk.json()["stale"]) == (200, True)
            for path, unknown in (("/courses/other/search", {}), ("/search", {"courses": ["c", "other"]})):
                status, answer = ask(client, path, **unknown)
                assert (status, answer["error"]["code"]) == (503, "database_unavailable")
        assert ask(client)[1] == current
    with harness.client(serve_while_reembedding=False) as client:
        ask(client)
        harness.app_services.courses.all_published()
        with catalogue_away(harness):
            assert ask(client)[0] == 503, "the strict mode has to know that the course is done"


def test_what_a_search_has_seen_is_not_forgotten_in_an_outage(harness: AppHarness) -> None:
    """Otherwise a search would go back to an older generation, or show a course that it has just said is deleted."""
    for course_id in ("c", "deleted", "together"):
        harness.add_searchable_course(course_id, "copper")
        publish(harness, "copper", course_id=course_id)
    with harness.client() as client:
        harness.app_services.courses.all_published()
        publish(harness, "copper and tin")
        with transaction(harness.engine) as session:
            session.execute(delete(Course).where(col(Course.id).in_(["deleted", "together"])))
        current = ask(client)[1]
        assert ask(client, "/courses/deleted/search")[0] == 404
        assert ask(client, "/search", courses=["c", "together"])[0] == 200
        with catalogue_away(harness):
            answer = ask(client)[1]
            assert (answer["generation"], answer["results"]) == (current["generation"], current["results"])
            assert ask(client, "/courses/deleted/search")[0] == 503
            assert ask(client, "/courses/together/search")[0] == 503


class TestUnlessAway:
    """Who asks a catalogue that does not answer, and for how long its last rows are used."""

    @pytest.fixture
    def courses(self, tmp_path: Path) -> Courses:
        harness = AppHarness(tmp_path)
        harness.add_course("c")
        courses = Courses(harness.catalogue_settings)
        courses.all_published()
        return courses

    def test_one_caller_at_a_time_tries_again(self, courses: Courses, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "RETRY_SECONDS", 0.0)
        asked, reading, away = threading.Event(), threading.Event(), DatabaseUnavailableError("locked")

        def fails() -> str:
            asked.set()
            assert reading.wait(LIMIT_SECONDS)
            raise away

        reading.set()
        assert courses.unless_away(fails, lambda _: "last") == ("last", "locked")
        reading.clear()
        asked.clear()
        trying = threading.Thread(target=courses.unless_away, args=(fails, lambda _: "last"))
        trying.start()
        assert asked.wait(LIMIT_SECONDS)
        assert courses.unless_away(lambda: pytest.fail("it was asked"), lambda _: "last") == ("last", "locked")
        reading.set()
        trying.join()
        assert courses.unless_away(lambda: "current", lambda _: "last") == ("current", "")

    def test_nobody_waits_for_a_read_that_hangs(self, courses: Courses, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "PATIENCE_SECONDS", 0.0)
        asked, reading = threading.Event(), threading.Event()

        def hangs() -> str:
            asked.set()
            assert reading.wait(LIMIT_SECONDS)
            return "current"

        waiting = threading.Thread(target=courses.unless_away, args=(hangs, lambda _: "last"))
        waiting.start()
        assert asked.wait(LIMIT_SECONDS)
        rows, outage = courses.unless_away(lambda: pytest.fail("it was asked"), lambda _: "last")
        assert (rows, outage) == ("last", "it has not answered for 0 s")
        reading.set()
        waiting.join()

    def test_other_errors_old_rows_and_unknown_ones_are_errors(
        self, courses: Courses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(error: Exception) -> str:
            raise error

        with pytest.raises(DatabaseNotMigratedError):
            courses.unless_away(lambda: fails(DatabaseNotMigratedError("alembic")), lambda _: "last")
        with pytest.raises(DatabaseUnavailableError):
            courses.unless_away(lambda: fails(DatabaseUnavailableError("away")), lambda _: None)
        monkeypatch.setattr(service, "OLDEST_SECONDS", 0.0)
        with pytest.raises(DatabaseUnavailableError):
            courses.unless_away(lambda: fails(DatabaseUnavailableError("away")), lambda _: "last")
