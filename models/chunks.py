"""Chunks of a course, read in pages."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from models.ids import can_hold, is_id
from models.tables import Chunk


def chunk_page(session: Session, course_id: str, after: str | None = None, limit: int = 500) -> list[Chunk]:
    """The course's next chunks by id, after the id `after`; empty at the end. They are detached from the session.

    The order is the database's own (numeric for integers, its collation for text), so a chunk inserted or deleted
    between two pages moves no other chunk. Each page may be read in a transaction of its own.
    """
    if not can_hold(session, col(Chunk.course_id), course_id):
        return []
    query = select(Chunk).where(is_id(col(Chunk.course_id), course_id)).order_by(col(Chunk.id)).limit(limit)
    if after is not None:
        query = query.where(col(Chunk.id) > after)
    chunks = list(session.scalars(query))
    for chunk in chunks:
        session.expunge(chunk)
    return chunks


def chunk_pages(session: Session, course_id: str, page_size: int = 500) -> Iterator[list[Chunk]]:
    """All chunks of a course in one transaction, with one page in memory at a time."""
    chunks = chunk_page(session, course_id, limit=page_size)
    while chunks:
        yield chunks
        chunks = chunk_page(session, course_id, after=chunks[-1].id, limit=page_size)
