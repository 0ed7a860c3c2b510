"""PostgreSQL connections with a timeout for every wait.

TCP timeouts cover an unreachable machine, and `statement_timeout` covers a slow statement. Neither covers a *frozen*
server process (a paused container, a stuck disk): the machine still acknowledges packets, and libpq waits forever. So
psycopg2 waits in the callback `wait`, which polls the socket with a time limit.
"""

import select
from collections.abc import Callable
from typing import Any

import psycopg2.extensions
from psycopg2.extensions import POLL_OK, POLL_READ, STATUS_BEGIN
from sqlalchemy import Connection

STATEMENT_FACTOR = 12
"""Ratio of the timeout for statements to DATABASE_TIMEOUT_SECONDS. Counting a large `chunk` table takes long."""


class TimedConnection(psycopg2.extensions.connection):
    """A psycopg2 connection with a time limit for every answer of the server."""

    timeout_seconds: float = 5.0

    @property
    def wait_seconds(self) -> float:
        """The time limit for the next answer, longer than `statement_timeout`, so the server's own error arrives first.

        Outside a transaction, psycopg2 only connects or pings, which are quick.
        """
        return self.timeout_seconds * (STATEMENT_FACTOR + 1 if self.status == STATUS_BEGIN else 1)


def wait(connection: psycopg2.extensions.connection) -> None:
    """Wait until the connection has its answer; psycopg2 calls this for all connections of the process.

    Raises:
        psycopg2.OperationalError: The server did not answer in time. psycopg2 closes the connection.
    """
    # Dagster's connections in this process have no limit.
    limit = connection.wait_seconds if isinstance(connection, TimedConnection) else None
    while (state := connection.poll()) != POLL_OK:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not poller.poll(None if limit is None else limit * 1000):
            raise psycopg2.OperationalError(f"the server did not answer within {limit:g} s")


def connect_args(timeout_seconds: int) -> dict[str, Any]:
    """Connection arguments for psycopg2 with the timeouts of the client, for connecting and for answers.

    The client encoding is UTF-8 even if the database has no encoding (SQL_ASCII).
    """
    psycopg2.extensions.set_wait_callback(wait)
    return {
        "connection_factory": type("Connection", (TimedConnection,), {"timeout_seconds": timeout_seconds}),
        "client_encoding": "utf8",
        "connect_timeout": timeout_seconds,
        "keepalives": 1,
        "keepalives_idle": timeout_seconds,
        "keepalives_interval": 1,
        "keepalives_count": timeout_seconds,
        "tcp_user_timeout": timeout_seconds * 1000,
    }


def transaction_limits(timeout_seconds: int) -> Callable[[Connection], None]:
    """A listener that sets the timeouts of the server at the beginning of each transaction.

    The timeout for locks is `timeout_seconds`; for a statement, it is `STATEMENT_FACTOR` times as long. They are not
    set when connecting, because a pooler such as PgBouncer refuses the parameter `options`, and gives each transaction
    another connection.
    """
    milliseconds = timeout_seconds * 1000
    limits = (
        f"SET LOCAL lock_timeout = {milliseconds}; SET LOCAL statement_timeout = {int(milliseconds * STATEMENT_FACTOR)}"
    )

    def set_limits(connection: Connection) -> None:
        connection.exec_driver_sql(limits)

    return set_limits
