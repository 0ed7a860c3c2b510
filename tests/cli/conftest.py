"""Fixtures for the commands: a migrated catalogue on SQLite and PostgreSQL, and a simulated pipeline."""

from tests.models.conftest import templates, text_catalogue  # noqa: F401 - fixtures
from tests.support.commands import catalogue, pipeline  # noqa: F401 - fixtures
