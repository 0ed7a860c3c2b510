"""Every route of both apps needs the token, but for a list of paths that show nothing of a course."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount, Route
from starlette.testclient import TestClient

from search_api.app import create_app, create_embedding_app
from search_api.app_settings import SearchSettings
from search_api.services import ModelServices, open_embedding
from tests.search_api.app_harness import AppHarness

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
TOKEN = "s3cret"
DOCUMENTATION = {"/docs", "/docs/oauth2-redirect", "/docs/static/file", "/openapi.json"}
PROBES = {"/healthz", "/readyz"}
OPEN = {"search": {*DOCUMENTATION, *PROBES, "/", "/static/file"}, "embedding": {*DOCUMENTATION, *PROBES}}
"""What anybody may read. A new route is added here only if it shows nothing of a course and changes nothing."""


def paths_of(routes: list[BaseRoute]) -> Iterator[str]:
    """A path of each route; FastAPI keeps the routes of a router in an object of its own."""
    for route in routes:
        if isinstance(route, Mount):
            yield f"{route.path}/file"
        elif isinstance(route, Route) or hasattr(route, "path"):
            parameters = dict.fromkeys(getattr(route, "param_convertors", {}), "x")
            path: str = getattr(route, "path_format", getattr(route, "path", ""))
            yield path.format(**parameters)
        else:
            yield from paths_of(list(getattr(route, "routes", ())))


@contextmanager
def embedding_services(harness: AppHarness, settings: SearchSettings) -> Iterator[ModelServices]:
    with open_embedding(settings, lambda: harness.embedder) as (embedding, caches):
        yield ModelServices(settings, embedding, caches)


@pytest.mark.parametrize("kind", ["search", "embedding"])
def test_open_routes_are_those_of_the_list(harness: AppHarness, kind: str) -> None:
    settings = SearchSettings(internal_token=TOKEN)
    app: Any = (
        create_app(settings, harness.services)
        if kind == "search"
        else create_embedding_app(settings, lambda settings: embedding_services(harness, settings))
    )
    paths = {*paths_of(app.routes), *app.openapi()["paths"]}
    assert {"/metrics", "/v1/embeddings"} <= paths
    answered = set()
    with TestClient(app, raise_server_exceptions=False) as client:
        for path in paths:
            for method in METHODS:
                status = client.request(method, path).status_code
                if status != 401:
                    answered.add(path)
                    assert method in ("GET", "HEAD") or status in (403, 405), (method, path, status)
                assert client.request(method, path, headers={"x-internal-token": TOKEN}).status_code != 401
    assert answered == OPEN[kind]
