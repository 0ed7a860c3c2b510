"""Fixtures: a catalogue, a Dagster instance, the Chroma server, and a tiny model with the architecture of Qwen3."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from sqlalchemy import Engine

from orchestration.instance.prepared import mark_prepared
from orchestration.partitions import PARTITIONS_NAME
from tests.orchestration.ticks import Resources, all_resources, materialize
from tests.support.courses import empty_catalogue, write_course
from tests.support.servers.postgres import postgres_server, postgres_url  # noqa: F401 - fixtures
from tests.support.tiny_models import make_tiny_qwen3

NEVER = timedelta(days=1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _vector_store(chroma_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_URL", chroma_url)


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a service, and let no other limit expire, unless a test changes it."""
    monkeypatch.setattr("orchestration.resources.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("orchestration.course_run.run.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("orchestration.launching.contents.READING_SECONDS", NEVER.total_seconds())
    monkeypatch.setattr("orchestration.launching.contents.UNCHANGED_READING_SECONDS", NEVER.total_seconds())
    monkeypatch.setattr("orchestration.instance.run_launcher.START_SECONDS", NEVER.total_seconds())
    monkeypatch.setattr("orchestration.runs.SETTLING", timedelta(0))
    for module in ("course_state", "resources"):  # the first pause of 5 s can end between two lines of a test
        monkeypatch.setattr(f"models.{module}.RETRY_SECONDS", (60, 120, 180, 240, 405))


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
def resources(catalogue: Engine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Resources:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    return all_resources()


@pytest.fixture
def course_id(instance: dg.DagsterInstance) -> str:
    """The id of a course with a partition. It is unique, because all tests share the Chroma server."""
    unique_id = f"course-{uuid4()}"
    instance.add_dynamic_partitions(PARTITIONS_NAME, [unique_id])
    return unique_id


@pytest.fixture
def other_course_id(instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str) -> str:
    """Embed `course_id` and another course; returns the id of the other one."""
    other = f"other-{course_id}"
    instance.add_dynamic_partitions(PARTITIONS_NAME, [other])
    for embedded in (other, course_id):
        write_course(catalogue, embedded, {f"{embedded}/a": "Copper"})
        assert materialize(instance, resources, embedded).success
    return other
