"""Courses as stage one would have left them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session, SQLModel, col, delete

from models.database import CatalogueSettings, create_catalogue_engine
from models.tables import Chunk, Course, Resource


def empty_catalogue(path: Path) -> Engine:
    """A SQLite catalogue with its tables, named by `DATABASE_URL` of the returned engine's file."""
    engine = create_catalogue_engine(CatalogueSettings(database_url=f"sqlite:///{path}"), create_file=True)
    SQLModel.metadata.create_all(engine)
    return engine


def write_course(
    engine: Engine, course_id: str, texts: Mapping[str, str], statuses: Sequence[str] = ("succeeded",)
) -> None:
    """Write a course, or bring its resources and chunks in line with what is given.

    Args:
        engine: The catalogue.
        course_id: New or known.
        texts: Text by chunk id; other chunks of the course are removed.
        statuses: Of its resources.
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


def read_course(engine: Engine, course_id: str) -> Course:
    """The course's row as it stands now."""
    with Session(engine, expire_on_commit=False) as session:
        return session.get_one(Course, course_id)


def change_course(engine: Engine, course_id: str, **values: object) -> None:
    """Put the course's row into some state."""
    with Session(engine) as session:
        session.get_one(Course, course_id).sqlmodel_update(values)
        session.commit()
