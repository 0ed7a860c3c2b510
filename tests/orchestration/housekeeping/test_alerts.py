"""`alert_sensor` with a real catalogue and a real receiver: what it sends, and when it sends it again."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from cli.processes import free_port
from orchestration.housekeeping import alerts
from orchestration.housekeeping.alerts import Alert, Memory, alert_sensor, deliver
from tests.orchestration.ticks import Tick, tick
from tests.support.courses import change_course
from tests.support.published import add_courses

pytestmark = pytest.mark.integration

SECRET = "hunter2"
NOW = datetime.now(UTC)


class Receiver(ThreadingHTTPServer):
    """A receiver of alerts that answers with `status`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 204
        self.requests: list[list[dict[str, Any]]] = []
        self.url = f"http://user:{SECRET}@127.0.0.1:{self.server_port}/{SECRET}?token={SECRET}"

    def received(self) -> list[tuple[str, str]]:
        """Course id and state of every alert since the last call."""
        requests, self.requests = self.requests, []
        return [(alert["course_id"], alert["state"]) for request in requests for alert in request]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(json.loads(body)["alerts"])
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("ALERT_URL", server.url)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "INTERVAL_SECONDS", 0)


def alert_tick(instance: dg.DagsterInstance, cursor: str | None = None) -> Tick:
    return tick(alert_sensor, instance, cursor)


def fail(catalogue: Engine, *course_ids: str) -> None:
    for course_id in course_ids:
        change_course(catalogue, course_id, embedding_status="failed", embedding_error="The model is broken.")


def test_an_alert_has_the_documented_fields(
    instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_URL", "https://search.example")
    add_courses(catalogue, "a/b")
    fail(catalogue, "a/b")
    change_course(catalogue, "a/b", embedding_due_since=datetime(2025, 1, 2, 3, tzinfo=UTC))
    alert_tick(instance)
    assert receiver.requests == [
        [
            {
                "course_id": "a/b",
                "state": "failed",
                "error": "The model is broken.",
                "since": "2025-01-02T03:00:00+00:00",
                "url": "https://search.example/?course=a%2Fb",
            }
        ]
    ]


def test_an_alert_is_sent_once_and_then_resolved(
    instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver
) -> None:
    add_courses(catalogue, "broken", "fine")
    assert alert_tick(instance).skip_message == "0 of 0 new alerts acknowledged"
    fail(catalogue, "broken")
    cursor = alert_tick(instance).cursor
    assert receiver.received() == [("broken", "failed")]
    cursor = alert_tick(instance, cursor).cursor
    change_course(catalogue, "broken", embedding_status="running")
    cursor = alert_tick(instance, cursor).cursor
    assert receiver.received() == [], "while it is tried again, the alert stays as it was"
    change_course(catalogue, "broken", embedding_status="done")
    cursor = alert_tick(instance, cursor).cursor
    assert receiver.received() == [("broken", "resolved")]
    alert_tick(instance, cursor)
    assert receiver.received() == []
    assert Memory.model_validate_json(cursor or "").acknowledged == {}


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        pytest.param({"embedding_status": "failed"}, "failed", id="failed"),
        pytest.param({"embedding_status": "failed", "embedding_retry_at": NOW}, None, id="is tried again"),
        pytest.param({"embedding_due_since": NOW - timedelta(minutes=61)}, "overdue", id="due for long"),
        pytest.param({"embedding_due_since": NOW - timedelta(minutes=10)}, None, id="due"),
        pytest.param(
            {"embedding_status": "running", "embedding_due_since": NOW - timedelta(days=1)}, "overdue", id="slow"
        ),
        pytest.param(
            {"embedding_status": "failed", "embedding_retry_at": NOW, "embedding_due_since": NOW - timedelta(days=1)},
            "overdue",
            id="tried again for long",
        ),
        pytest.param({"embedding_status": "done"}, None, id="done"),
    ],
)
def test_which_courses_are_reported(
    instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver, columns: dict[str, object], state: str | None
) -> None:
    add_courses(catalogue, "course")
    change_course(catalogue, "course", **columns)
    alert_tick(instance)
    assert receiver.received() == ([("course", state)] if state else [])


