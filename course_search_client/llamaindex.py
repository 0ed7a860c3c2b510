"""A LlamaIndex retriever; needs the extra `llamaindex`."""

import asyncio
from collections.abc import Mapping
from typing import Any

from course_search_client import retrieval
from course_search_client.answers import SearchResult
from course_search_client.client import AsyncCourseSearch, CourseSearch
from course_search_client.retrieval import Courses

try:
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise ImportError(
        "course_search_client.llamaindex needs llama-index-core: pip install 'course-search-client[llamaindex]'"
    ) from error


class CourseSearchRetriever(BaseRetriever):
    """Finds passages of one course or several.

    The metadata of a node are those of the chunk, and `citation` (an object), `citation_label` (a line for people),
    `score`, `relevance` and `cut` (whether text or metadata are incomplete); a language model is shown only the label.
    An error of the app is a `CourseSearchError`.

    Args:
        courses: One course, a list of courses, or None for all that can be searched.
        top_k: Number of passages.
        min_relevance: Lowest relevance of a passage, 0.0 to 1.0; None leaves nothing out.
        options: Other fields of the search request, like `filters`.
        client: By default, one with the address in COURSE_SEARCH_URL.
        async_client: For `aretrieve`; without it, a thread uses `client`.
        callback_manager: Of LlamaIndex.
    """

    def __init__(
        self,
        courses: Courses = None,
        *,
        top_k: int = 5,
        min_relevance: float | None = None,
        options: Mapping[str, Any] | None = None,
        client: CourseSearch | None = None,
        async_client: AsyncCourseSearch | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager)
        self._courses = courses
        self._options = {**(options or {}), "top_k": top_k, "min_relevance": min_relevance}
        self._client = client or CourseSearch()
        self._async_client = async_client

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(retrieval.search(self._client, self._courses, query_bundle.query_str, self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._async_client is None:
            return await asyncio.to_thread(self._retrieve, query_bundle)
        query = query_bundle.query_str
        return _nodes(await retrieval.search_async(self._async_client, self._courses, query, self._options))


def _nodes(results: list[SearchResult]) -> list[NodeWithScore]:
    return [NodeWithScore(node=_node(result), score=result["score"]) for result in results]


def _node(result: SearchResult) -> TextNode:
    metadata = retrieval.metadata(result)
    hidden = [name for name in metadata if name != "citation_label" or not metadata[name]]
    return TextNode(
        id_=result["metadata"]["chunk_id"],
        text=result["text"],
        metadata=metadata,
        excluded_llm_metadata_keys=hidden,
        excluded_embed_metadata_keys=list(metadata),
    )
