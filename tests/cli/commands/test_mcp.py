"""`course-search mcp`, started by the client of the package `mcp`: the protocol, the search app behind it, its end."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from typer.testing import CliRunner

from cli.main import app
from cli.processes import free_port
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.search_api.mcp.agent import over_stdio, text
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration


@pytest.fixture
def harness(tmp_path: Path) -> AppHarness:
    return AppHarness(tmp_path)


def server(url: str, **settings: str) -> StdioServerParameters:
    env = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **settings}
    return StdioServerParameters(command=sys.executable, args=["-m", "cli", "mcp", "--url", url], env=env)


def test_tools_call_the_app_and_nothing_else_is_on_standard_output(harness: AppHarness, tmp_path: Path) -> None:
    """The client would report a line that is not of the protocol."""
    harness.add_course("c")

    async def session(client: Client) -> None:
        assert len((await client.list_tools()).tools) == 3
        assert text(await client.call_tool("list_courses", {})) == "1 of 1 courses:\n- c (done)"

    log = tmp_path / "log"
    with serving(create_app(SearchSettings(internal_token="secret"), harness.services)) as url:
        over_stdio(server(url, INTERNAL_TOKEN="secret"), log, session, mode="legacy")
    assert url in log.read_text(encoding="utf-8")
    assert "WARNING" not in log.read_text(encoding="utf-8")
    assert "secret" not in log.read_text(encoding="utf-8")


def test_what_is_wrong_with_the_app_is_told_to_the_model_and_the_command_goes_on(
    harness: AppHarness, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"

    async def session(client: Client) -> None:
        away = await client.call_tool("list_courses", {})
        assert away.is_error
        assert "cannot be reached" in text(away)
        while "cannot be reached" not in log.read_text(encoding="utf-8"):
            await asyncio.sleep(0.01)
        with serving(create_app(SearchSettings(internal_token="secret"), harness.services), port):
            refused = await client.call_tool("list_courses", {})
        assert refused.is_error
        assert "INTERNAL_TOKEN" in text(refused)
        with serving(create_app(SearchSettings(), harness.services), port):
            assert not (await client.call_tool("list_courses", {})).is_error

    over_stdio(server(f"http://127.0.0.1:{port}"), log, session)


def test_unusable_address_is_an_error_of_the_option() -> None:
    result = CliRunner().invoke(app, ["mcp", "--url", "localhost:8000"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "begins with http://" in result.stderr


def test_interrupt_ends_it_while_it_waits_for_input() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cli", "mcp", "--url", f"http://127.0.0.1:{free_port()}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert "served over standard input" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_SECONDS) == -signal.SIGINT
