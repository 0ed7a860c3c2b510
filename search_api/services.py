"""What the routes work with, opened when the app starts and closed when it stops."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding.embedder import Embedder
from embedding.settings import EmbeddingSettings, VectorStoreSettings
from embedding.vector_store import VectorStore, VectorStoreError
from models.settings import CatalogueSettings
from retrieval.cache import InstanceCache
from retrieval.course_index import CourseIndex
from retrieval.keyword_store import KeywordStore
from retrieval.reranker import Reranker
from retrieval.settings import KeywordSettings, RerankerSettings
from search_api.courses import Courses
from search_api.embedding_service import EmbeddedQuery, EmbeddingService
from search_api.rerank_service import RerankService
from search_api.search import CourseSearch, IndexKey
from search_api.settings import SearchSettings

logger = logging.getLogger(__name__)

CACHED_QUERIES = 2000
"""Query vectors that are kept; 8 MB at 1024 dimensions."""


@dataclass(frozen=True)
class Services:
    """One of each for the whole app; all of them may be shared between threads."""

    settings: SearchSettings
    courses: Courses
    vector_store: VectorStore
    embedding: EmbeddingService
    search: CourseSearch
    caches: Mapping[str, InstanceCache[Any, Any]]


@contextmanager
def open_services(settings: SearchSettings) -> Iterator[Services]:
    """Everything as the environment configures it.

    What is away now does not keep the app from starting: it is logged, and found when it comes back. Only the embedding
    model is loaded here and never again.
    """
    embedding_settings = EmbeddingSettings()
    with (
        closing(Courses(CatalogueSettings())) as courses,
        closing(VectorStore(VectorStoreSettings())) as vector_store,
        assembled(
            settings,
            courses,
            vector_store,
            KeywordStore(KeywordSettings()),
            load_embedder=lambda: Embedder.load(embedding_settings),
        ) as services,
    ):
        try:
            vector_store.check()  # also imports Chroma's client, which the first search would wait for
        except VectorStoreError as error:
            logger.warning("The vector store is not available yet: %s", error)
        yield services


@contextmanager
def assembled(
    settings: SearchSettings,
    courses: Courses,
    vector_store: VectorStore,
    keyword_store: KeywordStore,
    *,
    load_embedder: Callable[[], Embedder],
) -> Iterator[Services]:
    """The services over a catalogue, the stores and an embedding model, with their caches."""
    entries, seconds = settings.cache_max_entries, settings.cache_ttl_seconds
    indexes: InstanceCache[IndexKey, CourseIndex] = InstanceCache(
        "courses",
        max_entries=entries,
        ttl_seconds=seconds,
        max_bytes=settings.cache_max_mb * 2**20,
        size_of=lambda index: index.bytes,
    )
    queries: InstanceCache[str, EmbeddedQuery] = InstanceCache(
        "queries", max_entries=CACHED_QUERIES, ttl_seconds=seconds
    )
    embedding_models: InstanceCache[str, Embedder] = InstanceCache(
        "embedding_models", max_entries=entries, ttl_seconds=seconds
    )
    rerank_models: InstanceCache[Path, Reranker] = InstanceCache(
        "rerank_models", max_entries=entries, ttl_seconds=seconds
    )
    reranker_settings = RerankerSettings()
    embedding = EmbeddingService(load_embedder, settings.embedding_queue_limit, embedding_models, queries)
    with closing(
        RerankService(lambda: Reranker.load(reranker_settings), rerank_models, reranker_settings)
    ) as reranking:
        search = CourseSearch(
            courses=courses,
            vector_store=vector_store,
            keyword_store=keyword_store,
            embedding=embedding,
            reranking=reranking,
            indexes=indexes,
            serve_while_reembedding=settings.serve_while_reembedding,
        )
        caches = {cache.name: cache for cache in (indexes, queries, embedding_models, rerank_models)}
        try:
            yield Services(settings, courses, vector_store, embedding, search, caches)
        finally:
            for cache in caches.values():
                cache.close()
