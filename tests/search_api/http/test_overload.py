"""Above capacity, requests are refused at once, and probes are answered."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from search_api.http import overload
from search_api.http.error_responses import add_error_handlers
from search_api.http.errors import OverloadedError
from search_api.http.overload import LOOK_SECONDS, THREADS, Limits, OverloadMiddleware
from search_api.http.waits import take_slot, waiting
from tests.search_api.app_harness import LIMIT_SECONDS

Answer = tuple[int, dict[bytes, bytes], bytes]
"""Status, headers and body."""


class App:
    """Answers a request when it may, after it has kept the event loop busy."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.busy_seconds = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        time.sleep(self.busy_seconds)
        if scope["path"] != "/healthz":
            await self.may_answer.wait()
        await PlainTextResponse("answered")(scope, receive, send)


async def no_body() -> Message:
    """The end of a request without a body."""
    return {"type": "http.request", "body": b""}


async def ask(app: OverloadMiddleware, path: str = "/courses/c/search", receive: Receive = no_body) -> Answer:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def limit(monkeypatch: pytest.MonkeyPatch, computed: int, loop_seconds: float = 10.0) -> None:
    """Admit no more than this, however short there is a queue."""
    monkeypatch.setattr(overload, "IN_BURST", Limits(computed, loop_seconds))
    monkeypatch.setattr(overload, "IN_OVERLOAD", Limits(computed, loop_seconds))


def test_requests_above_the_limit_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 2)

    async def scenario() -> None:
        app = App()
        refusing = OverloadMiddleware(app, most_waiting=0)
        admitted = [asyncio.create_task(ask(refusing)) for _ in range(2)]
        await asyncio.sleep(0)
        status, headers, body = await ask(refusing)
        assert (status, headers[b"retry-after"]) == (503, b"1")
        error = json.loads(body)["error"]
        assert (error["code"], "answered at once" in error["message"]) == ("overloaded", True)
        assert (await ask(refusing, "/healthz"))[0] == 200
        app.may_answer.set()
        assert [status for status, _, _ in await asyncio.gather(*admitted)] == [200, 200]
        assert (await ask(refusing))[0] == 200

    asyncio.run(scenario())


def test_body_that_does_not_come_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 1)

    async def scenario() -> None:
        body: asyncio.Queue[Message] = asyncio.Queue()
        sent: list[Message] = []

        async def upload(_: Scope, receive: Receive, send: Send) -> None:
            while (await receive()).get("more_body"):
                pass
            await app(scope, receive, send)

        async def send(message: Message) -> None:
            sent.append(message)

        app, scope = App(), {"type": "http", "method": "POST", "path": "/resources", "root_path": "", "headers": []}
        refusing = OverloadMiddleware(upload, most_waiting=0)
        uploads = asyncio.create_task(refusing(scope, body.get, send))
        body.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(ask(refusing))
        await asyncio.sleep(0)
        assert (await ask(refusing))[0] == 503, "the other request has the place"
        app.may_answer.set()
        assert (await waiting)[0] == 200
        app.may_answer.clear()
        body.put_nowait({"type": "http.request", "body": b"b", "more_body": False})
        await asyncio.sleep(0.01)
        assert (await ask(refusing))[0] == 503, "the upload has it, because its body has come"
        app.may_answer.set()
        await uploads
        assert sent[0]["status"] == 200
        assert (await ask(refusing))[0] == 200

    asyncio.run(scenario())


def test_requests_that_waited_for_the_event_loop_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 40, 0.02)

    async def scenario() -> None:
        app = App()
        app.may_answer.set()
        refusing = OverloadMiddleware(app, most_waiting=0)
        app.busy_seconds = 0.03
        asked = [asyncio.create_task(ask(refusing)) for _ in range(3)]  # one round of the loop begins all of them
        answers = await asyncio.gather(*asked)
        assert [status for status, _, _ in answers] == [200, 503, 503]
        assert b"The app is behind" in answers[1][2]
        assert (await ask(refusing))[0] == 200, "the next round has just begun"

    asyncio.run(scenario())


