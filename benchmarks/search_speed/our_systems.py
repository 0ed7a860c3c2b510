"""The product, plain Chroma, and a bare matrix product: `python -m benchmarks.search_speed.our_systems SYSTEM`.

Query vectors are read from a table, in the search app too, so the measurements exclude query embedding.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from http.client import OK, HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from benchmarks.search_speed.caches import measure_opening, measure_requests, wait_until_ready
from benchmarks.search_speed.filters import measure_filters
from benchmarks.search_speed.worker import RESULTS, Call, Question, Search, handle_commands, read_questions
from embedding.interface import Embedder, Embeddings
from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from embedding.vectors import Vectors
from models.database import CatalogueSettings
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.courses.service import Courses
from search_api.http.errors import ERRORS
from search_api.search.schemas import SearchRequest
from search_api.services import Services, assemble_services

IN_PROCESS, OVER_HTTP, CHROMA, PRODUCT = OUR_SYSTEMS = (
    "course-search, in process",
    "course-search, HTTP",
    "Chroma, HTTP",
    "bare float32 product",
)
MANY_COURSES = "course-search, HTTP, many courses"
"""Searches all courses together."""
LOOK_UP = "lookup"
"""Name and signature of the embedding model."""
APP = "benchmarks.search_speed.our_systems:create_search_app"
QUESTIONS, VECTORS, COURSE = "BENCHMARK_QUESTIONS", "BENCHMARK_VECTORS", "BENCHMARK_COURSE"
COLLECTION, SEARCH_URL = "BENCHMARK_COLLECTION", "BENCHMARK_SEARCH_URL"
"""Environment variables of all systems, in addition to the settings of `benchmarks.serving`."""
MAX_IDLE_SECONDS = 2.0
"""uvicorn closes connections that are idle longer than 5 s, which happens while other systems are measured."""
REQUEST_SECONDS = 60.0


class LookUpEmbedder(Embedder):
    """Returns stored vectors of known queries."""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self.name = self.signature = LOOK_UP
        self.dimensions = vectors.shape[1]
        self._vectors = dict(zip(texts, vectors, strict=True))

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """The stored vectors; each query counts as one token."""
        return Embeddings(np.stack([self._vectors[text] for text in texts]), (1,) * len(texts), truncated=0)

    def legibility(self, text: str) -> float:  # noqa: ARG002
        """Always 1.0."""
        return 1.0


def create_search_app() -> FastAPI:
    """The search app with a `LookUpEmbedder`."""
    return create_app(services=_services)


def main(system: str) -> None:
    """Execute commands for one system."""
    questions = read_questions(Path(os.environ[QUESTIONS]))
    course_id = os.environ[COURSE]
    if system == IN_PROCESS:
        with _services(SearchSettings()) as services:
            measurements = {"opening": measure_opening, "requests": measure_requests, "filters": measure_filters}
            commands = {
                name: partial(measure, services, course_id, questions) for name, measure in measurements.items()
            }
            handle_commands(_loaded(_search_services(services, course_id), questions), questions, commands)
    elif system == OVER_HTTP:
        handle_commands(_loaded(_search_over_http(os.environ[SEARCH_URL], course_id), questions), questions)
    elif system == MANY_COURSES:
        handle_commands(_loaded(_search_over_http(os.environ[SEARCH_URL], None), questions), questions)
    elif system == CHROMA:
        handle_commands(_search_chroma(course_id), questions)
    elif system == PRODUCT:
        with threadpool_limits(1):
            handle_commands(_multiply(np.load(os.environ[VECTORS])), questions)
    else:
        raise ValueError(f"There is no system {system}")


def _loaded(search: Search, questions: Sequence[Question]) -> Search:
    """Search once, which loads the course."""
    wait_until_ready(partial(search, Call(questions[0], "keyword", filtered=False)))
    return search


@contextmanager
def _services(settings: SearchSettings) -> Iterator[Services]:
    questions = read_questions(Path(os.environ[QUESTIONS]))
    embedder = LookUpEmbedder(
        [question.text for question in questions], np.stack([question.vector for question in questions])
    )
    with (
        closing(Courses(CatalogueSettings())) as courses,
        closing(VectorStore(VectorStoreSettings())) as vector_store,
        assemble_services(
            settings, courses, vector_store, SnapshotStore(SnapshotSettings()), load_embedder=lambda: embedder
        ) as services,
    ):
        yield services


def request_body(call: Call) -> dict[str, Any]:
    """The body of a request to search."""
    filters = {"filters": {"section_id": call.question.section}} if call.filtered else {}
    return {"query": call.question.text, "top_k": RESULTS, "method": call.method, **filters}


def _search_services(services: Services, course_id: str) -> Search:
    def search(call: Call) -> list[str]:
        answer = services.search.search(course_id, SearchRequest.model_validate(request_body(call)))
        return _found(answer)

    return search


def _search_over_http(url: str, course_id: str | None) -> Search:
    """Searches a course over HTTP; None for all courses together.

    It uses `http.client`: httpx takes about 1 ms of a call, which 8 threads of one process take one after another.
    """
    connection = _Connection(urlsplit(url).netloc)
    path, headers = search_path(course_id), {"Content-Type": "application/json"}
    bodies: dict[tuple[str, str, bool], bytes] = {}

    def search(call: Call) -> list[str]:
        key = (call.question.text, call.method, call.filtered)
        body = bodies.get(key) or bodies.setdefault(key, json.dumps(request_body(call)).encode())
        http = connection.open()
        http.request("POST", path, body, headers)
        response = http.getresponse()
        content = response.read()
        answer = json.loads(content)
        if response.status != OK:
            raise ERRORS[answer["error"]["code"]](answer["error"]["message"])
        return _found(answer)

    return search


def search_path(course_id: str | None) -> str:
    """The path of a search of a course; None for all courses together."""
    return "/search" if course_id is None else f"/courses/{course_id}/search"


def _found(answer: Mapping[str, Any]) -> list[str]:
    if answer["degraded"]:
        raise RuntimeError(answer["degraded"])
    return [result["metadata"]["chunk_id"] for result in answer["results"]]


class _Connection(threading.local):
    """A connection for each thread, kept alive between its calls."""

    def __init__(self, netloc: str) -> None:
        self._http = HTTPConnection(netloc, timeout=REQUEST_SECONDS)  # sets TCP_NODELAY
        self._used_at = 0.0

    def open(self) -> HTTPConnection:
        now = time.monotonic()
        if now - self._used_at > MAX_IDLE_SECONDS:
            self._http.close()  # the next request opens it again
        self._used_at = now
        return self._http


def _multiply(vectors: Vectors) -> Search:
    """The float32 product of all vectors with the query: what an exact search computes at least."""

    def search(call: Call) -> list[str]:
        vectors @ call.question.vector
        return []

    return search


def _search_chroma(course_id: str) -> Search:
    import chromadb

    host, _, port = os.environ["CHROMA_URL"].removeprefix("http://").partition(":")
    collection = chromadb.HttpClient(host=host, port=int(port)).get_collection(
        collection_name(course_id), embedding_function=None
    )

    def search(call: Call) -> list[str]:
        results = collection.query(
            query_embeddings=call.question.vector[None, :],
            n_results=RESULTS,
            where={"section_id": call.question.section} if call.filtered else None,
            include=["documents", "metadatas", "distances"],
        )
        return results["ids"][0]

    return search


if __name__ == "__main__":
    main(sys.argv[1])
