"""Serving an app with uvicorn."""

import os
import sys
from unittest.mock import patch

import pytest
import uvicorn  # noqa: F401 - loads its module `main`

from cli.web_server import serve


def _timeout(monkeypatch: pytest.MonkeyPatch) -> int:
    """How long uvicorn keeps an idle connection, in seconds."""
    seen: list[int] = []
    main = sys.modules["uvicorn.main"]  # `uvicorn.main` is the command of this module
    monkeypatch.setattr(main, "run", lambda *_, timeout_keep_alive, **__: seen.append(timeout_keep_alive))
    with patch.dict(os.environ), pytest.raises(SystemExit):
        serve("search_api.app:create_app", "127.0.0.1", 1)
    return seen[0]


def test_idle_connections_are_kept_longer_than_callers_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a request may arrive on a connection that the app has just closed; httpx keeps them for 5 s."""
    assert _timeout(monkeypatch) == 75


def test_operator_decides_how_long_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UVICORN_TIMEOUT_KEEP_ALIVE", "7")
    assert _timeout(monkeypatch) == 7