class ThreadApp:
    """Answers on a thread when it may; the first requests wait for something else meanwhile."""

    def __init__(self, waiting_requests: int) -> None:
        self.may_answer = threading.Event()
        self.began = 0
        self._waiting_requests = waiting_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await run_in_threadpool(self._compute)
        await PlainTextResponse("answered")(scope, receive, send)

    def _compute(self) -> None:
        self.began += 1
        with waiting() if self.began <= self._waiting_requests else nullcontext():
            self.may_answer.wait()

    async def began_are(self, number: int) -> None:
        """Wait until so many requests have begun, and check that no other one begins."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while self.began < number:
                await asyncio.sleep(0.01)
        await asyncio.sleep(5 * LOOK_SECONDS)
        assert self.began == number

    async def ask_in_turn(self, refusing: OverloadMiddleware, number: int) -> list[asyncio.Task[Answer]]:
        """Ask, each time when the one before has begun."""
        asked = []
        for index in range(number):
            asked.append(asyncio.create_task(ask(refusing)))
            await self.began_are(index + 1)
        return asked

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test, and end the threads even if it fails."""

        async def run() -> None:
            try:
                await scenario()
            finally:
                self.may_answer.set()

        asyncio.run(run())


def test_few_threads_compute_at_once() -> None:
    """With many, every thread and the event loop would wait for all others."""
    app = ThreadApp(waiting_requests=0)

    async def scenario() -> None:
        refusing = OverloadMiddleware(app, most_waiting=0)
        asked = [asyncio.create_task(ask(refusing)) for _ in range(THREADS + 5)]
        await app.began_are(THREADS)
        app.may_answer.set()
        assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}

    app.run(scenario)


def test_requests_that_wait_for_something_else_keep_no_thread() -> None:
    """A model or a catalogue that hangs must not keep the app from answering what does not need it."""
    app = ThreadApp(waiting_requests=THREADS)

    async def scenario() -> None:
        refusing = OverloadMiddleware(app, most_waiting=0)
        asked = [asyncio.create_task(ask(refusing)) for _ in range(THREADS + 3)]
        await app.began_are(THREADS + 3)
        app.may_answer.set()
        assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}

    app.run(scenario)


def test_requests_that_wait_for_something_else_take_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 2)
    app = ThreadApp(waiting_requests=3)

    async def scenario() -> None:
        refusing = OverloadMiddleware(app, most_waiting=10)
        asked = await app.ask_in_turn(refusing, 5)
        assert (await ask(refusing))[0] == 503, "two compute"
        app.may_answer.set()
        assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}
        assert (await ask(refusing))[0] == 200

    app.run(scenario)


def test_even_requests_that_wait_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 1)
    app = ThreadApp(waiting_requests=3)

    async def scenario() -> None:
        refusing = OverloadMiddleware(app, most_waiting=2)
        asked = await app.ask_in_turn(refusing, 3)
        assert (await ask(refusing))[0] == 503
        app.may_answer.set()
        assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}

    app.run(scenario)


def test_bodies_that_come_together_are_limited_like_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many clients send the head of a request first, and a request takes no place while its body is on the way."""
    limit(monkeypatch, THREADS + 2)
    app = ThreadApp(waiting_requests=THREADS)

    async def scenario() -> None:
        has_come = asyncio.Event()

        async def late_body() -> Message:
            await has_come.wait()
            return {"type": "http.request", "body": b""}

        async def send_late() -> str:
            try:
                await refusing({"type": "http", "path": "/search", "root_path": "", "headers": []}, late_body, ignore)
            except HTTPException as error:
                return str(error.status_code)
            return "answered"

        refusing = OverloadMiddleware(app, most_waiting=0)
        asked = [asyncio.create_task(send_late()) for _ in range(THREADS + 7)]
        await asyncio.sleep(5 * LOOK_SECONDS)
        has_come.set()
        await app.began_are(THREADS + 2)
        app.may_answer.set()
        assert Counter(await asyncio.gather(*asked)) == {"answered": THREADS + 2, "503": 5}

    app.run(scenario)


def test_late_body_is_refused_in_the_shape_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI would answer 400 to any other exception while it reads a body."""
    limit(monkeypatch, 1)
    api, may_answer = FastAPI(), asyncio.Event()
    add_error_handlers(api)

    @api.post("/search")
    async def search(_: Annotated[Any, Body()]) -> str:
        await may_answer.wait()
        return "answered"

    async def scenario() -> None:
        has_come = asyncio.Event()

        async def late_body() -> Message:
            await has_come.wait()
            return {"type": "http.request", "body": b"{}"}

        refusing = OverloadMiddleware(api, most_waiting=0)
        asked = [asyncio.create_task(ask(refusing, "/search", late_body)) for _ in range(2)]
        await asyncio.sleep(0)
        has_come.set()
        (refused,), _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        status, headers, body = refused.result()
        error = json.loads(body)["error"]
        assert (status, headers[b"retry-after"], error["code"]) == (503, b"1", "overloaded")
        assert "answered at once" in error["message"]
        may_answer.set()
        assert sorted(status for status, _, _ in await asyncio.gather(*asked)) == [200, 503]

    asyncio.run(scenario())


