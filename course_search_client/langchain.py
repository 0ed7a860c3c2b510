"""A LangChain retriever; needs the extra `langchain`."""

from typing import Any

from course_search_client import retrieval
from course_search_client.answers import SearchResult
from course_search_client.client import AsyncCourseSearch, CourseSearch

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import Field
except ImportError as error:
    raise ImportError(
        "course_search_client.langchain needs langchain-core: pip install 'course-search-client[langchain]'"
    ) from error


class CourseSearchRetriever(BaseRetriever):
    """Finds passages of one course or several.

    The metadata of a document are those of the chunk, and `citation` (an object), `citation_label` (a line for
    people), `score`, `relevance` and `cut` (whether text or metadata are incomplete). An error of the app is a
    `CourseSearchError`.
    """

    courses: str | list[Any] | None = None
    """One course, a list of courses (or of `CourseScope`), or None for all that can be searched."""
    top_k: int = 5
    min_relevance: float | None = None
    """Lowest relevance of a passage, 0.0 to 1.0; None leaves nothing out."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Other fields of the search request, like `filters`."""
    client: CourseSearch = Field(default_factory=CourseSearch)
    """By default, one with the address in COURSE_SEARCH_URL."""
    async_client: AsyncCourseSearch | None = None
    """For `ainvoke`; without it, a thread uses `client`."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
    ) -> list[Document]:
        return _documents(retrieval.search(self.client, self.courses, query, self._options()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_client is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager)
        return _documents(await retrieval.search_async(self.async_client, self.courses, query, self._options()))

    def _options(self) -> dict[str, Any]:
        return {**self.options, "top_k": self.top_k, "min_relevance": self.min_relevance}


def _documents(results: list[SearchResult]) -> list[Document]:
    return [
        Document(id=result["metadata"]["chunk_id"], page_content=result["text"], metadata=retrieval.metadata(result))
        for result in results
    ]
