"""The heartbeat of a run's worker in the catalogue, which shows every machine that the worker lives.

A thread of the worker says so every few seconds, and how many batches are finished. The observer measures with its own
clock how long nothing has changed, and only while it can read the catalogue. So neither clocks that differ nor an
outage of the database look like a death.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

from models import run_workers
from models.database import (
    CatalogueSettings,
    DatabaseUnavailableError,
    Engine,
    create_catalogue_engine,
    transaction,
)

BEAT_SECONDS = 5.0
LOST_SECONDS = 30.0
"""A worker that has said nothing for this time is dead, or its machine is frozen or cut off."""
MAX_GAP_SECONDS = 15.0
"""Longest time between two observations that counts. In a longer one the observer itself may have been held up."""

MAX_SUBJECTS = 1000
"""From this number on, a watch forgets what it has not observed for `FORGOTTEN_SECONDS`."""
FORGOTTEN_SECONDS = 3600.0


@dataclass
class Heartbeat:
    """Says in the catalogue that this process executes a run, until the process ends."""

    engine: Engine
    run_id: str
    worker: str = field(default_factory=lambda: uuid4().hex)
    batches: int = 0

    def beat(self) -> bool:
        """Say that this process is the worker of the run.

        Returns:
            False if another worker has it.

        Raises:
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        silence = timedelta(seconds=LOST_SECONDS)
        with transaction(self.engine) as session:
            return run_workers.beat(session, self.run_id, self.worker, self.batches, silence)

    def keep_beating(self) -> None:
        """Beat in a thread until the process ends, or another worker has the run."""
        _of_this_process[self.run_id] = self
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        with suppress(DatabaseUnavailableError), transaction(self.engine) as session:
            run_workers.delete_old(session)
        is_worker = True
        while is_worker:
            with suppress(DatabaseUnavailableError):  # the observer cannot read either, or forgives a few beats
                is_worker = self.beat()
            time.sleep(BEAT_SECONDS)


_of_this_process: dict[str, Heartbeat] = {}


def claim_run(run_id: str) -> bool:
    """Become the worker of the run, and begin to beat.

    Returns:
        False if another worker has it.

    Raises:
        DatabaseUnavailableError: The catalogue is unavailable.
    """
    heartbeat = Heartbeat(create_catalogue_engine(CatalogueSettings()), run_id)
    if not heartbeat.beat():
        return False
    heartbeat.keep_beating()
    return True


def heartbeat_of(run_id: str) -> Heartbeat | None:
    """The heartbeat of this process for the run, which begins if it has not yet.

    Returns:
        None if the catalogue is not shared with other machines, so that no one would see it.
    """
    if run_id not in _of_this_process and catalogue_is_shared():
        Heartbeat(create_catalogue_engine(CatalogueSettings()), run_id).keep_beating()
    return _of_this_process.get(run_id)


def catalogue_is_shared() -> bool:
    """Whether the catalogue is in a database that other machines can use. Only then are there heartbeats."""
    engine = create_catalogue_engine(CatalogueSettings())
    try:
        return run_workers.is_shared(engine)
    finally:
        engine.dispose()


class Watch:
    """Measures how long observed values have not changed, by the clock of this process."""

    def __init__(self) -> None:
        self._seen: dict[object, tuple[object, float, float]] = {}

    def unchanged_seconds(self, subject: object, value: object) -> float:
        """Time since the value of the subject was first seen, counted from observation to observation."""
        now = time.monotonic()
        seen, observed_at, seconds = self._seen.get(subject, (None, now, 0.0))
        seconds = seconds + min(now - observed_at, MAX_GAP_SECONDS) if seen == value else 0.0
        self._seen[subject] = value, now, seconds
        if len(self._seen) > MAX_SUBJECTS:  # those of runs that have ended
            self._seen = {key: entry for key, entry in self._seen.items() if now - entry[1] < FORGOTTEN_SECONDS}
        return seconds
