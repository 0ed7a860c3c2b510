"""Serves an app with uvicorn, by one process or by several that share a port."""

import os
from tempfile import TemporaryDirectory

from models.log_settings import LogSettings

JSON_LINES = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {name: {"()": "telemetry.logs.JsonFormatter"} for name in ("default", "access")},
    "handlers": {name: {"class": "logging.StreamHandler", "formatter": name} for name in ("default", "access")},
    "loggers": {
        "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}
"""Configuration of uvicorn's log."""
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus_client: the directory where the processes of an app share what they count."""
KEEP_ALIVE_SECONDS = "75"
"""How long an idle connection stays open: longer than callers keep theirs, so that the caller closes it. With uvicorn's
5 s, a busy app closed connections on which a request had just arrived, which the caller sees as a reset."""
LOOP = "asyncio"
"""The event loop. uvicorn's default accepts one connection in each of its rounds, which take long under load: new
connections then wait in the kernel, where nothing refuses them, until their callers give up. asyncio accepts all, and
costs a search no more than 5 %."""
HTTP_PROTOCOL = "cli.http_protocol:HttpProtocol"
WORKER_SECONDS = 30
"""How long uvicorn waits for a sign of life of a process before it replaces it. Its start takes some of that time."""


def serve(app: str, host: str, port: int, workers: int = 1) -> None:
    """Serve an app until SIGTERM or Ctrl-C; then answer the requests that have arrived, and raise SystemExit.

    The variables of uvicorn, such as UVICORN_ROOT_PATH, apply. By default it logs no line for each request, which takes
    a fifth of the time around a search.

    Args:
        app: Module and name of the app's factory.
        host: Address to listen on.
        port: Port to listen on.
        workers: Number of processes. One that ends is replaced.
    """
    from uvicorn.main import main as uvicorn

    os.environ.setdefault("UVICORN_ACCESS_LOG", "false")
    os.environ.setdefault("UVICORN_LOOP", LOOP)
    os.environ.setdefault("UVICORN_HTTP", HTTP_PROTOCOL)
    os.environ.setdefault("UVICORN_TIMEOUT_KEEP_ALIVE", KEEP_ALIVE_SECONDS)
    command = ["--factory", app, "--host", host, "--port", str(port), "--workers", str(workers)]
    if workers == 1:
        uvicorn(command)
    with TemporaryDirectory(prefix="course-search-metrics-") as directory:
        os.environ[METRICS_DIRECTORY] = directory  # the processes read it when they start
        command += ["--timeout-worker-healthcheck", str(WORKER_SECONDS)]
        with uvicorn.make_context("uvicorn", command) as context:
            if LogSettings().log_format == "json" and context.params["log_config"] is None:
                context.params["log_config"] = JSON_LINES  # the process that starts the others does not load the app
            uvicorn.invoke(context)
