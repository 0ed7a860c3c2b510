"""Worker processes of runs, as real processes that a test can suspend and kill."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil

WORKER = """
import sys
import dagster as dg
from orchestration.workers import register_worker
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    worker = register_worker(instance, sys.argv[2])
    print("registered", flush=True)
    for _ in sys.stdin:
        worker.beat()
        print("beat", flush=True)
"""


class WorkerProcess:
    """A process that has registered as the worker of a run, and beats when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def expect(self, answer: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{answer}\n"

    def beat(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("beat\n")
        self._process.stdin.flush()
        self.expect("beat")

    def suspend(self) -> None:
        process = psutil.Process(self.pid)
        process.suspend()
        while process.status() != psutil.STATUS_STOPPED:
            pass

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def exit_code(self) -> int:
        """Wait until the process has ended."""
        return self._process.wait()


@contextmanager
def worker_process(directory: Path, run_id: str) -> Iterator[WorkerProcess]:
    """Start the worker of a run of the Dagster instance in `directory`."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, directory, run_id],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        worker = WorkerProcess(process)
        try:
            worker.expect("registered")
            yield worker
        finally:
            process.send_signal(signal.SIGKILL)


def instance_on_disk(directory: Path) -> dg.DagsterInstance:
    """A Dagster instance with our run launcher that other processes can open."""
    (directory / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_launcher: {module: orchestration.instance.run_launcher, class: CourseRunLauncher}\n"
    )
    return dg.DagsterInstance.from_config(str(directory))
