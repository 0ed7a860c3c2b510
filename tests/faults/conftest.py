"""One running deployment per database for all fault tests. Every test leaves it running and idle."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from unittest.mock import patch

import dagster as dg
import pytest

from models.database import CatalogueSettings, create_catalogue_engine
from tests.faults.deployment import BACKENDS, Deployment
from tests.support.parts import running_parts
from tests.support.servers.gated_embedding_service import gated_embedding_service
from tests.support.servers.postgres import LocalPostgresServer
from tests.support.tiny_models import make_tiny_qwen3


@pytest.fixture(scope="package", params=BACKENDS)
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """All processes, with the catalogue and Dagster's storage on one kind of database."""
    directory = tmp_path_factory.mktemp(f"faults-{request.param}")
    with ExitStack() as stack:
        url, gate = stack.enter_context(gated_embedding_service(make_tiny_qwen3(directory / "model")))
        settings = {"EMBEDDING_SERVICE_URL": url}
        server = None
        if request.param == "postgres":
            server = LocalPostgresServer()  # not the session's server, because tests stop it
            stack.callback(server.remove)
            settings |= {"DATABASE_URL": server.create_database(), "DAGSTER_POSTGRES_URL": server.create_database()}
        else:
            settings["DATABASE_URL"] = f"sqlite:///{directory}/product/data/catalogue/catalogue.db"
        parts = stack.enter_context(running_parts(directory / "product", settings))
        instance = stack.enter_context(_instance(parts.env))
        engine = create_catalogue_engine(CatalogueSettings(database_url=settings["DATABASE_URL"]))
        stack.callback(engine.dispose)
        yield Deployment(parts, engine, instance, server, gate)


def _instance(env: Mapping[str, str]) -> dg.DagsterInstance:
    with patch.dict(os.environ, env):
        return dg.DagsterInstance.from_config(env["DAGSTER_HOME"])
