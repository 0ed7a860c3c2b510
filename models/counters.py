"""Counters of the pipeline, whose processes end before anyone could ask them: rows that only grow.

The search app shows them at `/metrics`. They begin at zero again if the catalogue is replaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlmodel import col

from models.tables import Counter

FAILURE_KINDS = (
    "not_ingested",
    "content",
    "check",
    "catalogue",
    "vector_store",
    "embedding",
    "snapshot",
    "cancelled",
    "interrupted",
    "worker_died",
    "other",
)
"""Why a course can fail."""


@dataclass(frozen=True)
class CounterMeaning:
    """What a counter counts."""

    meaning: str
    label: str = ""
    """What tells its kinds apart; empty if there is only one."""
    kinds: tuple[str, ...] = ("",)


COUNTERS: Mapping[str, CounterMeaning] = {
    "courses_published": CounterMeaning("Generations of courses that were published."),
    "chunks": CounterMeaning(
        "Chunks of published generations. Reused: with the vector of an equal text, of this course or of another.",
        "change",
        ("embedded", "reused", "updated", "kept", "deleted"),
    ),
    "tokens": CounterMeaning("Tokens of the chunks that were embedded for published generations."),
    "indexing_seconds": CounterMeaning("Seconds of embedding and writing the collections of published generations."),
    "model_load_seconds": CounterMeaning("Seconds that published courses waited for the embedding model to load."),
    "course_failures": CounterMeaning("Failures of courses.", "kind", FAILURE_KINDS),
    "course_retries": CounterMeaning("Runs that tried a course again after a failure."),
    "resources": CounterMeaning("Attempts to read an uploaded file.", "result", ("succeeded", "failed", "postponed")),
    "resource_chunks": CounterMeaning("Chunks that were made of uploaded files."),
}
"""All counters by name."""

Amounts = Mapping[tuple[str, str], float]
"""By the name of a counter and its kind, which is empty if it has only one."""


def add(session: Session, amounts: Amounts) -> None:
    """Increase counters."""
    rows = [
        {"name": _row_name(*counter), "value": float(value)}
        for counter, value in sorted(amounts.items())  # in one order, so that no two transactions wait for each other
        if value
    ]
    if not rows:
        return
    if session.connection().dialect.name == "postgresql":
        on_postgres = postgresql.insert(Counter).values(rows)
        added = col(Counter.value) + on_postgres.excluded.value
        session.execute(on_postgres.on_conflict_do_update(index_elements=["name"], set_={"value": added}))
    else:
        on_sqlite = sqlite.insert(Counter).values(rows)
        added = col(Counter.value) + on_sqlite.excluded.value
        session.execute(on_sqlite.on_conflict_do_update(index_elements=["name"], set_={"value": added}))


def read(session: Session) -> Amounts:
    """All counters; those that were never increased are zero. Rows of other versions are left out."""
    values = {row.name: row.value for row in session.execute(select(col(Counter.name), col(Counter.value)))}
    return {
        (name, kind): values.get(_row_name(name, kind), 0.0)
        for name, counter in COUNTERS.items()
        for kind in counter.kinds
    }


def _row_name(name: str, kind: str) -> str:
    if name not in COUNTERS or kind not in COUNTERS[name].kinds:
        raise ValueError(f"there is no counter {name!r} of the kind {kind!r}")
    return f"{name}/{kind}" if kind else name
