"""Records what is asked, and feedback, in the catalogue: by a thread of its own, so that no search waits for that.

What cannot be written is dropped and counted: if the catalogue is unavailable, read-only or full, if its tables are
missing, or if more is asked than can be written. Nothing says who asked.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from models.database import DatabaseUnavailableError, Engine, transaction
from models.questions import (
    MAX_CHARACTERS,
    MAX_UNKNOWN_TERMS,
    NewFeedback,
    NewQuestion,
    delete_questions,
    write_feedback,
    write_questions,
)
from search_api.http.errors import OverloadedError, QueryLogOffError

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""How many questions may wait to be written; at most 20 MB."""
BATCH = 500
"""Rows per transaction."""
WRITE_SECONDS = 5.0
"""Questions are written together, because every write makes an app on SQLite read its course rows again."""
FIRST_EXPIRY_SECONDS = 60.0
EXPIRY_SECONDS = 3600.0
STOP_SECONDS = 10.0
"""How long the app waits at its end for what is still to be written."""


class QueryLog:
    """The questions to be written. Threads may share it.

    Args:
        engine: The catalogue.
        is_on: Whether questions are recorded. Old ones are deleted in any case.
        days: For how long they are kept.
    """

    def __init__(self, engine: Engine, *, is_on: bool, days: int) -> None:
        self.is_on = is_on
        self.dropped = 0
        """How many questions and feedback were not written."""
        self._engine = engine
        self._days = days
        self._waiting: deque[NewQuestion | NewFeedback] = deque()
        self._is_failing = False
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="questions", daemon=True)

    def recorded(
        self, course_id: str, queries: Sequence[str], answer: dict[str, Any], *, offset: int = 0
    ) -> dict[str, Any]:
        """Record a search, and return its answer.

        Args:
            course_id: The course; if several were searched, the one that is the nearest to an answer.
            queries: The phrasings. The first is recorded, because they ask the same.
            answer: What is sent, as `SearchResponse` documents it.
            offset: Of the page; a further page is no other question.
        """
        if self.is_on and not offset:
            self._put(_question(course_id, queries[0], answer))
        return answer

    def record_feedback(self, course_id: str, query: str, chunk_id: str | None, *, helpful: bool) -> None:
        """Record whether a passage helped, or the answer as a whole.

        Raises:
            QueryLogOffError: Nothing is recorded.
            OverloadedError: Too much waits to be written.
        """
        self.require_on()
        feedback = NewFeedback(course_id, datetime.now(UTC), query[:MAX_CHARACTERS], chunk_id, helpful)
        if not self._put(feedback):
            raise OverloadedError("Too many questions wait to be written; try again later")

    def require_on(self) -> None:
        """Check that questions are recorded.

        Raises:
            QueryLogOffError: They are not.
        """
        if not self.is_on:
            raise QueryLogOffError

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and stop the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def write(self) -> None:
        """Write what waits. What cannot be written is dropped."""
        with self._writing:
            for _ in range(MAX_WAITING // BATCH):  # searches may add more meanwhile
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if batch:
                    self._write(batch)

    def expire(self) -> None:
        """Delete what is older than it may be."""
        try:
            deleted = delete_questions(self._engine, before=datetime.now(UTC) - timedelta(days=self._days))
        except Exception as error:  # noqa: BLE001 - tried again in an hour
            logger.info("Old questions are deleted later: %s", _reason(error))
        else:
            if deleted:
                logger.info("%d questions from more than %d days ago were deleted", deleted, self._days)

    def _write(self, batch: Sequence[NewQuestion | NewFeedback]) -> None:
        try:
            with transaction(self._engine) as session:
                write_questions(session, [item for item in batch if isinstance(item, NewQuestion)])
                write_feedback(session, [item for item in batch if isinstance(item, NewFeedback)])
        except Exception as error:  # noqa: BLE001 - whatever it is, searches go on
            self.dropped += len(batch)
            if not self._is_failing:  # one line for an outage
                logger.warning(
                    "Questions cannot be recorded and are dropped until this works again: %s", _reason(error)
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def _put(self, item: NewQuestion | NewFeedback) -> bool:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return False
        self._waiting.append(item)
        return True

    def _run(self) -> None:
        expire_at = time.monotonic() + FIRST_EXPIRY_SECONDS
        while not self._stopping.wait(WRITE_SECONDS if self.is_on else FIRST_EXPIRY_SECONDS):
            self.write()
            if time.monotonic() >= expire_at:
                self.expire()
                expire_at = time.monotonic() + EXPIRY_SECONDS
        self.write()


def _question(course_id: str, query: str, answer: Mapping[str, Any]) -> NewQuestion:
    results = answer["results"]
    known = [result["relevance"] for result in results if result["relevance"] is not None]
    return NewQuestion(
        course_id,
        datetime.now(UTC),
        query[:MAX_CHARACTERS],
        len(results),
        float(max(known)) if known else None,
        answer["answerable"],
        tuple(answer["unknown_terms"][:MAX_UNKNOWN_TERMS]),
    )


def _reason(error: Exception) -> str:
    """The reason for the log. The message of an unexpected error may contain a question."""
    return str(error) if isinstance(error, DatabaseUnavailableError) else type(error).__name__
