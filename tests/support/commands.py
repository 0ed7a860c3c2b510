"""Fixtures for tests that run commands: a migrated catalogue at DATABASE_URL, and a simulated pipeline."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from models.course_state import Retry, claim_course, fail_course, publish
from models.courses import list_courses
from tests.support.catalogue import Catalogue

FINGERPRINT = f"v1:1:0:{'0' * 64}:m"

Pipeline = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def catalogue(text_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """An empty catalogue; DATABASE_URL points to it."""
    monkeypatch.setenv("DATABASE_URL", text_catalogue.url)
    monkeypatch.setattr("cli.courses.POLL_SECONDS", 0.01)
    monkeypatch.setattr("cli.commands.status.POLL_SECONDS", 0.01)
    return text_catalogue


@pytest.fixture
def pipeline(catalogue: Catalogue) -> Pipeline:
    """Context manager: a thread claims every requested course, then publishes it or fails it.

    `retry` and the keyword arguments (course id → reason) say which courses fail, and whether they are to be retried.
    """

    @contextmanager
    def running(*, retry: bool = False, **reasons: str) -> Iterator[None]:
        stop = threading.Event()

        def handle_requests() -> None:
            while not stop.is_set():
                with catalogue.session() as session:
                    for course in list_courses(session):
                        if course.embedding_requested_at and claim_course(session, course.id, "run"):
                            if course.id in reasons:
                                later = Retry.LATER if retry else Retry.NEVER
                                fail_course(session, course.id, "run", reasons[course.id], retry=later)
                            else:
                                publish(session, course.id, "run", FINGERPRINT)
                time.sleep(0.01)

        thread = threading.Thread(target=handle_requests)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    return running
