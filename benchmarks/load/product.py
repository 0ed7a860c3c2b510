"""Starts the product in a scratch directory and publishes the courses of the load."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.load.client import Client, Exchange
from benchmarks.load.courses import course_id, rows_of
from cli.all_settings import ALL_SETTINGS
from cli.commands.up import run_product
from cli.launcher_settings import LauncherSettings
from cli.processes import Supervisor
from embedding.model_files.demo_model import demo_model_path, demo_model_settings
from models import courses
from models.database import CatalogueSettings, create_catalogue_engine, transaction
from models.loading import load

CHROMA = "chroma"
"""The program that the command `vector-store` becomes."""
PUBLISHED_SECONDS = 900.0


@dataclass(frozen=True)
class LoadedProduct:
    """The running product with its courses."""

    supervisor: Supervisor
    directory: Path
    host: str
    port: int
    model: str

    @property
    def chroma_port(self) -> int:
        """The port of its Chroma server."""
        return int(_running(CHROMA)[0].cmdline()[-1])

    def client(self, on_end: Callable[[Exchange], None]) -> Client:
        """A client of its search app."""
        return Client(self.host, self.port, on_end)

    def processes(self) -> Mapping[str, Callable[[], Sequence[psutil.Process]]]:
        """The processes that stay, by name; not those of single runs."""
        return {
            "search app": partial(_running, "search-app"),
            "Chroma": partial(_running, CHROMA),
            "Dagster daemon": lambda: _running("orchestration.daemon")[:1],
            "Dagster code servers": lambda: [
                process for process in _running("orchestration.daemon")[1:] if "grpc" in process.cmdline()
            ],
        }


@contextmanager
def loaded_product(number: int, passages: int, model: Path | None, more: Mapping[str, str]) -> Iterator[LoadedProduct]:
    """Start the product in a scratch directory, and wait until its courses are published.

    Settings come from the arguments alone, so that nothing but this machine is used.

    Args:
        number: Number of courses.
        passages: Passages of each.
        model: Model directory; None for the demo model.
        more: Further settings.

    Raises:
        FileNotFoundError: There is no model.
        ProcessFailedError: A program did not start, or the courses were not published in time.
    """
    path = model or demo_model_path()
    if path is None:
        raise FileNotFoundError("the demo model is not installed: run `make install`, or give a model with --model")
    path = path.absolute()
    for settings in ALL_SETTINGS:
        for name in settings.model_fields:
            os.environ.pop(name.upper(), None)
    with tempfile.TemporaryDirectory(prefix="course-search-load-") as name, chdir(name):
        directory = Path(name)
        os.environ.update(
            {
                **demo_model_settings(path),
                **({"EMBEDDING_MODEL_NAME": path.name} if model else {}),
                "DATABASE_URL": f"sqlite:///{directory}/catalogue.db",
                "CHROMA_DB_DIR": str(directory / "chroma"),
                "SNAPSHOT_DIR": str(directory / "snapshots"),
                **more,
            }
        )
        launcher = LauncherSettings(dagster_home=directory / "dagster")
        with run_product(launcher, os.environ, chroma_url=None, any_port=True) as product:
            _publish(product.supervisor, number, passages)
            url = urlsplit(product.search_url)
            yield LoadedProduct(
                product.supervisor, directory, str(url.hostname), url.port or 0, os.environ["EMBEDDING_MODEL_NAME"]
            )


def _running(name: str) -> list[psutil.Process]:
    """The program below this process that has an argument of this name, and its descendants."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended
            if any(Path(argument).name == name for argument in process.cmdline()):
                return [process, *process.children(recursive=True)]
    raise psutil.NoSuchProcess(0, name)


def _publish(supervisor: Supervisor, number: int, passages: int) -> None:
    engine = create_catalogue_engine(CatalogueSettings())
    sources = [(course_id(each), rows_of(each, 1, passages)) for each in range(number)]

    def are_published() -> bool:
        with transaction(engine) as session:
            states = {row.id: row.embedding_status for row in courses.published_courses(session)}
        return all(states.get(course_id(each)) == "done" for each in range(number))

    try:
        with transaction(engine) as session:
            load(session, sources)
        supervisor.wait_until(are_published, PUBLISHED_SECONDS, "the courses are not published")
    finally:
        engine.dispose()
