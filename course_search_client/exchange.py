"""What happens between a call and its answer: attempts, pauses and errors, for both clients.

The functions are generators. They yield what is to be done, a request to send or a pause, and get the outcome back;
so the sync and the async client share them, and only differ in how they send and wait.
"""

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx

from course_search_client import calls, errors
from course_search_client.answers import EmbeddingState
from course_search_client.calls import Call, Upload
from course_search_client.errors import (
    CourseSearchError,
    EmbeddingFailedError,
    TimedOutError,
    UnexpectedAnswerError,
    UnreachableError,
)
from course_search_client.version import VERSION

T = TypeVar("T")

CONNECT_SECONDS = 5.0
"""Longest wait for a connection; a connection is made within milliseconds, or it is worth another attempt."""
RETRY_SECONDS = 0.25
"""The shortest pause before the second attempt; it doubles before each further one."""
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.2, 5.0
"""The pause between two looks at a course grows from the first to the second."""

SHORTEST_WAIT_SECONDS = 0.001

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""The app did not get the request."""
_LOST = (httpx.NetworkError, httpx.RemoteProtocolError)
"""The connection ended; the app may have processed the request."""
_PROXY_STATUSES = (502, 503, 504)
"""What a proxy answers if the app behind it is away for a moment."""


@dataclass(frozen=True)
class Send:
    """Send this request, and wait for its answer at most so many seconds."""

    request: httpx.Request
    seconds: float


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


Outcome = httpx.Response | httpx.RequestError | None
"""Of `Send`, the response with its body, or what prevented it; of `Pause`, None."""
Exchange = Generator[Send | Pause, Outcome, T]


@dataclass(frozen=True)
class Connection:
    """Where the app is, and how patient the client is.

    Attributes:
        base_url: Without a slash at the end.
        token: Sent with each request, if there is one.
        timeout: Seconds for a call with all its attempts.
        attempts: How often a call is tried at most.
        build_request: Of the HTTP client, which adds its own headers.
    """

    base_url: str
    token: str | None
    timeout: float
    attempts: int
    build_request: Callable[..., httpx.Request]

    def send(self, call: Call[T], timeout: float | None = None) -> Exchange[T]:
        """Send a call, again if that may help and is safe, and return what the answer contains.

        Args:
            call: What to send.
            timeout: Seconds with all attempts, instead of those of the connection.

        Raises:
            CourseSearchError: The last attempt failed.
        """
        timeout = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        attempt = 1
        while True:
            seconds = max(deadline - time.monotonic(), SHORTEST_WAIT_SECONDS)
            outcome = cast(httpx.Response | httpx.RequestError, (yield Send(self._request(call, seconds), seconds)))
            if isinstance(outcome, httpx.Response) and outcome.is_success:
                return self._read(call, outcome)
            error = self._error(outcome, timeout)
            pause = _pause(attempt, outcome)
            in_time = time.monotonic() + pause < deadline
            if not (_may_repeat(call, outcome, error) and attempt < self.attempts and in_time):
                raise error from (outcome if isinstance(outcome, Exception) else None)
            yield Pause(pause)
            attempt += 1

    def wait_until_searchable(self, course_id: str, timeout: float) -> Exchange[EmbeddingState]:
        """Look at the course until it is done.

        A failure to look at it, after it was seen once, does not end the wait: the app may be starting again.

        Raises:
            EmbeddingFailedError: It failed; the message has the reason.
            TimedOutError: It is not done after `timeout` seconds.
            CourseSearchError: It cannot be looked at.
        """
        deadline = time.monotonic() + timeout
        pause, state = FIRST_POLL_SECONDS, None
        while True:
            failure: CourseSearchError | None = None
            try:
                left = max(deadline - time.monotonic(), SHORTEST_WAIT_SECONDS)
                state = yield from self.send(calls.embedding_status(course_id), min(left, self.timeout))
            except CourseSearchError as error:
                if state is None or (error.status or 500) < 500:
                    raise
                failure = error
            else:
                if state["status"] == "done":
                    return state
                if state["status"] == "failed":
                    raise EmbeddingFailedError(f"Course {course_id!r} could not be embedded: {state['error']}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOutError(
                    f"Course {course_id!r} is {state['status']} ({state['progress']:.0%}) after {timeout:g} s; "
                    "wait longer, or see why in the Dagster UI"
                ) from failure
            yield Pause(min(pause, left))
            pause = min(pause * 1.5, LAST_POLL_SECONDS)

    def _request(self, call: Call[Any], seconds: float) -> httpx.Request:
        headers = {"Accept": "application/json", "User-Agent": f"course-search-client/{VERSION}"}
        body: dict[str, Any] = {"content": call.content()}
        if call.upload is not None:
            body = _form(call.upload)
        elif call.body is not None:
            headers["Content-Type"] = "application/json"
        if self.token is not None:
            headers["X-Internal-Token"] = self.token
        return self.build_request(
            call.method,
            self.base_url + call.path,
            **body,
            params=calls.given(call.params),
            headers={name: value.encode() for name, value in headers.items()},
            timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
        )

    def _read(self, call: Call[T], response: httpx.Response) -> T:
        try:
            answer = response.json()
            if isinstance(answer, dict):
                return call.read(answer)
        except (ValueError, KeyError):
            pass
        raise self._unexpected(response)

    def _error(self, outcome: httpx.Response | httpx.RequestError, timeout: float) -> CourseSearchError:
        if isinstance(outcome, httpx.Response):
            return _sent_error(outcome) or self._unexpected(outcome)
        if isinstance(outcome, httpx.TimeoutException) and not isinstance(outcome, httpx.ConnectTimeout):
            return TimedOutError(f"The search app at {self.base_url} did not answer within {timeout:g} s")
        reason = f"{type(outcome).__name__}: {outcome}".removesuffix(": ")
        return UnreachableError(f"The search app at {self.base_url} cannot be reached, check its URL: {reason}")

    def _unexpected(self, response: httpx.Response) -> UnexpectedAnswerError:
        kind = response.headers.get("Content-Type", "no content type")
        return UnexpectedAnswerError(
            f"{response.url} answered {response.status_code} ({kind}), which is no answer of "
            "the search app: check the URL, and the proxy before it",
            response.status_code,
        )


def _sent_error(response: httpx.Response) -> CourseSearchError | None:
    """The error that the app sent, or None if the response is not of the app."""
    try:
        error = response.json()["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        return None
    if not (isinstance(code, str) and isinstance(message, str)):
        return None
    return errors.APP_ERRORS.get(code, CourseSearchError)(code, message, response.status_code)


def _form(upload: Upload) -> dict[str, Any]:
    """The arguments of `build_request`. The client reads the file while it sends it."""
    return {"data": upload.fields, "files": {"file": (upload.name, upload.stream)}}


def _may_repeat(call: Call[Any], outcome: httpx.Response | httpx.RequestError, error: CourseSearchError) -> bool:
    """Whether another attempt may help and does no harm."""
    if isinstance(outcome, httpx.Response):
        from_proxy = isinstance(error, UnexpectedAnswerError) and outcome.status_code in _PROXY_STATUSES
        return isinstance(error, errors.OverloadedError) or (from_proxy and call.repeatable)
    if call.upload is not None and not call.repeatable:
        return False  # a part of the file may have been read
    return isinstance(outcome, _NOT_SENT) or (isinstance(outcome, _LOST) and call.repeatable)


def _pause(attempt: int, outcome: httpx.Response | httpx.RequestError) -> float:
    """Seconds before the next attempt: longer each time, and random, so that many callers do not return at once."""
    after = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
    least = float(after) if after.isascii() and after.isdigit() else 0.0
    return max(least, RETRY_SECONDS) * 2.0 ** (attempt - 1) * random.uniform(1, 2)  # noqa: S311 - no secret
