"""No text of a chunk enters Dagster's storage or the course's row, however a run ends: nothing deletes it there."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
import numpy as np
import pytest
from sqlalchemy import Engine, text
from starlette.responses import JSONResponse

from embedding.embedder import LocalEmbedder
from orchestration.instance.prepared import mark_prepared
from tests.orchestration.ticks import Resources, all_resources, materialize, stage_one_tick
from tests.support.courses import read_course, write_course
from tests.support.servers.foreign_server import foreign_server

pytestmark = pytest.mark.integration

MARKER = "ZQXJVKWQ"
SECRET = f"The password of the cleaning robot is {MARKER}."


class PanicError(BaseException):
    """An error of a library in another language, such as the tokenizer."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with all of its storage, and the output of its runs, in files."""
    (tmp_path / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance:
        mark_prepared(instance)
        yield instance


@pytest.fixture
def secret_course(instance: dg.DagsterInstance, catalogue: Engine, course_id: str) -> str:
    write_course(catalogue, course_id, {f"{course_id}/secret": SECRET, f"{course_id}/other": "Copper"})
    return course_id


def assert_kept_out(tmp_path: Path, catalogue: Engine, course_id: str) -> None:
    files = [path for path in (tmp_path / "dagster").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" and course_id.encode() in path.read_bytes() for path in files), "nothing was stored"
    assert [path.name for path in files if MARKER.encode() in path.read_bytes()] == []
    assert MARKER not in str(read_course(catalogue, course_id))


def test_successful_run(
    tmp_path: Path, instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, secret_course: str
) -> None:
    assert materialize(instance, resources, secret_course).success
    assert_kept_out(tmp_path, catalogue, secret_course)


@pytest.mark.parametrize("kind", [ValueError, PanicError])
def test_library_error_that_quotes_the_text(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    secret_course: str,
    kind: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The log names the type of the error and the place, also of its causes."""

    def fail(_: object, texts: Sequence[str]) -> NoReturn:
        try:
            raise KeyError(*texts)
        except KeyError as error:
            raise kind(f"cannot tokenize {texts}") from error

    monkeypatch.setattr(LocalEmbedder, "_tokenize", fail)
    result = materialize(instance, resources, secret_course)
    assert not result.success
    assert_kept_out(tmp_path, catalogue, secret_course)
    assert read_course(catalogue, secret_course).embedding_error == (
        f"Unexpected {kind.__name__}; the log of the run shows where."
    )
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    [logged] = [message for message in messages if message.startswith(f"Course {secret_course} failed: ")]
    assert "embedder.py" in logged
    assert "KeyError, raised by:" in logged


def test_vector_that_is_not_finite(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    secret_course: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compute(embedder: LocalEmbedder, batch: Sequence[Any], **_: object) -> np.ndarray[Any, Any]:
        return np.full((len(batch), embedder.dimensions), np.nan, np.float32)

    monkeypatch.setattr(LocalEmbedder, "_compute", compute)
    assert not materialize(instance, resources, secret_course).success
    assert "is not finite" in (read_course(catalogue, secret_course).embedding_error or "")
    assert_kept_out(tmp_path, catalogue, secret_course)


def test_record_that_chroma_rejects(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    secret_course: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reject(_: object, **records: object) -> NoReturn:
        raise ValueError(f"Expected a document, got {records}")

    monkeypatch.setattr("chromadb.api.models.Collection.Collection.upsert", reject)
    assert not materialize(instance, resources, secret_course).success
    assert "cannot be stored: Chroma at" in (read_course(catalogue, secret_course).embedding_error or "")
    assert_kept_out(tmp_path, catalogue, secret_course)


def test_embedding_service_that_quotes_its_input(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    catalogue: Engine,
    secret_course: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(texts: list[str]) -> JSONResponse | None:
        detail = [{"loc": ["body", "input"], "msg": "Input should be shorter", "input": texts}]
        return JSONResponse({"detail": detail}, 422) if SECRET in texts else None

    with foreign_server(refusal=refuse) as server:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", server.url)
        assert not materialize(instance, all_resources(), secret_course).success
    assert "Input should be shorter" in (read_course(catalogue, secret_course).embedding_error or "")
    assert_kept_out(tmp_path, catalogue, secret_course)


def test_text_that_cannot_be_decoded(
    tmp_path: Path, instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, secret_course: str
) -> None:
    """SQLite's own message quotes the text. The sensor reads it before any run does."""
    with catalogue.begin() as connection:
        connection.execute(
            text("UPDATE chunk SET text = CAST(:bytes AS TEXT) WHERE id = :id"),
            {"bytes": SECRET.encode() + b"\xe9", "id": f"{secret_course}/secret"},
        )
    assert MARKER not in stage_one_tick(instance).skip_message
    assert not materialize(instance, resources, secret_course).success
    assert "cannot be decoded" in (read_course(catalogue, secret_course).embedding_error or "")
    assert_kept_out(tmp_path, catalogue, secret_course)
