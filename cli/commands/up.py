"""`course-search up`: the whole product on one machine.

Migrates the catalogue, then starts the Chroma server, the search app and Dagster (web server, daemon, code location)
and watches over them until Ctrl-C.
"""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.markup import escape

from cli.launcher_settings import PRODUCT_LOCK, LauncherSettings
from cli.processes import ProcessFailedError, Supervisor, free_port
from embedding.errors import EmbeddingError, ModelUnavailableError
from embedding.factory import configured_signature
from embedding.model_files.demo_model import demo_model_settings, model_in_use
from embedding.model_files.directory import read_model_directory
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from embedding.vector_store.server import VectorStoreSettings
from models.database import postgres_url
from orchestration.search_link import SearchLinkSettings

LOOPBACK = "127.0.0.1"
SEARCH_PORT, DAGSTER_PORT, CHROMA_PORT = 8000, 3000, 8001
APP = "search_api.app:create_app"
ROOT = Path(__file__).parents[2]
WORKSPACE = ("-w", str(ROOT / "workspace.yaml"))
COMMAND = (sys.executable, "-m", "cli")

console = Console(highlight=False, soft_wrap=True)


class CannotStartError(Exception):
    """The product cannot start as it is configured; the message says what to do."""


@dataclass(frozen=True)
class Running:
    """A product that is up."""

    supervisor: Supervisor
    search_url: str
    dagster_url: str


def up() -> None:
    """Start everything and keep it running; Ctrl-C stops it."""
    vector_store = VectorStoreSettings()
    external_chroma = vector_store.chroma_url if "chroma_url" in vector_store.model_fields_set else None
    try:
        with running(LauncherSettings(), os.environ, chroma_url=external_chroma) as product:
            console.print(
                "\n[bold green]Everything is running.[/] Ctrl-C stops it.\n"
                f"  Dagster UI    {product.dagster_url}\n"
                f"  Search page   {product.search_url}\n"
                f"  Search API    {product.search_url}/docs\n"
                f"  Courses       {product.search_url}/courses\n\n"
                "Next: load a course, and the sensor embeds it by itself:\n"
                "  [bold].venv/bin/course-search load data/samples/pcb-en.jsonl[/]"
            )
            while True:
                product.supervisor.check_alive()
                time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("Everything is stopped.")
    except (CannotStartError, DirectoryInUseError, ProcessFailedError) as error:
        console.print(str(error), style="bold red", markup=False)
        raise typer.Exit(1) from error


@contextmanager
def running(
    settings: LauncherSettings, environ: Mapping[str, str], *, chroma_url: str | None, any_port: bool = False
) -> Iterator[Running]:
    """The product, up and ready; stopped at the end, whatever ends it. SIGTERM and SIGHUP act like Ctrl-C.

    Args:
        settings: Where the parts listen and where Dagster keeps its state.
        environ: Environment to start from; the settings that were resolved here are added to it.
        chroma_url: A Chroma server that runs already; None starts one.
        any_port: Take any free port unless one is configured, rather than the usual one.

    Raises:
        CannotStartError: a port is taken or there is no model.
        DirectoryInUseError: it is running already.
        ProcessFailedError: a part did not start.
    """
    home = settings.dagster_home.absolute()
    try:
        lock = lock_directory(home, PRODUCT_LOCK)
    except DirectoryInUseError as error:
        raise DirectoryInUseError(f"{error}: everything is running already. Stop that first.") from error
    search_port = _port(settings.search_host, settings.search_port, SEARCH_PORT, any_port=any_port)
    dagster_port = _port(settings.dagster_host, settings.dagster_port, DAGSTER_PORT, any_port=any_port)
    chroma_port = _port(LOOPBACK, settings.chroma_port, CHROMA_PORT, any_port=any_port)
    search_url = f"http://{settings.search_host}:{search_port}"
    dagster_url = f"http://{settings.dagster_host}:{dagster_port}"
    if chroma_url:
        console.print(f"Vector store: {chroma_url} (CHROMA_URL is set: none is started here)")
    env = {
        **environ,
        **_model_settings(),
        "CHROMA_URL": chroma_url or f"http://{LOOPBACK}:{chroma_port}",
        "DAGSTER_HOME": str(home),
        "NO_PROXY": ",".join(filter(None, [environ.get("NO_PROXY"), LOOPBACK, "localhost"])),
        "PYTHONUNBUFFERED": "1",
        "SEARCH_URL": _search_link(search_url),
    }
    _configure_dagster(settings, home, env)
    with _signals_as_interrupt(), Supervisor(home.parent / "logs", env, keep_open=[lock]) as supervisor:
        supervisor.run("migrations", [_script("alembic"), "-c", ROOT / "alembic.ini", "upgrade", "head"])
        if not chroma_url:
            chroma = supervisor.start("chroma", [*COMMAND, "vector-store", "--port", str(chroma_port)])
            supervisor.wait_ready(chroma, f"{env['CHROMA_URL']}/api/v2/heartbeat")
        supervisor.run("prepare", [sys.executable, "-m", "orchestration.prepare"])
        search = supervisor.start(
            "search",
            [_script("uvicorn"), "--factory", APP, "--host", settings.search_host, "--port", str(search_port)],
        )
        webserver = supervisor.start(
            "dagster-webserver",
            [_script("dagster-webserver"), *WORKSPACE, "-h", settings.dagster_host, "-p", str(dagster_port)],
        )
        supervisor.start("dagster-daemon", [_script("dagster-daemon"), "run", *WORKSPACE])
        supervisor.wait_ready(search, f"{search_url}/healthz")
        supervisor.wait_ready(webserver, f"{dagster_url}/server_info")
        try:
            yield Running(supervisor, search_url, dagster_url)
        finally:
            console.print("Stopping …")


