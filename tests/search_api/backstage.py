"""What stands behind the app here: a real SQLite catalogue, and a model and a vector store that do as told."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from retrieval.keywords.store import KeywordSettings, KeywordStore
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.courses.service import Courses
from search_api.services import Services, assemble_services
from tests.support.courses import empty_catalogue


class StubEmbedder(Embedder):
    """Remembers what it was asked; fails or waits when told to."""

    def __init__(self) -> None:
        self.name = "stub-model"
        self.dimensions = 3
        self.max_tokens = 8
        self.device = "cpu"
        self.signature = "stub-signature"
        self.asked: list[str] = []
        self.most_at_once = 0
        self.error: Exception | None = None
        self.legible = 1.0
        self.seconds = 0.0
        self._gate = threading.Event()
        self._gate.set()
        self._inside = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls do not return before this ends."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def embed_documents(self, texts: Sequence[str], on_progress: Any = None, pause: Any = None) -> Embeddings:
        self._inside += 1
        self.most_at_once = max(self.most_at_once, self._inside)
        self.asked += texts
        self._gate.wait(10)
        time.sleep(self.seconds)
        self._inside -= 1
        if self.error:
            raise self.error
        truncated = sum(len(text.split()) > self.max_tokens for text in texts)
        return Embeddings(np.eye(1, 3, dtype=np.float32).repeat(len(texts), 0), (1,) * len(texts), truncated)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self.embed_documents(texts)

    def legibility(self, text: str) -> float:
        return self.legible


class StubCollection(CourseCollection):
    """Holds records in memory; fails when told to."""

    def __init__(self, signature: str, records: list[Record], cosines: list[float]) -> None:
        self.signature = signature
        self.records = records
        self.vectors = np.array([(cosine, math.sqrt(1 - cosine**2), 0) for cosine in cosines], dtype=np.float32)
        self.error: Exception | None = None

    @property
    def info(self) -> CollectionInfo:
        return CollectionInfo("", "stub-model", self.signature)

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
    """Collections in a dictionary."""

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


class Backstage:
    """Arranges what a test needs and hands out clients of the app."""

    def __init__(self, directory: Path) -> None:
        self.database = directory / "catalogue.db"
        self.catalogue_settings = CatalogueSettings(database_url=f"sqlite:///{self.database}")
        self.engine = empty_catalogue(self.database)
        self.embedder = StubEmbedder()
        self.vector_store: VectorStore = StubVectorStore()
        self.load_error: Exception | None = None
        self.make_embedder: Callable[[], Embedder] = lambda: self.embedder
        self.caches: dict[str, InstanceCache[Any, Any]] = {}
        """What the app shows as its caches; those it works with are in `opened`."""
        self.opened: Services

    @property
    def store(self) -> StubVectorStore:
        assert isinstance(self.vector_store, StubVectorStore)
        return self.vector_store

    def add_course(self, course_id: str, status: str = EmbeddingStatus.DONE, **columns: Any) -> None:
        with transaction(self.engine) as session:
            session.add(Course(id=course_id, embedding_status=status, **columns))

    def add_searchable_course(
        self, course_id: str, *texts: str, metadata: Sequence[Mapping[str, Any]] = ()
    ) -> StubCollection:
        """To the stub model every query is the same: the first text has cosine 1.0, each further one 0.1 less."""
        self.add_course(course_id)
        records = [
            Record(f"chunk-{n}", text, {"course_id": course_id, **(metadata[n] if metadata else {})}, f"hash of {text}")
            for n, text in enumerate(texts)
        ]
        cosines = [1 - n / 10 for n in range(len(texts))]
        self.store.by_course[course_id] = StubCollection(self.embedder.signature, records, cosines)
        return self.store.by_course[course_id]

    @contextmanager
    def services(self, settings: SearchSettings) -> Iterator[Services]:
        keywords = KeywordStore(KeywordSettings(keyword_index_dir=self.database.with_name("keywords")))
        with (
            closing(Courses(self.catalogue_settings)) as courses,
            assemble_services(settings, courses, self.vector_store, keywords, load_embedder=self._load) as services,
        ):
            self.opened = services
            yield replace(services, caches=self.caches)

    @contextmanager
    def client(self, *, headers: dict[str, str] | None = None, **settings: Any) -> Iterator[TestClient]:
        """A client of a freshly started app; unexpected errors come back as the app answers them."""
        app = create_app(SearchSettings(**settings), self.services)
        with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
            yield client

    def _load(self) -> Embedder:
        if self.load_error:
            raise self.load_error
        return self.make_embedder()
