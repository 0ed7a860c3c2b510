"""The main job with every part real: database, Chroma server, Dagster daemon and web server, HTTP.

Once on SQLite with text ids, and once on PostgreSQL, Dagster's storage included, with stage one's tables already
standing and integer ids in them.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from tests.support.postgres import PostgresServer
from tests.support.product import COMMAND, Product, running_product, wait_until
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SUBJECTS = {
    "stackup": "A four layer stackup alternates copper foil, prepreg and core under heat and pressure.",
    "reflow": "The reflow oven melts solder paste; the profile has a preheat, a soak, a peak and a cooling zone.",
    "impedance": "Controlled impedance keeps signal reflections small on long transmission lines.",
    "flux": "Flux removes oxides from pads so that the molten alloy wets the metal evenly.",
}
BACKFILL_STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } ... on PythonError { message } }
}"""


def course(course_id: str, first_id: int, texts: list[str]) -> list[dict[str, Any]]:
    """Lines of a course; ids are digits, which both kinds of id columns hold."""
    return [
        {
            "id": str(first_id + number),
            "course_id": course_id,
            "lecture_id": "7",
            "section_id": str(number % 2),
            "order_in_section": number // 2,
            "text": content,
            "language": "en",
            "source_type": "pdf" if number % 2 else "video",
            "metadata": {"lecture_title": "Boards"},
        }
        for number, content in enumerate(texts)
    ]


STAGE_ONES_TABLES = """
CREATE TABLE course (id INTEGER PRIMARY KEY, title VARCHAR NOT NULL DEFAULT 'untitled');
CREATE TABLE resource (id INTEGER PRIMARY KEY, course_id INTEGER NOT NULL REFERENCES course, status VARCHAR NOT NULL);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY, course_id INTEGER NOT NULL REFERENCES course, lecture_id INTEGER, section_id INTEGER,
    text TEXT NOT NULL, language VARCHAR, source_type VARCHAR, metadata JSONB
);
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def product(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Product]:
    settings = {
        "EMBEDDING_MODEL_PATH": str(make_tiny_qwen3(tmp_path / "model")),
        "EMBEDDING_DEVICE": "cpu",
        "SEARCH_PORT": str(free_port()),
        "DAGSTER_PORT": str(free_port()),
        "CHROMA_PORT": str(free_port()),
    }
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        settings["DATABASE_URL"] = server.create_database()
        settings["DAGSTER_POSTGRES_URL"] = server.create_database()
        engine = create_engine(settings["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://"))
        with engine.begin() as connection:
            connection.execute(text(STAGE_ONES_TABLES))
        engine.dispose()
    with running_product(tmp_path, settings) as running:
        yield running


@pytest.fixture
def database(product: Product) -> Iterator[Engine]:
    """Stage one's view of the database."""
    url = product.env.get("DATABASE_URL") or f"sqlite:///{product.directory}/data/catalogue.db"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    yield engine
    engine.dispose()


@pytest.fixture
def vectors(product: Product) -> Iterator[VectorStore]:
    store = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{product.env['CHROMA_PORT']}"))
    yield store
    store.close()


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_from_chunk_table_to_answer(product: Product, database: Engine, vectors: VectorStore) -> None:
    # A course that stage one has ingested is found by the sensor, embedded, and answers.
    product.load(course("1", 100, list(SUBJECTS.values())))
    status = product.wait_for("1", "done")
    assert (status["progress"], status["error"]) == (1.0, None)
    assert vectors.open("1").count() == len(SUBJECTS)
    best = product.ask("1", "reflow oven solder paste profile")[0]
    assert best["text"] == SUBJECTS["reflow"]
    assert best["metadata"]["lecture_id"] == "7"
    assert best["metadata"]["lecture_title"] == "Boards"
    filtered = product.ask("1", "reflow oven solder paste profile", filters={"source_type": "pdf"})
    assert {result["metadata"]["source_type"] for result in filtered} == {"pdf"}
    (by_words,) = product.ask("1", "removing oxide", method="keyword")
    assert [by_words["text"][start:end] for start, end in by_words["matches"]] == ["removes", "oxides"]
    assert httpx.get(product.search.base_url.join("/docs")).status_code == httpx.codes.OK

    # A course that stage one is still working on is not ready, and unknown ones are unknown.
    with database.begin() as connection:
        connection.execute(text("INSERT INTO course (id) VALUES ('2')"))
        connection.execute(text("INSERT INTO resource (id, course_id, status) VALUES ('20', '2', 'processing')"))
    assert error_of(product.search.post("/courses/2/search", json={"query": "x"})) == (400, "embedding_not_ready")
    assert error_of(product.search.post("/courses/no/search", json={"query": "x"})) == (404, "course_not_found")

    # A chunk changes, and the course is embedded again by itself; the count and the length stay the same.
    edited = SUBJECTS["impedance"].replace("transmission lines", "lines ontransmission")
    with database.begin() as connection:
        connection.execute(text("UPDATE chunk SET text = :text WHERE id = '102'"), {"text": edited})

    def answers_anew() -> bool:
        response = product.search.post("/courses/1/search", json={"query": "impedance reflections lines", "top_k": 1})
        return response.status_code == httpx.codes.OK and response.json()["results"][0]["text"] == edited

    wait_until(answers_anew, 120, lambda: f"{product.status('1')}")
    assert vectors.open("1").count() == len(SUBJECTS)

    # Triggered by hand it answers at once, and refuses while the course is being embedded.
    product.load(course("3", 1000, [f"Board {number} has {number % 17} layers." for number in range(1500)]))
    product.wait_for("3", "running")
    assert error_of(product.search.post("/courses/3/embed")) == (409, "already_running")
    assert error_of(product.search.post("/courses/3/search", json={"query": "x"})) == (400, "embedding_not_ready")
    product.wait_for("3", "done")
    assert product.search.post("/courses/3/embed").json() == {"status": "embedding_started"}
    product.wait_for("3", "done")
    assert vectors.open("3").count() == 1500

    # A backfill over all courses from the Dagster UI.
    generation = text("SELECT id, embedding_generation FROM course WHERE embedding_status = 'done' ORDER BY id")
    with database.connect() as connection:
        before = {str(course_id): number for course_id, number in connection.execute(generation)}
    backfill_id = product.ui.backfill("1", "3")

    def backfill_status() -> str:
        status: str = product.ui.query(BACKFILL_STATUS, id=backfill_id)["partitionBackfillOrError"]["status"]
        return status

    wait_until(lambda: backfill_status() == "COMPLETED_SUCCESS", 120, backfill_status)
    with database.connect() as connection:
        after = {str(course_id): number for course_id, number in connection.execute(generation)}
    assert after == {course_id: number + 1 for course_id, number in before.items()}

    # Dagster keeps its runs where it was told to.
    if url := product.env.get("DAGSTER_POSTGRES_URL"):
        dagster = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
        with dagster.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() > 0
        dagster.dispose()

    # A second start over the same directory is refused, and harms nothing.
    second = subprocess.run(
        [*COMMAND, "up"], cwd=product.directory, env=product.env, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "running already" in second.stdout
    assert product.ask("1", "flux")
