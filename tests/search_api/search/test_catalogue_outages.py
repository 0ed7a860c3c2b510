"""A published course is searched while the catalogue does not answer, by what was read last."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from sqlmodel import col
from starlette.testclient import TestClient

from models import database
from models.database import DatabaseNotMigratedError, DatabaseUnavailableError, Engine, Session, transaction
from models.tables import Course
from search_api.courses import service
from search_api.courses.service import Courses
from search_api.http import waits
from search_api.http.errors import OverloadedError
from search_api.http.overload import THREADS
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
                assert {entry["state"] for entry in answer["courses"]} == {"stale"}
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


@pytest.mark.parametrize(
    ("method", "path", "form"),
    [
        ("GET", "/courses/c/embedding_status", None),
        ("GET", "/courses", None),
        ("DELETE", "/resources/unknown", None),
        ("POST", "/resources", {"course_id": "c"}),
    ],
)
def test_requests_that_wait_for_the_catalogue_keep_no_thread_from_others(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch, method: str, path: str, form: dict[str, str] | None
) -> None:
    harness.add_searchable_course("c", "copper")
    publish(harness, "copper")
    begin, may_go_on, number = transaction, threading.Event(), 2 * THREADS
    hang = threading.Semaphore(0)

    @contextmanager
    def hangs(engine: Engine) -> Iterator[Session]:
        hang.release()
        assert may_go_on.wait(LIMIT_SECONDS)
        with begin(engine) as session:
            yield session

    def call() -> int:
        return client.request(method, path, data=form, files=form and {"file": ("a.md", b"# Title")}).status_code

    with harness.client() as client, ThreadPoolExecutor(number) as callers:
        assert ask(client)[0] == 200
        with monkeypatch.context() as patched:
            patched.setattr(database, "transaction", hangs)
            patched.setattr("maintenance.resources.transaction", hangs)
            calls = [callers.submit(call) for _ in range(number)]
            try:
                for _ in range(THREADS if form is None else 1):
                    assert hang.acquire(timeout=LIMIT_SECONDS)
                assert client.get("/caches").status_code == 200
                assert not any(each.done() for each in calls)
            finally:
                may_go_on.set()
            assert {each.result() for each in calls} <= {200, 202, 404}


def test_number_of_requests_that_wait_for_the_catalogue_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "_catalogue_slots", threading.Semaphore(1))

    def of_a_request() -> None:
        waits.set_waits({})
        with waits.using_catalogue():
            with waits.using_catalogue():
                pass  # the same request needs no other slot
            with pytest.raises(OverloadedError):
                copy_context().run(of_another)

    def of_another() -> None:
        waits.set_waits({})
        with waits.using_catalogue():
            pytest.fail("the catalogue is asked")

    copy_context().run(of_a_request)


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

    def test_search_that_finds_too_many_before_it_uses_the_last_rows(self, courses: Courses) -> None:
        def is_refused() -> str:
            raise OverloadedError

        rows, outage = courses.unless_away(is_refused, lambda _: "last")
        assert (rows, outage) == ("last", "it does not answer as fast as it is asked")
        with pytest.raises(OverloadedError):
            courses.unless_away(is_refused, lambda _: None)

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
