"""The whole product, started with `course-search up` in a separate directory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.dagster_ui import DagsterUI
from tests.support.settings import SETTING_NAMES

COMMAND = (sys.executable, "-m", "cli")
START_SECONDS = 180.0
DIRECTORY_VARIABLE = "COURSE_SEARCH_TEST_DIRECTORY"
"""Environment variable of all processes of a product under test; its value is the directory of the product."""


@dataclass(frozen=True)
class Product:
    """A running product."""

    directory: Path
    env: Mapping[str, str] = field(repr=False)
    search: httpx.Client
    dagster_url: str

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a `course-search` command with the settings of the product."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.directory,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )

    def load(self, *courses: Iterable[Mapping[str, Any]], replace: bool = False) -> None:
        """Load courses with `course-search load`."""
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for course in courses for line in course)
        result = self.run("load", "-", *(["--replace"] if replace else []), stdin=lines)
        assert result.returncode == 0, result.stderr

    def status(self, course_id: str) -> dict[str, Any]:
        """The embedding status of a course from the API."""
        response = self.search.get(f"/courses/{course_id}/embedding_status")
        assert response.status_code == httpx.codes.OK, response.text
        status: dict[str, Any] = response.json()
        return status

    def wait_for(self, course_id: str, status: str, seconds: float = 300) -> dict[str, Any]:
        """Wait until the course has the status; returns the answer of the API."""
        wait_until(lambda: self.status(course_id)["status"] == status, seconds, lambda: f"{self.status(course_id)}")
        return self.status(course_id)

    def ask(self, course_id: str, query: str, **options: object) -> list[dict[str, Any]]:
        """Search, and assert that the status is 200; returns the results."""
        response = self.search.post(f"/courses/{course_id}/search", json={"query": query, **options})
        assert response.status_code == httpx.codes.OK, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    @property
    def ui(self) -> DagsterUI:
        """Client of its Dagster web server."""
        return DagsterUI(self.dagster_url)

    def processes(self) -> list[psutil.Process]:
        """All processes of the product, including orphans, which are identified by their environment."""
        return [
            process
            for process in psutil.process_iter()
            if _environment_of(process).get(DIRECTORY_VARIABLE) == self.env[DIRECTORY_VARIABLE]
        ]

    def kill_everything(self) -> None:
        """Kill all processes of the product (SIGKILL), as in a power failure."""
        while processes := self.processes():
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes)

    def logs(self) -> str:
        """The end of every log, for the message of a failed test."""
        return "\n".join(
            f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted((self.directory / "data" / "logs").glob("*.log"))
        )


def wait_until(condition: Callable[[], bool], seconds: float, state: Callable[[], str], every: float = 0.2) -> None:
    """Wait until a condition holds. If it does not in time, the failure message contains `state()`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {state()}"
        time.sleep(every)


def environment(directory: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Environment of the product's processes: only the given settings, and variables that are not settings."""
    inherited = {name: value for name, value in os.environ.items() if name not in SETTING_NAMES}
    return {**inherited, **settings, "PYTHONUNBUFFERED": "1", DIRECTORY_VARIABLE: str(directory)}


def _environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # the process has ended, or belongs to another user
        return {}


@contextmanager
def running_product(directory: Path, settings: Mapping[str, str]) -> Iterator[Product]:
    """Run `course-search up`. At the end of the block send Ctrl-C, and assert that no process is left."""
    env = environment(directory, settings)
    process = subprocess.Popen(
        [*COMMAND, "up"], cwd=directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        urls = dict(_announced_urls(process))
        with httpx.Client(base_url=urls["Courses"].removesuffix("/courses"), timeout=30) as search:
            product = Product(directory, env, search, urls["Dagster UI"])
            try:
                yield product
            except BaseException:
                sys.stderr.write(product.logs())
                raise
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        assert "Everything is stopped." in output
        assert [member for member in family if member.is_running()] == []
    finally:
        if process.poll() is None:  # the block failed, or Ctrl-C was ignored
            process.terminate()
            process.communicate(timeout=200)
        process.stdout.close()


def _announced_urls(process: subprocess.Popen[str]) -> Iterator[tuple[str, str]]:
    """Yields the name and the URL of each line that `up` prints when everything is ready."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if match := re.fullmatch(r"  ([A-Z][A-Za-z ]+?)\s+(http\S+)\n", line):
            yield match[1], match[2]
        if "course-search add" in line:
            return
    raise AssertionError(f"up ended early:\n{seen}")
