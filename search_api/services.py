"""What the routes work with, opened when the app starts and closed when it stops."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding.embedder import Embedder
from embedding.local import LocalEmbedder
from embedding.opening import open_embedder
from embedding.settings import EmbeddingSettings, VectorStoreSettings
from embedding.vector_store import VectorStore, VectorStoreError
from models.settings import CatalogueSettings
from retrieval.cache import InstanceCache
from retrieval.course_index import CourseIndex, products_side_by_side
from retrieval.keyword_store import KeywordStore
from retrieval.reranker import Reranker
from retrieval.settings import KeywordSettings, RerankerSettings
from search_api.courses import Courses
from search_api.embedding_service import EmbeddedQuery, EmbeddingService, QueryKey
from search_api.rerank_service import RerankService
from search_api.search import CourseSearch, IndexKey
from search_api.settings import SearchSettings

logger = logging.getLogger(__name__)

CACHED_QUERIES = 2000
"""Query vectors that are kept; 8 MB at 1024 dimensions."""
EMBEDDING_PATIENCE_SECONDS = 1.5
"""How long a search bears with an embedding service that is busy or away: a caller has other ways to answer."""


@dataclass(frozen=True)
class ModelServices:
    """What it takes to embed; all of it may be shared between threads."""

    settings: SearchSettings
    embedding: EmbeddingService
    caches: Mapping[str, InstanceCache[Any, Any]]


@dataclass(frozen=True)
class Services(ModelServices):
    """One of each for the whole search app."""

    courses: Courses
    vector_store: VectorStore
    search: CourseSearch


@contextmanager
def open_services(settings: SearchSettings) -> Iterator[Services]:
    """Everything as the environment configures it.

    What is away now does not keep the app from starting: it is logged, and found when it comes back. Only an embedding
    model of our own is loaded here and never again.
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
            load_embedder=lambda: open_embedder(embedding_settings, EMBEDDING_PATIENCE_SECONDS),
        ) as services,
    ):
        try:
            vector_store.check()  # also imports Chroma's client, which the first search would wait for
        except VectorStoreError as error:
            logger.warning("The vector store is not available yet: %s", error)
        yield services


@contextmanager
def open_model_services(settings: SearchSettings) -> Iterator[ModelServices]:
    """The embedding model of this machine, whatever EMBEDDING_SERVICE_URL says: that may be where this very app is."""
    embedding_settings = EmbeddingSettings()
    with embedding_service(settings, lambda: LocalEmbedder.load(embedding_settings)) as (embedding, caches):
        yield ModelServices(settings, embedding, caches)


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
    rerank_models: InstanceCache[Path, Reranker] = InstanceCache(
        "rerank_models", max_entries=entries, ttl_seconds=seconds
    )
    reranker_settings = RerankerSettings()
    with (
        products_side_by_side(),
        embedding_service(settings, load_embedder) as (embedding, embedding_caches),
        closing(RerankService(lambda: Reranker.load(reranker_settings), rerank_models, reranker_settings)) as reranking,
    ):
        search = CourseSearch(
            courses=courses,
            vector_store=vector_store,
            keyword_store=keyword_store,
            embedding=embedding,
            reranking=reranking,
            indexes=indexes,
            serve_while_reembedding=settings.serve_while_reembedding,
        )
        caches = {indexes.name: indexes, **embedding_caches, rerank_models.name: rerank_models}
        try:
            yield Services(settings, embedding, caches, courses, vector_store, search)
        finally:
            indexes.close()
            rerank_models.close()


@contextmanager
def embedding_service(
    settings: SearchSettings, load: Callable[[], Embedder]
) -> Iterator[tuple[EmbeddingService, Mapping[str, InstanceCache[Any, Any]]]]:
    """The embedding model as an app shares it, and its caches."""
    seconds = settings.cache_ttl_seconds
    models: InstanceCache[str, Embedder] = InstanceCache(
        "embedding_models",
        max_entries=settings.cache_max_entries,
        ttl_seconds=math.inf,  # one instance for the life of the app
    )
    queries: InstanceCache[QueryKey, EmbeddedQuery] = InstanceCache(
        "queries", max_entries=CACHED_QUERIES, ttl_seconds=seconds
    )
    with (
        closing(models),
        closing(queries),
        closing(EmbeddingService(load, settings.embedding_queue_limit, models, queries)) as service,
    ):
        yield service, {queries.name: queries, models.name: models}