def test_taken_slots_say_what_is_waited_for() -> None:
    slots = threading.Semaphore(1)
    with (
        take_slot(slots, "the catalogue"),
        pytest.raises(OverloadedError, match="wait for the catalogue"),
        take_slot(slots, "the catalogue"),
    ):
        pytest.fail("there is one slot")
    with take_slot(slots, "the catalogue"):
        pass


async def ignore(_: Message) -> None:
    """Take a part of an answer."""


def test_wait_within_a_wait_counts_once_and_outside_of_a_request_not_at_all() -> None:
    async def nested(_: Scope, receive: Receive, send: Send) -> None:
        with waiting(), waiting():
            waits.append(len(refusing._waits))
        await PlainTextResponse(str(len(refusing._waits)))({"type": "http"}, receive, send)

    waits: list[int] = []
    refusing = OverloadMiddleware(nested, most_waiting=0)
    assert asyncio.run(ask(refusing))[2] == b"0"
    assert waits == [1]
    with waiting():
        assert not refusing._waits


def test_answer_that_is_not_read_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 1)

    async def scenario() -> None:
        is_read = asyncio.Event()

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(_: Message) -> None:
            await is_read.wait()

        app = App()
        app.may_answer.set()
        refusing = OverloadMiddleware(app, most_waiting=0)
        scope = {"type": "http", "method": "POST", "path": "/search", "root_path": "", "headers": []}
        unread = asyncio.create_task(refusing(scope, receive, send))
        await asyncio.sleep(0.01)
        assert (await ask(refusing))[0] == 200
        is_read.set()
        await unread

    asyncio.run(scenario())


def test_burst_is_answered_and_a_queue_that_stays_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a second, or a class that begins, is no overload."""
    monkeypatch.setattr(overload, "IN_BURST", Limits(THREADS + 3, 10.0))
    monkeypatch.setattr(overload, "IN_OVERLOAD", Limits(THREADS + 1, 10.0))
    monkeypatch.setattr(overload, "CALM_SECONDS", 10.0)
    monkeypatch.setattr(overload, "BURST_SECONDS", 1000.0)

    async def scenario() -> None:
        app = App()
        refusing = OverloadMiddleware(app, most_waiting=0)

        async def admitted(number: int) -> list[asyncio.Task[Answer]]:
            tasks = [asyncio.create_task(ask(refusing)) for _ in range(number)]
            await asyncio.sleep(0.01)
            return [task for task in tasks if not task.done()]

        queue = await admitted(THREADS + 5)
        assert len(queue) == THREADS + 3
        refusing._calm_at -= 2000.0  # as if time had passed
        assert await admitted(1) == [], "it is no burst any more"
        app.may_answer.set()
        assert [status for status, _, _ in await asyncio.gather(*queue)] == [200] * (THREADS + 3)
        app.may_answer.clear()
        queue = await admitted(THREADS + 5)
        assert len(queue) == THREADS + 3, "the first one found no queue"
        app.may_answer.set()
        await asyncio.gather(*queue)

    asyncio.run(scenario())


def test_long_rounds_of_the_event_loop_are_a_queue_although_each_request_ends_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Short searches are answered on the event loop, so only its rounds show that they wait."""
    monkeypatch.setattr(overload, "IN_BURST", Limits(40, 10.0))
    monkeypatch.setattr(overload, "IN_OVERLOAD", Limits(40, 0.02))
    monkeypatch.setattr(overload, "CALM_SECONDS", 0.02)
    monkeypatch.setattr(overload, "BURST_SECONDS", 0.01)

    async def scenario() -> None:
        app = App()
        app.may_answer.set()
        refusing = OverloadMiddleware(app, most_waiting=0)
        app.busy_seconds = 0.03
        for expected in ([200, 503, 503], [200, 503, 503]):
            asked = [asyncio.create_task(ask(refusing)) for _ in range(3)]
            assert [status for status, _, _ in await asyncio.gather(*asked)] == expected

    asyncio.run(scenario())
