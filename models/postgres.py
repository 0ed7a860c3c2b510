"""PostgreSQL connections on which every wait ends.

TCP time-outs end the wait for a machine that is gone, `statement_timeout` that for a slow statement. Neither helps
against a *frozen* server (a paused container, a stuck disk): its machine still acknowledges packets, and libpq waits
for ever. So psycopg2 waits through a callback here, which polls the socket with a time limit.
"""

import select
from typing import Any

import psycopg2.extensions
from psycopg2.extensions import POLL_OK, POLL_READ, STATUS_BEGIN
from sqlalchemy import URL

STATEMENT_FACTOR = 12
"""A statement may take this many times the configured time-out: counting a large `chunk` table takes a while."""


class TimedConnection(psycopg2.extensions.connection):
    """A connection whose waits for the server end after `timeout_seconds`, or `STATEMENT_FACTOR` times that."""

    timeout_seconds: float = 5.0

    @property
    def wait_seconds(self) -> float:
        """The limit for the next answer. Outside a transaction there is only a connect or a ping, which are quick."""
        return self.timeout_seconds * (STATEMENT_FACTOR + 1 if self.status == STATUS_BEGIN else 1)


def wait(connection: psycopg2.extensions.connection) -> None:
    """Wait until the connection has its answer; psycopg2 calls this for all connections of the process.

    Raises:
        psycopg2.OperationalError: The server did not answer in time. psycopg2 closes the connection.
    """
    limit = (
        connection.wait_seconds if isinstance(connection, TimedConnection) else None
    )  # no limit for Dagster's connections
    while (state := connection.poll()) != POLL_OK:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not poller.poll(None if limit is None else limit * 1000):
            raise psycopg2.OperationalError(f"the server did not answer within {limit:g} s")


def connect_args(url: URL, timeout_seconds: int) -> dict[str, Any]:
    """Arguments for psycopg2 such that every wait ends.

    Connecting, a lock and a ping may take `timeout_seconds`, a statement `STATEMENT_FACTOR` times as long. Text is sent
    as UTF-8 even if the database declares no encoding.
    """
    psycopg2.extensions.set_wait_callback(wait)
    milliseconds = timeout_seconds * 1000
    limits = f"-c lock_timeout={milliseconds} -c statement_timeout={milliseconds * STATEMENT_FACTOR}"
    given = url.query.get("options", "")
    return {
        "connection_factory": type("Connection", (TimedConnection,), {"timeout_seconds": timeout_seconds}),
        "client_encoding": "utf8",
        "connect_timeout": timeout_seconds,
        "keepalives": 1,
        "keepalives_idle": timeout_seconds,
        "keepalives_interval": 1,
        "keepalives_count": timeout_seconds,
        "tcp_user_timeout": milliseconds,
        "options": f"{given if isinstance(given, str) else ' '.join(given)} {limits}".strip(),
    }
