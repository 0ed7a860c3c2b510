"""The search app as several processes: one address, one set of metrics, replacements, a clean end."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from cli.main import app
from cli.processes import free_port
from models.database import transaction
from models.tables import Course, EmbeddingStatus
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.operations.families import FAMILIES
from tests.support import snapshots
from tests.support.courses import empty_catalogue
from tests.support.product import START_SECONDS, environment, wait_until

pytestmark = pytest.mark.integration

PROCESSES = 2
SEARCH = "/courses/c/search"
ROUTE = "/courses/{course_id:path}/search"


@dataclass(frozen=True)
class Server:
    """The started program."""

    process: psutil.Popen
    url: str
    temporary: Path
    log: Path

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        return [child for child in self.process.children() if _is_worker(child)]

    def search(self) -> None:
        """Search, on a new connection."""
        answer = httpx.post(self.url + SEARCH, json={"query": "copper", "method": "keyword"}, timeout=START_SECONDS)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["results"]) == 1

    def samples(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """The values of a metric by its labels."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=START_SECONDS).text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def wait_for(self, name: str, labels: Mapping[str, str], expected: Mapping[Any, float]) -> None:
        """Wait until a metric has these values."""
        wait_until(
            lambda: self.samples(name, **labels) == expected, 60, lambda: f"{name}: {self.samples(name, **labels)}"
        )

    def searched(self) -> float:
        """How many searches the metrics show."""
        return sum(self.samples("course_search_http_request_duration_seconds_count", route=ROUTE).values())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    texts = {"1": "copper conducts", "2": "glass insulates"}
    engine = empty_catalogue(tmp_path / "catalogue.db")
    with transaction(engine) as session:
        course = Course(id="c", embedding_status=EmbeddingStatus.DONE, embedding_generation=1)
        course.embedding_fingerprint = str(snapshots.fingerprint(texts))
        session.add(course)
    engine.dispose()
    SnapshotStore(SnapshotSettings(snapshot_dir=tmp_path / "snapshots")).save("c", snapshots.build(texts))
    (tmp_path / "temporary").mkdir()
    port = free_port()
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/catalogue.db",
        "SNAPSHOT_DIR": f"{tmp_path}/snapshots",
        "CHROMA_URL": nowhere,
        "EMBEDDING_SERVICE_URL": nowhere,
        "SEARCH_WORKERS": str(PROCESSES),
        "LOG_FORMAT": "json",
        "TMPDIR": f"{tmp_path}/temporary",
    }
    command = [sys.executable, "-m", "cli", "search-app", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = psutil.Popen(command, env=environment(tmp_path, settings), stdout=log, stderr=subprocess.STDOUT)
    server = Server(process, f"http://127.0.0.1:{port}", tmp_path / "temporary", tmp_path / "log")
    try:
        wait_until(
            lambda: (tmp_path / "log").read_text().count("startup complete") == PROCESSES,
            START_SECONDS,
            (tmp_path / "log").read_text,
        )
        yield server
    finally:
        if process.is_running():
            for each in [*process.children(recursive=True), process]:
                each.kill()
            process.wait()


def test_several_processes_are_one_app(server: Server) -> None:
    """One test, because the start of the processes takes most of the time."""
    sent = _search_in_all(server)
    wait_until(lambda: server.searched() == sent, 60, lambda: f"{server.searched()} of {sent}")
    assert server.samples("course_search_answers_total") == {(): sent}
    # The catalogue is one. Each process has opened the snapshot once; the other one copies its state every second.
    of_courses = {"cache": "courses"}
    for name, labels, expected in (
        ("course_search_catalogue_up", {}, {(): 1}),
        ("course_search_courses", {"status": "done"}, {("done",): 1}),
        ("course_search_snapshots_mapped", {}, {(): PROCESSES}),
        ("course_search_cache_misses_total", of_courses, {("courses",): PROCESSES}),
        ("course_search_cache_entries", of_courses, {("courses",): PROCESSES}),
    ):
        server.wait_for(name, labels, expected)
    shown = httpx.get(f"{server.url}/metrics", timeout=START_SECONDS).text
    documented = {(each.name, each.kind) for each in FAMILIES}
    found = re.findall(r"# TYPE (\S+) (\w+)\n", shown)
    assert len(found) == len(set(found)), "Prometheus refuses a metric that is there twice"
    assert set(found) <= documented
    assert "pid=" not in shown

    before = server.workers()
    before[0].kill()
    wait_until(
        lambda: len(workers := server.workers()) == PROCESSES and before[0] not in workers,
        60,
        lambda: str(server.workers()),
    )
    wait_until(lambda: server.searched() == sent, 60, lambda: f"{server.searched()} of {sent}: a counter never falls")
    assert server.samples("course_search_snapshots_mapped") == {(): PROCESSES - 1}, "the dead process maps nothing"

    family = [server.process, *server.process.children(recursive=True)]
    body = b'{"query": "copper", "method": "keyword"}'
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as connection:
        head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100"), "the request is being read"
        server.process.send_signal(signal.SIGTERM)
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200"), "a request that has begun is answered"
    server.process.wait(START_SECONDS)
    assert psutil.wait_procs(family, 60)[1] == []
    assert list(server.temporary.iterdir()) == []
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert any("died" in line["message"] for line in lines), "also of the process that starts the others"


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is one of uvicorn's processes, and has not ended. multiprocessing starts another one."""
    with suppress(psutil.Error):
        return any("spawn_main" in part for part in process.cmdline())
    return False


def _search_in_all(server: Server) -> int:
    """Search until every process has answered; returns the number of searches."""
    sent = 0
    while sent < PROCESSES or not all(ROUTE.encode() in file.read_bytes() for file in _histograms(server)):
        server.search()
        sent += 1
        assert sent < 1000, "one process answers everything"
    return sent


def _histograms(server: Server) -> list[Path]:
    files = list(server.temporary.glob("*/histogram_*.db"))
    assert len(files) == PROCESSES
    return files


def test_processes_need_an_embedding_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of them would load the model."""
    monkeypatch.setenv("SEARCH_WORKERS", "2")
    done = CliRunner().invoke(app, ["search-app"])
    assert done.exit_code == 1
    assert "EMBEDDING_SERVICE_URL" in done.stderr
