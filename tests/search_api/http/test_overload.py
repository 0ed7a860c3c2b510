"""Above capacity, requests are refused at once, and probes are answered."""

import asyncio
import time

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from search_api.http import overload
from search_api.http.overload import OverloadMiddleware


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


async def ask(app: OverloadMiddleware, path: str = "/courses/c/search") -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": path, "root_path": "", "headers": []}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_requests_above_the_number_of_threads_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_threads", lambda: 2)

    async def scenario() -> None:
        app = App()
        refusing = OverloadMiddleware(app)
        admitted = [asyncio.create_task(ask(refusing)) for _ in range(2)]
        await asyncio.sleep(0)
        status, headers, body = await ask(refusing)
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert b'"overloaded"' in body
        assert (await ask(refusing, "/healthz"))[0] == 200
        app.may_answer.set()
        assert [status for status, _, _ in await asyncio.gather(*admitted)] == [200, 200]
        assert (await ask(refusing))[0] == 200

    asyncio.run(scenario())


def test_requests_that_waited_for_the_event_loop_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "MOST_LOOP_SECONDS", 0.02)

    async def scenario() -> None:
        app = App()
        app.may_answer.set()
        refusing = OverloadMiddleware(app)
        app.busy_seconds = 0.03
        asked = [asyncio.create_task(ask(refusing)) for _ in range(3)]  # one round of the loop begins all of them
        assert [status for status, _, _ in await asyncio.gather(*asked)] == [200, 503, 503]
        assert (await ask(refusing))[0] == 200, "the next round has just begun"

    asyncio.run(scenario())
