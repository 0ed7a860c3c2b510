"""Parts of the pipeline benchmark. A complete run is not tested, because it takes minutes."""

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate

from benchmarks.pipeline_cost import dagster_ui
from benchmarks.pipeline_cost.dagster_ui import EmbeddedCourse, Run
from benchmarks.pipeline_cost.plain_script import BATCH
from benchmarks.pipeline_cost.stage_one import StageOne, texts
from benchmarks.pipeline_cost.systems import PLAIN_SCRIPT, Timing
from embedding.vector_store.indexing import EMBED_BATCH
from models import chunks, ingestion
from models.database import transaction
from tests.support.courses import empty_catalogue
from tests.support.tiny_models import make_tiny_bert

QUERIES = [name for name in vars(dagster_ui) if name.isupper() and "answer:" in str(getattr(dagster_ui, name))]


@pytest.mark.parametrize("name", QUERIES)
def test_queries_are_valid_in_the_schema_of_dagster(name: str) -> None:
    assert validate(create_schema().graphql_schema, parse(getattr(dagster_ui, name))) == []


def test_phases_add_up_to_the_time_from_trigger_to_done() -> None:
    runs = [Run(created=103, started=108, ended=121), Run(created=104, started=125, ended=137)]
    embedded = [
        EmbeddedCourse("a", "first", timestamp=120, texts=30, tokens=900, seconds=8),
        EmbeddedCourse("b", "second", timestamp=136, texts=30, tokens=900, seconds=7),
    ]
    timing = Timing.from_events(100, embedded, runs)
    assert (timing.detection, timing.startup, timing.setup, timing.work) == (3, 9, 9, 15)
    assert timing.total == 36
    assert (timing.courses, timing.runs, timing.texts, timing.tokens) == (2, 2, 60, 1800)


def test_stage_one_writes_finishes_and_edits_a_course(tmp_path: Path) -> None:
    engine = empty_catalogue(tmp_path / "catalogue.db")
    stage_one = StageOne(tmp_path / "catalogue.db")
    stage_one.write_course("c", 3)
    with transaction(engine) as session:
        assert not ingestion.ingestion_of_course(session, "c").finished
    stage_one.finish_ingestion("c")
    with transaction(engine) as session:
        assert ingestion.ingestion_of_course(session, "c").finished
        assert [chunk.text for chunk in chunks.chunk_page(session, "c")] == texts("c", 3)
    stage_one.edit_a_chunk("c")
    with transaction(engine) as session:
        changed = [chunk.text for chunk in chunks.chunk_page(session, "c")]
    assert changed[0] != texts("c", 3)[0]
    assert changed[1:] == texts("c", 3)[1:]
    engine.dispose()


def test_both_systems_use_the_same_batch_size() -> None:
    assert BATCH == EMBED_BATCH


@pytest.mark.integration
def test_plain_script_embeds_and_stores_all_chunks(tmp_path: Path, chroma_url: str) -> None:
    empty_catalogue(tmp_path / "catalogue.db").dispose()
    StageOne(tmp_path / "catalogue.db").write_course("benchmark", 70)
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/catalogue.db",
        "CHROMA_URL": chroma_url,
        "EMBEDDING_MODEL_PATH": str(make_tiny_bert(tmp_path / "model")),
        "EMBEDDING_DEVICE": "cpu",
    }
    out = tmp_path / "out.json"
    subprocess.run([*PLAIN_SCRIPT, out, "benchmark"], env=os.environ | settings, check=True)
    assert json.loads(out.read_text())["texts"] == 70
    collections = f"{chroma_url}/api/v2/tenants/default_tenant/databases/default_database/collections"
    collection = httpx.get(f"{collections}/plain_benchmark").json()
    assert httpx.get(f"{collections}/{collection['id']}/count").json() == 70
