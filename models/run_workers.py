"""What the worker of each run says of itself, for other machines: that it lives, and how many batches it has finished.

Only in PostgreSQL: a SQLite catalogue is on one machine, where lock files say more (`orchestration.workers`). All times
are of the database's clock.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlmodel import col

from models.database import Engine
from models.tables import RunWorker

KEPT = timedelta(days=1)


class Beat(NamedTuple):
    """What a worker has said last."""

    beat_at: datetime
    batches: int


def is_shared(engine: Engine) -> bool:
    """Whether the catalogue is in a database that other machines can use."""
    return engine.dialect.name == "postgresql"


def beat(session: Session, run_id: str, worker: str, batches: int, silence: timedelta) -> bool:
    """Say that this process is the worker of the run, and how many batches it has finished.

    Args:
        session: A transaction.
        run_id: The run.
        worker: The id of the process.
        batches: Number of batches.
        silence: A worker that has said nothing for this time loses the run to another one.

    Returns:
        False if another worker has it.
    """
    said = {"worker": worker, "beat_at": func.now(), "batches": batches}
    written = session.execute(
        insert(RunWorker)
        .values(run_id=run_id, **said)
        .on_conflict_do_update(
            index_elements=["run_id"],
            set_=said,
            where=or_(col(RunWorker.worker) == worker, col(RunWorker.beat_at) < func.now() - silence),
        )
        .returning(col(RunWorker.run_id))
    )
    return written.first() is not None


def delete_old(session: Session) -> None:
    """Delete the rows of workers that have ended long ago."""
    session.execute(delete(RunWorker).where(col(RunWorker.beat_at) < func.now() - KEPT))


def last_beat(session: Session, run_id: str) -> Beat | None:
    """What the worker of the run has said last; None if no worker has claimed it."""
    row = session.execute(
        select(col(RunWorker.beat_at), col(RunWorker.batches)).where(col(RunWorker.run_id) == run_id)
    ).first()
    return Beat(*row) if row else None
