"""The index of embedded texts: which chunk of which course has the vector of a text, by the model that made it.

A text that was embedded for one course is not embedded again for another: its vector is read from the first one's
collection. An entry is only a hint, because the vector store may have changed since. So an entry may be missing or
wrong at any time, which costs an embedding, and the index can be deleted and filled again from the catalogue.

A key is 64 bits of a digest. Whoever has the table can check whether a course has a text that they know, but cannot
read a text from it. The entries of a deleted text or course are deleted with it.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import String, and_, cast, delete, distinct, false, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import col

from models.tables import Course, EmbeddedText, EmbeddingStatus

READ_BATCH = 2500
"""Number of entries read at a time."""

_course_id = col(EmbeddedText.course_id)
_chunk_id = col(EmbeddedText.chunk_id)
_text_key = col(EmbeddedText.text_key)


class TextSource(NamedTuple):
    """A course whose collection may have vectors of texts."""

    course_id: str
    chunk_ids: Mapping[int, str]
    """By the key of the text."""


def text_key(model_signature: str, text_hash: str) -> int:
    """The key of a text: 64 bits, with a sign, as databases have no others.

    Args:
        model_signature: The signature of the embedding model.
        text_hash: The hash of the text and its context.
    """
    digest = hashlib.sha256(f"{model_signature}\0{text_hash}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def find_source(
    session: Session, keys: Collection[int], course_id: str, excluded: Collection[str], *, only_own: bool = False
) -> TextSource | None:
    """The course that has the most of these texts, or the course itself if it has one of them.

    Another course is not searched if it waits for a rebuild, has failed, or has not been published since a run changed
    its collection: its vectors are to be replaced, or may be the reason why it was withheld.

    Args:
        session: An open transaction.
        keys: Keys of up to some hundred texts.
        course_id: The course that needs them.
        excluded: Ids of courses that are not searched.
        only_own: Search no other course.
    """
    wanted = _text_key.in_(list(keys))
    is_doubtful = or_(
        col(Course.embedding_rebuild),
        col(Course.embedding_status) == EmbeddingStatus.FAILED,
        and_(col(Course.embedding_attempted).is_not(None), col(Course.embedding_status) != EmbeddingStatus.DONE),
    )
    is_other = false() if only_own else _course_id.not_in(select(cast(col(Course.id), String)).where(is_doubtful))
    query = (
        select(_course_id)
        .where(wanted, _course_id.not_in(list(excluded)), or_(_course_id == course_id, is_other))
        .group_by(_course_id)
        .order_by((_course_id == course_id).desc(), func.count(distinct(_text_key)).desc(), _course_id)
        .limit(1)
    )
    best = session.scalar(query)
    if best is None:
        return None
    # Of equal texts the first chunk remains, which a pass writes first.
    of_best = select(_text_key, _chunk_id).where(wanted, _course_id == best).order_by(_chunk_id.desc())
    entries = session.execute(of_best)
    return TextSource(best, dict(entries.all()))


def record_texts(session: Session, course_id: str, keys: Mapping[str, int]) -> None:
    """Record the texts of chunks of a course, by chunk id. Entries that are right already are not written."""
    recorded = select(_chunk_id, _text_key).where(_course_id == course_id, _chunk_id.in_(list(keys)))
    known = dict(session.execute(recorded).all())
    rows = [
        {"course_id": course_id, "chunk_id": chunk_id, "text_key": key}
        for chunk_id, key in sorted(keys.items())  # in one order, so that no two transactions wait for each other
        if known.get(chunk_id) != key
    ]
    if not rows:
        return
    index = ["course_id", "chunk_id"]
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        on_postgres = postgresql.insert(EmbeddedText)
        new_key = {"text_key": on_postgres.excluded.text_key}
        connection.execute(on_postgres.on_conflict_do_update(index_elements=index, set_=new_key), rows)
    else:
        on_sqlite = sqlite.insert(EmbeddedText)
        new_key = {"text_key": on_sqlite.excluded.text_key}
        connection.execute(on_sqlite.on_conflict_do_update(index_elements=index, set_=new_key), rows)


def count_texts(session: Session, course_id: str) -> int:
    """Number of entries of a course."""
    return session.scalar(select(func.count()).where(_course_id == course_id)) or 0


def recorded_chunks(session: Session, course_id: str, after: str = "") -> Sequence[str]:
    """Up to `READ_BATCH` ids of recorded chunks of a course, in order, after a chunk id."""
    query = select(_chunk_id).where(_course_id == course_id, _chunk_id > after).order_by(_chunk_id).limit(READ_BATCH)
    return session.scalars(query).all()


def remove_texts(session: Session, course_id: str, chunk_ids: Collection[str]) -> None:
    """Delete the entries of chunks of a course."""
    session.execute(delete(EmbeddedText).where(_course_id == course_id, _chunk_id.in_(list(chunk_ids))))


def delete_texts(session: Session, course_id: str) -> None:
    """Delete all entries of a course."""
    session.execute(delete(EmbeddedText).where(_course_id == course_id))


def published_without_texts(session: Session) -> Sequence[Course]:
    """Courses that are `done` without entries: an earlier version published them, or `forget` deleted the entries."""
    recorded = select(_chunk_id).where(_course_id == cast(col(Course.id), String)).exists()
    is_done = col(Course.embedding_status) == EmbeddingStatus.DONE
    return session.scalars(select(Course).where(is_done, ~recorded)).all()
