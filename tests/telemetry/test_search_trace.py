"""One trace from a caller through the search app to the embedding service."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from search_api.app import create_embedding_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import AppHarness
from tests.support.servers.asgi import serving
from tests.support.tiny_models import make_tiny_qwen3
from tests.telemetry.collector import Collector

pytestmark = pytest.mark.integration

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", "baggage": "pupil=anna"}
SECRET = "photolithography"
SEARCH = "POST /courses/{course_id}/search"
EMBEDDING = "POST /v1/embeddings"
CALL = "POST embedding service"
SERVER, CLIENT = 2, 3


@pytest.fixture
def harness(collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppHarness]:
    """A search app with a course, whose embedding model is behind a real service."""
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(make_tiny_qwen3(tmp_path / "model")))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    with serving(create_embedding_app(SearchSettings())) as url:
        harness, settings = AppHarness(tmp_path), EmbeddingSettings(embedding_service_url=url)
        remote = RemoteEmbedder(settings)
        harness.make_embedder = lambda: RemoteEmbedder(settings)
        collection = harness.add_searchable_course("c", "copper")
        collection.signature, collection.vectors = remote.signature, remote.embed_documents(["copper"]).vectors
        yield harness


def test_a_search_is_one_trace(collector: Collector, harness: AppHarness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retrieval")
    with harness.client() as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            client.get(path)
        answer = client.post("/courses/c/search", json={"query": SECRET}, headers=CALLER)
        assert answer.status_code == 200
        again = client.post("/courses/c/search", json={"query": SECRET})
        assert again.json() == answer.json()
        client.get(f"/?course=c&q={SECRET}")
        logging.getLogger("search_api").warning("no request")
    in_service = (SEARCH, "embed", "batch", CALL, EMBEDDING)
    collector.wait_for(SEARCH, "GET /")
    collector.wait_for_path(*in_service)
    paths = {path for span, path in zip(collector.spans, collector.paths(), strict=True) if span.trace_id == TRACE_ID}
    assert paths == {
        (SEARCH,),
        (SEARCH, "catalogue"),
        (SEARCH, "open"),
        (SEARCH, "embed"),
        (SEARCH, "embed", "queue"),
        (SEARCH, "embed", "batch"),
        (SEARCH, "embed", "batch", CALL),
        in_service,
        (*in_service, "queue"),
        (*in_service, "batch"),
        (SEARCH, "search"),
    }
    roots = {path[0] for path in collector.paths()}
    assert roots == {SEARCH, "GET /", EMBEDDING}, "background work and probes begin no trace"
    search = collector.named(SEARCH)
    assert (search.parent_id, search.kind, search.attributes["http.response.status_code"]) == (
        "b7ad6b7169203331",
        SERVER,
        200,
    )
    assert collector.named(CALL).kind == CLIENT
    assert SECRET not in repr(collector.spans)
    assert collector.named("GET /").attributes["url.query"] == "REDACTED"
    ids = {getattr(record, "trace_id") for record in caplog.records}  # noqa: B009 - set by the record factory
    assert TRACE_ID in ids
    assert "" in ids, "lines of no request"


def test_an_error_is_recorded_without_what_a_library_says(collector: Collector, tmp_path: Path) -> None:
    harness = AppHarness(tmp_path)
    harness.add_searchable_course("c", "copper")
    harness.embedder.error = KeyError(SECRET)
    with harness.client() as client:
        assert client.post("/courses/c/search", json={"query": "copper"}).status_code == 500
    collector.wait_for(SEARCH, "embed")
    embed, search = collector.named("embed"), collector.named(SEARCH)
    assert (embed.error, embed.attributes["error.type"]) == ("", "builtins.KeyError")
    assert (search.error, search.attributes["error.type"]) == ("", "500")
    assert SECRET not in repr(collector.spans)
