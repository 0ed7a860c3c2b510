"""Reads the chunks of a course in pages."""

from collections.abc import Callable, Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from models.ids import can_hold, id_equals
from models.tables import Chunk


def chunk_page(session: Session, course_id: str, after: str | None = None, limit: int = 500) -> list[Chunk]:
    """The next chunks of the course in the order of their ids, after the id `after`; an empty list at the end.

    This is keyset pagination in the order of the id column (numeric for integers, the column's collation for text). So
    chunks that are inserted or deleted between two pages do not shift the others, and each page may be read in a
    separate transaction. The returned objects are detached from the session.
    """
    if not can_hold(session, col(Chunk.course_id), course_id):
        return []
    query = select(Chunk).where(id_equals(col(Chunk.course_id), course_id)).order_by(col(Chunk.id)).limit(limit)
    if after is not None:
        query = query.where(col(Chunk.id) > after)
    chunks = list(session.scalars(query))
    for chunk in chunks:
        session.expunge(chunk)
    return chunks


def chunk_pages(session: Session, course_id: str, page_size: int = 500) -> Iterator[list[Chunk]]:
    """All chunks of a course, page by page, within the session's transaction. Holds one page in memory."""
    return each_page(lambda after: chunk_page(session, course_id, after, page_size))


def each_page(read: Callable[[str | None], list[Chunk]]) -> Iterator[list[Chunk]]:
    """All pages in order.

    Args:
        read: Reads the page after a chunk id, or the first one for None, as `chunk_page` does, in any transaction.
    """
    after: str | None = None
    while page := read(after):
        yield page
        after = page[-1].id
