"""Fixtures: empty databases to migrate."""

from collections.abc import Iterator

import pytest

from tests.support.catalogue import BACKENDS, create_database, drop_database
from tests.support.servers.postgres import postgres_server, postgres_url  # noqa: F401 - fixtures


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.postgres] if name == "postgres" else []) for name in BACKENDS]
)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database."""
    url = create_database(request.param)
    yield url
    drop_database(url)
