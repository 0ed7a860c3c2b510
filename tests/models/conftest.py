"""Fixtures: migrated catalogues on SQLite and PostgreSQL, with different types of ids."""

from collections.abc import Iterator

import pytest

from tests.support.catalogue import BACKENDS, STAGE_ONE, Catalogue, Templates, create_database, drop_database, migrate
from tests.support.servers.postgres import PostgresServer, postgres_server, postgres_url  # noqa: F401 - fixtures


def _params(*variants: tuple[str, str]) -> list[object]:
    return [
        pytest.param(variant, id="-".join(variant), marks=[pytest.mark.postgres] if variant[0] == "postgres" else [])
        for variant in variants
    ]


@pytest.fixture(scope="session")
def templates() -> Iterator[Templates]:
    templates = Templates()
    yield templates
    templates.drop()


def _catalogue(templates: Templates, backend: str, ids: str) -> Iterator[Catalogue]:
    url = create_database(backend, template=templates.url(backend, ids))
    catalogue = Catalogue(url, ids)
    yield catalogue
    catalogue.engine.dispose()
    drop_database(url)


@pytest.fixture(params=_params(*((backend, ids) for backend in BACKENDS for ids in STAGE_ONE)))
def catalogue(request: pytest.FixtureRequest, templates: Templates) -> Iterator[Catalogue]:
    """A catalogue on both databases, with each type of ids. The ids `1`, `2`, … are valid for all types."""
    yield from _catalogue(templates, *request.param)


@pytest.fixture(params=_params(*((backend, "text") for backend in BACKENDS)))
def text_catalogue(request: pytest.FixtureRequest, templates: Templates) -> Iterator[Catalogue]:
    """A catalogue on both databases, as the migrations create it."""
    yield from _catalogue(templates, *request.param)


@pytest.fixture(params=_params(*((backend, "integer") for backend in BACKENDS)))
def integer_catalogue(request: pytest.FixtureRequest, templates: Templates) -> Iterator[Catalogue]:
    """A catalogue on both databases, with integer ids in all of stage one's tables."""
    yield from _catalogue(templates, *request.param)


@pytest.fixture
def sql_ascii_catalogue(postgres_server: PostgresServer) -> Iterator[Catalogue]:  # noqa: F811
    """A catalogue on PostgreSQL whose text columns accept any bytes."""
    url = postgres_server.create_sql_ascii_database()
    migrate(url)
    catalogue = Catalogue(url, "text")
    yield catalogue
    catalogue.engine.dispose()
    drop_database(url)
