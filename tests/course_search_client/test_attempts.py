"""What is tried again, how often, when, and until when."""

import io
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest

from course_search_client import calls, errors, exchange
from course_search_client.calls import Call
from course_search_client.exchange import Connection, Pause
from search_api.http.errors import ERRORS
from tests.course_search_client.clients import connect

SEARCH = calls.search("c", "q", {})
EMBED = calls.embed("c")
FEEDBACK = calls.feedback("c", "q", None, helpful=True)
REQUEST = httpx.Request("GET", "http://app")


def sent_error(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, json={"error": {"code": code, "message": "a reason"}}, headers=headers, request=REQUEST
    )


OVERLOADED = sent_error(503, "overloaded", **{"Retry-After": "1"})
BAD_GATEWAY = httpx.Response(502, html="bad gateway", request=REQUEST)
FOUND = httpx.Response(200, json={"results": []}, request=REQUEST)


class Clock:
    """A clock that only the pauses of a test move."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(exchange, "time", clock)
    return clock


@pytest.fixture
def connection() -> Iterator[Connection]:
    with httpx.Client(transport=httpx.MockTransport(lambda _: FOUND)) as http:
        yield Connection("http://app", None, timeout=30, attempts=3, build_request=http.build_request)


Outcomes = Sequence[httpx.Response | httpx.RequestError]


def play(steps: exchange.Exchange[Any], outcomes: Outcomes, clock: Clock) -> tuple[Any, list[float]]:
    """Answer each request with the next outcome; the last one answers all others, too. Returns result and pauses."""
    pauses: list[float] = []
    sent, outcome = 0, None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as end:
            return end.value, pauses
        except errors.CourseSearchError as error:
            assert sent >= len(outcomes), f"{outcomes[sent]} was not waited for"
            return error, pauses
        if isinstance(step, Pause):
            pauses.append(step.seconds)
            clock.now += step.seconds
            outcome = None
        else:
            outcome = outcomes[min(sent, len(outcomes) - 1)]
            sent += 1


@pytest.mark.parametrize(
    "outcome",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("no answer"),
        httpx.PoolTimeout("busy"),
        OVERLOADED,
    ],
)
@pytest.mark.parametrize("call", [SEARCH, EMBED])
def test_what_was_certainly_not_processed_is_sent_again(
    connection: Connection, clock: Clock, call: Call[Any], outcome: Any
) -> None:
    result, pauses = play(connection.send(call), [outcome, outcome, FOUND], clock)
    assert not isinstance(result, Exception)
    assert len(pauses) == 2


@pytest.mark.parametrize(
    "outcome",
    [
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        BAD_GATEWAY,
        httpx.Response(504, html="", request=REQUEST),
        httpx.Response(503, html="", request=REQUEST),
    ],
)
def test_only_what_changes_nothing_is_sent_again_if_it_may_have_been_processed(
    connection: Connection, clock: Clock, outcome: Any
) -> None:
    result, pauses = play(connection.send(SEARCH), [outcome, FOUND], clock)
    assert (result, len(pauses)) == ({"results": []}, 1)
    for call in (EMBED, FEEDBACK):
        result, pauses = play(connection.send(call), [outcome], clock)
        assert isinstance(result, errors.UnreachableError | errors.UnexpectedAnswerError)
        assert not pauses


def test_upload_is_sent_again_as_a_whole(connection: Connection, clock: Clock) -> None:
    """Twice the same file is the same as once. A stream that can be read only once cannot be sent again."""
    lost = httpx.WriteError("reset")
    result, pauses = play(connection.send(calls.add_resource("c", "a.md", io.BytesIO(b"text"))), [lost, FOUND], clock)
    assert (result, len(pauses)) == ({"results": []}, 1)
    reader, writer = os.pipe()
    os.close(writer)
    with open(reader, "rb") as once:  # noqa: PTH123 - a descriptor has no path
        for outcome in (lost, httpx.ConnectError("refused"), BAD_GATEWAY):
            result, pauses = play(connection.send(calls.add_resource("c", "a.md", once)), [outcome], clock)
            assert isinstance(result, errors.UnreachableError | errors.UnexpectedAnswerError)
            assert not pauses


@pytest.mark.parametrize(
    "outcome",
    [
        httpx.ReadTimeout("slow"),
        httpx.UnsupportedProtocol("x"),
        sent_error(503, "database_unavailable"),
        sent_error(500, "internal_error"),
        sent_error(400, "embedding_not_ready"),
        httpx.Response(404, html="", request=REQUEST),
    ],
)
def test_what_another_attempt_would_not_change_is_not_sent_again(
    connection: Connection, clock: Clock, outcome: Any
) -> None:
    result, pauses = play(connection.send(SEARCH), [outcome], clock)
    assert isinstance(result, errors.CourseSearchError)
    assert not pauses


def test_the_last_attempt_says_why_it_failed(connection: Connection, clock: Clock) -> None:
    result, pauses = play(connection.send(SEARCH), [BAD_GATEWAY, httpx.ConnectError("refused"), OVERLOADED], clock)
    assert isinstance(result, errors.OverloadedError)
    assert (result.code, result.message, result.status) == ("overloaded", "a reason", 503)
    assert len(pauses) == 2


def test_pauses_grow_and_obey_retry_after(connection: Connection, clock: Clock) -> None:
    _, pauses = play(connection.send(SEARCH), [BAD_GATEWAY, BAD_GATEWAY, FOUND], clock)
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1
    _, pauses = play(connection.send(SEARCH), [OVERLOADED, OVERLOADED, FOUND], clock)
    assert 1 <= pauses[0] <= 2 <= pauses[1] <= 4
    unreadable = sent_error(503, "overloaded", **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    _, (pause,) = play(connection.send(SEARCH), [unreadable, FOUND], clock)
    assert pause <= 0.5


def test_no_attempt_begins_after_the_deadline(connection: Connection, clock: Clock) -> None:
    """A pause that does not fit is not made: the caller can use the rest of its time."""
    late = sent_error(503, "overloaded", **{"Retry-After": "30"})
    result, pauses = play(connection.send(SEARCH), [late], clock)
    assert isinstance(result, errors.OverloadedError)
    assert not pauses


def test_an_attempt_waits_only_for_what_is_left_of_the_time(connection: Connection, clock: Clock) -> None:
    steps = connection.send(SEARCH)
    first = steps.send(None)
    assert isinstance(first, exchange.Send)
    assert first.request.extensions["timeout"] == {"connect": 5.0, "read": 30.0, "write": 30.0, "pool": 30.0}
    clock.now += 27
    steps.send(httpx.ConnectError("refused"))
    second = steps.send(None)
    assert isinstance(second, exchange.Send)
    assert second.seconds == 3
    assert second.request.extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 3.0)


def status(name: str, progress: float = 0.0, error: str | None = None) -> httpx.Response:
    state = {"course_id": "c", "status": name, "progress": progress, "error": error}
    return httpx.Response(200, json=state, request=REQUEST)


def test_wait_ends_when_the_course_is_done(connection: Connection, clock: Clock) -> None:
    states = [status("not_started"), status("pending"), *[status("running", 0.5)] * 20, status("done", 1.0)]
    result, pauses = play(connection.wait_until_searchable("c", 600), states, clock)
    assert result["status"] == "done"
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.2, 5.0)


def test_wait_ends_with_the_reason_if_the_embedding_fails(connection: Connection, clock: Clock) -> None:
    states = [status("running"), status("failed", error="no disk space")]
    result, _ = play(connection.wait_until_searchable("c", 600), states, clock)
    assert isinstance(result, errors.EmbeddingFailedError)
    assert "no disk space" in str(result)


def test_wait_ends_in_time(connection: Connection, clock: Clock) -> None:
    began = clock.now
    result, _ = play(connection.wait_until_searchable("c", 60), [status("running", 0.25)], clock)
    assert isinstance(result, errors.TimedOutError)
    assert "running (25%) after 60 s" in str(result)
    assert clock.now == began + 60


def test_wait_survives_a_restart_of_the_app(connection: Connection, clock: Clock) -> None:
    away = [httpx.ConnectError("refused")] * 7
    states: Outcomes = [status("running"), *away, sent_error(503, "database_unavailable"), status("done", 1.0)]
    result, _ = play(connection.wait_until_searchable("c", 600), states, clock)
    assert result["status"] == "done"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([httpx.ConnectError("refused")], errors.UnreachableError),  # the address may be wrong
        ([sent_error(404, "course_not_found")], errors.CourseNotFoundError),
        ([status("running"), sent_error(404, "course_not_found")], errors.CourseNotFoundError),  # deleted meanwhile
    ],
)
def test_wait_ends_if_the_course_cannot_be_looked_at(
    connection: Connection, clock: Clock, states: Outcomes, expected: type[Exception]
) -> None:
    result, _ = play(connection.wait_until_searchable("c", 600), states, clock)
    assert isinstance(result, expected)


def test_client_repeats_and_pauses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients do what the generator asks for."""
    monkeypatch.setattr(exchange, "RETRY_SECONDS", 0.001)
    outcomes: list[httpx.Response | Exception] = [
        httpx.ConnectError("refused"),
        httpx.Response(502),
        httpx.Response(200, json={"results": []}),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with connect(kind, handler=answer) as client:
        assert client.search("c", "q") == {"results": []}


@pytest.mark.parametrize("code", [*ERRORS, "a_code_of_a_newer_app"])
def test_error_codes_are_exceptions(kind: str, code: str) -> None:
    status = ERRORS[code].status if code in ERRORS else 418
    refusal: Callable[[httpx.Request], httpx.Response] = lambda _: sent_error(status, code)  # noqa: E731
    with connect(kind, handler=refusal, attempts=1) as client, pytest.raises(errors.CourseSearchError) as raised:
        client.courses()
    error = raised.value
    assert (error.code, error.message, error.status) == (code, "a reason", status)
    assert type(error) is errors.APP_ERRORS.get(code, errors.CourseSearchError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_every_error_code_of_the_app_has_an_exception_of_the_same_name() -> None:
    """If this fails, add the missing code to `course_search_client/errors.py`."""
    of_the_app = {code: error.__name__ for code, error in ERRORS.items()}
    assert {code: error.__name__ for code, error in errors.APP_ERRORS.items()} == of_the_app


@pytest.mark.parametrize("error", [errors.TimedOutError("late"), errors.UnexpectedAnswerError("what", 502)])
def test_own_errors_survive_pickle(error: errors.CourseSearchError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.message, again.status) == (error.code, error.message, error.status)
