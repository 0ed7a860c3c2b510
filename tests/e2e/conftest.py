"""The PostgreSQL of the session, for the journey that runs on it."""

from tests.support.servers.postgres import postgres_server

__all__ = ["postgres_server"]
