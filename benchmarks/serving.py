"""The parts of the product that a search needs, without Dagster: a catalogue, a Chroma server and the search app.

Everything lies in a directory of its own, listens on free ports and is gone at the end.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.processes import Supervisor
from embedding.settings import VectorStoreSettings
from embedding.vector_store import VectorStore
from models import catalogue
from models.database import Engine, create_catalogue_engine, transaction
from models.fingerprint import CourseFingerprint
from models.loading import Source, load
from models.settings import CatalogueSettings
from tests.support.chroma import free_port

ROOT = Path(__file__).parents[1]
RUN = "benchmark"
APP = "search_api.app:create_app"


@dataclass(frozen=True)
class Serving:
    """The parts, up and ready."""

    url: str
    """Of the search app."""
    settings: Mapping[str, str]
    """Environment of its processes."""
    engine: Engine
    store: VectorStore

    def publish(self, source: Source, course_id: str, index: Callable[[], CourseFingerprint]) -> int:
        """Load a course and publish it, in the order in which a run does it; tells how many chunks it has.

        Args:
            source: Its rows, Ready-to-Embed.
            course_id: The course they belong to.
            index: Makes its collection.

        Raises:
            LoadError: a row is malformed.
        """
        with transaction(self.engine) as session:
            load(session, [source])
        with transaction(self.engine) as session:
            catalogue.claim_course(session, course_id, RUN)
        fingerprint = index()
        with transaction(self.engine) as session:
            if not catalogue.publish(session, course_id, RUN, str(fingerprint)):
                raise RuntimeError(f"Course {course_id} could not be published")
        return fingerprint.chunks


@contextmanager
def serving(settings: Mapping[str, str], app: str = APP) -> Iterator[Serving]:
    """Start the parts; no setting but those given, and those of the environment, reaches them.

    Args:
        settings: For the processes, as environment.
        app: The search app's factory.

    Raises:
        ProcessFailedError: a part did not start.
    """
    app_port, chroma_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="course-search-") as name, chdir(name):  # away from anybody's .env
        directory = Path(name)
        own = {
            "DATABASE_URL": f"sqlite:///{directory}/catalogue.db",
            "CHROMA_DB_DIR": str(directory / "chroma"),
            "CHROMA_URL": f"http://127.0.0.1:{chroma_port}",
            "KEYWORD_INDEX_DIR": str(directory / "keywords"),
            "INTERNAL_TOKEN": "",
            "SEARCH_MAX_TOP_K": "20",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            **settings,
        }
        url = f"http://127.0.0.1:{app_port}"
        with (
            Supervisor(directory / "logs", os.environ | own) as supervisor,
            closing(VectorStore(VectorStoreSettings(chroma_url=own["CHROMA_URL"]))) as store,
        ):
            supervisor.run("migrations", [_program("alembic"), "-c", ROOT / "alembic.ini", "upgrade", "head"])
            chroma = supervisor.start(
                "chroma", [sys.executable, "-m", "cli", "vector-store", "--port", str(chroma_port)]
            )
            search = supervisor.start("search", _uvicorn(app, app_port))
            supervisor.wait_ready(chroma, f"{own['CHROMA_URL']}/api/v2/heartbeat")
            supervisor.wait_ready(search, f"{url}/readyz")
            engine = create_catalogue_engine(CatalogueSettings(database_url=own["DATABASE_URL"]))
            try:
                yield Serving(url, own, engine, store)
            finally:
                engine.dispose()


def _uvicorn(app: str, port: int) -> Sequence[str | Path]:
    address = ("--host", "127.0.0.1", "--port", str(port))
    return [_program("uvicorn"), "--factory", app, "--app-dir", ROOT, *address, "--no-access-log"]


def _program(name: str) -> Path:
    """A program of this virtual environment."""
    return Path(sys.executable).with_name(name)
