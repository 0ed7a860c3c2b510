"""Serving an app with uvicorn."""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from unittest.mock import patch

import httpx
import pytest
import uvicorn

from cli.web_server import serve


def _options(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What uvicorn is started with."""
    seen: dict[str, object] = {}
    main = sys.modules["uvicorn.main"]  # `uvicorn.main` is the command of this module
    monkeypatch.setattr(main, "run", lambda *_, **options: seen.update(options))
    with patch.dict(os.environ), pytest.raises(SystemExit):
        serve("search_api.app:create_app", "127.0.0.1", 1)
    return seen


def test_idle_connections_are_kept_longer_than_callers_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a request may arrive on a connection that the app has just closed; httpx keeps them for 5 s."""
    assert _options(monkeypatch)["timeout_keep_alive"] == 75


def test_event_loop_accepts_all_new_connections_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else those above the capacity wait in the kernel, where nothing refuses them."""
    assert _options(monkeypatch)["loop"] == "asyncio"


def test_answers_are_sent_at_once_on_the_socket_that_several_processes_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each one waits 40 ms for the caller's acknowledgement; asyncio leaves such a socket as it is."""

    async def app(scope: dict[str, object], receive: object, send: Callable[..., Awaitable[None]]) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    protocol = _options(monkeypatch)["http"]
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", loop="asyncio", http=str(protocol))

    async def without_delay(client: httpx.AsyncClient, server: uvicorn.Server) -> list[int]:
        assert (await client.get("/")).text == "x"
        sockets = [each.transport.get_extra_info("socket") for each in server.server_state.connections]
        return [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets]

    async def scenario() -> list[int]:
        server = uvicorn.Server(config)
        with config.bind_socket() as shared:
            serving = asyncio.create_task(server.serve(sockets=[shared]))
            while not server.started:
                await asyncio.sleep(0.01)
            url = f"http://127.0.0.1:{shared.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                found = await without_delay(client, server)
            server.should_exit = True
            await serving
        return found

    assert asyncio.run(scenario()) == [1]


def test_variables_of_uvicorn_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UVICORN_TIMEOUT_KEEP_ALIVE", "7")
    monkeypatch.setenv("UVICORN_LOOP", "auto")
    options = _options(monkeypatch)
    assert (options["timeout_keep_alive"], options["loop"]) == (7, "auto")
