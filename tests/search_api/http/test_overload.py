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


def test_body_that_does_not_come_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_threads", lambda: 1)

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
        refusing = OverloadMiddleware(upload)
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
