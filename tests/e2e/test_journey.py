"""The product as `course-search up` starts it: real database, Chroma server, Dagster daemon and web server, HTTP.

Once on SQLite with text ids, and once on PostgreSQL (also for Dagster's storage) with integer ids in tables that stage
one has already created. No two tests use the same course. `tests/faults` covers requests, edits and
backfills on SQLite.
"""

import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from models.database import postgres_url
from tests.support.product import COMMAND, Product, running_product, wait_until
from tests.support.servers.postgres import PostgresServer
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)
on_postgres = pytest.mark.parametrize("product", [POSTGRES], indirect=True)
LIMIT_SECONDS = 240

SUBJECTS = {
    "stackup": "A four layer stackup alternates copper foil, prepreg and core under heat and pressure.",
    "reflow": "The reflow oven melts solder paste; the profile has a preheat, a soak, a peak and a cooling zone.",
    "impedance": "Controlled impedance keeps signal reflections small on long transmission lines.",
    "flux": "Flux removes oxides from pads so that the molten alloy wets the metal evenly.",
}
STAGE_ONE_TABLES = """
CREATE TABLE course (id INTEGER PRIMARY KEY, title VARCHAR NOT NULL DEFAULT 'untitled');
CREATE TABLE resource (id INTEGER PRIMARY KEY, course_id INTEGER NOT NULL REFERENCES course, status VARCHAR NOT NULL);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY, course_id INTEGER NOT NULL REFERENCES course, lecture_id INTEGER, section_id INTEGER,
    text TEXT NOT NULL, language VARCHAR, source_type VARCHAR, metadata JSONB
);
"""
PROXIES = {
    "ALL_PROXY": "socks://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "no_proxy": ".corp.example",
    "NO_PROXY": "localhost,127.0.0.1,fd07:b51a:cc66:f0::/64",
}
"""Proxy variables of real machines, which the product must ignore on loopback. No proxy answers."""
BACKFILL_STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } ... on PythonError { message } }
}"""


def course(course_id: str, texts: list[str]) -> list[dict[str, Any]]:
    """Rows of a course. All ids are digits, which both text and integer columns hold."""
    return [
        {
            "id": f"{course_id}0{number}",
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


@pytest.fixture(scope="module", params=["sqlite", POSTGRES])
def product(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    directory = tmp_path_factory.mktemp(f"product-{request.param}")
    settings = {
        "EMBEDDING_MODEL_PATH": str(make_tiny_qwen3(directory / "model")),
        "EMBEDDING_DEVICE": "cpu",
        "SEARCH_PORT": str(free_port()),
        "DAGSTER_PORT": str(free_port()),
        "CHROMA_PORT": str(free_port()),
        **PROXIES,
    }
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        settings["DATABASE_URL"] = server.create_database()
        settings["DAGSTER_POSTGRES_URL"] = server.create_database()
        engine = create_engine(postgres_url(settings["DATABASE_URL"]))
        with engine.begin() as connection:
            connection.execute(text(STAGE_ONE_TABLES))
        engine.dispose()
    with running_product(directory, settings) as running:
        yield running


@pytest.fixture
def database(product: Product) -> Iterator[Engine]:
    """The catalogue as stage one opens it."""
    engine = create_engine(
        postgres_url(product.env.get("DATABASE_URL") or f"sqlite:///{product.directory}/data/catalogue.db")
    )
    yield engine
    engine.dispose()


@pytest.fixture
def vectors(product: Product) -> Iterator[VectorStore]:
    store = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{product.env['CHROMA_PORT']}"))
    yield store
    store.close()


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_ingested_course_is_embedded_and_can_be_searched(product: Product, vectors: VectorStore) -> None:
    product.load(course("1", list(SUBJECTS.values())))
    status = product.wait_for("1", "done")
    assert (status["progress"], status["error"]) == (1.0, None)
    assert vectors.open("1").count() == len(SUBJECTS)
    best = product.ask("1", "reflow oven solder paste profile")[0]
    assert best["text"] == SUBJECTS["reflow"]
    assert best["metadata"]["lecture_id"] == "7"
    assert best["metadata"]["lecture_title"] == "Boards"
    filtered = product.ask("1", "reflow oven solder paste profile", filters={"source_type": "pdf"})
    assert {result["metadata"]["source_type"] for result in filtered} == {"pdf"}
    [by_keyword] = product.ask("1", "removing oxide", method="keyword")
    assert [by_keyword["text"][start:end] for start, end in by_keyword["matches"]] == ["removes", "oxides"]
    assert httpx.get(product.search.base_url.join("/docs")).status_code == httpx.codes.OK


def test_commands_of_another_shell_reach_the_servers_without_a_proxy(product: Product) -> None:
    """`up` tells other shells nothing: they find the address of Chroma in its directory."""
    assert "ok       chroma" in product.run("doctor").stdout
    backed_up = product.run("backup")
    assert (backed_up.returncode, "courses" in backed_up.stdout) == (0, True), backed_up.stderr


def test_course_that_is_not_ingested_is_not_ready_and_unknown_courses_are_not_found(
    product: Product, database: Engine
) -> None:
    with database.begin() as connection:
        connection.execute(text("INSERT INTO course (id) VALUES ('2')"))
        connection.execute(text("INSERT INTO resource (id, course_id, status) VALUES ('20', '2', 'processing')"))
    assert error_of(product.search.post("/courses/2/search", json={"query": "x"})) == (400, "embedding_not_ready")
    assert error_of(product.search.post("/courses/no/search", json={"query": "x"})) == (404, "course_not_found")


@on_postgres
def test_edited_course_is_embedded_again(product: Product, database: Engine, vectors: VectorStore) -> None:
    """Also if the edit keeps the number of chunks and the length of the text."""
    product.load(course("3", list(SUBJECTS.values())))
    product.wait_for("3", "done")
    edited = SUBJECTS["impedance"].replace("transmission lines", "lines ontransmission")
    with database.begin() as connection:
        connection.execute(text("UPDATE chunk SET text = :text WHERE id = '302'"), {"text": edited})

    def is_found() -> bool:
        response = product.search.post("/courses/3/search", json={"query": "impedance reflections lines", "top_k": 1})
        return response.status_code == httpx.codes.OK and response.json()["results"][0]["text"] == edited

    wait_until(is_found, LIMIT_SECONDS, lambda: f"{product.status('3')}")
    assert vectors.open("3").count() == len(SUBJECTS)


@on_postgres
def test_request_and_backfill_publish_one_new_generation_each(product: Product, database: Engine) -> None:
    generation = text("SELECT embedding_generation FROM course WHERE id IN ('4', '5') ORDER BY id")

    def generations() -> list[int]:
        with database.connect() as connection:
            return list(connection.execute(generation).scalars())

    product.load(course("4", list(SUBJECTS.values())), course("5", list(SUBJECTS.values())))
    for course_id in ("4", "5"):
        product.wait_for(course_id, "done")
    before = generations()
    assert product.search.post("/courses/4/embed").json() == {"status": "embedding_started"}
    product.wait_for("4", "done")
    assert generations() == [before[0] + 1, before[1]]

    backfill_id = product.ui.backfill("4", "5")

    def status() -> str:
        answer: str = product.ui.query(BACKFILL_STATUS, id=backfill_id)["partitionBackfillOrError"]["status"]
        return answer

    wait_until(lambda: status() == "COMPLETED_SUCCESS", LIMIT_SECONDS, status)
    assert generations() == [before[0] + 2, before[1] + 1]
    dagster = create_engine(postgres_url(product.env["DAGSTER_POSTGRES_URL"]))
    with dagster.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() > 0
    dagster.dispose()


def test_second_start_in_the_same_directory_is_refused(product: Product) -> None:
    second = subprocess.run(
        [*COMMAND, "up"], cwd=product.directory, env=product.env, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "running already" in second.stdout
    assert product.search.get("/healthz").status_code == httpx.codes.OK
