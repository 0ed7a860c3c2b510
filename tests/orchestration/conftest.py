"""Everything a run needs, for real: a catalogue, the Chroma server, a tiny model of the true architecture."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from sqlalchemy import Engine

from orchestration.partitions import NAME
from orchestration.prepared_instance import mark_prepared
from orchestration.resources import (
    CatalogueResource,
    GpuResource,
    KeywordIndexResource,
    SearchAppResource,
    VectorStoreResource,
)
from tests.support.courses import empty_catalogue
from tests.support.tiny_models import make_tiny_qwen3


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _vector_store(chroma_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_URL", chroma_url)


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is away is away for good, unless a test waits for it."""
    monkeypatch.setattr("orchestration.resources.PATIENCE_SECONDS", 0.0)


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    engine = empty_catalogue(tmp_path / "catalogue.db")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/catalogue.db")
    yield engine
    engine.dispose()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        mark_prepared(ephemeral)
        yield ephemeral


@pytest.fixture
def resources(
    catalogue: Engine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dg.ConfigurableResource[None]]:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    return all_resources()


def all_resources() -> dict[str, dg.ConfigurableResource[None]]:
    """As the environment configures them now."""
    return {
        "catalogue": CatalogueResource(),
        "vector_store": VectorStoreResource(),
        "keyword_indexes": KeywordIndexResource(),
        "gpu": GpuResource(),
        "search_app": SearchAppResource(),
    }


@pytest.fixture
def course_id(instance: dg.DagsterInstance) -> str:
    """A course of this test alone (the Chroma server is shared), with its partition."""
    name = f"course-{uuid4()}"
    instance.add_dynamic_partitions(NAME, [name])
    return name
