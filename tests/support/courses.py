"""Writes courses like stage one, and reads and changes course rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session, SQLModel, col, delete

from models.database import CatalogueSettings, create_catalogue_engine
from models.tables import Chunk, Course, Resource


def empty_catalogue(path: Path) -> Engine:
    """Create a SQLite catalogue with its tables, which are ours by the names that migration 0001 gives their keys."""
    engine = create_catalogue_engine(CatalogueSettings(database_url=f"sqlite:///{path}"), create_file=True)
    for table in ("course", "resource", "chunk"):
        SQLModel.metadata.tables[table].primary_key.name = f"course_search_{table}_pkey"
    SQLModel.metadata.create_all(engine)
    return engine


def write_course(
    engine: Engine, course_id: str, texts: Mapping[str, str], statuses: Sequence[str] = ("succeeded",)
) -> None:
    """Create a course, or replace its resources and chunks.

    Args:
        engine: The catalogue.
        course_id: A new or existing course.
        texts: Chunk id → text.
        statuses: Status of each resource.
    """
    with Session(engine) as session:
        session.merge(Course(id=course_id)) if session.get(Course, course_id) is None else None
        session.exec(delete(Resource).where(col(Resource.course_id) == course_id))
        session.exec(delete(Chunk).where(col(Chunk.course_id) == course_id))
        session.add_all(
            Resource(id=f"{course_id}-{number}", course_id=course_id, status=status)
            for number, status in enumerate(statuses)
        )
        session.add_all(
            Chunk(
                id=chunk_id,
                course_id=course_id,
                lecture_id="l1",
                section_id="s1",
                text=text,
                language="en",
                source_type="pdf",
                extra={"order_in_section": 0, "lecture_title": "Lecture", "section_title": "Section"},
            )
            for chunk_id, text in texts.items()
        )
        session.commit()


def numbered_texts(course_id: str, count: int = 3) -> dict[str, str]:
    """Texts for `write_course`, all of them about copper."""
    return {f"{course_id}/{number}": f"Copper of board number {number}" for number in range(count)}


def read_course(engine: Engine, course_id: str) -> Course:
    """The current row of the course."""
    with Session(engine, expire_on_commit=False) as session:
        return session.get_one(Course, course_id)


def change_course(engine: Engine, course_id: str, **values: object) -> None:
    """Update columns of the course's row."""
    with Session(engine) as session:
        session.get_one(Course, course_id).sqlmodel_update(values)
        session.commit()