def test_a_deleted_course_is_resolved(instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver) -> None:
    cursor = Memory(acknowledged={"deleted": "failed"}).model_dump_json()
    alert_tick(instance, cursor)
    assert receiver.received() == [("deleted", "resolved")]


@pytest.mark.parametrize("status", [302, 400, 500])
def test_what_was_not_acknowledged_is_sent_again(
    instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver, status: int
) -> None:
    add_courses(catalogue, "broken")
    fail(catalogue, "broken")
    receiver.status = status
    failed = alert_tick(instance)
    assert f"answered {status}" in failed.skip_message
    receiver.status = 204
    cursor = alert_tick(instance, failed.cursor).cursor
    assert receiver.received() == [("broken", "failed")] * 2
    alert_tick(instance, cursor)
    assert receiver.received() == []


def test_an_unanswered_resolution_is_sent_again(
    instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver
) -> None:
    receiver.status = 500
    cursor = alert_tick(instance, Memory(acknowledged={"gone": "failed"}).model_dump_json()).cursor
    receiver.status = 204
    alert_tick(instance, cursor)
    assert receiver.received() == [("gone", "resolved")] * 2


def test_the_pause_grows_and_ends_with_the_first_success(
    instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "INTERVAL_SECONDS", 30)
    memory, pauses = Memory(), []
    for _ in range(8):
        memory = memory.after([], NOW, is_complete=False)
        pauses.append((memory.not_before - NOW).total_seconds())
    assert pauses == [60, 120, 240, 480, 960, 1800, 1800, 1800]
    part = [Alert("a", "failed", None, None, "")]
    assert memory.after(part, NOW, is_complete=False).not_before == NOW + timedelta(seconds=60)
    assert memory.after(part, NOW, is_complete=True) == Memory(acknowledged={"a": "failed"})
    add_courses(catalogue, "broken")
    fail(catalogue, "broken")
    receiver.status = 500
    cursor = alert_tick(instance).cursor
    assert "to send again at" in alert_tick(instance, cursor).skip_message
    assert receiver.received() == [("broken", "failed")]


def test_many_alerts_are_sent_in_requests_of_bounded_size(
    instance: dg.DagsterInstance, catalogue: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "MAX_ALERTS", 2)
    course_ids = [f"course {number}" for number in range(5)]
    add_courses(catalogue, *course_ids)
    fail(catalogue, *course_ids)
    cursor = alert_tick(instance).cursor
    assert [len(request) for request in receiver.requests] == [2, 2, 1]
    assert sorted(course_id for course_id, _ in receiver.received()) == course_ids
    alert_tick(instance, cursor)
    assert receiver.received() == []


def test_a_receiver_that_sends_its_answer_endlessly_does_not_block_the_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte at a time, so that no timeout of a single read expires."""
    monkeypatch.setattr(alerts, "TICK_SECONDS", 0.3)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                while not ended.wait(0.02):
                    connection.send(b"H")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert deliver(url, [Alert("a", "failed", None, None, "")]) == ([], "did not answer within 0.3 s")
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"http://user:{SECRET}@127.0.0.1:{free_port()}/{SECRET}", id="nothing listens"),
        pytest.param(f"ftp://{SECRET}", id="scheme"),
        pytest.param(f"http://[{SECRET}", id="no URL"),
        pytest.param(f"http://127.0.0.1:1/{SECRET}\n", id="control character"),
        pytest.param(None, id="it works"),
    ],
)
def test_messages_and_logs_never_contain_the_url(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    receiver: Receiver,
    url: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    if url:
        monkeypatch.setenv("ALERT_URL", url)
    add_courses(catalogue, "broken")
    fail(catalogue, "broken")
    result = alert_tick(instance)
    assert ("cannot be used" in result.skip_message) == (url is not None)
    assert SECRET not in f"{result.skip_message}{result.cursor}{caplog.text}{''.join(capfd.readouterr())}"


def test_without_an_url_the_sensor_is_off_and_says_what_to_set(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    assert alert_sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert "ALERT_URL is not set" in alert_tick(instance).skip_message
