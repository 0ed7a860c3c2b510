"""A migrated catalogue for the commands, on both databases, and a pipeline that does as a test says."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from models.course_state import claim_course, fail_course, publish
from models.courses import list_courses
from models.fingerprint import FingerprintBuilder
from models.tables import Course
from tests.models.conftest import templates, text_catalogue  # noqa: F401 - fixtures
from tests.support.catalogue import Catalogue

FINGERPRINT = f"v1:{{chunks}}:0:{'0' * 64}:{{model}}"

Pipeline = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def catalogue(text_catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Catalogue:  # noqa: F811
    """The catalogue at DATABASE_URL."""
    monkeypatch.setenv("DATABASE_URL", text_catalogue.url)
    monkeypatch.setattr("cli.courses.POLL_SECONDS", 0.01)
    monkeypatch.setattr("cli.commands.status.POLL_SECONDS", 0.01)
    return text_catalogue


@pytest.fixture
def pipeline(catalogue: Catalogue) -> Pipeline:
    """Takes up every request while its block lasts, and publishes it or fails it with the reason given for a course."""

    @contextmanager
    def running(**reasons: str) -> Iterator[None]:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                with catalogue.session() as session:
                    for course in list_courses(session):
                        if course.embedding_requested_at and claim_course(session, course.id, "run"):
                            if course.id in reasons:
                                fail_course(session, course.id, "run", reasons[course.id])
                            else:
                                publish(session, course.id, "run", FINGERPRINT.format(chunks=1, model="m"))
                time.sleep(0.01)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    return running


def course(catalogue: Catalogue, course_id: str) -> Course:
    """The course's row."""
    with catalogue.session() as session:
        return next(course for course in list_courses(session) if course.id == course_id)


def published(catalogue: Catalogue, course_id: str, chunks: int = 1, model: str = "m") -> None:
    """Publish the course as one of so many chunks, all of the text "text"."""
    content = FingerprintBuilder()
    for number in range(chunks):
        content.add_hashed(str(number), "hash", len("text"))
    with catalogue.session() as session:
        claim_course(session, course_id, "run")
        publish(session, course_id, "run", str(content.build(model)))
