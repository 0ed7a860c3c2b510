"""Starts the parts of the product that a benchmark needs, without Dagster: catalogue, Chroma server, search app.

All files are in a temporary directory, which is deleted at the end. The ports are chosen from the free ports.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.processes import Supervisor, free_port
from cli.web_server import LOOP
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from models import course_state
from models.database import CatalogueSettings, Engine, create_catalogue_engine, transaction
from models.fingerprint import CourseFingerprint
from models.loading import Source, load

ROOT = Path(__file__).parents[1]
RUN_ID = "benchmark"
APP = "search_api.app:create_app"


@dataclass(frozen=True)
class Stores:
    """A migrated catalogue and a Chroma server."""

    settings: Mapping[str, str]
    """Environment variables of the processes."""
    engine: Engine
    store: VectorStore
    supervisor: Supervisor

    def publish(self, source: Source, course_id: str, index: Callable[[], tuple[CourseFingerprint, str | None]]) -> int:
        """Load a course and publish it, in the same order as a Dagster run: claim, index, publish.

        Args:
            source: Ready-to-Embed rows of the course.
            course_id: The course.
            index: Writes the collection of the course; returns its fingerprint and the calibration of its relevance.

        Returns:
            The number of chunks.

        Raises:
            LoadError: A row is malformed.
        """
        with transaction(self.engine) as session:
            load(session, [source])
        with transaction(self.engine) as session:
            course_state.claim_course(session, course_id, RUN_ID)
        fingerprint, calibration = index()
        with transaction(self.engine) as session:
            if not course_state.publish(session, course_id, RUN_ID, str(fingerprint), calibration=calibration):
                raise RuntimeError(f"Course {course_id} could not be published")
        return fingerprint.chunks


@dataclass(frozen=True)
class Serving(Stores):
    """The stores and a search app that uses them."""

    url: str
    """URL of the search app."""


@contextmanager
def open_stores(settings: Mapping[str, str]) -> Iterator[Stores]:
    """Start the stores. Settings come from the arguments and the environment, not from `.env`.

    Raises:
        ProcessFailedError: A process did not start.
    """
    chroma_port = free_port()
    with tempfile.TemporaryDirectory(prefix="course-search-") as name, chdir(name):
        directory = Path(name)
        environment = {
            "DATABASE_URL": f"sqlite:///{directory}/catalogue.db",
            "CHROMA_DB_DIR": str(directory / "chroma"),
            "CHROMA_URL": f"http://127.0.0.1:{chroma_port}",
            "SNAPSHOT_DIR": str(directory / "snapshots"),
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            **settings,
        }
        with (
            Supervisor(directory / "logs", os.environ | environment) as supervisor,
            closing(VectorStore(VectorStoreSettings(chroma_url=environment["CHROMA_URL"]))) as store,
        ):
            supervisor.run("migrations", [_program("alembic"), "-c", ROOT / "alembic.ini", "upgrade", "head"])
            chroma = supervisor.start(
                "chroma", [sys.executable, "-m", "cli", "vector-store", "--port", str(chroma_port)]
            )
            supervisor.wait_ready(chroma, f"{environment['CHROMA_URL']}/api/v2/heartbeat")
            engine = create_catalogue_engine(CatalogueSettings(database_url=environment["DATABASE_URL"]))
            try:
                yield Stores(environment, engine, store, supervisor)
            finally:
                engine.dispose()


@contextmanager
def serving(settings: Mapping[str, str], app: str = APP) -> Iterator[Serving]:
    """Start the stores and a search app that uses them.

    Args:
        settings: Environment variables of the processes.
        app: Import path of the search app's factory.

    Raises:
        ProcessFailedError: A process did not start.
    """
    with (
        open_stores({"INTERNAL_TOKEN": "", "SEARCH_MAX_TOP_K": "20", **settings}) as stores,
        search_app(stores.settings, app) as url,
    ):
        yield Serving(**vars(stores), url=url)


@contextmanager
def search_app(settings: Mapping[str, str], app: str = APP, ready: str = "readyz") -> Iterator[str]:
    """Start a search app, and stop it at the end; yields its URL.

    Args:
        settings: Environment variables that lead it to its stores; SNAPSHOT_DIR among them.
        app: Import path of the app's factory.
        ready: The path that answers when it is ready.

    Raises:
        ProcessFailedError: It did not start.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Supervisor(Path(settings["SNAPSHOT_DIR"]).with_name("logs"), os.environ | settings) as supervisor:
        program = supervisor.start(f"search-{port}", _uvicorn(app, port))
        supervisor.wait_ready(program, f"{url}/{ready}")
        yield url


def _uvicorn(app: str, port: int) -> Sequence[str | Path]:
    address = ("--host", "127.0.0.1", "--port", str(port))
    return [_program("uvicorn"), "--factory", app, "--app-dir", ROOT, *address, "--no-access-log", "--loop", LOOP]


def _program(name: str) -> Path:
    """A program of this virtual environment."""
    return Path(sys.executable).with_name(name)