def _script(name: str) -> Path:
    """A program of this virtual environment, whatever PATH says."""
    return Path(sys.executable).with_name(name)


def _model_settings() -> dict[str, str]:
    """Environment that says which model to use, and says so to the operator, too."""
    configured = EmbeddingSettings()
    if configured.embedding_service_url:
        _show_service(configured)
        return {}
    used = model_in_use(configured)
    try:
        read_model_directory(used.embedding_model_path)
    except ModelUnavailableError as error:
        raise CannotStartError(str(error)) from error
    if used == configured:
        console.print(f"Embedding model: {used.embedding_model_name} ({used.embedding_model_path})")
        return {}
    console.print(
        f"[bold yellow]Embedding model: {used.embedding_model_name}, a small stand-in that reads English only.[/]\n"
        f"[yellow]There are no weights at {configured.embedding_model_path}. For real use stop this and run "
        "`make fetch-model`; all courses are then embedded anew.[/]"
    )
    return demo_model_settings(used.embedding_model_path)


def _show_service(settings: EmbeddingSettings) -> None:
    """Say which service embeds; one that is away may come later, as everything else goes on without it."""
    try:
        configured_signature(settings)
    except EmbeddingError as error:
        console.print(f"[yellow]{escape(str(error))}[/]")
    else:
        console.print(f"Embedding model: {settings.embedding_model_name} ({settings.embedding_service_url})")


def _search_link(search_url: str) -> str:
    """Where the Dagster UI's links lead: to the app started here, unless people reach it elsewhere."""
    settings = SearchLinkSettings()
    return settings.search_url if "search_url" in settings.model_fields_set else search_url


def _configure_dagster(settings: LauncherSettings, home: Path, env: dict[str, str]) -> None:
    """Give the instance its dagster.yaml; a home of the operator's own keeps the one it has."""
    template = "dagster.yaml"
    if settings.dagster_postgres_url:
        template = "dagster-postgres.yaml"
        env["DAGSTER_POSTGRES_URL"] = postgres_url(settings.dagster_postgres_url)
    target = home / "dagster.yaml"
    if "dagster_home" in settings.model_fields_set and target.exists():
        console.print(f"Dagster's instance is configured by {target}")
    else:
        shutil.copyfile(ROOT / "orchestration" / template, target)


def _port(host: str, configured: int | None, usual: int, *, any_port: bool) -> int:
    if configured is not None:
        if not _is_free(host, configured):
            raise CannotStartError(f"Port {configured} is taken. Stop what listens there, or configure another port.")
        return configured
    if not any_port and _is_free(host, usual):
        return usual
    return free_port(host)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
