"""A published course is searched whatever happens: a poller asks all the time, and no answer is an error."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import psutil
import pytest

from tests.faults.deployment import LIMIT_SECONDS, MANY, Deployment, on_postgres
from tests.support.product import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WORDS = {"first": "copper", "second": "gradient"}
"""A word of each edition."""


class Answer(NamedTuple):
    """What a caller sees."""

    generation: int
    stale: bool
    edition: str
    error: str = ""


class Poller:
    """Searches a course again and again, and records every answer that differs from the one before."""

    def __init__(self, deployment: Deployment, course_id: str) -> None:
        self._url = f"{deployment.parts.search.base_url}/courses/{course_id}/search"
        self._stopping = threading.Event()
        self.answers: list[Answer] = []

    def ask(self, client: httpx.Client) -> Answer:
        try:
            answer = client.post(self._url, json={"query": "copper gradient", "top_k": 3}).json()
        except httpx.TransportError as error:
            return Answer(0, False, "", type(error).__name__)
        if "error" in answer:
            return Answer(0, False, "", answer["error"]["code"])
        editions = {
            edition for edition, word in WORDS.items() for result in answer["results"] if word in result["text"]
        }
        return Answer(answer["generation"], answer["stale"], "+".join(sorted(editions)), answer["degraded"] or "")

    def poll(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stopping.wait(0.2):
                answer = self.ask(client)
                if not self.answers or answer != self.answers[-1]:
                    self.answers.append(answer)

    def wait_for(self, generation: int) -> None:
        """Wait until the last answer is of this generation and not stale."""
        wait_until(
            lambda: bool(self.answers) and self.answers[-1][:2] == (generation, False),
            LIMIT_SECONDS,
            lambda: f"{self.answers}",
        )

    @contextmanager
    def running(self) -> Iterator["Poller"]:
        thread = threading.Thread(target=self.poll)
        thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            thread.join()


@on_postgres
def test_published_course_is_searched_through_every_change(deployment: Deployment) -> None:
    course = "always"
    deployment.write(course, MANY)
    deployment.wait_for(course, "done")
    with Poller(deployment, course).running() as poller:
        poller.wait_for(1)
        deployment.request(course)  # nothing has changed
        deployment.wait_for(course, "done", after=1)
        poller.wait_for(2)
        worker = deployment.freeze_half_way(course, lambda: deployment.write(course, MANY, "second"))
        with deployment.parts.killed("chroma"), deployment.parts.killed("daemon"):
            deployment.wait_for_stale_answer(course)
        worker.kill()
        deployment.wait_for(course, "done", after=2)
        poller.wait_for(3)
        worker = deployment.freeze_half_way(course, lambda: deployment.rebuild(course))
        deployment.ui.terminate(deployment.row(course).embedding_run_id or "")
        psutil.wait_procs([worker], timeout=LIMIT_SECONDS)
        deployment.wait_for(course, "failed")
        deployment.wait_until_idle()
        deployment.request(course)
        deployment.wait_for(course, "done", after=3)
        poller.wait_for(4)
    assert {answer.error for answer in poller.answers} == {""}, poller.answers
    seen = [answer for answer in poller.answers if not answer.stale]
    assert [(answer.generation, answer.edition) for answer in seen] == [
        (1, "first"),
        (2, "first"),
        (3, "second"),
        (4, "second"),
    ], poller.answers
    for answer in poller.answers:
        assert answer.edition == ("first" if answer.generation < 3 else "second"), poller.answers


@on_postgres
def test_published_course_is_searched_after_a_restart_without_chroma(deployment: Deployment) -> None:
    course = "restarted"
    worker = deployment.freeze_half_way(course, lambda: published_then_changed(deployment, course))
    deployment.kill_everything()
    assert not worker.is_running()
    assert deployment.postgres is not None
    deployment.postgres.start()
    deployment.parts.start("search")
    with httpx.Client(timeout=30) as client:
        answer = Poller(deployment, course).ask(client)
    assert answer == Answer(1, True, "first")
    deployment.parts.start("chroma", "webserver", "daemon")
    deployment.wait_for(course, "done", after=1)
    deployment.assert_state(course, "done")


def published_then_changed(deployment: Deployment, course: str) -> None:
    deployment.gate.open()
    deployment.write(course, MANY)
    deployment.wait_for(course, "done")
    deployment.gate.close_after(2)
    deployment.write(course, MANY, "second")
