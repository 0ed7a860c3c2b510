"""The tools over standard input and output, for a search app that runs elsewhere.

Standard output carries only the protocol; log lines go to standard error.
"""

import logging
import signal

import anyio
from mcp.server.stdio import stdio_server

from course_search_client import AsyncCourseSearch, CourseSearchError
from models.log_settings import LogSettings
from models.settings import without_password
from search_api.mcp.server import new_server
from telemetry import PACKAGES
from telemetry.logs import configure_logs

logger = logging.getLogger(__name__)


def serve_stdio(url: str, token: str | None) -> None:
    """Answer calls until standard input ends.

    Args:
        url: Address of the search app.
        token: Its token, if it asks for one.

    Raises:
        ValueError: The address cannot be used.
    """
    client = AsyncCourseSearch(url, token)
    logs = LogSettings()
    configure_logs(logs.log_format, logs.log_level, PACKAGES)
    # A thread waits for input. Python's own handler of Ctrl-C would wait for that thread.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    anyio.run(_serve, client, url)


async def _serve(client: AsyncCourseSearch, url: str) -> None:
    server = new_server(client)
    async with client, stdio_server() as (requests, answers), anyio.create_task_group() as checks:
        logger.info("The tools for %s are served over standard input and output", without_password(url))
        checks.start_soon(_check, client)
        await server.run(requests, answers, server.create_initialization_options())
        checks.cancel_scope.cancel()


async def _check(client: AsyncCourseSearch) -> None:
    """Say at once what every call would say; the app may still start later."""
    try:
        await client.courses()
    except CourseSearchError as error:
        logger.warning("%s. Until that is corrected, every call of a tool fails", error)
