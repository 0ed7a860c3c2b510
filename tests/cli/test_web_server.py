"""Serving an app with uvicorn."""

import os
import sys
from unittest.mock import patch

import pytest
import uvicorn  # noqa: F401 - loads its module `main`

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


def test_variables_of_uvicorn_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UVICORN_TIMEOUT_KEEP_ALIVE", "7")
    monkeypatch.setenv("UVICORN_LOOP", "auto")
    options = _options(monkeypatch)
    assert (options["timeout_keep_alive"], options["loop"]) == (7, "auto")
