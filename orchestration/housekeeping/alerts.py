"""`alert_sensor`: reports failed and overdue courses to ALERT_URL.

Every tick compares all courses with what the receiver has acknowledged, which is the cursor. So nothing is lost while
the receiver or the product is down. An alert may arrive twice, if the tick ends between the answer and the new cursor.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg
import httpx
from pydantic import BaseModel

from embedding.http_client import UnusableProxyError, proxy_for
from models.courses import list_courses
from models.database import DatabaseUnavailableError
from models.tables import Course, EmbeddingStatus
from models.text import counted
from orchestration.housekeeping.settings import HousekeepingSettings
from orchestration.instance.prepared import SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.partitions import OWNERS
from orchestration.resources import CatalogueResource
from orchestration.search_link import SearchLinkSettings, course_page

INTERVAL_SECONDS = 30
MAX_PAUSE_SECONDS = 1800
TICK_SECONDS = 5.0
"""Time for all requests of a tick together, whatever the receiver does."""
MAX_ALERTS = 100
"""Maximum number of alerts in one request; one is at most a few kilobytes."""

for _logger in ("httpx", "httpcore"):  # they log the URL, which may contain a secret
    logging.getLogger(_logger).setLevel(logging.WARNING)


class Alert(NamedTuple):
    """One element of `alerts` in the request."""

    course_id: str
    state: str
    """`failed`, `overdue` or `resolved`."""
    error: str | None
    since: str | None
    """Since when the course has waited for its embedding."""
    url: str


class Memory(BaseModel):
    """The cursor: what the receiver has acknowledged, and when to try again after a failure."""

    acknowledged: dict[str, str] = {}
    """State by course id."""
    failures: int = 0
    """Consecutive ticks in which no alert was acknowledged."""
    not_before: datetime = datetime.min.replace(tzinfo=UTC)

    def after(self, delivered: Iterable[Alert], now: datetime, *, is_complete: bool) -> "Memory":
        """The cursor after a tick that delivered these alerts."""
        states = self.acknowledged | {alert.course_id: alert.state for alert in delivered}
        open_states = {course_id: state for course_id, state in states.items() if state != "resolved"}
        if is_complete:
            return Memory(acknowledged=open_states)
        failures = 1 if open_states != self.acknowledged else self.failures + 1
        pause = min(INTERVAL_SECONDS * 2**failures, MAX_PAUSE_SECONDS)
        return Memory(acknowledged=open_states, failures=failures, not_before=now + timedelta(seconds=pause))


@dg.sensor(
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING
    if HousekeepingSettings().alert_url
    else dg.DefaultSensorStatus.STOPPED,
    owners=OWNERS,
    description="Reports failed and overdue courses to ALERT_URL. On if ALERT_URL was set at the start. "
    + SKIPS_UNLESS_PREPARED,
)
def alert_sensor(context: dg.SensorEvaluationContext, catalogue: CatalogueResource) -> dg.SkipReason:
    """Send what the receiver has not acknowledged yet."""
    settings = HousekeepingSettings()
    if settings.alert_url is None:
        return dg.SkipReason("ALERT_URL is not set: set it to the address of the receiver, and restart the product.")
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)
    try:
        with catalogue.transaction() as session:
            courses = list_courses(session)
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    memory, now = Memory.model_validate_json(context.cursor or "{}"), datetime.now(UTC)
    alerts = find_alerts(courses, memory.acknowledged, now - timedelta(minutes=settings.alert_due_minutes))
    if alerts and now < memory.not_before:
        return dg.SkipReason(f"{counted(len(alerts), 'alert')} to send again at {memory.not_before:%H:%M:%S} UTC")
    delivered, problem = deliver(settings.alert_url.get_secret_value(), alerts)
    context.update_cursor(memory.after(delivered, now, is_complete=not problem).model_dump_json())
    message = f"{len(delivered)} of {counted(len(alerts), 'new alert')} acknowledged"
    if problem:
        message = f"{message}. The receiver at ALERT_URL {problem}; the others are sent again."
        context.log.warning(message)
    return dg.SkipReason(message)


def find_alerts(courses: Sequence[Course], acknowledged: Mapping[str, str], due_before: datetime) -> list[Alert]:
    """The alerts that the receiver has not acknowledged.

    A course is resolved when it is done or was deleted. While it is tried again, its alert stays as it was.

    Args:
        courses: All courses.
        acknowledged: The acknowledged state by course id.
        due_before: A course that has waited since before this time is overdue.
    """
    search_url = SearchLinkSettings().search_url
    states = {course.id: _state(course, due_before) for course in courses}
    alerts = [
        Alert(
            course.id,
            state,
            course.embedding_error,
            course.embedding_due_since.isoformat() if course.embedding_due_since else None,
            course_page(search_url, course.id),
        )
        for course in courses
        if (state := states[course.id]) in ("failed", "overdue") and acknowledged.get(course.id) != state
    ]
    resolved = [course_id for course_id in acknowledged if states.get(course_id, "resolved") == "resolved"]
    return alerts + [
        Alert(course_id, "resolved", None, None, course_page(search_url, course_id)) for course_id in resolved
    ]


def _state(course: Course, due_before: datetime) -> str:
    """The state of the course's alert; empty if it keeps the one it has."""
    if course.embedding_status == EmbeddingStatus.FAILED and course.embedding_retry_at is None:
        return "failed"
    if course.embedding_due_since and course.embedding_due_since < due_before:
        return "overdue"
    return "resolved" if course.embedding_status == EmbeddingStatus.DONE else ""


def deliver(url: str, alerts: Sequence[Alert]) -> tuple[list[Alert], str]:
    """Send alerts until one request fails or the time is up.

    Returns:
        The acknowledged alerts, and what went wrong, without the URL; empty if all alerts were acknowledged.
    """
    delivered: list[Alert] = []

    async def post_all() -> str:
        transport = httpx.AsyncHTTPTransport(proxy=proxy_for(url))
        # asyncio limits the whole exchange; a timeout of httpx starts again with every byte.
        async with (
            asyncio.timeout(TICK_SECONDS),
            httpx.AsyncClient(transport=transport, timeout=TICK_SECONDS) as client,
        ):
            for start in range(0, len(alerts), MAX_ALERTS):
                page = alerts[start : start + MAX_ALERTS]
                body = {"alerts": [alert._asdict() for alert in page]}
                async with client.stream("POST", url, json=body) as response:  # its body is not read
                    if not response.is_success:
                        return f"answered {response.status_code}"
                delivered.extend(page)
        return ""

    try:
        problem = asyncio.run(post_all()) if alerts else ""
    except TimeoutError:
        problem = f"did not answer within {TICK_SECONDS:g} s"
    except UnusableProxyError as error:
        problem = str(error)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        problem = f"cannot be used ({type(error).__name__})"
    return delivered, problem
