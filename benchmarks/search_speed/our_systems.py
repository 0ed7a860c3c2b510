"""The product (in process and over HTTP) and plain Chroma: `python -m benchmarks.search_speed.our_systems SYSTEM`.

Query vectors are read from a table, in the search app too, so the measurements exclude query embedding.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from benchmarks.search_speed.caches import measure_loading, measure_requests
from benchmarks.search_speed.worker import RESULTS, Call, Question, Search, handle_commands, read_questions
from embedding.interface import Embedder, Embeddings
from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from embedding.vectors import Vectors
from models.database import CatalogueSettings
from retrieval.keywords.store import KeywordSettings, KeywordStore
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.courses.service import Courses
from search_api.search.schemas import SearchRequest
from search_api.services import Services, assemble_services

IN_PROCESS, OVER_HTTP, CHROMA = OUR_SYSTEMS = ("course-search, in process", "course-search, HTTP", "Chroma, HTTP")
LOOK_UP = "lookup"
"""Name and signature of the embedding model."""
APP = "benchmarks.search_speed.our_systems:create_search_app"
QUESTIONS, COURSE = "BENCHMARK_QUESTIONS", "BENCHMARK_COURSE"
COLLECTION, SEARCH_URL = "BENCHMARK_COLLECTION", "BENCHMARK_SEARCH_URL"
"""Environment variables of all systems, in addition to the settings of `benchmarks.serving`."""


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
            measurements = {"loading": measure_loading, "requests": measure_requests}
            commands = {
                name: partial(measure, services, course_id, questions) for name, measure in measurements.items()
            }
            handle_commands(_loaded(_search_services(services, course_id), questions), questions, commands)
    elif system == OVER_HTTP:
        # uvicorn closes connections that are idle while other systems are measured
        limits = httpx.Limits(keepalive_expiry=2)
        with httpx.Client(base_url=os.environ[SEARCH_URL], timeout=600, trust_env=False, limits=limits) as client:
            handle_commands(_loaded(_search_app(client, course_id), questions), questions)
    elif system == CHROMA:
        handle_commands(_search_chroma(course_id), questions)
    else:
        raise ValueError(f"There is no system {system}")


def _loaded(search: Search, questions: Sequence[Question]) -> Search:
    """Load the course into memory: a keyword search waits until it is loaded."""
    search(Call(questions[0], "keyword", filtered=False))
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
            settings, courses, vector_store, KeywordStore(KeywordSettings()), load_embedder=lambda: embedder
        ) as services,
    ):
        yield services


def _body(call: Call) -> dict[str, Any]:
    filters = {"filters": {"section_id": call.question.section}} if call.filtered else {}
    return {"query": call.question.text, "top_k": RESULTS, "method": call.method, **filters}


def _search_services(services: Services, course_id: str) -> Search:
    def search(call: Call) -> list[str]:
        answer = services.search.search(course_id, SearchRequest.model_validate(_body(call)))
        if answer.degraded:
            raise RuntimeError(answer.degraded)
        return [result.metadata["chunk_id"] for result in answer.results]

    return search


def _search_app(client: httpx.Client, course_id: str) -> Search:
    def search(call: Call) -> list[str]:
        response = client.post(f"/courses/{course_id}/search", json=_body(call)).raise_for_status()
        answer = response.json()
        if answer["degraded"]:
            raise RuntimeError(answer["degraded"])
        return [result["metadata"]["chunk_id"] for result in answer["results"]]

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
