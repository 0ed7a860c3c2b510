"""The services that routes use; opened when the app starts and closed when it stops."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from documents.settings import DocumentSettings
from embedding.embedder import LocalEmbedder
from embedding.factory import open_embedder
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.server import VectorStoreSettings
from models.database import CatalogueSettings
from retrieval.cache import InstanceCache
from retrieval.citations import LinkTemplate
from retrieval.cosines import one_thread_per_product
from retrieval.reranker import Reranker, RerankerSettings
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from retrieval.stack import CourseStack
from search_api.app_settings import SearchSettings
from search_api.courses.service import Courses
from search_api.embeddings.model_queue import QUERY_SECONDS
from search_api.embeddings.service import EmbeddedQuery, EmbeddingService, QueryKey
from search_api.operations.catalogue_reader import CatalogueReader
from search_api.operations.checks import BoundedCheck
from search_api.operations.measures import SearchMeasures
from search_api.questions.service import QueryLog
from search_api.reranking.service import RerankService
from search_api.resources.service import Resources
from search_api.search.service import CourseSearch
from search_api.search.several_courses import STACKS, Published, SeveralCoursesSearch
from search_api.search.snapshots import CourseSnapshots, SnapshotKey

logger = logging.getLogger(__name__)

CACHED_QUERIES = 2000
"""Size of the cache of embedded queries; 8 MB at 1024 dimensions."""
EMBEDDING_PATIENCE_SECONDS = 1.5
"""How long a search waits for a busy or unreachable embedding service. Short, so that its caller can fall back soon."""


@dataclass(frozen=True)
class ModelServices:
    """The services of an app with an embedding model. Threads may share them."""

    settings: SearchSettings
    embedding: EmbeddingService
    caches: Mapping[str, InstanceCache[Any, Any]]

    @cached_property
    def checks(self) -> Mapping[str, BoundedCheck[object]]:
        """The checks of what the app depends on, by its name in the answer of the readiness probe."""
        return {"model": BoundedCheck(self.embedding.check)}


@dataclass(frozen=True)
class Services(ModelServices):
    """The services of the search app."""

    courses: Courses
    vector_store: VectorStore
    snapshots: CourseSnapshots
    search: CourseSearch
    several_courses: SeveralCoursesSearch
    reranking: RerankService
    questions: QueryLog
    resources: Resources
    measures: SearchMeasures

    @cached_property
    def catalogue_reader(self) -> CatalogueReader:
        """Reads the catalogue for the metrics."""
        return CatalogueReader(self.courses.overview)

    @cached_property
    def checks(self) -> Mapping[str, BoundedCheck[object]]:
        """The same for the search app."""
        return {
            "catalogue": BoundedCheck(self.courses.check),
            "vector_store": BoundedCheck(self.vector_store.check),
            **super().checks,
        }


@contextmanager
def open_services(
    settings: SearchSettings, load_embedder: Callable[[EmbeddingSettings], Embedder] | None = None
) -> Iterator[Services]:
    """The services, configured by the environment.

    The app also starts while a dependency is unavailable. This is logged, and every use tries the dependency again.
    The exception is a local embedding model that cannot be loaded: loading is not retried.

    Args:
        settings: The settings of the app.
        load_embedder: Returns the embedder, instead of the configured one.
    """
    embedding_settings = EmbeddingSettings()
    load = load_embedder or partial(
        open_embedder, patience_seconds=EMBEDDING_PATIENCE_SECONDS, query_seconds=QUERY_SECONDS
    )
    with (
        closing(Courses(CatalogueSettings())) as courses,
        closing(VectorStore(VectorStoreSettings())) as vector_store,
        assemble_services(
            settings,
            courses,
            vector_store,
            SnapshotStore(SnapshotSettings()),
            load_embedder=lambda: load(embedding_settings),
        ) as services,
    ):
        try:
            vector_store.check()  # also imports Chroma's client; otherwise the first search would wait for that
        except VectorStoreError as error:
            logger.warning("The vector store is not available yet: %s", error)
        yield services


@contextmanager
def open_model_services(settings: SearchSettings) -> Iterator[ModelServices]:
    """The services of the embedding app. EMBEDDING_SERVICE_URL is ignored, because it may be the URL of this app."""
    embedding_settings = EmbeddingSettings()
    with open_embedding(settings, lambda: LocalEmbedder.load(embedding_settings)) as (embedding, caches):
        yield ModelServices(settings, embedding, caches)


@contextmanager
def assemble_services(
    settings: SearchSettings,
    courses: Courses,
    vector_store: VectorStore,
    snapshot_store: SnapshotStore,
    *,
    load_embedder: Callable[[], Embedder],
) -> Iterator[Services]:
    """The services of the search app over the given catalogue, stores and embedding model, with new caches."""
    entries, seconds = settings.cache_max_entries, settings.cache_ttl_seconds
    opened: InstanceCache[SnapshotKey, CourseSnapshot] = InstanceCache(
        "courses", max_entries=entries, ttl_seconds=seconds
    )
    together: InstanceCache[SnapshotKey, CourseSnapshot] = InstanceCache(
        "courses_together", max_entries=settings.search_max_courses, ttl_seconds=seconds
    )
    stacks: InstanceCache[tuple[Published, ...], CourseStack] = InstanceCache(
        "course_stacks", max_entries=STACKS, ttl_seconds=seconds
    )
    rerank_models: InstanceCache[Path, Reranker] = InstanceCache(
        "rerank_models", max_entries=entries, ttl_seconds=seconds
    )
    reranker_settings = RerankerSettings()
    url_template = settings.citation_url_template
    link_template = LinkTemplate.parse(url_template) if url_template else None
    measures = SearchMeasures()
    snapshots = CourseSnapshots(
        courses=courses,
        vector_store=vector_store,
        store=snapshot_store,
        cache=opened,
        together=together,
        serve_older=settings.serve_while_reembedding,
        measures=measures,
    )
    questions = QueryLog(courses.engine, is_on=settings.query_log, days=settings.query_log_days)
    with (
        one_thread_per_product(),
        closing(snapshots),
        open_embedding(settings, load_embedder) as (embedding, embedding_caches),
        closing(RerankService(lambda: Reranker.load(reranker_settings), rerank_models, reranker_settings)) as reranking,
        closing(questions),  # first, because a model that hangs may take longer to close than the app has
    ):
        search = CourseSearch(
            courses=courses,
            snapshots=snapshots,
            embedding=embedding,
            reranking=reranking,
            questions=questions,
            max_query_chars=settings.search_max_query_chars,
            serve_while_reembedding=settings.serve_while_reembedding,
            max_stale_seconds=settings.max_stale_seconds,
            link_template=link_template,
        )
        several_courses = SeveralCoursesSearch(
            courses=courses,
            snapshots=snapshots,
            embedding=embedding,
            questions=questions,
            search=search,
            stacks=stacks,
            max_courses=settings.search_max_courses,
            link_template=link_template,
        )
        caches: dict[str, InstanceCache[Any, Any]] = {
            opened.name: opened,
            together.name: together,
            stacks.name: stacks,
            **embedding_caches,
            rerank_models.name: rerank_models,
        }
        snapshots.start()
        questions.start()
        yield Services(
            settings,
            embedding,
            caches,
            courses,
            vector_store,
            snapshots,
            search,
            several_courses,
            reranking,
            questions,
            Resources(courses.engine, DocumentSettings()),
            measures,
        )


@contextmanager
def open_embedding(
    settings: SearchSettings, load: Callable[[], Embedder]
) -> Iterator[tuple[EmbeddingService, Mapping[str, InstanceCache[Any, Any]]]]:
    """The embedding model of an app, and its caches by name."""
    seconds = settings.cache_ttl_seconds
    models: InstanceCache[str, Embedder] = InstanceCache(
        "embedding_models", max_entries=settings.cache_max_entries, ttl_seconds=seconds
    )
    queries: InstanceCache[QueryKey, EmbeddedQuery] = InstanceCache(
        "queries",
        max_entries=CACHED_QUERIES,
        ttl_seconds=seconds,
        key_text=(lambda key: repr(key.text)) if settings.log_queries else repr,
    )
    with closing(EmbeddingService(load, settings.embedding_queue_limit, models, queries)) as service:
        yield service, {queries.name: queries, models.name: models}
