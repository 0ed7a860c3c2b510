"""The parts of the product as separate processes, as on several machines. Each can be killed and started alone.

They are started as the README describes for separate machines.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from cli.commands.up import COMMAND, ROOT, WORKSPACE
from cli.processes import free_port
from orchestration.instance.files import instance_file
from tests.support.product import START_SECONDS, Product, environment, wait_until

PARTS = ("chroma", "search", "webserver", "daemon")


@dataclass(frozen=True)
class Parts(Product):
    """The running parts: chroma, search, webserver, daemon."""

    ports: Mapping[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        """Start the named parts, by default all, and wait until they answer."""
        for name in names or PARTS:
            log = (self.directory / "data" / "logs" / f"{name}.log").open("ab")
            self.running[name] = subprocess.Popen(
                self._command(name), cwd=self.directory, env=self.env, stdout=log, stderr=subprocess.STDOUT
            )
            log.close()
        for name in names or PARTS:
            wait_until(partial(self._answers, name), START_SECONDS, lambda: f"no answer\n{self.logs()}")

    @contextmanager
    def killed(self, name: str) -> Iterator[None]:
        """Kill a part (SIGKILL) and start it again at the end of the block. Its child processes keep running."""
        process = self.running.pop(name)
        process.kill()
        process.wait()
        try:
            yield
        finally:
            self.start(name)

    def kill_everything(self) -> None:
        super().kill_everything()
        while self.running:
            self.running.popitem()[1].wait()

    def _command(self, name: str) -> list[Any]:
        port = str(self.ports.get(name))
        scripts = Path(sys.executable).parent
        commands: dict[str, list[Any]] = {
            "chroma": [*COMMAND, "vector-store", "--port", port],
            "search": [*COMMAND, "search-app", "--port", port],
            "webserver": [scripts / "dagster-webserver", *WORKSPACE, "--port", port],
            "daemon": [sys.executable, "-m", "orchestration.daemon", "run", *WORKSPACE],
        }
        return commands[name]

    def _answers(self, name: str) -> bool:
        assert self.running[name].poll() is None, f"{name} ended\n{self.logs()}"
        probes = {"chroma": "api/v2/heartbeat", "search": "healthz", "webserver": "server_info"}
        if name not in probes:
            return True
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[name]}/{probes[name]}", timeout=2).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def running_parts(directory: Path, settings: Mapping[str, str], names: Sequence[str] = PARTS) -> Iterator[Parts]:
    """Run the named parts with a migrated catalogue. At the end all their processes are killed."""
    ports = {name: free_port() for name in ("chroma", "search", "webserver")}
    home = directory / "data" / "dagster"
    env = environment(
        directory,
        {
            **settings,
            "CHROMA_URL": f"http://127.0.0.1:{ports['chroma']}",
            "DAGSTER_HOME": str(home),
            "OMP_NUM_THREADS": "1",  # many processes share few cores
        },
    )
    home.mkdir(parents=True)
    (directory / "data" / "logs").mkdir()
    file = instance_file(postgres="DAGSTER_POSTGRES_URL" in settings, celery="CELERY_BROKER_URL" in settings)
    shutil.copy(file, home / "dagster.yaml")
    migrate = [str(Path(sys.executable).with_name("alembic")), "-c", str(ROOT / "alembic.ini"), "upgrade", "head"]
    # before the parts start: two processes that create Dagster's storage at the same time break it
    prepare = [sys.executable, "-m", "orchestration.prepare"]
    for command in (migrate, prepare):
        subprocess.run(command, cwd=directory, env=env, check=True, capture_output=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['search']}", timeout=30) as search:
        parts = Parts(directory, env, search, f"http://127.0.0.1:{ports['webserver']}", ports)
        try:
            parts.start(*names)
            yield parts
        except BaseException:
            sys.stderr.write(parts.logs())
            raise
        finally:
            parts.kill_everything()
