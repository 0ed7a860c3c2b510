"""The log of the app: it shows which request a line belongs to, and not what students ask."""

import io
import logging
from collections.abc import Iterator

import pytest
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import AccessFormatter, DefaultFormatter

from embedding.errors import EmbeddingError
from search_api.embeddings.service import QueryKey
from search_api.logs import configure_logging
from tests.search_api.app_harness import AppHarness

SECRET = "photolithography"
PAGE = ("127.0.0.1:5000", "GET", f"/?course=c&q={SECRET}", "1.1", 200)
"""The arguments of a line in uvicorn's access log."""


@pytest.fixture
def access_log(caplog: pytest.LogCaptureFixture) -> Iterator[logging.Logger]:
    """The access log, whose lines are captured."""
    caplog.set_level(logging.INFO, "uvicorn.access")
    yield logging.getLogger("uvicorn.access")
    configure_logging(log_queries=False)


def search_in_all_ways(harness: AppHarness) -> None:
    """Searches that succeed, that are refused, and that fail; and everything that the caches log about queries."""
    with harness.client() as client:
        queries = harness.app_services.caches["queries"]
        for body in (
            {"query": SECRET},
            {"query": SECRET},
            {"query": [f"{SECRET} a", f"{SECRET} b"], "explain": True, "context": 1},
            {"query": SECRET, "method": "keyword"},
            {"query": SECRET, "rerank": "model"},
            {"query": SECRET, SECRET: 1},
            {"query": SECRET, "filters": {"section_id": SECRET}},
        ):
            client.post("/courses/c/search", json=body)
        client.post("/v1/embeddings", json={"input": SECRET, "input_type": "query"})
        client.post("/courses/c/search", content=f'{{"query": "{SECRET}"')
        client.get(f"/?course=c&q={SECRET}")
        queries.get(next(iter(queries._store)), lambda: None)
        queries.clear_cache()
        for error in (EmbeddingError("out of memory"), RuntimeError("unexpected")):
            harness.embedder.error = error
            client.post("/courses/c/search", json={"query": f"{SECRET} {error}"})
        logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *PAGE)


def test_no_line_contains_a_query(
    harness: AppHarness, caplog: pytest.LogCaptureFixture, access_log: logging.Logger
) -> None:
    for logger in ("embedding", "retrieval", "search_api"):
        caplog.set_level(logging.DEBUG, logger)
    harness.add_searchable_course("c", "copper")
    search_in_all_ways(harness)
    assert SECRET not in caplog.text
    for event in ("hit", "miss", "cleared"):
        assert f"Cache queries: {event} query " in caplog.text
    assert '"GET / HTTP/1.1" 200' in caplog.text


def test_setting_shows_queries(
    harness: AppHarness,
    caplog: pytest.LogCaptureFixture,
    access_log: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_QUERIES", "true")
    caplog.set_level(logging.INFO, "retrieval")
    harness.add_searchable_course("c", "copper")
    search_in_all_ways(harness)
    assert f"Cache queries: miss '{SECRET}', loaded in" in caplog.text
    assert f'"GET /?course=c&q={SECRET} HTTP/1.1" 200' in caplog.text


def test_same_query_is_recognised_in_the_log() -> None:
    assert repr(QueryKey("model", SECRET)) == repr(QueryKey("model", SECRET))
    assert repr(QueryKey("model", SECRET)) != repr(QueryKey("model", SECRET + " b"))


def test_lines_of_the_server_show_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """With uvicorn's own formatters, which an app finds when uvicorn starts it."""
    output = io.StringIO()
    for name, formatter, configured in (
        ("uvicorn", DefaultFormatter, "default"),
        ("uvicorn.access", AccessFormatter, "access"),
    ):
        handler = logging.StreamHandler(output)
        handler.setFormatter(formatter(LOGGING_CONFIG["formatters"][configured]["fmt"], use_colors=False))
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
    configure_logging(log_queries=False)
    configure_logging(log_queries=False)  # as by a second app in the process
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *PAGE)
    assert output.getvalue().splitlines() == [
        "ERROR:    [-] Exception in ASGI application",
        'INFO:     [-] 127.0.0.1:5000 - "GET / HTTP/1.1" 200 OK',
    ]
