"""The whole product as an operator starts it: `course-search up` in a directory of its own."""

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
MARK = "COURSE_SEARCH_TEST_DIRECTORY"
"""In the environment of every process of a product under test: whose it is."""


@dataclass(frozen=True)
class Product:
    """A running product."""

    directory: Path
    env: Mapping[str, str] = field(repr=False)
    search: httpx.Client
    dagster_url: str

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a `course-search` command beside it."""
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
        """Load courses in stage one's place."""
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for course in courses for line in course)
        result = self.run("load", "-", *(["--replace"] if replace else []), stdin=lines)
        assert result.returncode == 0, result.stderr

    def status(self, course_id: str) -> dict[str, Any]:
        """What the API says of a course."""
        response = self.search.get(f"/courses/{course_id}/embedding_status")
        assert response.status_code == httpx.codes.OK, response.text
        status: dict[str, Any] = response.json()
        return status

    def wait_for(self, course_id: str, status: str, seconds: float = 120) -> dict[str, Any]:
        """Poll until the course has the status."""
        wait_until(lambda: self.status(course_id)["status"] == status, seconds, lambda: f"{self.status(course_id)}")
        return self.status(course_id)

    def ask(self, course_id: str, query: str, **options: object) -> list[dict[str, Any]]:
        """Search, and expect an answer."""
        response = self.search.post(f"/courses/{course_id}/search", json={"query": query, **options})
        assert response.status_code == httpx.codes.OK, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    @property
    def ui(self) -> DagsterUI:
        """Its Dagster UI."""
        return DagsterUI(self.dagster_url)

    def processes(self) -> list[psutil.Process]:
        """Every process of it, orphans too: whatever carries its environment."""
        return [process for process in psutil.process_iter() if _environment_of(process).get(MARK) == self.env[MARK]]

    def kill_everything(self) -> None:
        """`kill -9` of every process of it, as when the machine loses its power."""
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
    """Poll a condition; `state` tells in the failure what was there instead."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {state()}"
        time.sleep(every)


def environment(directory: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """What the product's processes get: the settings given and no others."""
    inherited = {name: value for name, value in os.environ.items() if name not in SETTING_NAMES}
    return {**inherited, **settings, "PYTHONUNBUFFERED": "1", MARK: str(directory)}


def _environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:  # it has ended, or is somebody else's
        return {}


@contextmanager
def running_product(directory: Path, settings: Mapping[str, str]) -> Iterator[Product]:
    """`course-search up` until its block ends; then Ctrl-C, and not one process of it may be left."""
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
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 0, output
        assert "Everything is stopped." in output
        assert [member for member in family if member.is_running()] == []
    finally:
        if process.poll() is None:  # the body failed, or Ctrl-C was ignored; what goes on would disturb later tests
            process.terminate()
            process.communicate(timeout=90)
        process.stdout.close()


def _announced_urls(process: subprocess.Popen[str]) -> Iterator[tuple[str, str]]:
    """What `up` prints once everything is ready: a name and its URL a line."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if match := re.fullmatch(r"  ([A-Z][A-Za-z ]+?)\s+(http\S+)\n", line):
            yield match[1], match[2]
        if "course-search load" in line:
            return
    raise AssertionError(f"up ended early:\n{seen}")
