"""Runs the app in a test: with a real SQLite catalogue, a stub embedder and a stub vector store."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from embedding.interface import Embedder, Embeddings
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from embedding.vectors import Vectors
from models.database import CatalogueSettings, transaction
from models.tables import Course, EmbeddingStatus
from retrieval.cache import InstanceCache
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.courses.service import Courses
from search_api.http import overload
from search_api.operations import checks
from search_api.search import several_courses, snapshots
from search_api.services import Services, assemble_services
from tests.support.courses import empty_catalogue

LIMIT_SECONDS = 120.0
"""Longest wait for an event that happens in milliseconds, on any machine."""


def wait_patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift the limits after which the app gives up what is slow on a busy machine, and stop its background work.

    A test of a limit sets it.
    """
    monkeypatch.setattr(snapshots, "SHORT_PATIENCE_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(snapshots, "FETCH_SECONDS", 3600.0)
    monkeypatch.setattr(several_courses, "PATIENCE_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(checks, "CHECK_SECONDS", LIMIT_SECONDS)
    for name in ("IN_BURST", "IN_OVERLOAD"):
        limits = getattr(overload, name)
        monkeypatch.setattr(overload, name, limits._replace(loop_seconds=LIMIT_SECONDS))


class StubEmbedder(Embedder):
    """Gives every text the same vector and records the texts. It can be made to fail, to block and to be slow.

    Each word is a token.
    """

    def __init__(self) -> None:
        self.name = "stub-model"
        self.dimensions = 3
        self.max_tokens = 8
        self.device = "cpu"
        self.signature = "stub-signature"
        self.embedded_texts: list[str] = []
        self.max_concurrent_calls = 0
        self.error: Exception | None = None
        self.legibility_of_queries = 1.0
        self.tells_whole_token_counts = True
        self.delay_seconds = 0.0
        self._unblocked = threading.Event()
        self._unblocked.set()
        self._concurrent_calls = 0

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Calls do not return before the end of the block."""
        self._unblocked.clear()
        try:
            yield
        finally:
            self._unblocked.set()

    def embed_documents(self, texts: Sequence[str], on_progress: Any = None, pause: Any = None) -> Embeddings:
        self._concurrent_calls += 1
        self.max_concurrent_calls = max(self.max_concurrent_calls, self._concurrent_calls)
        self.embedded_texts += texts
        assert self._unblocked.wait(LIMIT_SECONDS)
        time.sleep(self.delay_seconds)
        self._concurrent_calls -= 1
        if self.error:
            raise self.error
        whole = tuple(len(text.split()) for text in texts)
        counts = tuple(min(count, self.max_tokens) for count in whole)
        vectors = np.eye(1, 3, dtype=np.float32).repeat(len(texts), 0)
        truncated = sum(count > self.max_tokens for count in whole)
        return Embeddings(vectors, counts, truncated, whole if self.tells_whole_token_counts else None)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self.embed_documents(texts)

    def legibility(self, text: str) -> float:
        return self.legibility_of_queries


class StubCollection(CourseCollection):
    """A collection in memory. It can be made to fail."""

    def __init__(self, course_id: str, signature: str, records: list[Record], cosines: list[float]) -> None:
        self.course_id = course_id
        self.signature = signature
        self.records = records
        self.vectors = np.array([(cosine, math.sqrt(1 - cosine**2), 0) for cosine in cosines], dtype=np.float32)
        self.error: Exception | None = None

    @property
    def info(self) -> CollectionInfo:
        return CollectionInfo(self.course_id, "stub-model", self.signature)

    def count(self) -> int:
        return len(self.records)

    def dimensions(self) -> int:
        return 3

    def contents(self, page_size: int = 500) -> Iterator[tuple[list[Record], Vectors]]:
        if self.error:
            raise self.error
        if self.records:
            yield self.records, self.vectors


class StubVectorStore(VectorStore):
    """A vector store in memory. It can be made to fail."""

    def __init__(self) -> None:
        super().__init__(VectorStoreSettings())
        self.by_course: dict[str, StubCollection] = {}
        self.error: Exception | None = None

    def check(self) -> None:
        if self.error:
            raise self.error

    def open(self, course_id: str, before_write: Callable[[], None] = lambda: None) -> CourseCollection:
        self.check()
        if course_id not in self.by_course:
            raise CollectionNotFoundError(course_id)
        return self.by_course[course_id]


class AppHarness:
    """Prepares the app's dependencies and starts the app with a test client."""

    def __init__(self, directory: Path) -> None:
        self.database = directory / "catalogue.db"
        self.snapshot_dir = directory / "snapshots"
        self.catalogue_settings = CatalogueSettings(database_url=f"sqlite:///{self.database}")
        self.engine = empty_catalogue(self.database)
        self.embedder = StubEmbedder()
        self.vector_store: VectorStore = StubVectorStore()
        self.load_error: Exception | None = None
        self.make_embedder: Callable[[], Embedder] = lambda: self.embedder
        self.caches: dict[str, InstanceCache[Any, Any]] = {}
        """The caches that the app reports; those that it uses are in `app_services`."""
        self.app_services: Services

    @property
    def stub_store(self) -> StubVectorStore:
        assert isinstance(self.vector_store, StubVectorStore)
        return self.vector_store

    def add_course(self, course_id: str, status: str = EmbeddingStatus.DONE, **columns: Any) -> None:
        with transaction(self.engine) as session:
            session.add(Course(id=course_id, embedding_status=status, **columns))

    def add_searchable_course(
        self, course_id: str, *texts: str, metadata: Sequence[Mapping[str, Any]] = ()
    ) -> StubCollection:
        """Add a course and its collection. For any query, the cosine of text n (from 0) is 1 - n / 10."""
        self.add_course(course_id)
        records = [
            Record(f"chunk-{n}", text, {"course_id": course_id, **(metadata[n] if metadata else {})}, f"hash of {text}")
            for n, text in enumerate(texts)
        ]
        cosines = [1 - n / 10 for n in range(len(texts))]
        self.stub_store.by_course[course_id] = StubCollection(course_id, self.embedder.signature, records, cosines)
        return self.stub_store.by_course[course_id]

    @contextmanager
    def services(self, settings: SearchSettings) -> Iterator[Services]:
        snapshots = SnapshotStore(SnapshotSettings(snapshot_dir=self.snapshot_dir))
        with (
            closing(Courses(self.catalogue_settings)) as courses,
            assemble_services(settings, courses, self.vector_store, snapshots, load_embedder=self._load) as services,
        ):
            self.app_services = services
            yield replace(services, caches=self.caches)

    @contextmanager
    def client(self, *, headers: dict[str, str] | None = None, **settings: Any) -> Iterator[TestClient]:
        """Start the app and yield a client, which returns the app's answer to unexpected errors instead of raising."""
        app = create_app(SearchSettings(**settings), self.services)
        with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
            yield client

    def _load(self) -> Embedder:
        if self.load_error:
            raise self.load_error
        return self.make_embedder()
