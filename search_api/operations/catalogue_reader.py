"""Reads the catalogue for a scrape of the metrics: in bounded time, and not more often than every few seconds."""

import time
from collections.abc import Callable

from models.database import DatabaseUnavailableError
from models.overview import Overview
from search_api.operations.checks import BoundedCheck

KEEP_SECONDS = 5.0
"""How long what was read is shown again, so that several scrapers cost no more than one."""


class CatalogueReader:
    """Reads the state of the courses and the counters of the pipeline.

    Args:
        read: Reads them from the catalogue.
    """

    def __init__(self, read: Callable[[], Overview]) -> None:
        self._check = BoundedCheck(read)
        self._known: Overview | None = None
        self._read_at = 0.0

    async def overview(self) -> Overview | None:
        """What was read at most KEEP_SECONDS ago; None if the catalogue does not answer in time."""
        if self._known is None or time.monotonic() - self._read_at > KEEP_SECONDS:
            self._known = None
            try:
                self._known = await self._check.run()
            except (TimeoutError, DatabaseUnavailableError):
                return None
            self._read_at = time.monotonic()
        return self._known
