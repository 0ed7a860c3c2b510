"""One running product a database for all faults; each fault leaves it as it found it."""

import os
from collections.abc import Iterator, Mapping
from unittest.mock import patch

import dagster as dg
import pytest

from models.database import CatalogueSettings, create_catalogue_engine
from tests.faults.world import World
from tests.support.parts import running_parts
from tests.support.postgres import LocalPostgresServer
from tests.support.tiny_models import make_tiny_qwen3

BACKENDS = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))


@pytest.fixture(scope="package", params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The product in parts, its catalogue and Dagster's state on one kind of database."""
    directory = tmp_path_factory.mktemp(f"faults-{request.param}")
    settings = {"EMBEDDING_MODEL_PATH": str(make_tiny_qwen3(directory / "model")), "EMBEDDING_DEVICE": "cpu"}
    server = None
    if request.param == "postgres":
        server = LocalPostgresServer()  # of its own: it is stopped and killed
        settings |= {"DATABASE_URL": server.create_database(), "DAGSTER_POSTGRES_URL": server.create_database()}
    else:
        settings["DATABASE_URL"] = f"sqlite:///{directory}/product/data/catalogue/catalogue.db"
    try:
        with running_parts(directory / "product", settings) as parts, _instance(parts.env) as instance:
            engine = create_catalogue_engine(CatalogueSettings(database_url=settings["DATABASE_URL"]))
            yield World(parts, engine, instance, server)
            engine.dispose()
    finally:
        if server is not None:
            server.remove()


def _instance(env: Mapping[str, str]) -> dg.DagsterInstance:
    with patch.dict(os.environ, env):
        return dg.DagsterInstance.from_config(env["DAGSTER_HOME"])
