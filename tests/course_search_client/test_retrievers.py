"""The retrievers of LangChain and LlamaIndex, with the app's answers and without the app."""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from course_search_client import AsyncCourseSearch, CourseSearch, errors

CITATION = {"course_id": "c", "page": 12, "link": None, "label": "Heaps > Building a heap, p. 12"}
RESULT = {
    "text": "A heap is built bottom-up.",
    "score": 0.8,
    "relevance": 0.9,
    "metadata": {"chunk_id": "7", "course_id": "c", "lecture_id": "3"},
    "citation": CITATION,
    "cut": ["text"],
}
METADATA = {
    "chunk_id": "7",
    "course_id": "c",
    "lecture_id": "3",
    "citation": CITATION,
    "citation_label": "Heaps > Building a heap, p. 12",
    "score": 0.8,
    "relevance": 0.9,
    "cut": ["text"],
}


class App:
    """Answers each search with one passage, and keeps path and body of the last request."""

    def __init__(self) -> None:
        self.asked: tuple[str, Any] = ("", None)
        self.client = CourseSearch("http://app", http=httpx.Client(transport=httpx.MockTransport(self._answer)))
        self.async_client = AsyncCourseSearch(
            "http://app", http=httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked = (request.url.path, json.loads(request.content))
        if request.url.path == "/courses/unknown/search":
            return httpx.Response(404, json={"error": {"code": "course_not_found", "message": "no such course"}})
        return httpx.Response(200, json={"results": [RESULT]})


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    yield app
    app.client.close()


SCOPES: list[tuple[Any, str, Any]] = [
    ("c", "/courses/c/search", {}),
    (["c", {"course_id": "d", "up_to": {"lecture_id": "2"}}], "/search", None),
    (None, "/search", {}),
]
"""Courses, and the path and the field `courses` of the request."""


@pytest.mark.parametrize(("courses", "path", "field"), SCOPES)
@pytest.mark.parametrize("way", ["sync", "async", "async by a thread"])
def test_langchain(app: App, way: str, courses: Any, path: str, field: Any) -> None:
    from course_search_client.langchain import CourseSearchRetriever

    retriever = CourseSearchRetriever(
        courses=courses,
        top_k=3,
        min_relevance=0.4,
        options={"filters": {"week": 2}},
        client=app.client,
        async_client=app.async_client if way == "async" else None,
    )
    found = retriever.invoke("heaps?") if way == "sync" else asyncio.run(retriever.ainvoke("heaps?"))
    assert [(document.id, document.page_content, document.metadata) for document in found] == [
        ("7", "A heap is built bottom-up.", METADATA)
    ]
    body = {"query": "heaps?", "top_k": 3, "min_relevance": 0.4, "filters": {"week": 2}}
    assert app.asked == (path, body | ({"courses": courses} if field is None else field))


@pytest.mark.parametrize(("courses", "path", "field"), SCOPES)
@pytest.mark.parametrize("way", ["sync", "async", "async by a thread"])
def test_llamaindex(app: App, way: str, courses: Any, path: str, field: Any) -> None:
    from llama_index.core.schema import MetadataMode

    from course_search_client.llamaindex import CourseSearchRetriever

    retriever = CourseSearchRetriever(
        courses,
        top_k=3,
        min_relevance=0.4,
        options={"filters": {"week": 2}},
        client=app.client,
        async_client=app.async_client if way == "async" else None,
    )
    (node,) = retriever.retrieve("heaps?") if way == "sync" else asyncio.run(retriever.aretrieve("heaps?"))
    assert (node.node_id, node.score, node.text, node.metadata) == ("7", 0.8, "A heap is built bottom-up.", METADATA)
    assert node.get_content(MetadataMode.LLM) == (
        "citation_label: Heaps > Building a heap, p. 12\n\nA heap is built bottom-up."
    )
    assert node.get_content(MetadataMode.EMBED) == "A heap is built bottom-up."
    body = {"query": "heaps?", "top_k": 3, "min_relevance": 0.4, "filters": {"week": 2}}
    assert app.asked == (path, body | ({"courses": courses} if field is None else field))


def test_errors_of_the_app_are_not_hidden(app: App) -> None:
    from course_search_client.langchain import CourseSearchRetriever as LangChain
    from course_search_client.llamaindex import CourseSearchRetriever as LlamaIndex

    with pytest.raises(errors.CourseNotFoundError):
        LangChain(courses="unknown", client=app.client).invoke("q")
    with pytest.raises(errors.CourseNotFoundError):
        LlamaIndex("unknown", client=app.client).retrieve("q")


def test_address_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from course_search_client.langchain import CourseSearchRetriever as LangChain
    from course_search_client.llamaindex import CourseSearchRetriever as LlamaIndex

    for retriever in (LangChain, LlamaIndex):
        with pytest.raises(ValueError, match="COURSE_SEARCH_URL"):
            retriever()
    monkeypatch.setenv("COURSE_SEARCH_URL", "http://app")
    LangChain().client.close()
    LlamaIndex()


@pytest.mark.parametrize(("module", "package"), [("langchain", "langchain-core"), ("llamaindex", "llama-index-core")])
def test_missing_extra_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"course_search_client.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for missing in ("langchain_core", "llama_index", "pydantic"):
        for loaded in [key for key in sys.modules if key.split(".")[0] == missing]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install 'course-search-client\[{module}\]'"):
        __import__(name)
