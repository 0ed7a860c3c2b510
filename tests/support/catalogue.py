"""Catalogues for tests, on SQLite or PostgreSQL, with ids that are text, integers, or both."""

import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.orm import Session

from models.database import CatalogueSettings, create_catalogue_engine, transaction
from models.tables import Chunk, Course, Resource
from tests.support.servers.postgres import server

BACKENDS = ("sqlite", "postgres")

STAGE_ONE: dict[str, list[str]] = {
    "text": [],  # no tables of stage one: the migrations create them
    "integer": [
        "CREATE TABLE course (id INTEGER PRIMARY KEY, title VARCHAR)",
        """CREATE TABLE resource (id INTEGER PRIMARY KEY, course_id INTEGER NOT NULL REFERENCES course(id),
           status VARCHAR(20) NOT NULL)""",
        """CREATE TABLE chunk (id INTEGER PRIMARY KEY, course_id INTEGER NOT NULL REFERENCES course(id),
           lecture_id INTEGER, section_id INTEGER, text TEXT NOT NULL, language VARCHAR(8), source_type VARCHAR(20),
           metadata {jsonb}, created_at TIMESTAMP)""",
        "CREATE INDEX chunk_of_course ON chunk (course_id)",
    ],
    "mixed": [
        "CREATE TABLE course (id BIGINT PRIMARY KEY, title VARCHAR)",
        "CREATE TABLE resource (id VARCHAR(40) PRIMARY KEY, course_id TEXT NOT NULL, status VARCHAR(20) NOT NULL)",
        """CREATE TABLE chunk (id VARCHAR(80) PRIMARY KEY, course_id VARCHAR(40) NOT NULL, lecture_id BIGINT,
           section_id VARCHAR(40), text TEXT NOT NULL, language VARCHAR(8), source_type VARCHAR(20), metadata TEXT)""",
    ],
}
"""Type of the ids → SQL statements that create the tables of stage one."""


@dataclass
class Catalogue:
    """A catalogue with its engine, and methods that write courses like stage one."""

    url: str
    ids: str
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = create_catalogue_engine(settings(self.url))

    @property
    def is_postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def session(self) -> AbstractContextManager[Session]:
        return transaction(self.engine)

    def add_course(self, course_id: str, resources: Iterable[str] = (), chunks: Iterable[str] = ()) -> None:
        """Add a course with one resource per status and one chunk per text; ids continue those of earlier calls."""
        with self.session() as session:
            session.execute(insert(Course), [{"id": course_id}])
            self._next = getattr(self, "_next", 0)
            for status in resources:
                self._next += 1
                row = {"id": str(self._next), "course_id": course_id, "status": status}
                session.execute(insert(Resource), [row])
            for content in chunks:
                self._next += 1
                session.execute(insert(Chunk), [chunk(str(self._next), course_id, content).model_dump()])


def chunk(chunk_id: str, course_id: str, content: str = "text") -> Chunk:
    """A chunk. Its lecture and section ids are valid in all types of catalogue."""
    return Chunk(
        id=chunk_id,
        course_id=course_id,
        lecture_id="3",
        section_id="4",
        text=content,
        language="en",
        source_type="pdf",
        extra={"order_in_section": 0},
    )


def settings(url: str, timeout_seconds: int = 5) -> CatalogueSettings:
    return CatalogueSettings(database_url=url, database_timeout_seconds=timeout_seconds)


def alembic_config(url: str) -> Config:
    config = Config(Path(__file__).parents[2] / "alembic.ini")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def migrate(url: str, revision: str = "head") -> None:
    command.upgrade(alembic_config(url), revision)


def create_database(backend: str, template: str | None = None) -> str:
    """Create a database, empty or as a copy of `template`; returns its URL."""
    if backend == "postgres":
        return server().create_database(template)
    path = Path(mkdtemp(prefix="catalogue")) / "catalogue.db"
    if template:
        shutil.copy(template.removeprefix("sqlite:///"), path)
    return f"sqlite:///{path}"


def drop_database(url: str) -> None:
    if url.startswith("sqlite"):
        shutil.rmtree(Path(url.removeprefix("sqlite:///")).parent)
    else:
        server().drop_database(url)


def create_stage_one(url: str, ids: str) -> None:
    """Create the tables of stage one."""
    engine = create_engine(url)
    jsonb = "JSONB" if engine.dialect.name == "postgresql" else "JSON"
    with engine.begin() as connection:
        for statement in STAGE_ONE[ids]:
            connection.execute(text(statement.format(jsonb=jsonb)))
    engine.dispose()


class Templates:
    """Migrated databases that tests copy. Each is created on first use."""

    def __init__(self) -> None:
        self._urls: dict[tuple[str, str], str] = {}

    def url(self, backend: str, ids: str) -> str:
        if (backend, ids) not in self._urls:
            url = create_database(backend)
            create_stage_one(url, ids)
            migrate(url)
            self._urls[backend, ids] = url
        return self._urls[backend, ids]

    def drop(self) -> None:
        for url in self._urls.values():
            drop_database(url)
