"""`course-search up` with LOG_FORMAT=json: its own messages are JSON, too."""

import json
import socket
import subprocess
import sys

import pytest


def test_messages_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, which cannot start because its port is in use."""
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setenv("CHROMA_URL", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("SEARCH_PORT", str(taken.getsockname()[1]))
        command = [sys.executable, "-m", "cli", "up"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = map(json.loads, (done.stdout + done.stderr).splitlines())
    assert (line["level"], line["logger"]) == ("error", "cli.commands.up")
    assert "is in use" in line["message"]
